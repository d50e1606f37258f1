from __future__ import annotations

from typing import TYPE_CHECKING

from metrica_agent.adapters.spool import Spool
from metrica_agent.decisions.orders import HoldOrder, SafeModeOrder

if TYPE_CHECKING:
    from pathlib import Path

HOLD = HoldOrder(on=True, reason="r")
SAFE = SafeModeOrder(on=True, reason="r")


async def test_orders_are_taken_in_the_order_they_were_given_and_lie_there_until_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "console")
    assert await spool.oldest() is None
    first, second = spool.give(HOLD), spool.give(SAFE)
    for _ in range(2):
        given = await Spool(tmp_path / "console").oldest()
        assert given is not None
        assert (given.id, given.order) == (first, HOLD)
    await spool.remove(first)
    assert not spool.is_waiting(first)
    given = await spool.oldest()
    assert given is not None
    assert (given.id, given.order) == (second, SAFE)


async def test_what_is_no_order_is_set_aside_and_the_next_one_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "console"
    folder.mkdir()
    (folder / "000000000001-x.json").write_bytes(b"\xff{")
    (folder / "000000000002-x.json").write_text('{"type":"unknown"}')
    (folder / "notes.json").write_text("not ours")
    spool = Spool(folder)
    order_id = spool.give(HOLD)
    given = await spool.oldest()
    assert given is not None
    assert given.id == order_id
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".unreadable") == [
        "000000000001-x.unreadable",
        "000000000002-x.unreadable",
    ]
