"""Every alert, rehearsed: a fault in a real part, real rules at their real pace, the seconds until somebody is told.

``./scripts/rehearse alerts``; toll.py beside this file says what the parts take meanwhile. Postgres, Mosquitto, two
hubs, Prometheus, Alertmanager, the exporters, Netdata and a simulated fleet run as in stack/vps; PagerDuty, chat, mail
and the outside monitor are played by a sink. Faults come in acts: what does not silence each other comes at once. What
can't be broken on somebody's machine is told by a /proc of our own (memory, load), and what takes days by figures or
rows that are as old (backups, a pause).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self

import aiomqtt
import msgspec
from tests.bench.relay import Relay
from tests.fixtures.broker import HOST, Broker, free_port
from tests.fixtures.database import Cluster
from tests.fixtures.git_servers import Faults, git, http_server, repository
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
from tests.fixtures.papers import signed
from tests.fixtures.signing import Person
from tests.fixtures.small_disk import SmallDisk
from tests.fixtures.stopping import Operator
from tests.integration.hub.device import Device, event, heartbeat, new_stream, presence, status, topic
from tests.integration.stack.rules import ALERTS
from tests.rehearsals.toll import Toll, scrape

from metrica_fleet.codec import encode
from metrica_fleet.identity import CommitId
from metrica_fleet.messages import Refusal, StopStanding
from metrica_fleet.records import Vitals
from metrica_fleet.stop import Level
from metrica_fleet.topics import PRESENCE, RECORDS, STATUS
from metrica_hub.decisions.silence import GRACE_S
from metrica_sim.crowd.plan import Plan

MOST_S: Final = 180.0
"""The founding document: an alert is out within three minutes of its fault."""
PATIENCE_S: Final = 240.0
MAX_QUEUED: Final = 530_000
FLOOD: Final = 550_000
A_PUBLISHER: Final = 50_000
"""mosquitto_pub ends at the first acknowledgement with the number of its last message, and numbers end at 65,535."""
SEVERITY: Final = {alert.name: alert.labels["severity"] for alert in ALERTS}
CHANNELS: Final = {"P1": "pagerduty", "P2": "mail", "P3": "slack", "none": "watchdog"}
"""The one that tells of a severity alone, or first."""
LOCKED_WITHIN_S: Final = 60.0

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


class Front:
    """The public name: a TLS server with a certificate that lasts so many days. Its CA is everybody's here."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._server: ThreadingHTTPServer | None = None
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        to = ["-keyout", str(folder / "ca.key"), "-out", str(self.ca), "-subj", "/CN=ca", "-days", "400"]
        subprocess.run([*new, *to], check=True, capture_output=True)

    def certificate(self, name: str, days: int) -> tuple[Path, Path]:
        """Make a certificate of the CA for this machine."""
        return self._signed(name, f"subjectAltName=IP:{HOST}\n", days=days)

    def certificate_of_a_hub(self, *, age_days: int) -> tuple[Path, Path]:
        """Make a certificate of 90 days, of this age, with which a hub is let in by the broker."""
        return self._signed("hub", "extendedKeyUsage=clientAuth\n", days=90, begins=-timedelta(days=age_days))

    def _signed(self, name: str, extensions: str, *, days: int, begins: timedelta = timedelta()) -> tuple[Path, Path]:
        signed(self.folder, name, extensions=extensions, days=days, begins=begins)
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.chmod(0o644)
        key.chmod(0o644)
        return cert, key

    def serve(self, days: int) -> None:
        """Answer with such a certificate from now on."""
        self.end()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate(f"front-{days}", days))
        self._server = ThreadingHTTPServer((HOST, self.port), _Healthy)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def end(self) -> None:
        """Answer nobody."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Say nothing."""


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
        self.front = Front(_made(folder / "front"))
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
        self.files = _made(folder / "textfiles")
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
        config = _made(self.folder / "netdata") / "netdata.conf"
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
        proc = _made(self.folder / "proc")
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


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- the acts ---------------------------------------------------------------------------------------------------


