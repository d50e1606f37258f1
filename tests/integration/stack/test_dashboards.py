"""Every question of every dashboard, asked of the real parts: a Prometheus that scrapes a hub with simulated devices,
Debian's exporters and itself, and Postgres as the role that Grafana has. Loki is not to be had here: its questions are
checked by tests/architecture/test_dashboards.py, as far as that goes.

One world is made, asked everything once, and ended; the tests are about its answers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import pytest
from asyncpg.exceptions import PostgresError
from tests.fixtures.broker import HOST, Broker, free_port
from tests.fixtures.crowd import crowd
from tests.fixtures.dashboards import Shown, Target, asked, boards, links, targets
from tests.fixtures.database import Cluster, Database
from tests.fixtures.git_servers import repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.scraping import Prometheus, Series, exporter
from tests.fixtures.signing import Person
from tests.fixtures.stopping import Operator
from tests.integration.hub.device import event, heartbeat, new_stream, presence, topic
from tests.integration.hub.test_rollouts import fleet_of, newest, rolling_out, state_of
from tests.integration.hub.waiting import until

from metrica_fleet.codec import encode
from metrica_fleet.identity import DeviceId
from metrica_fleet.messages import StopStanding
from metrica_fleet.records import Vitals
from metrica_fleet.rollout import planned
from metrica_fleet.stop import Level
from metrica_fleet.topics import PRESENCE, RECORDS
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import open_connection
from metrica_hub.decisions.fleet_state import DeviceState, urgency
from metrica_sim.crowd.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    import aiomqtt
    from tests.integration.hub.herd import Herd

DEVICES: Final = 24
CROWD: Final = 6
"""Simulated devices: the agent's own report task, ledger and bus."""
SEEN, SAFE, HALTED, OFFLINE = map(DeviceId, ("pi-000", "pi-021", "pi-022", "pi-023"))
"""The device whose dashboard is looked at, and three in trouble."""
TEMPERATURE_C: Final = 84.5
TOLD: Final = ("release.trial_started", "release.confirmed", "drift.repaired")
LOOKS_BACK_S: Final = 60
KINDS: Final = ("database", "files")
GRAFANA: Final = "CREATE ROLE grafana LOGIN; ALTER ROLE grafana SET default_transaction_read_only = on"
"""As stack/vps/postgres makes it, but for the password."""

NO_NETDATA: Final = "Debian 13 has no Netdata; the names are those that 1.37 told when they were written down"
NO_DATA: Final = {
    "rollouts: Mirror behind A": "the hub's [git] mirrors are not set here",
    "hub: Who floods A": "nobody says a hundred messages a second",
    "device: Its alerts A": "no alert is about this device",
    "device: Processor A": NO_NETDATA,
    "device: Network A": NO_NETDATA,
    "device: Traffic in a day A": NO_NETDATA,
    "device: Disks busy A": NO_NETDATA,
    "vps: What waits A": "a kernel may be built without PSI",
    "vps: What waits B": "a kernel may be built without PSI",
    "vps: What waits C": "a kernel may be built without PSI",
    "vps: Disk A": "a container may see no disk",
    "vps: Disk B": "a container may see no disk",
    "vps: Network A": "a container may have no interface but loopback",
    "vps: Network B": "a container may have no interface but loopback",
}
"""Questions that may well have no answer in this world, and why."""

VITALS: Final = Vitals(
    load_1m=1.5,
    memory_total_bytes=4_000_000_000,
    memory_available_bytes=1_000_000_000,
    memory_pressure_some_ratio=0.25,
    memory_pressure_full_ratio=0.125,
    disk_path="/var/lib/metrica",
    disk_total_bytes=32_000_000_000,
    disk_free_bytes=1_600_000_000,
    inodes_total=2_000_000,
    inodes_free=500_000,
    temperature_celsius=TEMPERATURE_C,
    under_voltage=True,
    frequency_capped=True,
    throttled=True,
    soft_temperature_limit=True,
    clock_synchronised=False,
)

pytestmark = pytest.mark.timeout(600)  # the first test waits for the world

Rows = list[dict[str, Any]]


