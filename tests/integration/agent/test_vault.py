"""Secrets opened by the real child with real age files, into a real tmpfs."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest

from metrica_agent.adapters.vault import Vault
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import DeviceId

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PI_01 = DeviceId("pi-01")
WIFI = b"correct horse battery staple"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory."""
    folder = Path(tempfile.mkdtemp(prefix="metrica-", dir="/dev/shm"))
    yield folder / "secrets"
    shutil.rmtree(folder)


class Card:
    """What is on a device's card: its key, and a release with what is sealed in it."""

    def __init__(self, folder: Path) -> None:
        self.release = folder / "release"
        self.key = folder / "device.age"
        self.identity = pyrage.x25519.Identity.generate()
        (self.release / "secrets").mkdir(parents=True)
        self.key.write_text(f"# made by a test\n{self.identity}\n")

    @property
    def recipient(self) -> pyrage.x25519.Recipient:
        return self.identity.to_public()

    def holds(self, **sealed: bytes) -> None:
        for name, data in sealed.items():
            (self.release / "secrets" / f"{name}.age").write_bytes(data)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def sealed(plain: bytes, *to: pyrage.x25519.Recipient) -> bytes:
    return pyrage.encrypt(plain, list(to), armored=True)


def paths(files: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    return {name: (f"secrets/tags/roof/{name}.age", data) for name, data in files.items()}


def by_age(*arguments: str, of: bytes) -> bytes:
    """Return what Debian's age makes of ``of``."""
    age = shutil.which("age")
    assert age is not None, "install age; ./scripts/test does"
    return subprocess.run([age, *arguments], input=of, capture_output=True, check=True).stdout


def kept(memory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in memory.iterdir()} if memory.exists() else {}


def modes(memory: Path) -> set[str]:
    return {f"{stat.S_IMODE(path.stat().st_mode):o}" for path in (memory, *memory.iterdir())}


def vault(card: Card, memory: Path) -> Vault:
    return Vault(card.key, memory, device=PI_01)


async def test_what_is_sealed_to_the_device_is_opened_into_memory_for_root_alone_and_only_what_is_wanted(
    card: Card, memory: Path
) -> None:
    files = {"wifi": sealed(WIFI, card.recipient), "other": sealed(b"x", card.recipient)}
    card.holds(**files)
    digests = await vault(card, memory).digests(paths(files))
    assert kept(memory) == {}  # a look writes nothing
    await vault(card, memory).keep(card.release, [digests["wifi"]])
    assert kept(memory) == {digests["wifi"]: WIFI}
    assert modes(memory) == {"700", "444"}


async def test_a_digest_follows_the_plain_text_and_not_how_it_is_sealed_and_says_nothing_to_others(
    card: Card, memory: Path, tmp_path: Path
) -> None:
    other = Card(tmp_path / "other")
    both = [card.recipient, other.recipient]
    one, again, changed = sealed(WIFI, card.recipient), sealed(WIFI, *both), sealed(b"new", *both)
    mine = await vault(card, memory).digests(paths({"a": one, "b": again, "c": changed}))
    assert mine["a"] == mine["b"] != mine["c"]
    theirs = await vault(other, memory).digests(paths({"b": again}))
    assert theirs["b"] != mine["b"]


async def test_what_age_has_sealed_is_opened_and_what_is_sealed_here_age_opens(card: Card, memory: Path) -> None:
    armoured, binary = (by_age(*how, "-r", str(card.recipient), of=WIFI) for how in (["--armor"], []))
    ours = sealed(WIFI, card.recipient)
    digests = await vault(card, memory).digests(paths({"a": armoured, "b": binary, "c": ours}))
    assert len(set(digests.values())) == 1
    assert by_age("-d", "-i", str(card.key), of=ours) == WIFI


async def test_a_secret_for_somebody_else_is_refused_with_the_key_and_the_way_out(
    card: Card, memory: Path, tmp_path: Path
) -> None:
    files = {"wifi": sealed(WIFI, Card(tmp_path / "other").recipient)}
    with pytest.raises(Unusable) as caught:
        await vault(card, memory).digests(paths(files))
    assert caught.value.reason == "secret-unreadable"
    assert caught.value.message == (
        f"secrets/tags/roof/wifi.age is not sealed to this device's key, {card.recipient}:"
        ' age = "…" in devices/pi-01.toml has to be that key; then metrica secret rekey, and commit'
    )


@pytest.mark.parametrize("damage", [b"", b"no age file", b"half", b"flipped", b"binary-half"])
async def test_a_damaged_secret_is_refused_in_one_sentence(card: Card, memory: Path, damage: bytes) -> None:
    whole = sealed(WIFI, card.recipient)
    binary = pyrage.encrypt(WIFI, [card.recipient])
    data = {
        b"half": whole[: len(whole) // 2],
        b"flipped": binary[:-1] + bytes([binary[-1] ^ 1]),
        b"binary-half": binary[:-9],
    }.get(damage, damage)
    with pytest.raises(Unusable) as caught:
        await vault(card, memory).digests(paths({"wifi": data}))
    assert caught.value.reason == "secret-unreadable"
    assert caught.value.message.startswith("secrets/tags/roof/wifi.age is damaged (")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("key", [None, "", "# nothing\n", "AGE-SECRET-KEY-1NO\n", "not a key", "\x00"])
async def test_a_device_without_a_key_says_so(card: Card, memory: Path, key: str | None) -> None:
    card.key.unlink() if key is None else card.key.write_text(key)
    with pytest.raises(Unusable) as caught:
        await vault(card, memory).digests(paths({"wifi": sealed(WIFI, card.recipient)}))
    assert caught.value.reason == "secret-no-key"
    assert str(card.key) in caught.value.message


async def test_a_key_that_follows_another_opens_what_was_sealed_to_either(card: Card, memory: Path) -> None:
    old = sealed(WIFI, card.recipient)
    card.holds(wifi=old)
    before = await vault(card, memory).digests(paths({"wifi": old}))
    newer = pyrage.x25519.Identity.generate()
    card.key.write_text(f"{newer}\n{card.identity}\n")
    after = await vault(card, memory).digests(paths({"wifi": sealed(WIFI, newer.to_public())}))
    assert after != before
    await vault(card, memory).keep(card.release, before.values())  # the release of before still runs
    assert kept(memory) == {before["wifi"]: WIFI}


async def test_a_release_whose_secrets_are_not_those_that_it_was_made_of_is_not_run(card: Card, memory: Path) -> None:
    card.holds(wifi=sealed(b"another", card.recipient))
    digests = await vault(card, memory).digests(paths({"wifi": sealed(WIFI, card.recipient)}))
    with pytest.raises(NotNow) as caught:
        await vault(card, memory).keep(card.release, digests.values())
    assert caught.value.reason == "secrets-unopened"


async def test_nothing_is_opened_onto_a_disk(card: Card, tmp_path: Path) -> None:
    card.holds(wifi=sealed(WIFI, card.recipient))
    on_disk = tmp_path / "secrets"
    digests = await vault(card, on_disk).digests(paths({"wifi": sealed(WIFI, card.recipient)}))
    with pytest.raises(NotNow) as caught:
        await vault(card, on_disk).keep(card.release, digests.values())
    assert caught.value.reason == "secrets-on-disk"
    assert kept(on_disk) == {}


async def test_a_directory_that_an_engine_made_where_a_secret_was_missing_gives_way(card: Card, memory: Path) -> None:
    card.holds(wifi=sealed(WIFI, card.recipient))
    [digest] = (await vault(card, memory).digests(paths({"wifi": sealed(WIFI, card.recipient)}))).values()
    (memory / digest).mkdir(parents=True)
    await vault(card, memory).keep(card.release, [digest])
    assert kept(memory) == {digest: WIFI}


async def test_what_nobody_needs_any_more_is_forgotten(card: Card, memory: Path) -> None:
    files = {"a": sealed(b"a", card.recipient), "b": sealed(b"b", card.recipient)}
    card.holds(**files)
    one = vault(card, memory)
    await one.forget(())  # before there is anything
    digests = await one.digests(paths(files))
    await one.keep(card.release, digests.values())
    await one.forget([digests["b"]])
    assert kept(memory) == {digests["b"]: b"b"}


async def test_a_device_tells_its_public_key(card: Card, memory: Path) -> None:
    assert await vault(card, memory).recipient() == str(card.recipient)
