from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pyrage
import pytest
from tests.unit.fleet.repositories import GOOD

from metrica_cli.leaks import in_the_clear
from metrica_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = "roles/camera/compose.yaml"
DIGEST = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"


def found(root: Path, text: str, name: str = COMPOSE) -> list[int | None]:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return [problem.line for problem in in_the_clear(root, [name])]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (COMPOSE, "      DB_PASSWORD: hunter2hunter2"),
        (COMPOSE, "      - DB_PASSWORD=hunter2x9"),
        (COMPOSE, '      API_KEY: "x9$Kq!27fjQz"'),
        (COMPOSE, "      GITHUB: ghp_" + "a1B2" * 9),
        (COMPOSE, "      AWS: AKIA" + "IOSFODNN7EXAMPLQ"),
        (COMPOSE, "      URL: postgres://user:pa55word@host/db"),
        (COMPOSE, "      HUB: mtr_" + "a1B2" * 9),
        ("cards/pi-01", "metrica-agent enrol --token mte_" + "a1B2" * 10 + "abc"),
        pytest.param(COMPOSE, f"      KEY: {pyrage.x25519.Identity.generate()}", id="a key of age"),
        ("devices/pi-01.toml", 'WIFI_PASSWORD = "correct horse battery"'),
        ("devices/pi-01.toml", 'SECRET_KEY = "b7f9c3d2e1a0b7f9c3d2e1a0b7f9c3d2"'),
        ("roles/camera/app.env", "TOKEN=abc123verysecret"),
        ("roles/camera/app.env", "PGPASSWORD=changeme"),
    ],
)
def test_a_secret_in_the_clear_is_found_with_its_line(tmp_path: Path, name: str, line: str) -> None:
    assert found(tmp_path, f"\n{line}\n", name) == [2]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (COMPOSE, "      DB_PASSWORD: ${DB_PASSWORD}"),
        (COMPOSE, "      DB_PASSWORD_FILE: /run/secrets/db"),
        (COMPOSE, f"    image: ghcr.io/x/y@{DIGEST}"),
        (COMPOSE, "      DB_PASSWORD: hunter2hunter2  # pragma: allowlist secret"),
        (COMPOSE, "      HUB: mtr_" + "a1B2" * 9 + "  # pragma: allowlist secret"),
        (COMPOSE, "secrets: {wifi: {file: '${METRICA_SECRETS}/wifi'}}"),
        (COMPOSE, "    secrets: [wifi-password]"),
        pytest.param(
            "devices/pi-01.toml", f'age = "{pyrage.x25519.Identity.generate().to_public()}"', id="a public key of age"
        ),
        ("devices/pi-01.toml", 'COMMIT = "fd3b98098aabc0b8e7b8e6e8f0a4b5f8c5b1d2e3"'),
        ("roles/camera/app.env", "PASSWORD="),
        (
            "allowed_signers",
            "ada@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1x2x3x4x5x6x7x8x9x0x1x2x3x4x5x6x7x8x9x0x1x2",
        ),
    ],
)
def test_what_is_none_is_let_be(tmp_path: Path, name: str, line: str) -> None:
    assert found(tmp_path, f"\n{line}\n", name) == []


def test_lint_tells_a_private_key_without_its_text_and_not_where_the_repository_says_that_it_is_public(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in GOOD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    key = tmp_path / "roles" / "camera" / "demo.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    assert main(["lint", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "roles/camera/demo.key:2: a secret in the clear (Private Key): seal it (metrica secret set)" in told
    assert told.splitlines()[-1] == (
        "1 secret in the clear; a commit of this tells it to whoever can read the repository"
    )
    assert key.read_text().splitlines()[1] not in told
    (tmp_path / "fleet.toml").write_bytes(GOOD["fleet.toml"] + b'\n[secrets]\npublic = ["roles/*/demo.key"]\n')
    assert main(["lint", str(tmp_path)]) == 0
