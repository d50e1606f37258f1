from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from tests.fixtures.sealed_fleet import ROOF, Key, SealedFleet, says, sealed_fleet
from tests.unit.cli.hubs import hub_that_says, metrica

from metrica_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["says", "sealed_fleet"]


def test_a_secret_for_a_tag_is_opened_by_its_devices_and_operators_and_nobody_else(
    fleet: SealedFleet, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says(b"hunter2\n")
    assert fleet.run("set", "wifi", "--tag", "roof") == 0
    assert capsys.readouterr().out == f"{ROOF}: sealed to 2 devices and 1 operator\n"
    assert fleet.readers(ROOF) == {"pi-01", "pi-02"}
    assert fleet.opens(fleet.operator, ROOF) == b"hunter2"
    assert b"hunter2" not in (fleet.root / ROOF).read_bytes()
    assert fleet.lint() == 0


@pytest.mark.parametrize(
    ("said", "kept"), [(b"a\n", b"a"), (b"a", b"a"), (b"a\n\n", b"a\n"), (b"two\nlines\n", b"two\nlines")]
)
def test_one_newline_at_the_end_is_the_terminal_s(fleet: SealedFleet, says: Any, said: bytes, kept: bytes) -> None:
    says(said)
    fleet.run("set", "wifi", "--device", "pi-01")
    assert fleet.opens(fleet.keys["pi-01"], "secrets/devices/pi-01/wifi.age") == kept


def test_a_file_is_sealed_to_the_byte_and_one_that_is_too_large_is_not(fleet: SealedFleet, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\x00\xff\n")
    assert fleet.run("set", "wifi", "--role", "camera", "--file", str(tmp_path / "key")) == 0
    assert fleet.opens(fleet.keys["pi-02"], "secrets/roles/camera/wifi.age") == b"\x00\xff\n"
    (tmp_path / "key").write_bytes(b"x" * 65_537)
    assert fleet.run("set", "wifi", "--role", "camera", "--file", str(tmp_path / "key")) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["wifi"], 2),
        (["wifi", "--tag", "roof", "--role", "camera"], 2),
        (["Wi Fi", "--tag", "roof"], 2),
        (["wifi", "--tag", "rof"], 5),
        (["wifi", "--device", "pi-99"], 5),
    ],
)
def test_for_whom_must_be_said_and_be_there(fleet: SealedFleet, says: Any, arguments: list[str], code: int) -> None:
    says(b"x")
    assert fleet.run("set", *arguments) == code
    assert not (fleet.root / "secrets").exists()


def test_nothing_is_sealed_to_nobody(fleet: SealedFleet, says: Any) -> None:
    fleet.write("fleet.toml", 'name = "harbour"\n')
    fleet.write("devices/pi-03.toml", 'role = "sensor"\n')
    says(b"x")
    assert fleet.run("set", "wifi", "--device", "pi-03") == 1


