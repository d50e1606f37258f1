"""What goes over systemd's socket, and that a supervisor that is not there is no trouble."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from metrica_agent.adapters.systemd import Supervisor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("abstract", [False, True])
def test_words_arrive_as_sd_notify_says_them(tmp_path: Path, abstract: bool) -> None:  # noqa: FBT001
    name = f"@metrica-test-{os.getpid()}" if abstract else str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0", 1))
        heard.settimeout(5)
        environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
        supervisor = Supervisor.of(environment)
        assert environment == {"A": "b"}
        assert supervisor.watchdog_s == 60.0
        assert all((supervisor.ready(), supervisor.feed(), supervisor.tell("steady;\nwell"), supervisor.stopping()))
        said = [heard.recv(4096).decode() for _ in range(4)]
    assert said == ["READY=1", "WATCHDOG=1", "STATUS=steady; well", "STOPPING=1"]


def test_a_watchdog_that_is_meant_for_another_process_is_none_of_ours() -> None:
    assert Supervisor.of({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Supervisor.of({"WATCHDOG_USEC": "soon"}).watchdog_s is None


def test_nobody_there_is_no_trouble(tmp_path: Path) -> None:
    assert not Supervisor.of({}).feed()
    assert not Supervisor.of({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_a_supervisor_that_does_not_listen_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        supervisor = Supervisor(str(tmp_path / "deaf"), None)
        taken = 0
        while supervisor.feed():
            taken += 1
            assert taken < 100_000
    assert taken
