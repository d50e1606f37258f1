"""A stream ends by itself, so that its client shows its token again; it goes on where it was."""

from __future__ import annotations

import aiohttp
from tests.unit.cli.hubs import Store, event

from metrica_hub.web.app import make_app, serving
from metrica_hub.web.board import Board
from metrica_hub.web.live import Live


async def test_a_stream_ends_after_its_time_and_is_resumed_behind_what_was_read() -> None:
    board = Board()
    store = Store(rows=[event(1, "pi-01"), event(2, "pi-01")])
    live = Live(board, store, lasts_s=0.1)
    app = make_app(live.routes(), lambda route: route.handler)
    async with serving(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/api/v1/events/stream"
        board.show_events(store.rows)
        for known, expected in ((0, [1, 2]), (1, [2]), (2, [])):
            async with session.get(url, headers={"Last-Event-ID": str(known)}) as stream:
                lines = (await stream.text()).splitlines()
            assert [int(line[4:]) for line in lines if line.startswith("id: ")] == expected
