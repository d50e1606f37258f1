"""Which machine this is, by what does not lie on its card: a hash of a serial number, good for comparing alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERIAL: Final = ("sys/firmware/devicetree/base/serial-number", "proc/device-tree/serial-number")
_UUID: Final = "sys/class/dmi/id/product_uuid"
_INTERFACES: Final = "sys/class/net"
_PERMANENT: Final = "0"
"""Of ``addr_assign_type``: the address is burnt in."""
_NOBODYS: Final = frozenset({"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009"})
"""UUIDs that makers of boards leave in place."""


def this_machine(root: Path = Path("/")) -> tuple[str, ...]:
    """Return what tells this machine from others, ``source:hash``, the most trusted first; empty where nothing does.

    Not /etc/machine-id: a cloned card has it, too.
    """
    return tuple(f"{source}:{_hashed(source, value)}" for source, value in _found(root))


def _found(root: Path) -> Iterator[tuple[str, str]]:
    serial = next(filter(None, (_read(root / path) for path in _SERIAL)), "")
    if serial.strip("0"):
        yield "serial", serial
    uuid = _read(root / _UUID).lower()
    if uuid not in _NOBODYS and len(set(uuid) - {"-"}) > 1:
        yield "uuid", uuid
    for interface in sorted((root / _INTERFACES).glob("*")):
        if _is_built_in(interface) and (address := _read(interface / "address")):
            yield "mac", address
            return


def _is_built_in(interface: Path) -> bool:
    device = interface / "device"
    return (
        device.exists() and "/usb" not in str(device.resolve()) and _read(interface / "addr_assign_type") == _PERMANENT
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().strip(b"\0\n ").decode("ascii", "replace")
    except OSError:
        return ""


def _hashed(source: str, value: str) -> str:
    return hashlib.sha256(f"metrica-machine {source} {value}".encode()).hexdigest()[:32]
