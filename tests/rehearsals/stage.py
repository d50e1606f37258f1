"""Everything that runs while alerts are rehearsed, as in stack/vps; which faults there were, and when somebody heard.

Postgres, Mosquitto, two hubs, Prometheus, Alertmanager, the exporters, Netdata and a simulated fleet; PagerDuty, chat,
mail and the outside monitor are played by a sink. What can't be broken on somebody's machine is told by a /proc of our
own (memory, load).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from tests.bench.relay import Relay
from tests.fixtures.broker import HOST, Broker, free_port
from tests.fixtures.database import Cluster
from tests.fixtures.git_servers import http_server, repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.monitoring import (
    Alertmanager,
    Part,
    Prometheus,
    Sink,
    blackbox_exporter,
    node_exporter,
    postgres_exporter,
)
from tests.fixtures.signing import Person
from tests.fixtures.small_disk import SmallDisk
from tests.integration.hub.device import Device, status
from tests.integration.stack.rules import ALERTS
from tests.rehearsals.front import Front

from metrica_fleet.records import Vitals
from metrica_sim.crowd.plan import Plan

PATIENCE_S: Final = 240.0
MAX_QUEUED: Final = 530_000
SEVERITY: Final = {alert.name: alert.labels["severity"] for alert in ALERTS}
CHANNELS: Final = {"P1": "pagerduty", "P2": "mail", "P3": "slack", "none": "watchdog"}
"""The one that tells of a severity alone, or first."""

NETDATA: Final = """\
[global]
  run as user = {user}
[db]
  mode = ram
  retention = 600
[directories]
  cache = {folder}
  lib = {folder}
  log = {folder}
  config = {folder}
[web]
  bind to = 127.0.0.1:{port}
[plugins]
  apps = no
  cgroups = no
  tc = no
  python.d = no
  go.d = no
  charts.d = no
  perf = no
  slabinfo = no
  statsd = no
  idlejitter = no
[ml]
  enabled = no
[health]
  enabled = no
