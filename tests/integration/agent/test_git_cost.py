"""What the Git edge costs a device: memory, processor time, bytes. The figures are printed (pytest -s)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.fixtures.git_servers import http_server, repository

import metrica_agent

POLLS, FETCHES = 50, 5
DEVICE = """
import asyncio, json, resource, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])


def rss_mb():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


async def live():
    bare = rss_mb()
    from metrica_agent.adapters.git import GitMirror

    imported = rss_mb()
    _, _, path, url, *commits = sys.argv
    mirror = GitMirror(Path(path))
    await mirror.head(url)
    used = resource.getrusage(resource.RUSAGE_SELF)
    began = used.ru_utime + used.ru_stime
    for _ in range(50):
        await mirror.head(url)
    used = resource.getrusage(resource.RUSAGE_SELF)
    poll_ms = (used.ru_utime + used.ru_stime - began) * 1000 / 50
    have = None
    for commit in commits:
        await mirror.fetch(url, commit, have)
        have = commit
    await mirror.aclose()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {
        "bare_mb": bare,
        "imported_mb": imported,
        "rss_mb": rss_mb(),
        "poll_cpu_ms": poll_ms,
        "fetch_cpu_ms": (children.ru_utime + children.ru_stime) * 1000 / len(commits),
        "child_peak_mb": children.ru_maxrss / 1024,
        "dulwich": any(name.startswith("dulwich") for name in sys.modules),
    }
    print(json.dumps(told))


asyncio.run(live())
"""


def test_polls_and_fetches_leave_the_agent_small(tmp_path: Path) -> None:
    fleet = repository(tmp_path)
    commits = [fleet.commit({"fleet.toml": f"{number}"}) for number in range(FETCHES)]
    sources = str(Path(metrica_agent.__file__).parents[1])
    with http_server(fleet.root) as server:
        done = subprocess.run(
            [sys.executable, "-c", DEVICE, sources, str(tmp_path / "mirror.git"), server.url(fleet), *commits],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        polls = server.seen[2 : POLLS + 2]
    told = json.loads(done.stdout)
    up, down = (sum(poll.bytes_in for poll in polls) / POLLS, sum(poll.bytes_out for poll in polls) / POLLS)
    day_mb = (up + down) * 1440 / 1e6
    sys.stdout.write(f"\n  {told}\n  a poll: {up:.0f} bytes up, {down:.0f} down; a day at 60 s: {day_mb:.2f} MB\n")
    assert not told["dulwich"], "dulwich stays in the child"
    assert told["rss_mb"] < 40
    assert told["rss_mb"] - told["bare_mb"] < 14
    assert up + down < 1500