@dataclass
class World:
    """What was asked, and what the hub says of the same."""

    answers: dict[str, list[Series] | Rows] = field(default_factory=dict[str, "list[Series] | Rows"])
    devices: list[DeviceState] = field(default_factory=list[DeviceState])
    rollout: Any = None
    rollouts: list[Any] = field(default_factory=list[Any])
    bad: frozenset[str] = frozenset()
    pages: dict[str, int] = field(default_factory=dict[str, int])
    """Addresses in the hub that dashboards lead to, and how it answered."""

    def value(self, name: str) -> float:
        """Return the newest value of a question's only series."""
        (series,) = self.answers[name]
        assert isinstance(series, Series)
        return series.last

    def values(self, name: str, label: str) -> dict[str, float]:
        """Return the newest value of each series by one of its labels."""
        return {one.labels[label]: one.last for one in self.answers[name] if isinstance(one, Series)}

    def rows(self, name: str) -> Rows:
        """Return a table."""
        return [one for one in self.answers[name] if isinstance(one, dict)]


ASKED: Final = [target for target in targets() if target.kind != "logql"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Postgres that knows Grafana's role."""
    with Cluster(Path("/var/tmp")) as running:  # noqa: S108 - Postgres' user must be able to enter it
        running.execute(GRAFANA)
        yield running


@pytest.fixture(scope="module")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make it, ask it everything."""
    folder = tmp_path_factory.mktemp("dashboards")
    tls = free_port()
    with cluster.database() as database, Broker(folder, settings=_tls_listener(folder, tls)) as broker:
        return asyncio.run(_made_and_asked(folder, cluster, database, broker, tls))


async def _made_and_asked(folder: Path, cluster: Cluster, database: Database, broker: Broker, tls: int) -> World:
    fleet, files = repository(folder), fleet_of(DEVICES, "failure_share = 0.1\ndeadline_s = 600")
    world = World()
    async with (
        rolling_out(fleet, files, broker, database, folder) as (hub, herd, client),
        crowd(_plan(folder, broker)),
    ):
        first = fleet.head()
        await until(lambda: state_of(hub, first) == "done", within_s=120)
        broken = fleet.commit({"note": "breaks some"})
        herd.bad = frozenset(planned(herd.policy, broken, herd.devices).stages[2].members[::2])
        await until(lambda: state_of(hub, broken) == "halted", within_s=120)
        await _trouble(hub, herd, client, folder, broker)
        cluster.execute(_AN_HOUR, database.name)
        for path in sorted(_paths_in_the_hub()):
            world.pages[path] = hub.get(path).status
        with ExitStack() as stack:
            prometheus = stack.enter_context(_scraping(stack, folder, hub, cluster, database, tls))
            await until(lambda: _settled(prometheus), within_s=180, what="Prometheus knows it all")
            world.devices = _devices(hub)
            world.rollouts = hub.get("/api/v1/rollouts").json["items"]
            world.rollout = newest(hub)
            world.bad = frozenset(_refused(hub, world.rollout["id"]))
            shown = Shown(time.time() - LOOKS_BACK_S, time.time(), SEEN, rate_interval="20s", interval="5s")
            for target in ASKED:
                world.answers[target.name] = await _answer(target, asked(target, shown), shown, prometheus, database)
    return world


async def _trouble(hub: Hub, herd: Herd, client: aiomqtt.Client, folder: Path, broker: Broker) -> None:
    """Have some devices be in every state that a dashboard asks for."""
    commit = herd.wanted
    await herd.tell(client, SEEN, commit=commit, wanted_commit=commit, vitals=VITALS, heartbeat_s=3600.0)
    stream = new_stream()
    records = [heartbeat(stream, 1), *(event(stream, at, kind=kind) for at, kind in enumerate(TOLD, 2))]
    for record in records:
        await client.publish(topic(SEEN, RECORDS), encode(record), qos=1)
    await client.publish(topic("broken", RECORDS), b"{", qos=1)
    await herd.tell(client, SAFE, mode="safe")
    stop = StopStanding(number=1, level=Level.HALT, source="order", done=True)
    await herd.tell(client, HALTED, mode="halted", stop=stop)
    await client.publish(topic(OFFLINE, PRESENCE), encode(presence(OFFLINE, "offline", 2)), qos=1, retain=True)
    Operator(Person.made(folder, "alice"), FLEET, broker).stop(Level.HALT, f"device:{HALTED}")
    body = json.dumps({"verb": "sync"})
    told = {"Content-Type": "application/json"}
    path = f"/api/v1/devices/{SEEN}/commands"
    given = hub.get(path, told, "POST", body, token=hub.token("operator"))
    assert given.status == 202, given.text
    await until(lambda: hub.get(f"/api/v1/devices/{OFFLINE}").json["connection"] == "offline")
    await until(lambda: hub.get(f"/api/v1/devices/{HALTED}").json["stop_level"] == "halt")
    await until(lambda: hub.get("/api/v1/stop").json["order"] is not None)
    await until(lambda: len(hub.get(f"/api/v1/devices/{SEEN}/events").json["items"]) == len(TOLD))


def _plan(folder: Path, broker: Broker) -> Plan:
    return Plan(
        fleet=FLEET,
        host=HOST,
        port=broker.port,
        state=str(folder / "crowd"),
        devices=CROWD,
        duration_s=3600,
        ramp_s=0,
        heartbeat_s=2,
        event_every_s=5,
    )


def _scraping(stack: ExitStack, folder: Path, hub: Hub, cluster: Cluster, database: Database, tls: int) -> Prometheus:
    textfiles = folder / "metrics-files"
    textfiles.mkdir()
    (textfiles / "backup.prom").write_text(_backup_figures())
    node = stack.enter_context(exporter(folder, "node", f"--collector.textfile.directory={textfiles}"))
    source = f"{cluster.url(database.name)}?sslmode=disable"
    postgres = stack.enter_context(exporter(folder, "postgres", environment={"DATA_SOURCE_NAME": source}))
    modules = {
        "modules": {"tls": {"prober": "tcp", "tcp": {"tls": True, "tls_config": {"insecure_skip_verify": True}}}}
    }
    (folder / "blackbox.yml").write_text(json.dumps(modules))
    blackbox = stack.enter_context(exporter(folder, "blackbox", f"--config.file={folder}/blackbox.yml"))
    probe = {
        "job_name": "blackbox-mqtt",
        "metrics_path": "/probe",
        "params": {"module": ["tls"], "target": [f"{HOST}:{tls}"]},
        "static_configs": [{"targets": [f"{HOST}:{blackbox.port}"]}],
    }
    return Prometheus(folder, {"hub": hub.port, "node": node.port, "postgres": postgres.port}, more=[probe])


def _settled(prometheus: Prometheus) -> bool:
    """Whether rates can be taken of everything, and the alert on the stop has come."""
    scraped = {one.labels["job"]: one.last for one in prometheus.now("min by (job) (sum_over_time(up[30s]))")}
    firing = {one.labels["alertname"] for one in prometheus.now('ALERTS{alertstate="firing"}')}
    halted = prometheus.now("max(metrica_rollout_halted) == 1")
    return (
        len(scraped) == 5
        and all(count >= 8 for count in scraped.values())
        and "MetricaStopInForce" in firing
        and bool(halted)
    )


async def _answer(
    target: Target, text: str, shown: Shown, prometheus: Prometheus, database: Database
) -> list[Series] | Rows:
    if target.kind == "promql":
        if target.is_instant:
            return prometheus.now(text)
        return prometheus.over(text, shown.from_s, shown.to_s, 5)
    return await _fetched(text, "grafana", database)


async def _fetched(sql: str, role: str, database: Database) -> Rows:
    """Return what Postgres answers to somebody; ``asyncpg.PostgresError``: nothing."""
    connection = await open_connection(database.url.replace("//postgres@", f"//{role}@"), name="a dashboard")
    try:
        return [dict(cast("Any", row)) for row in await connection.fetch(sql)]
    finally:
        connection.terminate()


def _devices(hub: Hub) -> list[DeviceState]:
    found = hub.get("/api/v1/devices?limit=1000").json["items"]
    return [msgspec.convert(one, DeviceState) for one in found]


def _refused(hub: Hub, rollout: int) -> list[str]:
    found = hub.get(f"/api/v1/rollouts/{rollout}/devices?state=refused&limit=1000").json["items"]
    return [one["device"] for one in found]


def _paths_in_the_hub() -> set[str]:
    """Return where the dashboards' links lead in the hub."""
    examples = {"${device}": SEEN, "rollouts/${__value.text}": "rollouts/1"}
    found: set[str] = set()
    for address in links(boards()):
        path = address.removeprefix("../../../..")
        if path == address or path.startswith("/docs/"):
            continue
        for place, example in examples.items():
            path = path.replace(place, example)
        found.add(path)
    return found


def _backup_figures() -> str:
    now_s = time.time()
    figures = {
        "last_success_timestamp_seconds": now_s - 3600,
        "last_verified_timestamp_seconds": now_s - 7200,
        "last_duration_seconds": 42,
        "size_bytes": 123_456_789,
        "failed": 0,
    }
    lines = [f'metrica_backup_{name}{{kind="{kind}"}} {value}' for name, value in figures.items() for kind in KINDS]
    return "\n".join(lines) + "\n"


def _tls_listener(folder: Path, port: int) -> tuple[str, ...]:
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost"
    command = ["openssl", *words.split(), "-keyout", "broker.key", "-out", "broker.crt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return f"listener {port} {HOST}", f"certfile {folder}/broker.crt", f"keyfile {folder}/broker.key"


_AN_HOUR: Final = """
SELECT make_partition('heartbeats_1h_sums', 'heartbeats_1h_sums_' || to_char(month, 'YYYYMM'), month,
                      month + interval '1 month')
FROM (SELECT date_trunc('month', now(), 'UTC') AS month) AS this;
INSERT INTO heartbeats_1h_sums (device, begins, heartbeats, load_1m_sum, load_1m_count, memory_available_bytes_sum,
    memory_available_bytes_count, memory_available_bytes_min, disk_free_bytes_sum, disk_free_bytes_count,
    disk_free_bytes_min, temperature_celsius_sum, temperature_celsius_count, temperature_celsius_max)
VALUES ('pi-000', now(), 2, 1, 2, 2e9, 2, 1e9, 2e9, 2, 1e9, 100, 2, 60)
"""


# --- every question ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ASKED, ids=lambda target: target.name)
def test_every_question_has_an_answer(world: World, target: Target) -> None:
    found = world.answers[target.name]
    if target.name in NO_DATA:
        assert all(found), NO_DATA[target.name]
        return
    assert found, target.text
    if target.kind == "promql":
        named = {word.partition("}}")[0] for word in target.legend.split("{{")[1:]}
        for series in found:
            assert isinstance(series, Series)
            assert named <= set(series.labels), f"the legend {target.legend} names what is not there"
    elif not target.is_table:
        assert all("time" in row for row in found if isinstance(row, dict))


def test_what_may_have_no_answer_is_asked() -> None:
    assert set(NO_DATA) <= {target.name for target in ASKED}


def test_every_link_to_the_hub_leads_to_a_page(world: World) -> None:
    assert len(world.pages) > 5
    assert {path: status for path, status in world.pages.items() if status != 200} == {}


# --- the exact answer -------------------------------------------------------------------------------------------


def test_the_fleet_s_counters_are_those_of_the_hub(world: World) -> None:
    devices = world.devices
    assert len(devices) == DEVICES + CROWD
    assert len(world.bad) > 0
    connection = Counter(one.connection for one in devices)
    assert world.value("fleet: Online A") == connection["online"] == DEVICES + CROWD - 1
    assert world.value("fleet: Not online A") == connection["offline"] == 1
    assert world.value("fleet: Refused A") == len(world.bad)
    assert world.value("fleet: In another mode A") == len({SAFE, HALTED})
    assert world.value("fleet: Stopped A") == 1
    assert world.values("fleet: Devices by connection A", "connection") == {
        "online": connection["online"],
        "offline": 1,
        "flapping": 0,
        "never-seen": 0,
    }
    modes = Counter(one.mode for one in devices)
    assert world.values("fleet: Devices by mode A", "mode") == modes
    assert {"MetricaStopInForce", "MetricaRolloutHalted"} <= set(world.values("fleet: Alerts that fire A", "alertname"))
    versions = Counter(one.agent_version for one in devices)
    assert world.values("fleet: Agent versions A", "agent_version") == versions


def test_the_devices_that_need_a_look_are_those_that_the_hub_puts_first(world: World) -> None:
    expected = {one.device for one in world.devices if urgency(one)[0] < 3}
    assert expected == {*world.bad, SAFE, HALTED, OFFLINE}
    rows = world.rows("fleet: Devices that need a look A")
    assert {row["device"] for row in rows} == expected
    reasons = {row["device"]: row["reason"] for row in rows}
    assert {reasons[device] for device in world.bad} == {"unhealthy"}
    (why,) = world.rows("fleet: Refused, and why A")
    assert (why["reason"], why["devices"]) == ("unhealthy", len(world.bad))


def test_the_machines_in_trouble_come_first(world: World) -> None:
    assert max(world.values("fleet: The hottest A", "device").items(), key=lambda one: one[1]) == (SEEN, TEMPERATURE_C)
    assert world.values("fleet: The fullest disks A", "device")[SEEN] == pytest.approx(0.05)
    assert world.values("fleet: The least memory available A", "device")[SEEN] == pytest.approx(0.25)
    for letter in "ABCD":
        question = f"fleet: Devices that are throttled, warm, short of volts, or without a clock {letter}"
        assert world.value(question) == 1


def test_a_device_s_dashboard_says_what_it_said(world: World) -> None:
    assert world.value("device: Online A") == 1
    assert set(world.values("device: Mode A", "mode")) == {"steady"}
    assert set(world.values("device: Phase A", "phase")) == {"confirmed"}
    assert world.value("device: Temperature A") == TEMPERATURE_C
    assert world.value("device: Load A") == 1.5
    assert [world.value(f"device: Memory {letter}") for letter in "ABC"] == [0.25, 0.25, 0.125]
    assert [world.value(f"device: Room on disk {letter}") for letter in "AB"] == [0.05, 0.25]
    assert [world.value(f"device: Strain {letter}") for letter in "ABCDE"] == [1.0] * 5
    assert 0 <= world.value("device: Last heard A") < 120
    (runs,) = world.rows("device: What it runs, what it should run, and why not yet A")
    seen = next(one for one in world.devices if one.device == SEEN)
    assert seen.commit is not None
    assert runs["confirmed"] == runs["wanted"] == seen.commit[:8] == world.rollout["commit"][:8]
    assert [row["kind"] for row in world.rows("device: Events A")] == list(reversed(TOLD))
    assert [row["tags"] for row in world.rows("device: mark Decisions A")] == list(TOLD[:2])
    (command,) = world.rows("device: Commands A")
    assert (command["verb"], command["by"]) == ("sync", "operator")
    (hour,) = world.rows("device: Temperature by the hour, for years A")
    assert (hour["hottest"], hour["mean"]) == (60, 50)


def test_the_rollout_s_figures_are_those_of_the_hub(world: World) -> None:
    rollout = world.rollout
    assert rollout["state"] == "halted"
    assert world.value("rollouts: Halted A") == 1
    assert world.value("rollouts: Waits for a person A") == 0
    assert world.value("rollouts: Open stage A") == sum(stage["is_open"] for stage in rollout["stages"]) == 3
    assert world.value("rollouts: Stages A") == len(rollout["stages"]) == 4
    reached = sum(rollout["stages"][2][state] for state in ("started", "confirmed", "refused", "silent"))
    assert world.value("rollouts: Failed of the open stage A") == pytest.approx(len(world.bad) / reached)
    table = world.rows("rollouts: The newest rollout, stage by stage A")
    assert [row["name"] for row in table] == [stage["name"] for stage in rollout["stages"]]
    for state in ("started", "confirmed", "refused"):
        assert [row[state] for row in table] == [stage[state] for stage in rollout["stages"]]
    assert {row["device"] for row in world.rows("rollouts: Who failed, and why A")} == world.bad
    assert [row["state"] for row in world.rows("rollouts: Rollouts A")] == [one["state"] for one in world.rollouts]
    assert [row["state"] for row in world.rows("rollouts: Rollouts A")] == ["halted", "done"]
    (branch,) = world.rows("rollouts: The branch A")
    assert branch["commit"] == branch["read"] == rollout["commit"][:8]
    by_state = world.values("rollouts: Its devices by state A", "state")
    assert (by_state["refused"], sum(by_state.values())) == (len(world.bad), DEVICES)
    commits = Counter((one.commit or "")[:8] for one in world.devices if one.commit)
    assert world.values("rollouts: Devices by confirmed commit A", "commit") == commits


def test_what_is_marked_on_the_time_axis_are_rollouts_and_stops(world: World) -> None:
    for board in ("fleet", "rollouts"):
        assert len(world.rows(f"{board}: mark Rollouts A")) == 2
        (stop,) = world.rows(f"{board}: mark Stops A")
        assert f"halt device:{HALTED}" in stop["text"]


def test_the_hub_s_dashboard_says_what_arrives_and_who_sends_what_cannot_be_used(world: World) -> None:
    assert world.value("hub: On the bus A") == 1
    assert world.value("hub: Hubs that lead A") == 1
    assert world.values("hub: Who sent them A", "device") == {"broken": 1}
    (letter,) = world.rows("hub: The newest that were set aside A")
    assert (letter["device"], letter["payload_bytes"]) == ("broken", 1)
    assert 0 < world.values("hub: Records a second A", "kind")["heartbeat"] < 2 * CROWD
    assert world.value("hub: Clients A") >= CROWD + 2
    assert 0 <= world.value("hub: 99 of 100 stored within A") < 30


def test_the_vps_dashboard_says_what_answers_and_how_old_backups_are(world: World) -> None:
    assert world.value("vps: Parts that don't answer A") == 0
    jobs = {"hub", "node", "postgres", "prometheus", "blackbox-mqtt"}
    assert world.values("vps: Who answered Prometheus A", "job") == dict.fromkeys(jobs, 1)
    assert world.value("vps: Oldest backup A") == pytest.approx(3600, abs=120)
    verified = world.values("vps: Last restored to see whether it is one A", "kind")
    assert verified == {kind: pytest.approx(7200, abs=120) for kind in KINDS}
    assert world.value("vps: Failed A") == 0
    assert world.value("vps: Certificate ends in A") == pytest.approx(30 * 86_400, abs=3600)
    (checksums,) = world.rows("vps: Pages that fail their checksum A")
    assert checksums["failures"] == 0
    for share in ("Processor busy", "Memory available", "The fullest disk"):
        assert 0 <= world.value(f"vps: {share} A") <= 1
    assert {"heartbeats", "events"} <= {
        row["table"].partition("_")[0] for row in world.rows("vps: The largest tables A")
    }


# --- what Grafana may read --------------------------------------------------------------------------------------


async def test_a_dashboard_s_role_reads_the_dashboards_views_and_nothing_else(cluster: Cluster) -> None:
    cluster.execute("CREATE ROLE late LOGIN")
    with cluster.database() as database:
        await migrate(database.url)
        readable = await _readable(database, "grafana")
        assert {schema for schema, _ in readable} == {"dashboards"}
        assert {name for _, name in readable} >= {"devices", "events", "rollouts", "stop_orders", "heartbeats_1h"}
        assert not {name for _, name in readable} & {"tokens", "sessions", "webhooks", "trail"}
        for statement in (
            "SELECT * FROM tokens",
            "SELECT secret FROM webhooks",
            "SELECT payload FROM dead_letters",
            "DELETE FROM dashboards.events",
            "CREATE TABLE mine (x int)",
            "SELECT dashboards.allow('late')",
        ):
            with pytest.raises(PostgresError):
                await _fetched(statement, "grafana", database)
        assert await _readable(database, "late") == set(), "nobody has allowed it yet"
        cluster.execute("SELECT dashboards.allow('late')", database.name)
        assert await _readable(database, "late") == readable


async def _readable(database: Database, role: str) -> set[tuple[str, str]]:
    found = await _fetched(_READABLE, role, database)
    return {(row["schema"], row["name"]) for row in found}


_READABLE: Final = """
SELECT nspname AS schema, relname AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'v', 'p', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND has_schema_privilege(pg_namespace.oid, 'USAGE') AND has_table_privilege(pg_class.oid, 'SELECT')
"""
