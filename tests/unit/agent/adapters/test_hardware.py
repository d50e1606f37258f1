"""What tells a machine from others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metrica_agent.adapters.hardware import this_machine

if TYPE_CHECKING:
    from pathlib import Path

SERIAL = "10000000a1b2c3d4"


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())


def interface(root: Path, name: str, address: str, *, on: str = "devices/pci0/eth", burnt_in: bool = True) -> None:
    device = root / "sys" / on / name
    device.mkdir(parents=True)
    put(root, f"sys/class/net/{name}/address", f"{address}\n")
    put(root, f"sys/class/net/{name}/addr_assign_type", "0\n" if burnt_in else "3\n")
    (root / "sys/class/net" / name / "device").symlink_to(device)


def sources(root: Path) -> list[str]:
    return [one.partition(":")[0] for one in this_machine(root)]


def test_a_pi_is_known_by_its_serial_number_wherever_the_kernel_shows_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    put(one, "sys/firmware/devicetree/base/serial-number", f"{SERIAL}\0")
    put(other, "proc/device-tree/serial-number", f"{SERIAL}\0")
    assert this_machine(one) == this_machine(other)
    assert sources(one) == ["serial"]
    assert SERIAL not in str(this_machine(one))
    put(other, "proc/device-tree/serial-number", "10000000a1b2c3d5\0")
    assert this_machine(one) != this_machine(other)


def test_a_pc_is_known_by_its_uuid_unless_that_is_nobodys(tmp_path: Path) -> None:
    for number, (uuid, expected) in enumerate(
        [
            ("4C4C4544-0042-3510-8052-B4C04F4A4D32", ["uuid"]),
            ("00000000-0000-0000-0000-000000000000", []),
            ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", []),
            ("03000200-0400-0500-0006-000700080009", []),
            ("", []),
        ]
    ):
        root = tmp_path / str(number)
        put(root, "sys/class/dmi/id/product_uuid", f"{uuid}\n")
        assert sources(root) == expected, uuid


def test_of_interfaces_only_one_that_is_built_in_counts(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/net/docker0/address", "02:42:00:00:00:01\n")
    interface(tmp_path, "aaa0", "00:e0:4c:00:00:01", on="devices/pci0/usb1")
    interface(tmp_path, "bbb0", "02:00:00:00:00:02", burnt_in=False)
    assert sources(tmp_path) == []
    interface(tmp_path, "eth0", "dc:a6:32:00:00:03")
    before = this_machine(tmp_path)
    assert sources(tmp_path) == ["mac"]
    interface(tmp_path, "eth1", "dc:a6:32:00:00:04")
    assert this_machine(tmp_path) == before
    put(tmp_path, "sys/firmware/devicetree/base/serial-number", "0000000000000000\0")
    assert this_machine(tmp_path) == before
    put(tmp_path, "sys/firmware/devicetree/base/serial-number", SERIAL)
    assert sources(tmp_path) == ["serial", "mac"]
