"""A line in, a line out: how another program tells a running world what to do, over a pipe or a socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

Obey = Callable[[str], str]
"""One line of a request to the one line of its answer."""


async def serve_pipe(obey: Obey) -> None:
    """Answer on stdout what comes on stdin; return when stdin ends: who started us is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(obey(line.decode("utf-8", "replace")), flush=True)


async def serve_socket(path: Path, obey: Obey, on_listening: Callable[[], None] = lambda: None) -> None:
    """Answer on a Unix socket at ``path`` until cancelled; ``on_listening`` is called when it can be reached."""
    async with asyncio.TaskGroup() as talks:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            talks.create_task(_talk(reader, writer, obey), name="control")

        await asyncio.to_thread(path.unlink, missing_ok=True)
        server = await asyncio.start_unix_server(accept, path)
        async with server:
            on_listening()
            await asyncio.Event().wait()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, obey: Obey) -> None:
    try:
        while line := await reader.readline():
            writer.write(f"{obey(line.decode('utf-8', 'replace'))}\n".encode())
            await writer.drain()
    except (ConnectionError, ValueError):
        return  # it hung up, or its line has no end: nothing more to answer
    finally:
        writer.transport.abort()
