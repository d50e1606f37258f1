"""Starts the machine anew, by systemd: which stops the workloads in order, and asks nobody."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Final

from metrica_fleet.errors import NotNow, Unusable

_ASKED_S: Final = 30.0
_SAID_CHARACTERS: Final = 300
_SYSTEMD: Final = Path("/run/systemd/system")
_CONTAINER_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"), Path("/run/systemd/container"))


async def reboot(
    program: str = "systemctl", *, systemd: Path = _SYSTEMD, marks: tuple[Path, ...] = _CONTAINER_MARKS
) -> None:
    """Ask for it; return when systemd has taken it on.

    Raises:
        Unusable: ``reboot-impossible``: in a container, or without systemd.
        NotNow: ``reboot-refused``.
    """
    if await asyncio.to_thread(_is_contained, marks):
        message = "the agent runs in a container, which can't start its machine anew; do it at the machine"
        raise Unusable(message, reason="reboot-impossible")
    if not await asyncio.to_thread(systemd.is_dir):
        raise Unusable("this machine was not started by systemd, and so is not by us", reason="reboot-impossible")
    try:
        running = await asyncio.create_subprocess_exec(
            program, "--no-ask-password", "--no-wall", "reboot", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
    except OSError as error:
        raise Unusable(f"{program} can't be run: {error.strerror}", reason="reboot-impossible") from error
    try:
        async with asyncio.timeout(_ASKED_S):
            _, complaint = await running.communicate()
    except TimeoutError as error:
        raise NotNow(f"systemd did not answer within {_ASKED_S:g} s", reason="reboot-refused") from error
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode:
        said = " ".join(complaint.decode("utf-8", "replace").split())[-_SAID_CHARACTERS:]
        message = f"systemd refuses to start the machine anew: {said or running.returncode}; is the agent's user root?"
        raise NotNow(message, reason="reboot-refused")


def _is_contained(marks: tuple[Path, ...]) -> bool:
    return any(mark.exists() for mark in marks) or "container" in os.environ
