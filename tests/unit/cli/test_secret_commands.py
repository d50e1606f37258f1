from __future__ import annotations

import io
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from aiohttp import web
from tests.unit.cli.hubs import hub_that_says, metrica

from metrica_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

Key = pyrage.x25519.Identity
USES = "services:\n  a: {image: i, secrets: [wifi]}\nsecrets:\n  wifi: {file: '${METRICA_SECRETS}/wifi'}\n"


class Fleet:
    """A checkout with three devices, the keys of whom a test has, and an operator's."""

    def __init__(self, root: Path) -> None:
        self.root = root / "fleet"
        self.keys: dict[str, Key] = {}
        self.operator = Key.generate()
        self.operator_file = root / "operator.age"
        self.operator_file.write_text(f"{self.operator}\n")
        self.write("fleet.toml", f'name = "harbour"\n[secrets]\noperators = ["{self.operator.to_public()}"]\n')
        self.write("roles/camera/compose.yaml", USES)
        self.write("roles/sensor/compose.yaml", "services: {}\n")
        for name, role, tags in (("pi-01", "camera", ["roof"]), ("pi-02", "camera", ["roof"]), ("pi-03", "sensor", [])):
            self.enrol(name, role, tags)

    def enrol(self, name: str, role: str, tags: list[str]) -> None:
        self.keys[name] = Key.generate()
        self.write(f"devices/{name}.toml", f'role = "{role}"\nage = "{self.keys[name].to_public()}"\ntags = {tags}\n')

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def run(self, *arguments: str) -> int:
        return main(["secret", *arguments, "-C", str(self.root)])

    def lint(self) -> int:
        return main(["lint", str(self.root)])

    def rekey(self, *more: str) -> int:
        return self.run("rekey", "--identity", str(self.operator_file), *more)

    def opens(self, who: Key, path: str) -> bytes | None:
        """Return what ``who`` reads."""
        try:
            return pyrage.decrypt((self.root / path).read_bytes(), [who])
        except pyrage.DecryptError:
            return None

    def readers(self, path: str) -> set[str]:
        return {name for name, key in self.keys.items() if self.opens(key, path) is not None}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stands on standard input."""

    def put(text: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    return put


ROOF = "secrets/tags/roof/wifi.age"


def test_a_secret_for_a_tag_is_opened_by_its_devices_and_operators_and_nobody_else(
    fleet: Fleet, says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says(b"hunter2\n")
    assert fleet.run("set", "wifi", "--tag", "roof") == 0
    assert capsys.readouterr().out == f"{ROOF}: sealed to 2 devices and 1 operator\n"
    assert fleet.readers(ROOF) == {"pi-01", "pi-02"}
    assert fleet.opens(fleet.operator, ROOF) == b"hunter2"
    assert b"hunter2" not in (fleet.root / ROOF).read_bytes()
    assert fleet.lint() == 0


def test_the_real_age_reads_what_was_set_and_writes_what_lint_and_rekey_read(fleet: Fleet, says: Any) -> None:
    age = shutil.which("age")
    assert age is not None, "install age; ./scripts/test does"
    says(b"hunter2")
    fleet.run("set", "wifi", "--tag", "roof")
    file = fleet.root / ROOF
    opened = subprocess.run([age, "-d", "-i", fleet.operator_file, file], capture_output=True, check=True)
    assert opened.stdout == b"hunter2"
    to = file.with_suffix(".recipients")
    subprocess.run([age, "-a", "-R", to, "-o", file], input=b"by hand", check=True)
    assert fleet.lint() == 0
    assert fleet.rekey("--all") == 0
    assert fleet.opens(fleet.keys["pi-01"], ROOF) == b"by hand"


@pytest.mark.parametrize(
    ("said", "kept"), [(b"a\n", b"a"), (b"a", b"a"), (b"a\n\n", b"a\n"), (b"two\nlines\n", b"two\nlines")]
)
def test_one_newline_at_the_end_is_the_terminal_s(fleet: Fleet, says: Any, said: bytes, kept: bytes) -> None:
    says(said)
    fleet.run("set", "wifi", "--device", "pi-01")
    assert fleet.opens(fleet.keys["pi-01"], "secrets/devices/pi-01/wifi.age") == kept


def test_a_file_is_sealed_to_the_byte_and_one_that_is_too_large_is_not(fleet: Fleet, tmp_path: Path) -> None:
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
def test_for_whom_must_be_said_and_be_there(fleet: Fleet, says: Any, arguments: list[str], code: int) -> None:
    says(b"x")
    assert fleet.run("set", *arguments) == code
    assert not (fleet.root / "secrets").exists()


def test_nothing_is_sealed_to_nobody(fleet: Fleet, says: Any) -> None:
    fleet.write("fleet.toml", 'name = "harbour"\n')
    fleet.write("devices/pi-03.toml", 'role = "sensor"\n')
    says(b"x")
    assert fleet.run("set", "wifi", "--device", "pi-03") == 1


def test_lint_says_who_lacks_what_a_role_uses(fleet: Fleet, says: Any, capsys: pytest.CaptureFixture[str]) -> None:
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
    fleet: Fleet, says: Any, capsys: pytest.CaptureFixture[str]
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
    fleet: Fleet, says: Any, tmp_path: Path
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


def test_a_plain_text_among_the_secrets_is_found(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.write("secrets/tags/roof/wifi.age", "hunter2")
    assert fleet.lint() == 1
    told = capsys.readouterr().err
    assert f"{ROOF}: it is not sealed, and a commit of it tells it to everybody" in told
    assert "hunter2" not in told


def test_secrets_are_listed_without_their_values_and_removed(
    fleet: Fleet, says: Any, capsys: pytest.CaptureFixture[str]
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


async def test_the_hub_is_asked_for_the_keys_of_devices(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_leaked_repository_and_one_stolen_card_open_that_device_s_secrets_and_no_other(
    fleet: Fleet, says: Any, tmp_path: Path
) -> None:
    """All of the history leaks; the card holds its key. Opened by the real age, as a thief would."""
    age = shutil.which("age")
    assert age is not None, "install age; ./scripts/test does"
    git = ["git", "-C", fleet.root, "-c", "user.name=x", "-c", "user.email=x@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    places = ["--tag roof", "--role camera", "--role sensor", *(f"--device pi-0{number}" for number in (1, 2, 3))]
    for place in places:
        says(f"value for {place}".encode())
        assert fleet.run("set", "wifi", *place.split()) == 0
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    fleet.enrol("pi-04", "sensor", ["roof"])
    assert fleet.rekey() == 0
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "two"], check=True)
    log = subprocess.run([*git, "rev-list", "--objects", "--all"], capture_output=True, text=True, check=True).stdout
    blobs = [line.split(" ", 1) for line in log.splitlines() if line.endswith(".age")]
    assert len(blobs) == len(places) + 2  # two of them were sealed anew

    def opened(card: Key) -> set[str]:
        key = tmp_path / "card.age"
        key.write_text(f"{card}\n")
        found: set[str] = set()
        for blob, path in blobs:
            content = subprocess.run([*git, "cat-file", "blob", blob], capture_output=True, check=True).stdout
            done = subprocess.run([age, "-d", "-i", key], input=content, capture_output=True, check=False)
            found |= {path} if done.returncode == 0 else set()
        return found

    mine = {"secrets/devices/pi-01/wifi.age", ROOF, "secrets/roles/camera/wifi.age"}
    assert opened(fleet.keys["pi-01"]) == mine
    assert opened(fleet.keys["pi-04"]) == {ROOF, "secrets/roles/sensor/wifi.age"}
    assert opened(Key.generate()) == set()
