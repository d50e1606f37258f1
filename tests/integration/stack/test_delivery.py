"""From a real fault to a message, through a real hub, Prometheus, Alertmanager and exporters: some alerts, in a minute.

Every alert, with its real fault at its real pace and 500 devices, is ``./scripts/rehearse alerts``; here Prometheus
looks every four seconds, and the rules' own ``for`` stand.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.git_servers import repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.monitoring import (
    Alertmanager,
    Prometheus,
    Sink,
    blackbox_exporter,
    node_exporter,
    postgres_exporter,
)
from tests.integration.hub.device import Device, event, new_stream, presence, status, topic
from tests.integration.hub.waiting import until
from tests.integration.stack.rules import ALERTS, metrics_of, recorded

from metrica_fleet.codec import encode
from metrica_fleet.records import Vitals
from metrica_fleet.topics import PRESENCE, STATUS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.database import Cluster, Database

EVERY: Final = "4s"
"""Time enough for a scrape on a loaded machine: one that fails begins a rule's `for` anew."""
WITHIN_S: Final = 240.0
MEMINFO: Final = "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n"
pytestmark = pytest.mark.timeout(600)
WITHOUT_SERIES: Final = {
    "up": "has them, of every job",
    "ALERTS": "Prometheus' own",
    "probe_ssl_earliest_cert_expiry": "only of a TLS session; the rehearsal has one",
    "prometheus_notifications_errors_total": "its label is the Alertmanager that could not be told",
}


class Vps:
    """What runs on the VPS, as far as it runs here."""

    def __init__(self, folder: Path, cluster: Cluster, database: Database, closing: ExitStack) -> None:
        enter = closing.enter_context
        self.sink = enter(Sink())
        self.broker = enter(Broker(folder))
        fleet = repository(folder)
        fleet.commit({"fleet.toml": f'name = "{FLEET}"\n'})
        mirror = fleet.copy("mirror")
        fleet.commit({"fleet.toml": "name = 3\n"})
        settings = {
            "METRICA_HUB_GIT_URL": str(fleet.bare),
            "METRICA_HUB_GIT_POLL_S": "0.5",
            "METRICA_HUB_GIT_MIRRORS": json.dumps([str(mirror.bare)]),
        }
        self.hub = enter(Hub(database.url, self.broker.port, settings=settings))
        self.hub.wait_until_ready()
        self.files = folder / "textfiles"
        self.files.mkdir()
        proc = folder / "proc"
        (proc / "1").mkdir(parents=True)
        (proc / "stat").symlink_to("/proc/stat")
        (proc / "meminfo").write_text(MEMINFO)
        (proc / "loadavg").write_text("0.1 0.1 0.1 1/100 1\n")
        (proc / "1" / "mountinfo").write_text(f"36 1 8:1 / {folder} rw - ext4 disk rw\n")
        node = enter(node_exporter(folder, proc, self.files))
        postgres = enter(postgres_exporter(folder, cluster.url("postgres")))
        prober = enter(blackbox_exporter(folder, Path("/etc/ssl/certs/ca-certificates.crt")))
        self.alertmanager = enter(Alertmanager(folder, self.sink).start())
        self.prometheus = enter(
            Prometheus(
                folder,
                token=self.hub.token("viewer"),
                every=EVERY,
                hub=(self.hub.port,),
                netdata=(),
                node=(node.port,),
                postgres=(postgres.port,),
                alertmanager=(self.alertmanager.port,),
                blackbox=(prober.port,),
                blackbox_mqtt=(self.broker.port,),
            )
        )
        self.prometheus.start()


@pytest.fixture(scope="module")
def vps(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vps]:
    with ExitStack() as closing:
        database = closing.enter_context(cluster.database())
        yield Vps(tmp_path_factory.mktemp("vps"), cluster, database, closing)


