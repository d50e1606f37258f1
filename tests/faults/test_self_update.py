"""A commit brings another agent: one that works stays, each that is bad makes way for the one before, told and refused.

The launcher, the agent before and its tasks are the real ones, under a supervisor that does what systemd does; there is
no container engine and no broker, for an agent is changed before the release is touched. The versions were put on the
disk by the test, and are this checkout with one thing done to it: that real wheels are installed, is shown in
tests/integration/agent/test_versions.py. All devices live at the same time, since most of it is waiting.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from tests.faults.commits import Commits
from tests.fixtures.agent import FLEET, Agent, Wiring, until
from tests.fixtures.agent_versions import Installed, python_program, version
from tests.fixtures.signing import Person, allowed
from tests.fixtures.supervisor import Supervisor

from metrica_agent import launcher

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path

    from metrica_fleet.agent_versions import AgentVersion
    from metrica_fleet.identity import CommitId
    from metrica_fleet.records import Event

NOTHING_LISTENS: Final = 9
STARTED: Final = """
import metrica_fleet
metrica_fleet.__version__ = "2.0.0"
{change}
from metrica_agent.__main__ import main
main()
"""
GIT_BROKEN: Final = """
from metrica_agent.adapters.git import GitMirror
from metrica_fleet.errors import NotNow
async def head(self, url):
    raise NotNow("nobody answers", reason="git-unreachable")
GitMirror.head = head
"""
FETCH_BROKEN: Final = """
from metrica_agent.adapters.git import nursery
broken = "; from metrica_agent.adapters.git import fetch; del fetch.talk_to; main()"
nursery.BIRTH = nursery.BIRTH.replace("; main()", broken)
"""
"""In the child, where the bytes come in: what polls, reads and exports is left as it is."""
VERIFY_BROKEN: Final = """
from metrica_agent.adapters.git import nursery
broken = "; from metrica_agent import signatures; signatures.PATH = '/nonexistent'; main()"
nursery.BIRTH = nursery.BIRTH.replace("; main()", broken)
"""
"""Where commits must be signed: what it has accepted it reads, and no other would get past it."""
STOPPED: Final = """
import os, signal
from metrica_agent.adapters.systemd import Supervisor
told = []
def ready(self):
    told.append(self._say("READY=1"))
def feed(self):
    if told:
        os.kill(os.getpid(), signal.SIGSTOP)
Supervisor.ready, Supervisor.feed = ready, feed
"""
# Before it is steady, and after it is ready.
BLOCKED: Final = """
import asyncio, time
from metrica_agent.tasks.contact import ContactTask
async def block(self):
    await asyncio.sleep(1)
    time.sleep(600)
