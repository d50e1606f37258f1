"""Devices as one who follows them is told: the same as who reads each row whole."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import pytest
from msgspec import structs
from tests.unit.hub.values import at, heartbeat, presence, status

from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.messages import Refusal, StopStanding
from metrica_fleet.records import Vitals
from metrica_fleet.stop import Level
from metrica_hub.adapters.store.attendance import Register
from metrica_hub.adapters.store.followed import Followed
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.decisions.attendance import Verdict

if TYPE_CHECKING:
    from tests.integration.hub.stored import Store

    from metrica_hub.decisions.fleet_state import DeviceState

DEVICES: Final = tuple(DeviceId(f"pi-{number:02}") for number in range(1, 8))
EVERY_COLUMN: Final = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = 'devices' AND is_generated = 'NEVER'
    AND column_name NOT IN ('device', 'change') ORDER BY 1
"""
OTHERS: Final = {
    "ARRAY": "'{other}'",
    "bigint": "17",
    "boolean": "true",
    "double precision": "17.5",
    "integer": "17",
    "jsonb": """'[{"boot_id": "b", "connection": 1, "agent_version": "1", "last_heard_at": "2026-12-01T00:00:00Z"}]'""",
    "text": "'other'",
    "timestamp with time zone": "'2026-12-01T00:00:00Z'",
    "uuid": "gen_random_uuid()",
}
WORDS: Final = {"presence": "'offline'", "hearing": "'silent'"}


class Follower:
    """One who remembers what he was told."""

    def __init__(self, source: Followed | Reader) -> None:
        self._source = source
        self._change = 0
        self.devices: dict[str, DeviceState] = {}

    async def look(self) -> list[DeviceState]:
        """Take in what is new."""
        told: list[DeviceState] = []
        while found := await self._source.changed_devices(after=self._change, limit=3):
            changes = [self._change, *(device.change for device in found)]
            assert changes == sorted(set(changes)), "in the order of their changes, each once"
            self._change = changes[-1]
            self.devices.update((device.device, device) for device in found)
            told += found
        return told


async def say_something(store: Store, device: DeviceId, seq: int, chance: random.Random) -> None:
    """Have a device, or the hub about it, say one of all that can be said."""
    boot = f"boot {chance.randrange(2)}"
    load = Vitals(
        load_1m=chance.random(), disk_path=chance.choice([None, "/", "/data"]), throttled=chance.random() < 0.5
    )
    match chance.randrange(10):
        case 0:
            await store.put(presence(chance.choice(["online", "offline"]), seq, boot=boot), device=device)
        case 1:
            refusal = Refusal(commit=CommitId("e" * 40), reason="unhealthy", message="no")
            said = status(mode=chance.choice(["steady", "safe"]), uptime_s=float(seq), boot=boot, device=device)
            said = structs.replace(
                said,
                vitals=load,
                tags=tuple(chance.sample(["a", "b", "c"], 2)),
                refused=chance.choice([None, refusal]),
                stop=chance.choice([None, StopStanding(number=seq, level=Level.HALT)]),
            )
            await store.put(said, device=device)
        case 2:
            verdict = Verdict(hearing=chance.choice([None, "silent"]), hearing_at=at(seq), flapping_since=at(seq))
            await Register(store.pool).put_verdicts({device: verdict})
        case _:
            await store.put(structs.replace(heartbeat(seq, boot=boot), vitals=load), device=device)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_said_who_follows_is_told_as_who_reads_each_row_whole(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    followed, whole = Follower(Followed(store.pool)), Follower(Reader(store.pool))
    for seq in range(1, 150):
        for device in chance.sample(DEVICES, chance.randrange(1, 4)):
            await say_something(store, device, seq, chance)
        assert await followed.look() == await whole.look()
    assert followed.devices == whole.devices
    assert len(followed.devices) == len(DEVICES)


async def test_each_column_that_changes_is_told(store: Store) -> None:
    for device in DEVICES:
        await store.put(status(device=device), heartbeat(1), device=device)
    followed, whole = Follower(Followed(store.pool)), Follower(Reader(store.pool))
    assert await followed.look() == await whole.look()
    columns = [(str(name), str(kind)) for name, kind in await store.ask(EVERY_COLUMN)]
    assert len(columns) > 50
    for name, kind in columns:
        value = WORDS.get(name, OTHERS[kind])
        changes = f"{name} = {value}, change = nextval('device_changes')"
        await store.ask(f"UPDATE devices SET {changes} WHERE device = 'pi-03'")  # noqa: S608 - the test's own
        told = await followed.look()
        assert told == await whole.look(), name
        assert [device.device for device in told] == ["pi-03"]


async def test_one_that_is_gone_is_not_told_and_one_that_is_made_anew_is(store: Store) -> None:
    followed = Follower(Followed(store.pool))
    await store.put(status(device=DEVICES[0]), heartbeat(1), device=DEVICES[0])
    await followed.look()
    await store.ask("DELETE FROM devices")
    assert await followed.look() == []
    await store.put(heartbeat(2, boot="another"), device=DEVICES[0])
    assert await followed.look() == await Follower(Reader(store.pool)).look()


async def test_while_others_write_nothing_is_missed(store: Store) -> None:
    followed = Follower(Followed(store.pool))

    async def written(device: DeviceId) -> None:
        chance = random.Random(device)
        for seq in range(1, 60):
            await say_something(store, device, seq, chance)

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(written(device)) for device in DEVICES]
        while not all(writer.done() for writer in writers):
            await followed.look()
    await followed.look()
    whole = Follower(Reader(store.pool))
    await whole.look()
    assert followed.devices == whole.devices
