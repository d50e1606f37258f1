"""A hub as one writes it in an hour: aiomqtt, json, executemany. Keeps each record once; acknowledges on receipt.

    python plain_hub.py PORT TOPIC DATABASE_URL COUNT     prints "ready", and "stored" when COUNT messages are

What was received and is not stored yet is lost when it dies.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from typing import Any, cast

import aiomqtt
import asyncpg

BATCH = 100
WAIT_S = 0.1

TABLE = """
CREATE TABLE records (
    device text, stream text, seq bigint, at timestamptz, boot_id text, uptime_s double precision, commit text,
    release text, mode text, phase text, load_1m double precision, memory_total_bytes bigint,
    memory_available_bytes bigint, disk_total_bytes bigint, disk_free_bytes bigint,
    temperature_celsius double precision, throttled boolean, clock_synchronised boolean,
    PRIMARY KEY (device, stream, seq)
)
"""
INSERT = """
INSERT INTO records VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
ON CONFLICT DO NOTHING
"""
VITALS = (
    "load_1m",
    "memory_total_bytes",
    "memory_available_bytes",
    "disk_total_bytes",
    "disk_free_bytes",
    "temperature_celsius",
    "throttled",
    "clock_synchronised",
)


def row(message: aiomqtt.Message) -> tuple[Any, ...]:
    assert isinstance(message.payload, bytes)
    said = json.loads(message.payload)
    names = ("boot_id", "uptime_s", "commit", "release", "mode", "phase")
    return (
        message.topic.value.split("/")[4],
        said["stream"],
        said["seq"],
        datetime.fromisoformat(said["at"]),
        *(said[name] for name in names),
        *(said["vitals"][name] for name in VITALS),
    )


async def main(port: int, topic: str, url: str, count: int) -> None:
    found: object = await asyncpg.connect(url)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    database = cast("Any", found)
    await database.execute(TABLE)
    rows: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def store() -> None:
        stored = 0
        while stored < count:
            batch = [await rows.get()]
            deadline = asyncio.get_running_loop().time() + WAIT_S
            while len(batch) < BATCH:
                try:
                    async with asyncio.timeout_at(deadline):
                        batch.append(await rows.get())
                except TimeoutError:
                    break
            await database.executemany(INSERT, batch)
            stored += len(batch)
        print("stored", flush=True)

    async with aiomqtt.Client("127.0.0.1", port, identifier="plain", clean_session=False) as client:
        await client.subscribe(topic, qos=1)
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(store())
            async for message in client.messages:
                rows.put_nowait(row(message))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
