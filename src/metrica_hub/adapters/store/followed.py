"""Devices as they change, for one who shows all of them and remembers what he was told.

Nearly all changes are a heartbeat's: of such a row only the vitals and when it was heard are read. Whether all else of
it is as it was, Postgres says by a hash of that, so that no statement has to know who remembers what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import structs

from metrica_hub.adapters.store.device_rows import DEVICE_COLUMNS, MOVING_COLUMNS, REST_COLUMNS, device_of, moved
from metrica_hub.adapters.store.pool import borrowed

if TYPE_CHECKING:
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.decisions.fleet_state import DeviceState

_HASH: Final = f"hash_record_extended(ROW({REST_COLUMNS}), 0)"
_CHANGED: Final = f"""
SELECT device, change, {_HASH}, {MOVING_COLUMNS} FROM devices WHERE change > $1 ORDER BY change LIMIT $2
"""  # noqa: S608 - names of our own
_WHOLE: Final = f"SELECT {_HASH}, {DEVICE_COLUMNS} FROM devices WHERE device = ANY($1::text[])"  # noqa: S608 - likewise


class Followed:
    """For one follower."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held: dict[str, tuple[int, DeviceState]] = {}
        """Each device as it was told last, with the hash of what a heartbeat does not change."""

    async def changed_devices(self, *, after: int, limit: int) -> list[DeviceState]:
        """Return up to ``limit`` devices that changed after ``after``, in the order of their changes.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            changed = [row[:] for row in await connection.fetch(_CHANGED, after, limit)]
            strangers = [device for device, _, rest, *_ in changed if not self._is_held(device, rest)]
            rows = await connection.fetch(_WHOLE, strangers) if strangers else []
        for device in strangers:
            self._held.pop(device, None)
        whole = [(row[0], device_of(row[1:])) for row in rows]
        self._held.update((state.device, (rest, state)) for rest, state in whole)
        met = {state.device for _, state in whole}
        found: list[DeviceState] = []
        for device, change, _, *moving in changed:
            if device not in self._held:
                continue  # it is there no more
            rest, state = self._held[device]
            # A row that was read whole may have changed again since. That number comes at its turn: others are before.
            state = structs.replace(state, change=change) if device in met else moved(state, change, moving)
            self._held[device] = rest, state
            found.append(state)
        return found

    def _is_held(self, device: str, rest: int) -> bool:
        held = self._held.get(device)
        return held is not None and held[0] == rest
