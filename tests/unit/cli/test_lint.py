from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.fleet.repositories import GOOD

from metrica_cli import checkout
from metrica_cli.main import main


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    for name, content in GOOD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_good_repository_is_exit_0_and_one_line(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(fleet)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("2 devices, 2 roles: no problem\n", "")


def test_the_repository_is_where_one_stands(
    fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fleet)
    assert main(["lint"]) == 0
    assert capsys.readouterr().out == "2 devices, 2 roles: no problem\n"


def test_problems_are_told_one_a_line_with_exit_1(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "devices" / "pi-01.toml").write_text('rol = "camera"\n\ntags = "north"\n')
    (fleet / "roles" / "sensor" / "compose.yaml").unlink()
    (fleet / "roles" / "sensor" / "compose.yml").write_text("")
    assert main(["lint", str(fleet)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        'devices/pi-01.toml:1: unknown key "rol"; did you mean "role"?',
        'devices/pi-01.toml:3: tags must be a list of texts, ["...", "..."], not "north"',
        "roles/sensor/compose.yaml: the file is missing; rename roles/sensor/compose.yml",
        "3 problems; a device would refuse a commit of this",
    ]


def test_a_link_is_read_as_devices_read_it_and_never_followed(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "devices" / "pi-03.toml").symlink_to("pi-01.toml")
    (fleet / "roles" / "more").symlink_to("/")
    assert main(["lint", str(fleet)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "devices/pi-03.toml:1: no TOML; write key = value",
        "roles/more: a role is a folder with a compose.yaml; rename or move the file",
        "2 problems; a device would refuse a commit of this",
    ]


def test_what_can_not_be_read_is_told(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(fleet / "devices" / "pi-03.toml")
    assert main(["lint", str(fleet)]) == 1
    assert capsys.readouterr().err.startswith("devices/pi-03.toml: the file can't be read: it is no file\n1 problem;")


def test_the_name_of_a_file_can_not_steer_the_terminal(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "devices" / "a\x1b[31m\nb.toml").write_text("")
    assert main(["lint", str(fleet)]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_a_folder_that_is_none_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/nowhere is no folder\n  try: metrica lint ")


def test_a_folder_that_holds_too_much_is_exit_2(
    fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "MAX_FILES", 5)
    assert main(["lint", str(fleet)]) == 2
    assert "holds more than 5 files" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(fleet: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "metrica_cli", "lint", str(fleet)], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_folder_that_can_not_be_read_is_a_problem(
    fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scandir = str(fleet / "roles" / "sensor"), os.scandir

    def guarded(path: str) -> object:  # root may enter everything
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    (fleet / "roles" / "sensor" / "more").mkdir()
    monkeypatch.setattr(os, "scandir", guarded)
    assert main(["lint", str(fleet)]) == 1
    assert "roles/sensor: the folder can't be read: Permission denied\n" in capsys.readouterr().err


def test_a_repository_that_can_not_be_read_is_a_sentence(
    fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    assert main(["lint", str(fleet)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {fleet} can't be read\n  Permission denied\n  try: ls -ld ")


def test_a_device_of_the_name_of_a_path_of_the_api_is_refused(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "devices" / "pi-01.toml").rename(fleet / "devices" / "stream.toml")
    assert main(["lint", str(fleet)]) == 1
    assert capsys.readouterr().err.startswith("devices/stream.toml")


@pytest.mark.parametrize(
    ("compose", "told"),
    [
        ("env_file: ../other/x.env", 'compose.yaml: line 3: env_file "../other/x.env" is not in the role\'s folder'),
        ("env_file: $WHERE/x.env", 'compose.yaml: line 3: env_file variable "WHERE" is not set for this device'),
        ("env_file: [", "compose.yaml: while parsing a flow node"),
    ],
)
def test_a_compose_file_that_reads_what_is_not_of_its_role_is_a_problem(
    compose: str, told: str, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fleet / "roles" / "sensor" / "compose.yaml").write_text(f"services:\n  web:\n    {compose}\n")
    assert main(["lint", str(fleet)]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"roles/sensor: {told}")
    assert last.startswith("1 problem;")


def test_what_a_compose_file_reads_of_its_role_is_no_problem(fleet: Path) -> None:
    compose = 'services:\n  web:\n    image: x\n    env_file: [./own.env, "${METRICA_DEVICE}.env"]\n'
    (fleet / "roles" / "sensor" / "compose.yaml").write_text(compose)
    assert main(["lint", str(fleet)]) == 0


def test_a_link_in_place_of_a_compose_file_is_not_followed(fleet: Path) -> None:
    os.mkfifo(fleet / "roles" / "pipe")
    (fleet / "roles" / "sensor" / "compose.yaml").unlink()
    (fleet / "roles" / "sensor" / "compose.yaml").symlink_to("../pipe")
    assert main(["lint", str(fleet)]) == 1


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBs4vlHMxQXmTdDqTcUYAT6MfQbnhPnNRDvbUZTL8Kdu"
ROLLOUT = '\n[rollout]\n\n[[rollout.stages]]\nname = "all"\nshare = 1.0\n'


@pytest.mark.parametrize(
    ("rollout", "signers", "told"),
    [
        ("", None, []),
        ("", f"ada@example.org {KEY}\n", []),
        ("", f'ada@example.org namespaces="git" {KEY}\n', ["metrica-order: nobody can stop the fleet by an order"]),
        (ROLLOUT, None, ["devices heed the gate of [rollout] only if their own file names the hub"]),
        (
            ROLLOUT,
            f'ada@example.org namespaces="git,metrica-order" {KEY}\n',
            ["metrica-gate: devices do not heed the gate of [rollout]; metrica key"],
        ),
        (ROLLOUT, f'ada@example.org {KEY}\nhub namespaces="metrica-gate,metrica-command" {KEY}\n', []),
        (
            ROLLOUT,
            f'ada@example.org namespaces="git,metrica-order" {KEY}\nhub namespaces="metrica-gate" {KEY}\n',
            ["lacks the namespace metrica-head: devices can't tell whether they have the newest commit; metrica key"],
        ),
    ],
)
def test_what_devices_would_not_heed_is_noted(
    rollout: str, signers: str | None, told: list[str], fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (fleet / "fleet.toml").open("a") as file:
        file.write(rollout)
    if signers is not None:
        (fleet / "allowed_signers").write_text(signers)
    assert main(["lint", str(fleet)]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(told)
    assert all(note.startswith("note: ") and note.endswith(end) for note, end in zip(notes, told, strict=True))


def test_signers_that_can_not_be_read_are_a_problem(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "allowed_signers").write_text(f"# ours\nada@example.org ssh-ed5519 {KEY}\n")
    assert main(["lint", str(fleet)]) == 1
    assert capsys.readouterr().err.startswith('allowed_signers:2: "ssh-ed5519" is no option; ')


def test_a_stop_in_the_repository_is_noted(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet / "STOP").write_text('level = "halt"\nscope = "role:camera"\n')
    assert main(["lint", str(fleet)]) == 0
    assert capsys.readouterr().err == "note: STOP: a commit of this says halt to role:camera\n"