async def quiet(stage: Stage) -> None:
    """Nothing fires but what always does, and every rule can be evaluated."""
    fault = stage.broke("MetricaWatchdog", "it fires always; the outside monitor hears it every minute")
    half = stage.devices // 2
    for first, count in ((1, half), (half + 1, stage.devices - half), (9000, 1)):
        stage.people(first, count)
    stage.canary = await stage.device("pi-canary", commit=stage.first_commit, wanted_commit=stage.first_commit)
    online = f'count(metrica_device_online{{instance="{HOST}:{stage.hub.port}"}} == 1) >= {stage.devices + 2}'
    await stage.until(lambda: stage.prometheus.ask(online), f"{stage.devices} devices are online")
    await stage.until(
        lambda: stage.prometheus.ask(f'count(up{{job="netdata"}} == 1) >= {stage.devices}'), "all are scraped"
    )
    await stage.until(
        lambda: stage.prometheus.firing() == {"MetricaWatchdog"}, "nothing fires on a machine that is well"
    )
    # Who comes and goes is not counted before that: it may be the hub that came.
    age = f'time() - process_start_time_seconds{{instance="{HOST}:{stage.hub.port}"}} > {GRACE_S + 15}'
    await stage.until(lambda: stage.prometheus.ask(age), "the hub has listened for long enough")
    say(f"  firing: {sorted(stage.prometheus.firing())}")
    stage.wrong += [f"a rule fails: {rule}" for rule in stage.prometheus.unhealthy_rules()]
    await stage.wait("act 0, all is well")
    if fault.told_s is not None:
        # Told since Prometheus started: what counts is that it is told again and again.
        beats = [one.at_s for one in stage.sink.told if one.channel == "watchdog"]
        say(f"  the outside monitor has heard {len(beats)} times")


_LAPSES = """
WITH asked AS (
    INSERT INTO enrolments (device, digest, created_by, expires_at, used_at)
    VALUES ('pi-lapses', sha256('pi-lapses'), 'a rehearsal', now(), now()) RETURNING id
)
INSERT INTO certificates (serial, device, spki, fingerprint, pem, recipient, not_before, not_after, enrolment)
SELECT '1', 'pi-lapses', sha256(''), 'none', '', '', now() - interval '77 days', now() + interval '13 days', id
FROM asked
"""


async def devices(stage: Stage) -> None:
    """What devices are like, all at once; and the machine, and the services on it."""
    broker = stage.broker
    stage.second_cut()  # first: what had been dealt to it is lost to devices that say a thing once
    stage.crowd[2].send_signal(signal.SIGSTOP)
    stage.broke("MetricaDeviceOffline", "a device whose process is frozen: no last word, no FIN", "crowd-9000")
    said: dict[str, tuple[str, dict[str, object]]] = {
        "pi-crash": (
            "MetricaDeviceCrashLoop",
            {"mode": "safe", "reason": "crash-loop", "message": "three starts in three minutes"},
        ),
        "pi-safe": ("MetricaDeviceSafeMode", {"mode": "safe", "reason": "ordered"}),
        "pi-refuses": (
            "MetricaReleaseRefused",
            {
                "phase": "refused",
                "refused": Refusal(commit=CommitId("a" * 40), reason="unhealthy", message="it did not come up"),
            },
        ),
        "pi-disk": ("MetricaDeviceDiskLow", {"vitals": Vitals(disk_total_bytes=32 * 10**9, disk_free_bytes=9 * 10**8)}),
        "pi-hot": ("MetricaDeviceHot", {"vitals": Vitals(temperature_celsius=83.0)}),
        "pi-weak": ("MetricaDeviceUndervoltage", {"vitals": Vitals(under_voltage=True, throttled=True)}),
        "pi-stale": ("MetricaDeviceStale", {"reason": "stale", "message": "no Git remote gives that commit"}),
        "pi-clock": ("MetricaDeviceClock", {"vitals": Vitals(clock_synchronised=False)}),
    }
    for name, (alert, how) in said.items():
        device = await stage.device(name)
        stage.broke(alert, f"a device says so: {', '.join(sorted(how))}", name)
        await stage.tells(device, **how)
    for name, alert, kind in (
        ("pi-drift", "MetricaDeviceDrift", "drift.found"),
        ("pi-contest", "MetricaDeviceDriftContested", "drift.contested"),
        ("pi-cut", "MetricaDevicePartitioned", "network.lost"),
        ("pi-stuck", "MetricaDeviceAgentStuck", "agent.stuck"),
        ("pi-forged", "MetricaOrderDistrusted", "command.distrusted"),
    ):
        device = await stage.device(name)
        stage.broke(alert, f"the event {kind}", name)
        await device.tell(event(new_stream(), 1, kind=kind))
    owes, stream = await stage.device("pi-owes"), new_stream()
    what = "two records are swallowed, and the heartbeat behind them is not"
    stage.broke("MetricaDeviceRecordsMissing", what, "pi-owes")
    await stage.tells(owes, stream=stream, last_seq=3)
    await owes.tell(heartbeat(stream, 3))
    await stage.device("pi-lapses")
    stage.cluster.execute(_LAPSES, stage.database.name)
    stage.broke("MetricaDeviceCertificateExpires", "a certificate of 90 days that ends in 13, by its row", "pi-lapses")
    await _comes_and_goes(stage)
    cloned = await stage.device("pi-cloned")
    stage.broke("MetricaDeviceClaimedByTwo", "two machines of one name take turns", "pi-cloned")
    for number in range(2, 8):
        boot = ("11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555")[number % 2]
        await cloned.is_present("online", number, boot=boot)
        await asyncio.sleep(0.5)
    stopped = await stage.device("pi-stopped")
    Operator(stage.person, FLEET, broker).stop(Level.FREEZE, "device:pi-stopped")
    stage.broke("MetricaStopInForce", "an order that one device obeys", "freeze")
    await stage.tells(stopped, mode="held", stop=StopStanding(number=1, level=Level.FREEZE, source="order"))
    stage.broke("MetricaDeviceFloods", "400 messages a second under a device's name", "pi-floods")
    stage.broke("MetricaDeadLetters", "the same messages: they are no JSON", "not-json")
    flood = Flood(stage)
    stage.netdata.end()
    stage.broke("MetricaDeviceMetricsMissing", "Netdata ends")
    machine(stage)
    await updates(stage)
    await _services(stage)
    await stage.wait("act 1, devices, machine, updates, services")
    flood.end()
    stage.second_mended()
    stage.prometheus.config.with_suffix(".good").rename(stage.prometheus.config)
    stage.prometheus.post("/-/reload")
    stage.crowd[2].send_signal(signal.SIGCONT)
    stage.netdata.again()
    stage.second_shows(age_days=0)


