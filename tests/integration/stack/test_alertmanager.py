"""Where alerts go: the shipped configuration, made by the shipped script, judged by amtool and a real Alertmanager."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.broker import HOST
from tests.fixtures.monitoring import STACK, Alertmanager, Sink, monitoring
from tests.integration.hub.waiting import until
from tests.integration.stack.rules import ALERTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANNELS = ("pagerduty_key", "slack_url", "smtp_password", "watchdog_url")
RECEIVER = {"P1": "p1", "P2": "p2", "P3": "p3", "none": "watchdog"}


def made(folder: Path, *channels: str, **environment: str) -> Path:
    """Return the configuration that ``start`` makes where there are the secrets of ``channels``."""
    secrets = folder / "secrets"
    secrets.mkdir()
    for name in CHANNELS:
        (secrets / name).write_text(f"https://example.org/{name}" if name in channels else "")
    settings = {
        "METRICA_HOST": "fleet.example.org",
        "METRICA_SECRETS": str(secrets),
        "METRICA_ALERTMANAGER_MADE": str(folder / "made"),
        **environment,
    }
    command = ["/bin/sh", str(STACK / "alertmanager" / "start"), "--render"]
    said = subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True, text=True).stdout
    assert all((name in said) == (name in channels) for name in CHANNELS)
    return folder / "made" / "alertmanager.yml"


def amtool(*arguments: str) -> str:
    done = subprocess.run([monitoring("amtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SETS = [which for count in range(len(CHANNELS) + 1) for which in combinations(CHANNELS, count)]


@pytest.mark.parametrize("channels", SETS, ids=lambda channels: "+".join(channels) or "none")
def test_whatever_channels_there_are_the_configuration_is_one(channels: tuple[str, ...], tmp_path: Path) -> None:
    config = made(tmp_path, *channels)
    amtool("check-config", str(config))
    text = config.read_text()
    assert ("slack_configs" in text) == ("slack_url" in channels)
    assert "${" not in text + (config.parent / "metrica.tmpl").read_text()
    assert "https://example.org/" not in text, "a secret is in the configuration, and not in its file"


def test_what_an_operator_types_stands_there_as_it_was_typed(tmp_path: Path) -> None:
    mail = r"a|b&c\d@example.org"
    config = made(tmp_path, "smtp_password", METRICA_ALERT_MAIL=mail, METRICA_SMTP_HOST="mail.example.org:587")
    assert f'to: "{mail}"' in config.read_text()
    assert 'smtp_smarthost: "mail.example.org:587"' in config.read_text()


def test_each_alert_goes_where_its_severity_says(tmp_path: Path) -> None:
    config = made(tmp_path, *CHANNELS)
    for alert in ALERTS:
        labels = [f"{name}={value}" for name, value in {"alertname": alert.name, **alert.labels}.items()]
        said = amtool("config", "routes", "test", f"--config.file={config}", *labels, "device=pi-01")
        assert said.split() == [RECEIVER[alert.labels["severity"]]], alert.name
    assert amtool("config", "routes", "test", f"--config.file={config}", "alertname=Other").split() == ["p3"]


# --- a real one -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Alertmanager, Sink]]:
    with Sink() as sink, Alertmanager(tmp_path_factory.mktemp("alertmanager"), sink).start() as running:
        yield running, sink


def give(alertmanager: Alertmanager, *alerts: dict[str, str]) -> None:
    """Give it alerts, as Prometheus does."""
    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    annotations = {
        "summary": "s.",
        "description": "d",
        "runbook_url": "/docs/runbooks/X",
        "dashboard_url": "/grafana/d/x",
    }
    body = json.dumps([{"labels": labels, "annotations": annotations, "endsAt": ends} for labels in alerts]).encode()
    request = urllib.request.Request(f"http://{HOST}:{alertmanager.port}/api/v2/alerts", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - ours
        assert answer.status == 200


def labels(name: str, **more: str) -> dict[str, str]:
    (alert,) = [one for one in ALERTS if one.name == name]
    return {"alertname": name, **alert.labels, **more}


async def test_the_cause_is_told_and_not_what_follows_from_it(told: tuple[Alertmanager, Sink]) -> None:
    alertmanager, _ = told

    def silenced() -> set[tuple[str, str]]:
        found: list[dict[str, Any]] = json.loads(alertmanager.get("/api/v2/alerts"))
        return {
            (one["labels"]["alertname"], one["labels"].get("device", ""))
            for one in found
            if one["status"]["state"] == "suppressed"
        }

    give(
        alertmanager,
        labels("MetricaDeviceOffline", device="pi-01"),
        labels("MetricaDeviceHot", device="pi-01"),
        labels("MetricaDeviceHot", device="pi-02"),
        labels("MetricaVpsDiskLow", mountpoint="/"),
        labels("MetricaPostgresCorrupt", datname="metrica"),
        labels("MetricaWatchdog"),
    )
    await until(lambda: silenced() == {("MetricaDeviceHot", "pi-01")})
    give(alertmanager, labels("MetricaManyDevicesOffline"))
    await until(lambda: silenced() == {("MetricaDeviceHot", "pi-01"), ("MetricaDeviceOffline", "pi-01")})
    give(alertmanager, labels("MetricaHubDown"), labels("MetricaServiceDown", job="hub"))
    await until(
        lambda: (
            silenced()
            == {
                ("MetricaDeviceHot", "pi-01"),
                ("MetricaDeviceHot", "pi-02"),
                ("MetricaDeviceOffline", "pi-01"),
                ("MetricaManyDevicesOffline", ""),
                ("MetricaServiceDown", ""),
            }
        )
    )


async def test_each_severity_arrives_at_its_channels_with_links_that_are_whole(told: tuple[Alertmanager, Sink]) -> None:
    alertmanager, sink = told
    give(
        alertmanager,
        labels("MetricaPostgresCorrupt", datname="metrica"),
        labels("MetricaBackupFailed", kind="files"),
        labels("MetricaDeviceClock", device="pi-09"),
    )
    await until(lambda: sink.first("MetricaWatchdog", channel="watchdog"), within_s=60)
    for alert, channels in (
        ("MetricaPostgresCorrupt", {"pagerduty", "slack"}),
        ("MetricaBackupFailed", {"mail", "slack"}),
        ("MetricaVpsDiskLow", {"mail", "slack"}),
    ):
        for channel in channels:
            one = await until(lambda: sink.first(alert, channel=channel), within_s=60)  # noqa: B023 - awaited here
            assert one is not None
            assert "https://fleet.example.org/docs/runbooks/X" in one.text
            assert "https://fleet.example.org/grafana/d/x" in one.text
            assert "no value" not in one.text
        assert not any(alert in one.alerts for one in sink.told if one.channel not in channels)
    assert sink.first("MetricaDeviceClock") is None, "the hub is down"
