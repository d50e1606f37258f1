"""The acts of the rehearsal of alerts: which fault is made, how, and beside which others.

What does not silence each other comes at once. What takes days is told by figures or rows that are as old (backups, a
pause).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import aiomqtt
from tests.fixtures.broker import HOST
from tests.fixtures.git_servers import Faults, git
from tests.fixtures.hub import FLEET
from tests.fixtures.stopping import Operator
from tests.integration.hub.device import Device, event, heartbeat, new_stream, presence, status, topic
from tests.rehearsals.stage import MAX_QUEUED, Fault, Stage, say

from metrica_fleet.codec import encode
from metrica_fleet.identity import CommitId
from metrica_fleet.messages import Refusal, StopStanding
from metrica_fleet.records import Vitals
from metrica_fleet.stop import Level
from metrica_fleet.topics import PRESENCE, RECORDS, STATUS
from metrica_hub.decisions.silence import GRACE_S

FLOOD: Final = 550_000
A_PUBLISHER: Final = 50_000
"""mosquitto_pub ends at the first acknowledgement with the number of its last message, and numbers end at 65,535."""
LOCKED_WITHIN_S: Final = 60.0


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
