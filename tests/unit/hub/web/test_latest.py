"""Every device as it is now, for whoever follows them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import device_state

from metrica_hub.web.board import Board

NAMES = st.lists(st.sampled_from(["pi-01", "pi-02", "pi-03", "pi-04"]), max_size=30)


@given(NAMES, st.integers(0, 40), st.integers(1, 7))
def test_who_follows_gets_each_device_that_changed_behind_its_cursor_once_and_as_it_is_now(
    changes: list[str], cursor: int, at_once: int
) -> None:
    board = Board()
    now: dict[str, int] = {}
    states = [device_state(device=name, change=change) for change, name in enumerate(changes, 1)]
    for start in range(0, len(states), at_once):
        board.show_devices(states[start : start + at_once])
        now.update((state.device, state.change) for state in states[start : start + at_once])
        found = board.latest.after(cursor)
        assert [(change, device.device) for change, device in found] == sorted(
            (change, name) for name, change in now.items() if change > cursor
        )
        assert all(change == device.change for change, device in found)
        assert board.latest.newest == max(now.values())


@given(st.lists(st.tuples(st.sampled_from(["pi-01", "pi-02"]), st.sampled_from(["steady", "safe"])), max_size=20))
def test_each_device_is_counted_once_as_it_is_now(changes: list[tuple[str, str]]) -> None:
    board = Board()
    for change, (name, mode) in enumerate(changes, 1):
        board.show_devices([device_state(device=name, mode=mode, change=change)])
    now = dict(changes)
    assert sum(board.counts().values()) == len(now)
    for (mode, _), count in board.counts().items():
        assert count == sum(mode == found for found in now.values())


def test_who_waits_is_woken_by_a_change() -> None:
    board = Board()
    news = board.notice.next()
    board.show_devices([device_state(device="pi-01", change=1)])
    assert news.is_set()


def test_without_a_device_there_is_nothing_behind_any_cursor() -> None:
    board = Board()
    assert (board.latest.newest, board.latest.after(0), board.devices()) == (0, [], [])
