"""What a stick may do to a device that reads it: be read, or be refused."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from metrica_agent.adapters import stick as edge
from metrica_agent.adapters.stick import Stick
from metrica_fleet.bundle import HISTORY, MANIFEST, PART_BYTES, PIECE_BYTES, Payload
from metrica_fleet.errors import NotNow, Unusable

CONTENT = bytes(range(256)) * (PIECE_BYTES // 256) + b"the rest"
_SIGNATURE = "-----BEGIN SSH SIGNATURE-----\nx\n-----END SSH SIGNATURE-----\n"


def payload(content: bytes) -> Payload:
    pieces = [content[place : place + PIECE_BYTES] for place in range(0, len(content), PIECE_BYTES)]
    return Payload(total_bytes=len(content), pieces=tuple(sha256(piece).hexdigest() for piece in pieces))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST).write_text(f"{{}}\n{_SIGNATURE}")
    (tmp_path / HISTORY).write_bytes(CONTENT)
    return tmp_path


def read(folder: Path) -> bytes:
    with Stick(folder) as stick:
        return b"".join(stick.history(payload(CONTENT)))


def test_what_was_signed_is_read_to_the_byte_and_no_further(folder: Path) -> None:
    assert read(folder) == CONTENT
    with (folder / HISTORY).open("ab") as file:
        file.write(b"and more")
    assert read(folder) == CONTENT
    with Stick(folder) as stick:
        assert stick.manifest().text == "{}\n"


@pytest.mark.parametrize("place", [0, PIECE_BYTES - 1, PIECE_BYTES, len(CONTENT) - 1])
def test_a_flipped_bit_is_found_before_its_piece_is_given(folder: Path, place: int) -> None:
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    (folder / HISTORY).write_bytes(changed)
    given: list[bytes] = []
    with Stick(folder) as stick, pytest.raises(Unusable, match=r"history\.bundle is not what was signed") as caught:
        given.extend(stick.history(payload(CONTENT)))
    assert caught.value.reason == "bundle-altered"
    assert b"".join(given) == CONTENT[: place // PIECE_BYTES * PIECE_BYTES]


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES, len(CONTENT) - 1])
def test_a_file_that_is_cut_off_is_found_out(folder: Path, length: int) -> None:
    (folder / HISTORY).write_bytes(CONTENT[:length])
    with pytest.raises(Unusable) as caught:
        read(folder)
    assert caught.value.reason == "bundle-altered"


def test_a_link_a_pipe_and_a_folder_are_no_files(folder: Path, tmp_path: Path) -> None:
    file = folder / HISTORY
    file.rename(tmp_path / "elsewhere")

    def link(target: str) -> None:
        file.symlink_to(target)

    for make in (lambda: link("elsewhere"), lambda: link("/dev/zero"), lambda: os.mkfifo(file), file.mkdir):
        make()
        with pytest.raises(Unusable, match="no plain file") as caught:
            read(folder)
        assert caught.value.reason == "bundle-altered"
        file.rmdir() if file.is_dir() else file.unlink()


def test_a_stick_that_is_pulled_is_said_to_be(folder: Path) -> None:
    with Stick(folder) as stick:
        (folder / HISTORY).unlink()
        with pytest.raises(NotNow, match="is the stick in") as caught:
            list(stick.history(payload(CONTENT)))
    assert caught.value.reason == "stick-failed"
    with pytest.raises(Unusable, match="name the folder"):
        Stick(folder / "nowhere")


def test_a_manifest_is_bounded_and_signed(folder: Path) -> None:
    with Stick(folder) as stick:
        (folder / MANIFEST).write_text("{}")
        with pytest.raises(Unusable) as caught:
            stick.manifest()
        assert caught.value.reason == "not-signed"
        os.truncate(folder / MANIFEST, 2**33)
        with pytest.raises(Unusable) as caught:
            stick.manifest()
        assert caught.value.reason == "bundle-unreadable"


def test_images_go_on_in_the_next_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PART_BYTES % PIECE_BYTES == 0
    monkeypatch.setattr(edge, "_PIECES_OF_PART", 1)
    (folder / "images.000").write_bytes(CONTENT[:PIECE_BYTES])
    (folder / "images.001").write_bytes(CONTENT[PIECE_BYTES:])
    with Stick(folder) as stick:
        assert b"".join(stick.images(payload(CONTENT))) == CONTENT
    (folder / "images.001").write_bytes(CONTENT[:PIECE_BYTES])
    with Stick(folder) as stick, pytest.raises(Unusable, match=r"images\.001"):
        list(stick.images(payload(CONTENT)))