def test_lint_says_who_lacks_what_a_role_uses(
    fleet: SealedFleet, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet.lint() == 1
    assert "roles/camera/compose.yaml:4: roles/camera uses the secret" in capsys.readouterr().err
    says(b"x")
    fleet.run("set", "wifi", "--tag", "roof")
    fleet.enrol("pi-04", "camera", ["roof"])
    capsys.readouterr()
    assert fleet.lint() == 1
    assert f"{ROOF}: pi-04 needs it, and it is not sealed to its key; metrica secret rekey" in capsys.readouterr().err
    assert fleet.rekey() == 0
    assert fleet.lint() == 0
    assert fleet.readers(ROOF) == {"pi-01", "pi-02", "pi-04"}
    fleet.write("devices/pi-05.toml", 'role = "camera"\ntags = ["roof"]\n')
    assert fleet.lint() == 1
    assert "devices/pi-05.toml: roles/camera uses secrets, and the device has no key here" in capsys.readouterr().err


def test_who_left_can_open_it_no_more_and_the_operator_is_told_that_it_knew_the_value(
    fleet: SealedFleet, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says(b"x")
    fleet.run("set", "wifi", "--tag", "roof")
    (fleet.root / "devices/pi-02.toml").unlink()
    capsys.readouterr()
    assert fleet.lint() == 0
    told = capsys.readouterr().err
    assert f"note: {ROOF} can be opened by pi-02, and is not for them: metrica secret rekey, and a new value" in told
    assert fleet.rekey() == 0
    assert f"note: pi-02 could open {ROOF}: give it a new value" in capsys.readouterr().err
    assert fleet.readers(ROOF) == {"pi-01"}


def test_rekey_writes_nothing_where_nothing_is_to_be_changed_or_one_can_t_be_opened(
    fleet: SealedFleet, says: Any, tmp_path: Path
) -> None:
    says(b"x")
    fleet.run("set", "wifi", "--tag", "roof")
    before = (fleet.root / ROOF).read_bytes()
    assert fleet.rekey() == 0
    assert (fleet.root / ROOF).read_bytes() == before
    fleet.enrol("pi-04", "camera", ["roof"])
    (tmp_path / "other.age").write_text(f"{Key.generate()}\n")
    assert fleet.run("rekey", "--identity", str(tmp_path / "other.age")) == 1
    assert fleet.run("rekey", "--identity", str(tmp_path / "none.age")) == 2
    assert (fleet.root / ROOF).read_bytes() == before


def test_a_plain_text_among_the_secrets_is_found(fleet: SealedFleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.write("secrets/tags/roof/wifi.age", "hunter2")
    assert fleet.lint() == 1
    told = capsys.readouterr().err
    assert f"{ROOF}: it is not sealed, and a commit of it tells it to everybody" in told
    assert "hunter2" not in told


def test_secrets_are_listed_without_their_values_and_removed(
    fleet: SealedFleet, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says(b"hunter2")
    fleet.run("set", "wifi", "--tag", "roof")
    capsys.readouterr()
    assert fleet.run("list") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["wifi", "tag", "roof", "2", "-", "camera"]
    assert fleet.run("rm", "wifi", "--tag", "roof") == 0
    assert fleet.run("rm", "wifi", "--tag", "roof") == 5
    assert fleet.run("list") == 1  # who needs it lacks it
    assert [path for path in (fleet.root / "secrets").rglob("*") if path.is_file()] == []


def test_an_operator_s_own_key_is_made_once_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "metrica" / "operator.age"
    assert main(["secret", "key"]) == 0
    first = capsys.readouterr().out
    assert first.startswith('[secrets]\noperators = ["age1')
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "AGE-SECRET-KEY" not in first
    assert main(["secret", "key"]) == 0
    assert capsys.readouterr().out == first


async def test_the_hub_is_asked_for_the_keys_of_devices(fleet: SealedFleet, capsys: pytest.CaptureFixture[str]) -> None:
    newer = str(Key.generate().to_public())
    fleet.write("devices/pi-05.toml", 'role = "camera"  # on the roof\n\n[vars]\nage = 3\n')
    fleet.write("devices/pi-06.toml", 'role = "camera"\n')

    async def answer(request: web.Request) -> web.StreamResponse:
        if "pi-06" in request.path:
            return web.json_response({"title": "not found"}, status=404, content_type="application/problem+json")
        return web.json_response({"device": "x", "recipient": newer})

    async with hub_that_says(answer) as address:
        assert await metrica("secret", "keys", "-C", str(fleet.root), "--hub", address) == 0
        assert (fleet.root / "devices/pi-05.toml").read_text() == (
            f'role = "camera"  # on the roof\nage = "{newer}"\n\n[vars]\nage = 3\n'
        )
        assert "pi-06 has told the hub no key" in capsys.readouterr().err
        assert await metrica("secret", "keys", "pi-01", "-C", str(fleet.root), "--hub", address, "--yes") == 0
    assert f'role = "camera"\nage = "{newer}"\ntags' in (fleet.root / "devices/pi-01.toml").read_text()
