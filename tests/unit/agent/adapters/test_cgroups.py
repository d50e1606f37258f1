"""Whether the kernel limits memory, by both versions of its interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metrica_agent.adapters.cgroups import limits_memory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"cgroup.controllers": "cpuset cpu io memory pids\n"}, True),
        ({"cgroup.controllers": "cpuset cpu io pids\n"}, False),  # as Raspberry Pi OS boots
        ({"cgroup.controllers": "cpuset memory_recursiveprot\n"}, False),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, True),
        ({"cpu/cpu.shares": "1024\n"}, False),
        ({}, False),
    ],
)
def test_memory_is_limited_where_the_controller_is_there(
    tmp_path: Path, files: dict[str, str], *, limits: bool
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert limits_memory(tmp_path) is limits
