"""The supervisor of these tests does what systemd does: else what they show of the agent would show nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from signal import SIGABRT, SIGKILL
from typing import TYPE_CHECKING

from tests.fixtures.agent import until
from tests.fixtures.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SAY = """
import os, signal, socket, subprocess, sys, time
def say(word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        sock.send(word.encode())
"""


def script(text: str) -> Callable[[Mapping[str, str]], subprocess.Popen[bytes]]:
    return lambda environment: subprocess.Popen([sys.executable, "-c", SAY + text], env=dict(environment))


def test_a_service_that_feeds_its_watchdog_lives_and_one_that_was_never_ready_is_not_watched() -> None:
    feeding = "say('READY=1\\nSTATUS=well')\nwhile True: say('WATCHDOG=1'); time.sleep(0.1)"
    for text in (feeding, "time.sleep(100)"):
        with Supervisor(script(text), watchdog_s=0.5) as supervisor:
            began = time.monotonic()
            until(lambda began=began: time.monotonic() > began + 2.0)
            assert len(supervisor.lives) == 1
            assert supervisor.lives[0].barked_s is None


def test_one_that_stops_feeding_is_aborted_and_started_again() -> None:
    with Supervisor(script("say('READY=1'); time.sleep(100)"), watchdog_s=0.5, restart_s=0.1) as supervisor:
        until(lambda: len(supervisor.lives) > 2)
    first = supervisor.lives[0]
    assert first.code == -SIGABRT
    assert first.barked_s is not None
    assert 0.5 <= first.barked_s - first.fed_s[-1] < 15


def test_a_stopped_process_is_woken_to_be_aborted() -> None:
    text = "say('READY=1'); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(100)"
    with Supervisor(script(text), watchdog_s=0.5) as supervisor:
        until(lambda: len(supervisor.lives) > 1)
    assert supervisor.lives[0].code == -SIGABRT


def test_one_that_does_not_heed_the_abort_is_killed_with_its_children() -> None:
    text = "signal.signal(signal.SIGABRT, signal.SIG_IGN); say('READY=1'); subprocess.run(['sleep', '314159'])"
    with Supervisor(script(text), watchdog_s=0.5, abort_s=0.5) as supervisor:
        until(lambda: len(supervisor.lives) > 1)
    assert supervisor.lives[0].code == -SIGKILL
    assert subprocess.run(["pgrep", "-f", "^sleep 314159"], check=False, capture_output=True).returncode == 1


def test_only_the_main_process_is_believed() -> None:
    child = "import os\nif os.fork() == 0:\n    say('READY=1')\n    os._exit(0)\nos.wait()\ntime.sleep(100)"
    with Supervisor(script(child), watchdog_s=0.3) as supervisor:
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.0)
        assert not supervisor.lives[0].ready


def test_one_that_ends_is_started_again_for_ever() -> None:
    with Supervisor(script("sys.exit(7)"), watchdog_s=10, restart_s=0.0) as supervisor:
        until(lambda: len(supervisor.lives) > 8)
    assert {life.code for life in supervisor.lives[:8]} == {7}
