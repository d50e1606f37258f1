"""What the kernel can limit: Raspberry Pi OS boots with the memory cgroup off, and ignores every limit silently."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


def limits_memory(root: Path = ROOT) -> bool:
    """Whether limits of memory count here: those of Compose files, and systemd's."""
    try:
        controllers = (root / "cgroup.controllers").read_text(encoding="ascii")  # version 2
    except OSError:
        return (root / "memory").is_dir()  # version 1: a hierarchy of its own
    return "memory" in controllers.split()