async def test_faults_are_told_by_the_channels_of_their_severity(vps: Vps) -> None:
    prometheus, sink = vps.prometheus, vps.sink
    async with Device("pi-01", vps.broker.port) as one, Device("pi-02", vps.broker.port) as two:
        for device in (one, two):
            await device.is_present("online", 1)
            await device.has_status(status(device.name, heartbeat_s=80_000, vitals=Vitals(temperature_celsius=50.0)))
        await two.tell(event(new_stream(), 1, kind="command.distrusted"))
        for number in range(3):
            name = f"herd-{number}"
            said = status(name, mode="safe", reason="no-release", heartbeat_s=80_000, vitals=Vitals())
            await one.client.publish(topic(name, PRESENCE), encode(presence(name, "online", 1)), qos=1, retain=True)
            await one.client.publish(topic(name, STATUS), encode(said), qos=1, retain=True)
        await one.has_status(status("pi-01", uptime_s=2.0, heartbeat_s=80_000, vitals=Vitals(temperature_celsius=83.0)))
        for alert, needle, channel in (
            ("MetricaOrderDistrusted", "pi-02", "mail"),
            ("MetricaOrderDistrusted", "pi-02", "slack"),
            ("MetricaManyDevicesInSafeMode", "3 devices", "pagerduty"),
            ("MetricaCommitUnusable", "1 problems", "slack"),
            ("MetricaBackupTooOld", "there is none", "mail"),
            ("MetricaDeviceHot", "pi-01", "slack"),
            ("MetricaDeviceMetricsMissing", "pi-02", "slack"),
        ):
            said = await until(
                lambda: sink.first(alert, needle=needle, channel=channel),  # noqa: B023 - awaited here
                within_s=WITHIN_S,
                what=f"{alert} by {channel}; firing: {prometheus.firing()}",
            )
            assert said is not None
            assert f"https://fleet.example.org/docs/runbooks/{alert}" in said.text
            assert "no value" not in said.text
            assert "{{" not in said.text
        assert sink.first("MetricaDeviceSafeMode") is None, "the cause is told, not what follows"
        assert sink.first("MetricaWatchdog", channel="watchdog") is not None
        assert "MetricaDeviceOffline" not in prometheus.firing()


async def test_every_rule_can_be_evaluated_and_asks_for_what_there_is(vps: Vps) -> None:
    await until(lambda: "metrica_git_remote_behind_seconds" in vps.prometheus.names(), within_s=WITHIN_S)
    assert vps.prometheus.unhealthy_rules() == []
    there = vps.prometheus.names()
    rules = {alert.name: alert.expr for alert in ALERTS} | recorded()
    others = {
        f"{name} asks for {metric}"
        for name, expr in rules.items()
        for metric in metrics_of(expr) - set(WITHOUT_SERIES)
        if not metric.startswith("metrica_") and ":" not in metric and metric not in there
    }
    assert others == set(), "the exporters have no such metrics"
    for metric in (
        "metrica_postgres_checksum_failures",
        "metrica_head_problems",
        "metrica_device_event_timestamp_seconds",
    ):
        assert metric in there


def test_prometheus_finds_each_netdata_where_the_hub_says(vps: Vps) -> None:
    found: list[dict[str, Any]] = json.loads(vps.prometheus.get("/api/v1/targets"))["data"]["activeTargets"]
    netdata = {one["labels"]["device"]: one for one in found if one["labels"]["job"] == "netdata"}
    assert set(netdata) == {"pi-01", "pi-02", "herd-0", "herd-1", "herd-2"}
    one = netdata["pi-01"]
    assert one["labels"] == {"device": "pi-01", "instance": "pi-01", "job": "netdata", "role": "camera"}
    assert one["discoveredLabels"]["__address__"] == "pi-01:19999"
    assert one["scrapeUrl"].startswith("http://pi-01:19999/api/v1/allmetrics?filter=system.cpu+")
    assert "&source=average" in one["scrapeUrl"]


async def test_what_was_told_before_a_hub_started_is_known_to_it(vps: Vps) -> None:
    line = 'metrica_device_event_timestamp_seconds{device="pi-02",kind="command.distrusted"} '
    (before,) = [one for one in vps.hub.get("/metrics").text.splitlines() if one.startswith(line)]
    vps.hub.kill()
    vps.hub.start()
    vps.hub.wait_until_ready()
    assert before in vps.hub.get("/metrics").text.splitlines()


def test_where_netdata_is_is_told_to_who_may_look(vps: Vps) -> None:
    groups = vps.hub.get("/api/v1/sd/netdata").json
    assert (
        groups[-1]
        == {
            "targets": ["pi-02:19999"],
            "labels": {
                "device": "pi-02",
                "role": "camera",
                "__meta_metrica_fleet": FLEET,
                "__meta_metrica_tags": "",
                "__meta_metrica_connection": "online",
            },
        }
        or groups[-1]["labels"]["__meta_metrica_connection"] == "offline"
    )
    assert vps.hub.get("/api/v1/sd/netdata?all=1").status == 400
