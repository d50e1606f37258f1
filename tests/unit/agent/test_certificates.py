from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from metrica_agent.certificates import sufficient_folder

if TYPE_CHECKING:
    from pathlib import Path

ONE = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"


def places(folder: Path, *, file: Path | None, default: Path | None = None) -> ssl.DefaultVerifyPaths:
    """What Python says of a system with the file ``default``, where the environment may name another."""
    return ssl.DefaultVerifyPaths(
        str(file) if file else None,  # pyright: ignore[reportArgumentType] typeshed forgets None
        str(folder),
        "SSL_CERT_FILE",
        str(default or file or folder / "none.pem"),
        "SSL_CERT_DIR",
        str(folder),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "certs"
    made.mkdir()
    for name in ("002c0b4f.0", "002c0b4f.1", "ca.pem", "062cdee6.txt"):
        (made / name).write_text(ONE)
    return made


@pytest.mark.parametrize("in_file", [1, 2, 3])
def test_a_folder_by_hash_stands_for_the_file_when_it_has_as_many(in_file: int, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text(in_file * ONE)
    assert sufficient_folder(places(folder, file=file)) == (str(folder) if in_file <= 2 else None)


def test_a_file_that_the_environment_names_is_always_read(folder: Path, tmp_path: Path) -> None:
    own, system = tmp_path / "own.pem", tmp_path / "cert.pem"
    own.write_text(ONE)
    system.write_text(ONE)
    assert sufficient_folder(places(folder, file=own, default=system)) is None


def test_without_a_file_the_folder_must_have_somebody(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert sufficient_folder(places(folder, file=None)) == str(folder)
    assert sufficient_folder(places(empty, file=None)) is None
    assert sufficient_folder(places(tmp_path / "none", file=None)) is None