ContactTask.run = block
"""
BAD: Final[dict[str, tuple[str, str]]] = {
    "crashes": ("import sys; sys.exit(1)", "not-steady"),
    "hangs": (STOPPED, "not-steady"),
    "blocks": (BLOCKED, "not-steady"),
    "can not be imported": ("import a_module_that_nobody_has", "not-steady"),
    "does not reach git": (GIT_BROKEN, "git-unreached"),
    "can not fetch": (FETCH_BROKEN, "fetch-failed"),
    "can not verify": (VERIFY_BROKEN, "fetch-failed"),
}
SETTINGS: Final = {
    "guard": {"steady_s": 2.0, "blocked_s": 3.0},
    "compose": {"docker_host": "unix:///nonexistent"},
}
TRIAL_S: Final = 120.0
"""Longer than any trial here takes, on a busy machine, too."""
SILENT_S: Final = 30.0
"""For those that are over only when their time is."""
NOWHERE: Final = f"https://127.0.0.1:{NOTHING_LISTENS}/agent"
AILING: Final = "works, and Git gives no pack for a while"


@dataclass
class Device:
    """A device whose agent was installed by hand, and whose launcher is started again and again."""

    agent: Agent
    installed: Installed
    commits: Commits
    wanted: AgentVersion

    @classmethod
    def made(cls, folder: Path, name: str, change: str, trial_s: float, signer: Person | None = None) -> Device:
        """Return one; with a ``signer`` it is one where commits must be signed by that person."""
        folder.mkdir()
        commits = Commits(folder / "fleet.git", sign=None if signer is None else signer.sign)
        signers = folder / "allowed_signers"
        signers.write_text("" if signer is None else allowed(signer))
        trust = {"require_signatures": signer is not None, "allowed_signers_file": str(signers)}
        wiring = Wiring(
            device="pi-01",
            project="none",
            remotes=(str(folder / "fleet.git"),),
            broker_port=NOTHING_LISTENS,
            poll_s=2.0,
            sample_s=30.0,
            settings={**SETTINGS, "agent_update": {"trial_s": trial_s}, "git": trust},
        )
        installed = Installed(folder / "opt")
        installed.put(launcher.BASE, python_program("from metrica_agent.__main__ import main\nmain()\n"))
        wanted = version("2.0.0", salt=name)
        installed.put(wanted.name, python_program(STARTED.format(change=change)))
        return cls(Agent(folder, wiring), installed, commits, wanted)

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the launcher, as systemd does."""
        return self.installed.start(self.agent, environment)

    def push(self, more: Mapping[str, str]) -> CommitId:
        files = {
            "fleet.toml": f'name = "{FLEET}"\n',
            "devices/pi-01.toml": 'role = "camera"\n',
            "roles/camera/compose.yaml": "services: {}\n",
        }
        return self.commits.push({**files, **more})

    def want(self, other: AgentVersion | None = None) -> CommitId:
        """Push a commit that wants the other agent, or yet another."""
        wanted = other or self.wanted
        source = "" if wanted.source is None else f'source = "{wanted.source}"\n'
        return self.push(
            {
                "fleet.toml": f'name = "{FLEET}"\n[agent]\nversion = "{wanted.version}"\n{source}',
                f"agent/{wanted.version}/SHA256SUMS": "".join(
                    f"{wheel.sha256}  {wheel.name}\n" for wheel in wanted.wheels
                ),
            }
        )

    def told(self, kind: str) -> Event:
        return until(lambda: self.agent.told(kind), within_s=300, what=self.agent.story)[0]

    def choice(self) -> launcher.Choice:
        return launcher.read_choice(self.installed.versions)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_an_agent_that_works_stays_and_each_that_is_bad_makes_way_for_the_one_before(tmp_path: Path) -> None:
    changes = {"works": "", AILING: "", **{name: change for name, (change, _) in BAD.items()}}
    silent, alice = {AILING, "does not reach git", "can not fetch", "can not verify"}, Person.made(tmp_path, "alice")
    signers = {"works": alice, "can not verify": alice}
    devices = {
        name: Device.made(tmp_path / str(n), name, change, SILENT_S if name in silent else TRIAL_S, signers.get(name))
        for n, (name, change) in enumerate(changes.items())
    }
    devices["works"].push({})  # a device that runs already; to the others the agent comes with their first commit
    wanted = {name: device.want() for name, device in devices.items() if name != "works"}
    with ExitStack() as works, ExitStack() as others:
        for name, device in devices.items():
            stack = works if name == "works" else others
            stack.enter_context(Supervisor(device.start, watchdog_s=10.0, restart_s=0.2))
        until(lambda: devices["works"].agent.memory().accepted, what=devices["works"].agent.story)
        devices["works"].want()
        is_held_against_nobody(devices[AILING])
        stays(devices["works"])
        out_of_reach = devices["works"].want(version("3.0.0", source=NOWHERE))
        for name, (_, reason) in BAD.items():
            made_way(devices[name], wanted[name], reason)
        others.close()  # what has come to its end need not be there for the longest wait
        waits_and_says_so_once(devices["works"], out_of_reach)


def stays(device: Device) -> None:
    event = device.told("agent.updated")
    assert event.detail["version"] == "2.0.0"
    assert [one.kind for one in device.agent.told("agent.update_started", "agent.update_refused")] == [
        "agent.update_started"
    ]
    choice = device.choice()
    assert (choice["steady"], choice["before"], choice["trial"]) == (device.wanted.name, launcher.BASE, None)
    assert until(lambda: any(one.detail["version"] == "2.0.0" for one in device.agent.told("agent.started")))


def is_held_against_nobody(device: Device) -> None:
    """What Git gives to neither is no fault of the version: it is tried again, and stays."""
    device.told("agent.update_started")
    blob = device.commits.lose("devices/pi-01.toml")
    until(lambda: device.choice().get("doubt"), within_s=120, what=device.agent.story)
    doubt = device.choice()["doubt"]
    assert (doubt["name"], doubt["reason"]) == (device.wanted.name, "fetch-failed")
    until(lambda: not device.choice().get("doubt"), within_s=120, what=device.agent.story)
    assert not device.agent.told("agent.update_refused"), device.agent.story()
    blob.give_back()
    event = device.told("agent.updated")
    assert event.detail["version"] == "2.0.0"


def waits_and_says_so_once(device: Device, wanted: CommitId) -> None:
    """Wheels that nobody gives are asked for again and again, and told once; another commit waits for none of that."""
    until(lambda: "tried 2 times" in device.agent.why(), within_s=120, what=device.agent.story)
    (event,) = device.agent.told("release.waiting")
    assert (event.reason, event.commit) == ("wheel-unreachable", wanted)
    assert device.agent.memory().refusal_of(wanted) is None
    assert device.agent.memory().safe is None
    at_once = device.want(version("4.0.0"))
    until(lambda: device.agent.memory().refusal_of(at_once), within_s=20, what=device.agent.story)  # it has no wheels


def made_way(device: Device, wanted: CommitId, reason: str) -> None:
    event = device.told("agent.update_refused")
    assert event.reason == reason, device.agent.story()
    until(lambda: device.agent.memory().refusal_of(wanted), what=device.agent.story)
    refusal = device.agent.memory().refusal_of(wanted)
    assert refusal is not None
    assert refusal.reason == f"agent-{reason}"
    # The crashes of the other were not held against this one, and it is not tried again.
    assert device.agent.memory().safe is None, device.agent.story()
    assert len(device.agent.told("agent.update_started")) == 1
    assert (device.choice().get("steady") or launcher.BASE, device.choice()["trial"]) == (launcher.BASE, None)
