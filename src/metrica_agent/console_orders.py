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

from metrica_agent.adapters.ledger import remembered
from metrica_agent.adapters.spool import Spool
from metrica_agent.decisions.orders import HistoryOrder, HoldOrder, Order, SafeModeOrder, SignedStopOrder
from metrica_agent.wiring import LEDGER
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import COMMIT_PATTERN, CommitId, FleetId
from metrica_fleet.signed import parted
from metrica_fleet.stop import understood

if TYPE_CHECKING:
    import argparse

    from metrica_agent.settings import Settings

SPOOL = "console"
LOCK = "agent.lock"
BELL = signal.SIGUSR1
PATIENCE_S = 15.0
LOOK_S = 0.1
OBEYED = "the agent obeys; metrica-agent status shows how far it is"


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


def obey(settings: Settings, asked: argparse.Namespace) -> int:
    """Hand a signed stop order to the agent: for a device without a network. 1 when it refuses it.

    Raises:
        Unusable: ``order-unreadable``, ``not-signed``, or why it is no stop order of this fleet.
    """
    try:
        signed = parted(asked.file.read_bytes())
    except OSError as error:
        raise Unusable(f"{asked.file}: {error.strerror}", reason="order-unreadable") from error
    number = understood(signed.text, FleetId(settings.fleet)).number
    _give(settings, SignedStopOrder(text=signed.text, signature=signed.signature), obeyed="the agent has judged it")
    stop = remembered(Path(settings.state_dir) / LEDGER).stop
    if stop is None or stop.number != number:
        known = f"; order {stop.number} is known here" if stop is not None else ""
        print(f"order {number} is not obeyed{known}; metrica-agent status tells why", file=sys.stderr)
        return 1
    print(f"order {number} is obeyed; metrica-agent stop-status shows what is stopped")
    return 0


def _give(settings: Settings, order: Order, *, obeyed: str = OBEYED) -> int:
    """Write the order down and wait for the agent to obey it; 0 as well when it will do so once it runs."""
    spool = Spool(Path(settings.state_dir) / SPOOL)
    order_id = spool.give(order)
    ring(Path(settings.state_dir) / LOCK)
    deadline_s = time.monotonic() + PATIENCE_S
    while spool.is_waiting(order_id):
        if time.monotonic() > deadline_s:
            print("ordered; no agent has taken it yet: it will, before anything else, once it runs", file=sys.stderr)
            return 0
        time.sleep(LOOK_S)
    print(obeyed)
    return 0


def ring(lock: Path) -> None:
    """Wake the agent that holds ``lock``. Where none does, or it is another user's, it looks by itself later."""
    with suppress(OSError, ValueError), lock.open(encoding="ascii") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(int(held.read()), BELL)
