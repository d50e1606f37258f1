"""What the devices of one process told, one line an event: the other half of every comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from metrica_fleet.identity import DeviceId


class Diary:
    """One file. A line is written once the device has its event on disk: from there on it must arrive."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def told(self, device: DeviceId, number: int) -> None:
        """Note that ``device`` has told its event ``number``."""
        self._file.write(f"{device} {number}\n")


def read_diaries(folder: Path) -> dict[str, list[int]]:
    """Return the numbers that each device told, in order."""
    told: dict[str, list[int]] = {}
    for path in sorted(folder.glob("diary-*.txt")):
        for line in path.read_text(encoding="ascii").splitlines():
            device, number = line.split()
            told.setdefault(device, []).append(int(number))
    return told
