"""What the parts of the stack take of a machine while they run: processor and memory, beside what Compose allows."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import psutil
import yaml
from tests.fixtures.monitoring import STACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.fixtures.monitoring import Prometheus

DAY_S: Final = 86_400
SCRAPE_S: Final = 15
ANSWER_S: Final = 20.0


class Toll:
    """From its making on; ``str`` says what was taken until then."""

    def __init__(self, parts: Mapping[str, Callable[[], Sequence[int]]]) -> None:
        self._parts = parts
        self._began_s = time.monotonic()
        self._before = {name: _processor_s(pids()) for name, pids in parts.items()}
        """The first process of each, and what it and its children had used."""

    def __str__(self) -> str:
        lasted_s = time.monotonic() - self._began_s
        lines = [
            f"| service, over {lasted_s:.0f} s | processor, of a core | allowed | memory | allowed |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, pids in self._parts.items():
            first, used_s = _processor_s(pids())
            if first == self._before[name][0]:  # one that was started anew counts from its start
                used_s -= self._before[name][1]
            cpus, memory = _allowed(name.partition(",")[0])
            lines.append(
                f"| {name} | {100 * used_s / lasted_s:.1f} % | {100 * cpus:.0f} % "
                f"| {_memory_bytes(pids()) / 2**20:.0f} MiB | {memory} |"
            )
        return "\n".join(lines)


def scrape(prometheus: Prometheus) -> str:
    """Say what a device's Netdata answers to what Prometheus asks it, in a day."""
    targets = json.loads(prometheus.get("/api/v1/targets", state="active"))["data"]["activeTargets"]
    url = next(one["scrapeUrl"] for one in targets if one["labels"]["job"] == "netdata")
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310 - as Prometheus does
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 - on this machine
        size = len(answer.read()) + len(bytes(answer.headers))
    a_day = size * DAY_S / SCRAPE_S / 1e6
    return f"a device's Netdata: {size:,} bytes a scrape, {a_day:.1f} MB a day"


def _allowed(service: str) -> tuple[float, str]:
    compose = yaml.safe_load((STACK / "compose.yaml").read_text(encoding="utf-8"))
    limits = compose["services"][service]["deploy"]["resources"]["limits"]
    return float(limits["cpus"]), str(limits["memory"])


def _with_children(pids: Sequence[int]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            one = psutil.Process(pid)
            found |= {one, *one.children(recursive=True)}
    return found


def _processor_s(pids: Sequence[int]) -> tuple[int, float]:
    """Return the first process, and what all have used; of children that ended, their parents have it."""
    used_s = 0.0
    for process in _with_children(pids):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used_s += times.user + times.system + times.children_user + times.children_system
    return pids[0], used_s


def _memory_bytes(pids: Sequence[int]) -> int:
    """Return what they hold; memory that several share counts in part for each."""
    held = 0
    for process in _with_children(pids):
        with suppress(psutil.NoSuchProcess):
            held += process.memory_full_info().pss
    return held