"""
STAGES: Final = f"""\
name = "{FLEET}"
[rollout]
failure_share = 0.1
deadline_s = 600
[[rollout.stages]]
name = "canary"
tags = ["canary"]
soak_s = 0.3
[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""


@dataclass
class Fault:
    """What was done, when, and when somebody heard of it."""

    alert: str
    what: str
    needle: str = ""
    began_s: float = 0.0
    told_s: float | None = None
    is_given_up: bool = False

    @property
    def took_s(self) -> float | None:
        """From the fault to the message."""
        return None if self.told_s is None else self.told_s - self.began_s


def say(text: str) -> None:
    """Tell whoever watches."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


@dataclass
class Stage:
    """Everything that runs."""

    folder: Path
    devices: int
    closing: AsyncExitStack
    faults: list[Fault] = field(default_factory=list[Fault])
    crowd: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    wrong: list[str] = field(default_factory=list[str])
    uptime_s: float = 1.0
    canary: Device = field(init=False)

    async def build(self) -> None:
        """Start all of it, well and quiet."""
        enter, folder = self.closing.enter_context, self.folder
        self.sink = enter(Sink())
        self.disk = enter(SmallDisk(64))
        self.front = Front(made(folder / "front"))
        self.front.serve(200)
        self.tls_port, self.hub_port = free_port(), free_port()
        cert, key = self.front.certificate("broker", 200)
        self.broker = enter(
            Broker(
                folder,
                settings=(
                    "sys_interval 10",
                    f"max_queued_messages {MAX_QUEUED}",
                    f"listener {self.tls_port} {HOST}",
                    f"certfile {cert}",
                    f"keyfile {key}",
                    f"listener {self.hub_port} {HOST}",
                    f"cafile {self.front.ca}",
                    f"certfile {cert}",
                    f"keyfile {key}",
                    "require_certificate true",
                    "tls_version tlsv1.3",
                ),
            )
        )
        self.archive_is_broken = folder / "archive-is-broken"
        archive = ("archive_mode=on", f"archive_command='test ! -e {self.archive_is_broken}'")
        self.cluster = enter(Cluster(Path(os.environ["METRICA_TEST_DIR"]), settings=archive))
        self.database = enter(self.cluster.database())
        self.fleet = repository(folder)
        self.git = enter(http_server(self.fleet.root))
        self.person = Person.made(folder, "alice")
        self.proc = self._proc()
        self.files = made(folder / "textfiles")
        self.backups()
        self._hubs()
        self._monitoring()

    def _hubs(self) -> None:
        enter = self.closing.enter_context
        self.relay = Relay(self.hub_port, free_port())
        self.relay.__enter__()
        self.second_shows(age_days=0)
        netdata = free_port()
        common = {
            "METRICA_HUB_GIT_URL": self.git.url(self.fleet),
            "METRICA_HUB_BUS_SHARE": "true",
            "METRICA_HUB_METRICS_NETDATA_ADDRESS": f"{HOST}:{netdata}",
            "METRICA_HUB_HUB_KEY_FILE": str(self.folder / "hub-key"),
        }
        first = Hub(self.database.url, self.broker.port, settings=common)
        self.line = first.key_line()
        self.first_commit = self.fleet.commit(self.definition())
        self.behind, self.away = self.fleet.copy("behind"), self.fleet.copy("away")
        self.away_git = enter(http_server(self.fleet.root))
        mirrors = [self.git.url(self.behind), self.away_git.url(self.away)]
        common["METRICA_HUB_GIT_MIRRORS"] = json.dumps(mirrors)
        self.hub = enter(Hub(self.database.url, self.broker.port, settings=common))
        self.hub.wait_until_ready()
        by_certificate = {
            "METRICA_HUB_BUS_CA_FILE": str(self.front.ca),
            "METRICA_HUB_BUS_CERTIFICATE_FILE": str(self.folder / "hub.crt"),
            "METRICA_HUB_BUS_CERTIFICATE_KEY_FILE": str(self.folder / "hub.key"),
        }
        self.second = enter(Hub(self.database.url, self.relay.port, settings=common | by_certificate))
        self.second.wait_until_ready()
        self.token = self.hub.token("operator")
        config = made(self.folder / "netdata") / "netdata.conf"
        user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
        config.write_text(NETDATA.format(folder=config.parent, port=netdata, user=user))
        self.netdata = enter(Part("netdata", self.folder, netdata))
        self.netdata.run(["netdata", "-D", "-c", str(config)])

    def _monitoring(self) -> None:
        enter, folder = self.closing.enter_context, self.folder
        self.node = enter(node_exporter(folder, self.proc, self.files))
        self.exporter = enter(postgres_exporter(folder, self.cluster.url("postgres")))
        self.prober = enter(blackbox_exporter(folder, self.front.ca))
        self.alertmanager = enter(Alertmanager(folder, self.sink).start())
        self.prometheus = enter(
            Prometheus(
                folder,
                token=self.hub.token("viewer", "prometheus"),
                hub=(self.hub.port, self.second.port),
                netdata=(),
                node=(self.node.port,),
                postgres=(self.exporter.port,),
                alertmanager=(self.alertmanager.port,),
                blackbox=(self.prober.port,),
                blackbox_https=(),
                blackbox_mqtt=(self.tls_port,),
            )
        )
        self.prometheus.start(public=f"{HOST}:{self.front.port}")

    def definition(self, **more: str) -> dict[str, str | bytes | None]:
        """Return the fleet repository's files."""
        return {
            "fleet.toml": STAGES,
            "roles/camera/compose.yaml": "services: {}",
            "devices/pi-canary.toml": 'role = "camera"\ntags = ["canary"]',
            "devices/pi-other.toml": 'role = "camera"',
            "allowed_signers": self.line + "\n" + self.person.line(),
            **more,
        }

    def _proc(self) -> Path:
        """Return a /proc whose memory, load and disks are ours to say."""
        proc = made(self.folder / "proc")
        (proc / "stat").symlink_to("/proc/stat")
        (proc / "1").mkdir()
        (proc / "1" / "mountinfo").write_text(f"36 1 8:1 / {self.disk.path} rw - ext4 disk rw\n")
        self.machine(available_kb=6_000_000, load=0.5, proc=proc)
        return proc

    def machine(self, *, available_kb: int, load: float, proc: Path | None = None) -> None:
        """Say how much memory there is, and how high the load."""
        folder = proc or self.proc
        (folder / "meminfo").write_text(f"MemTotal: 8000000 kB\nMemAvailable: {available_kb} kB\n")
        (folder / "loadavg").write_text(f"{load} {load} {load} 1/100 1\n")

    def backups(self, *, database_age_s: float = 0.0, failed: int = 0, verified_age_s: float = 0.0) -> None:
        """Write what the backup writes."""
        now = time.time()
        lines = [
            f'metrica_backup_last_success_timestamp_seconds{{kind="database"}} {now - database_age_s}',
            f'metrica_backup_last_success_timestamp_seconds{{kind="files"}} {now}',
            f'metrica_backup_last_verified_timestamp_seconds{{kind="database"}} {now - verified_age_s}',
            f'metrica_backup_failed{{kind="files"}} {failed}',
        ]
        new = self.files / "backup.new"
        new.write_text("\n".join(lines) + "\n")
        new.rename(self.files / "backup.prom")

    def people(self, first: int, count: int) -> None:
        """Switch simulated devices on, in a process of their own."""
        state = tempfile.mkdtemp(prefix="metrica-crowd-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)  # noqa: S108
        plan = Plan(
            fleet=FLEET,
            host=HOST,
            port=self.broker.port,
            state=state,
            devices=count,
            first=first,
            of=9999,
            duration_s=86_400,
            ramp_s=20,
        )
        command = [sys.executable, "-m", "metrica_sim.crowd.main", msgspec.json.encode(plan).decode()]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.crowd.append(process)

        def end() -> None:
            process.kill()
            process.wait()
            subprocess.run(["rm", "-rf", state], check=True)

        self.closing.callback(end)

    async def device(self, name: str, **said: object) -> Device:
        """Return a device that is connected, and has said how it is; it need not be heard again for hours."""
        made = await self.closing.enter_async_context(Device(name, self.broker.port))
        await made.is_present("online", 1)
        await self.tells(made, **said)
        return made

    async def tells(self, device: Device, **said: object) -> None:
        """Have a device say how it is now."""
        self.uptime_s += 1.0
        fields: dict[str, object] = {"heartbeat_s": 80_000, "vitals": Vitals(), "uptime_s": self.uptime_s, **said}
        one = status(device.name, **fields)  # pyright: ignore[reportArgumentType]
        await device.has_status(one)

    @property
    def parts(self) -> dict[str, Callable[[], Sequence[int]]]:
        """What of the stack runs: services by their names there, each with its first processes."""
        return {
            "hub": lambda: (self.hub.pid,),
            "hub, a second one": lambda: (self.second.pid,),
            "mosquitto": lambda: (self.broker.pid,),
            "postgres": self.cluster.pids,
            "prometheus": lambda: (self.prometheus.pid,),
            "alertmanager": lambda: (self.alertmanager.pid,),
            "node-exporter": lambda: (self.node.pid,),
            "postgres-exporter": lambda: (self.exporter.pid,),
            "blackbox": lambda: (self.prober.pid,),
        }

    # --- acts -------------------------------------------------------------------------------------------------

    def broke(self, alert: str, what: str, needle: str = "", *, ago_s: float = 0.0) -> Fault:
        """Note a fault that began now."""
        fault = Fault(alert, what, needle, time.monotonic() - ago_s)
        self.faults.append(fault)
        return fault

    async def wait(self, act: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until somebody was told of every fault so far."""
        open_faults = [one for one in self.faults if one.told_s is None and not one.is_given_up]
        say(f"{act}: {len(open_faults)} faults; waiting until somebody is told")
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s and (missing := [one for one in open_faults if one.told_s is None]):
            for fault in missing:
                channel = CHANNELS[SEVERITY[fault.alert]]
                told = self.sink.first(fault.alert, needle=fault.needle, after_s=fault.began_s, channel=channel)
                if told is not None:
                    fault.told_s = told.at_s
                    say(f"  {fault.alert} {fault.took_s:.0f} s")
            await asyncio.sleep(0.5)
        for fault in open_faults:
            if fault.told_s is None:
                fault.is_given_up = True
                self.wrong.append(f"{fault.alert}: nobody was told within {patience_s:.0f} s of: {fault.what}")
                say(f"  {fault.alert} NOT TOLD")

    def second_cut(self) -> None:
        """Cut the second hub off from the broker."""
        self.relay.__exit__()
        self.broke("MetricaHubTakesNoPart", "the second hub's line to the broker is cut", f":{self.second.port}")

    def second_mended(self) -> None:
        """Let it through again: either hub may lead from the next fault of Postgres on."""
        self.relay.__enter__()

    def second_shows(self, *, age_days: int) -> None:
        """Give the second hub a certificate for the broker, of 90 days and this age."""
        for made in reversed(self.front.certificate_of_a_hub(age_days=age_days)):
            new = self.folder / f"{made.name}.new"
            shutil.copy(made, new)
            new.rename(self.folder / made.name)

    def silent_about(self, alert: str, since_s: float) -> None:
        """Note it where somebody was told of what only follows."""
        if self.sink.first(alert, after_s=since_s) is not None:
            self.wrong.append(f"{alert} was told though nobody could see")

    async def until(
        self, fact: Callable[[], object], what: str, within_s: float = 240.0, *, every_s: float = 1.0
    ) -> None:
        """Wait for a fact."""
        until_s = time.monotonic() + within_s
        while not await asyncio.to_thread(fact):
            if time.monotonic() > until_s:
                self.wrong.append(f"not within {within_s:.0f} s: {what}")
                say(f"  NOT: {what}")
                return
            await asyncio.sleep(every_s)


def made(folder: Path) -> Path:
    """Return the folder, which is there from here on."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