def _refusal(commit: str) -> Refusal:
    return Refusal(commit=CommitId(commit), reason="unhealthy", message="it did not come up")


async def _comes_and_goes(stage: Stage) -> None:
    stage.broke("MetricaDeviceFlapping", "six connections within seconds", "pi-flaps")
    for number in range(1, 7):
        async with Device("pi-flaps", stage.broker.port) as device:
            await device.is_present("online", number)
            await device.has_status(status("pi-flaps", heartbeat_s=80_000))
            await device.is_present("offline", number)
    # It stays: once it is calm it would be told as offline, in another act.
    await (await stage.closing.enter_async_context(Device("pi-flaps", stage.broker.port))).is_present("online", 7)


class Flood:
    """A program that publishes, under a device's name, 400 messages a second that are no JSON."""

    def __init__(self, stage: Stage) -> None:
        to = ("-h", HOST, "-p", str(stage.broker.port), "-V", "5", "-l", "-t", topic("pi-floods", RECORDS))
        self._process = subprocess.Popen(["mosquitto_pub", *to], stdin=subprocess.PIPE)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(BrokenPipeError):
            while self._process.stdin is not None and not self._over.wait(0.1):
                self._process.stdin.write(b"{\n" * 40)
                self._process.stdin.flush()

    def end(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        self._process.kill()
        self._process.communicate()


def machine(stage: Stage) -> None:
    """What the VPS and its backups are like."""
    stage.machine(available_kb=500_000, load=40.0)
    stage.broke("MetricaVpsMemoryLow", "a /proc/meminfo with 6 % available")
    stage.broke("MetricaVpsLoadHigh", "a /proc/loadavg of 40")
    stage.disk.fill()
    stage.broke("MetricaVpsDiskLow", "a filesystem is filled up")
    stage.front.serve(13)
    stage.broke("MetricaCertificateExpires", "the public name answers with a certificate of 13 days")
    stage.backups(database_age_s=27 * 3600, failed=1, verified_age_s=9 * 86_400)
    stage.broke("MetricaBackupTooOld", "the backup's figure is 27 hours old")
    stage.broke("MetricaBackupFailed", "the backup says that its last try failed")
    stage.broke("MetricaBackupUnverified", "the last verification is nine days old")
    stage.archive_is_broken.touch()
    stage.cluster.execute("CREATE TABLE something AS SELECT 1")
    stage.cluster.execute("SELECT pg_switch_wal()")
    stage.broke("MetricaWalArchiveFails", "archive_command fails")
    stage.second_shows(age_days=77)
    what = "the second hub's certificate for the broker, of 90 days, ends in 13"
    stage.broke("MetricaHubCertificateExpires", what, f":{stage.second.port}")


async def _services(stage: Stage) -> None:
    """What becomes of Prometheus, and of an exporter."""
    stage.prometheus.config.rename(stage.prometheus.config.with_suffix(".good"))
    stage.prometheus.config.write_text("scrape_configs: [nonsense]\n")
    stage.prometheus.post("/-/reload")
    stage.broke("MetricaPrometheusUnwell", "a configuration that can't be read, and a reload")
    for _ in range(3):
        stage.exporter.end()
        stage.exporter.again()
        await asyncio.sleep(20)  # so that each start is scraped, as one of Docker's would be
    stage.broke("MetricaServiceRestarts", "an exporter ends three times, 20 s apart", ago_s=20)


async def updates(stage: Stage) -> None:
    """What updates rest on."""
    stage.away_git.fault = Faults(status=503)
    stage.broke("MetricaGitUnreachable", "a mirror answers 503", f":{stage.away_git.server_address[1]}/")
    items = stage.hub.get("/api/v1/rollouts?limit=1").json["items"]
    paused = stage.hub.get(
        f"/api/v1/rollouts/{items[0]['id']}/pause",
        {"Content-Type": "application/json"},
        "POST",
        '{"reason": "a rehearsal"}',
        token=stage.token,
    )
    if paused.status != 200:
        stage.wrong.append(f"the rollout can't be paused: {paused.text}")
    stage.cluster.execute("UPDATE rollouts SET changed_at = changed_at - interval '1 hour'", stage.database.name)
    stage.broke("MetricaRolloutWaitsForAPerson", "a rollout that was paused an hour ago, by its row")


async def rollout(stage: Stage) -> None:
    """A commit that the canary refuses, and a mirror that does not pull it; a page that does not answer."""
    git("fetch", "--quiet", str(stage.fleet.bare), "+refs/heads/*:refs/heads/*", folder=stage.away.bare)
    stage.away_git.fault = Faults()
    commit = stage.fleet.commit({"note": "breaks the canary"})
    behind = Fault(
        "MetricaMirrorBehind",
        "a mirror does not pull; from two minutes after the commit on",
        "/behind.git",
        time.monotonic() + 120,
    )

    def has_begun() -> bool:
        return bool(stage.hub.get("/api/v1/rollouts?limit=1").json["items"][0]["commit"] == commit)

    stage.front.end()
    stage.broke("MetricaProbeFailed", "the public name does not answer", f":{stage.front.port}")
    await stage.until(has_begun, "the rollout has begun", 90)
    stage.broke("MetricaRolloutHalted", "the one canary refuses the commit")
    await stage.tells(
        stage.canary,
        commit=stage.first_commit,
        wanted_commit=commit,
        phase="refused",
        reason="unhealthy",
        refused=_refusal(commit),
    )
    await stage.wait("act 2, a rollout, a page that is gone")
    stage.faults.append(behind)  # it is waited for with what comes next
    stage.front.serve(200)


async def commits(stage: Stage) -> None:
    """A commit that can't be used, and that takes the hub's key away."""
    broken = {**stage.definition(), "fleet.toml": "name = 3\n", "allowed_signers": stage.person.line()}
    stage.fleet.commit(broken)
    stage.broke("MetricaCommitUnusable", "a fleet.toml that can't be read is pushed")
    stage.broke("MetricaHubKeyMissing", "the hub's line is taken out of allowed_signers")
    # The commit is read by a hub that can ask its database, and told of where the chat answers: so the next act waits.
    await stage.wait("act 3, a mirror, and a commit that can't be used")


async def refused(stage: Stage) -> None:
    """A channel that refuses, and a database that does."""
    stage.sink.broken["slack"] = 403
    stage.broke("MetricaAlertsNotDelivered", "the chat answers 403 from now on", "slack")
    stage.cluster.execute(f"ALTER DATABASE {stage.database.name} ALLOW_CONNECTIONS false")
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
    stage.cluster.execute(f"{kill}'{stage.database.name}'")
    stage.broke("MetricaHubCannotStore", "Postgres lets the hub in no more")
    await stage.wait("act 4, no database, no chat")
    stage.cluster.execute(f"ALTER DATABASE {stage.database.name} ALLOW_CONNECTIONS true")
    stage.sink.broken.clear()


async def locked(stage: Stage) -> None:
    """Commits that do not end."""
    # It was behind since the database was away: a new lag is told as such once that is over.
    await stage.until(
        lambda: "MetricaHubLag" not in stage.prometheus.firing(), "the hub has caught up, and it is known"
    )
    with Lock(stage):
        stage.broke("MetricaHubLag", "a lock in Postgres keeps commits from ending")
        await stage.wait("act 6, commits that do not end")
    # Hubs that can't commit give their part of the records back, and are cut off by that.
    await stage.until(lambda: "MetricaHubCutOff" not in stage.prometheus.firing(), "a hub takes part again")


class Lock:
    """Somebody who holds a table that every commit needs."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        psql = Path(os.environ["METRICA_POSTGRES"]) / "psql"
        sql = "BEGIN; LOCK TABLE streams IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3600);"
        self._process = subprocess.Popen(
            [str(psql), "-Xq", self._stage.database.url, "-c", sql], stdout=subprocess.DEVNULL
        )
        until_s = time.monotonic() + LOCKED_WITHIN_S
        while not self._is_held():
            if time.monotonic() > until_s or self._process.poll() is not None:
                raise RuntimeError("the lock is not given")
            time.sleep(0.05)
        return self

    def _is_held(self) -> bool:
        held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = "
        return self._stage.cluster.execute(f"{held}'streams'::regclass", self._stage.database.name) != "0"

    def __exit__(self, *_: object) -> None:
        self._stage.cluster.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()"
        )
        assert self._process is not None
        self._process.wait(20)


async def many(stage: Stage) -> None:
    """Half of the fleet is cut off; others are in safe mode."""
    stage.crowd[0].send_signal(signal.SIGSTOP)
    stage.broke("MetricaManyDevicesOffline", "half of the fleet is frozen")
    count = stage.devices // 8 + 3
    stage.broke("MetricaManyDevicesInSafeMode", f"{count} devices fall into safe mode")
    async with aiomqtt.Client(HOST, stage.broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for number in range(count):
            name = f"herd-{number:03d}"
            one = status(name, mode="safe", reason="no-release", heartbeat_s=80_000, vitals=Vitals())
            await client.publish(topic(name, PRESENCE), encode(presence(name, "online", 1)), qos=1, retain=True)
            await client.publish(topic(name, STATUS), encode(one), qos=1, retain=True)
    await stage.wait("act 5, half of the fleet")
    stage.crowd[0].send_signal(signal.SIGCONT)
    away = {"MetricaDeviceOffline", "MetricaManyDevicesOffline"}
    await stage.until(lambda: not away & stage.prometheus.firing(), "all are back, and it is known")


async def blind(stage: Stage) -> None:
    """The broker, Postgres and the hubs go, one after the other: what follows from it is not told."""
    await _corrupted(stage)
    began_s = time.monotonic()
    stage.broker.stop()
    stage.broke("MetricaHubCutOff", "the broker ends")
    await stage.wait("act 7, the broker is gone")
    stage.broker.start()
    stage.silent_about("MetricaDeviceOffline", began_s)
    await stage.until(lambda: stage.hub.get("/readyz").status == 200, "the hub is back")
    stage.cluster.stop(immediate=True)
    stage.broke("MetricaPostgresDown", "Postgres ends")
    await stage.wait("act 8, Postgres is gone")
    stage.cluster.start()
    stage.hub.kill()
    stage.second.kill()
    stage.broke("MetricaHubDown", "both hubs end")
    stage.node.end()
    stage.broke("MetricaServiceDown", "the node exporter ends", f":{stage.node.port}")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(_fill, stage))
        await stage.wait("act 9, no hub")
    stage.prometheus.end(signal.SIGTERM)
    stage.prometheus.start(public=f"{HOST}:{stage.front.port}", size="1MB")
    stage.broke("MetricaPrometheusStorageFull", "Prometheus may use 1 MB, and has more")
    stage.hub.start()
    what = f"{FLOOD:,} messages came while no hub was there, {MAX_QUEUED:,} may wait; from the hub's start on"
    stage.broke("MetricaBrokerDropsMessages", what)
    stage.broke("MetricaHubQueueFills", "the same, and a hub that can't store them")
    # A hub that stores nothing hears little: first it hears what waits, as one that is slow does.
    await stage.until(lambda: _is_heard(stage), "the hub has heard what waits in the broker", every_s=0.1)
    with Lock(stage):
        await stage.wait("act 10, a queue that fills, a disk that is used up")


def _is_heard(stage: Stage) -> bool:
    try:
        return "\nmetrica_broker_stored_messages " in stage.hub.get("/metrics").text
    except OSError:
        return False  # it does not listen yet


async def _corrupted(stage: Stage) -> None:
    """Flip bytes in a page of a table, where nobody has it in memory, and read it."""
    name = stage.database.name
    stage.cluster.execute(
        "CREATE TABLE spoilt AS SELECT n, repeat('x', 200) AS t FROM generate_series(1, 500) AS n", name
    )
    stage.cluster.execute("CHECKPOINT")
    path = stage.cluster.execute(
        "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('spoilt')", name
    )
    stage.cluster.stop()
    await asyncio.to_thread(_spoil, Path(path))
    stage.cluster.start()
    stage.broke("MetricaPostgresCorrupt", "eight bytes of a page on the disk are changed, and somebody reads it", name)
    with suppress(RuntimeError):
        stage.cluster.execute("SELECT sum(length(t)) FROM spoilt", name)


def _spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192 + 4000)
        file.write(b"spoilt!!")


def _fill(stage: Stage) -> None:
    """Fill the queue of a hub that is away, by several who publish."""
    line = b'{"device":"pi-queue","n":1}\n'
    to = ("-h", HOST, "-p", str(stage.broker.port), "-V", "5", "-q", "1", "-l", "-t", topic("pi-queue", STATUS))
    publishers = range(FLOOD // A_PUBLISHER)
    running = [subprocess.Popen(["mosquitto_pub", *to], stdin=subprocess.PIPE) for _ in publishers]
    feeders = [threading.Thread(target=one.communicate, args=(line * A_PUBLISHER,)) for one in running]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()


ACTS: Final[tuple[Callable[[Stage], Awaitable[None]], ...]] = (
    devices,
    rollout,
    commits,
    refused,
    many,
    locked,
    blind,
)


async def rehearse(folder: Path, count: int, only: list[str]) -> int:
    """Play all acts, or the first and those named; return the exit code."""
    async with AsyncExitStack() as closing:
        stage = Stage(folder, count, closing)
        await stage.build()
        say(f"all parts run; {count} devices are switched on")
        await quiet(stage)
        netdata, meter, toll = scrape(stage.prometheus), Toll(stage.parts), ""
        for act in ACTS:
            if not only or act.__name__ in only:
                await act(stage)
                toll = toll or f"{meter}\n\n{netdata}"
        if any(one.told_s is None and not one.is_given_up for one in stage.faults):
            await stage.wait("what is still open")
        faults, wrong = stage.faults, stage.wrong
    missing = set[str]() if only else {alert.name for alert in ALERTS} - {fault.alert for fault in faults}
    wrong += [f"{name} was not rehearsed" for name in sorted(missing)]
    wrong += [
        f"{one.alert}: {one.took_s:.0f} s"
        for one in faults
        if one.took_s is not None and one.took_s > MOST_S and one.alert != "MetricaWatchdog"
    ]
    sys.stdout.write(f"\n{toll}\n")
    sys.stdout.write("\n| alert | severity | fault | told after |\n| --- | --- | --- | --- |\n")
    for one in sorted(faults, key=lambda one: one.alert):
        took = "never" if one.took_s is None else f"{one.took_s:.0f} s"
        sys.stdout.write(f"| `{one.alert}` | {SEVERITY[one.alert]} | {one.what} | {took} |\n")
    took_s = [one.took_s for one in faults if one.took_s is not None]
    told = f"{len(took_s)} of {len(ALERTS)} alerts told; the longest took {max(took_s):.0f} s, {count} devices"
    sys.stdout.write(f"\n{told}\n{''.join(f'WRONG: {one}' + chr(10) for one in wrong)}")
    return 1 if wrong else 0


def main() -> int:
    """Read the command line; rehearse."""
    parser = argparse.ArgumentParser(
        prog="./scripts/rehearse alerts", description="Every alert, from its fault to its message."
    )
    parser.add_argument("--devices", type=int, default=500, help="simulated ones, beside those that have faults")
    names = [act.__name__ for act in ACTS]
    parser.add_argument("--only", action="append", default=[], choices=names, help="this act; may be given again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metrica-rehearsal-") as folder:
        Path(folder).chmod(0o755)
        return asyncio.run(rehearse(Path(folder), options.devices, options.only))


if __name__ == "__main__":
    sys.exit(main())
