"""What a person at the device may order: each command writes one order, rings, and waits until the agent has obeyed it.

An order that is given while the agent is down lies there and is obeyed when it starts, before anything else. The bell
is a signal to the process that holds the state directory's lock, and that has written its number into it.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metrica_agent.adapters.spool import Spool
from metrica_agent.decisions.orders import HistoryOrder, HoldOrder, Order, SafeModeOrder
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import COMMIT_PATTERN, CommitId

if TYPE_CHECKING:
    import argparse

    from metrica_agent.settings import Settings

SPOOL = "console"
LOCK = "agent.lock"
BELL = signal.SIGUSR1
PATIENCE_S = 15.0
LOOK_S = 0.1


def safe_mode(settings: Settings, asked: argparse.Namespace) -> int:
    """Order safe mode, or the way out of it."""
    return _give(settings, SafeModeOrder(on=asked.state == "on", reason=asked.reason))


def hold(settings: Settings, asked: argparse.Namespace) -> int:
    """Order that nothing changes, or that changes go on."""
    return _give(settings, HoldOrder(on=asked.state == "on", reason=asked.reason))


def accept_history(settings: Settings, asked: argparse.Namespace) -> int:
    """Order that a commit may follow whatever its history.

    Raises:
        Unusable: ``bad-commit``.
    """
    if re.fullmatch(COMMIT_PATTERN, asked.commit) is None:
        message = f'"{asked.commit}" is no commit; name all 40 digits, as the event of its refusal does'
        raise Unusable(message, reason="bad-commit")
    return _give(settings, HistoryOrder(commit=CommitId(asked.commit), reason=asked.reason))


def _give(settings: Settings, order: Order) -> int:
    """Write the order down and wait for the agent to obey it; 0 as well when it will do so once it runs."""
    spool = Spool(Path(settings.state_dir) / SPOOL)
    order_id = spool.give(order)
    _ring(Path(settings.state_dir) / LOCK)
    deadline_s = time.monotonic() + PATIENCE_S
    while spool.is_waiting(order_id):
        if time.monotonic() > deadline_s:
            print("ordered; no agent has taken it yet: it will, before anything else, once it runs", file=sys.stderr)
            return 0
        time.sleep(LOOK_S)
    print("the agent obeys; metrica-agent status shows how far it is")
    return 0


def _ring(lock: Path) -> None:
    """Wake the agent that holds ``lock``. Where none does, or it is another user's, it looks by itself later."""
    with suppress(OSError, ValueError), lock.open(encoding="ascii") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(int(held.read()), BELL)
