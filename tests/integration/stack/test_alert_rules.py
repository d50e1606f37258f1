"""The alert rules: each does what it says, is tested both ways, and leads to a runbook and a dashboard."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts.generators.metrics import known
from tests.fixtures.monitoring import RULES
from tests.integration.hub.test_http import promtool
from tests.integration.stack.rules import ALERTS, FILES, Alert, metrics_of, recorded

from metrica_cli.main import app

HOUSE = Path(__file__).resolve().parents[3]
RUNBOOKS = HOUSE / "docs" / "runbooks"
SECTIONS = ("What it means", "Who is hurt", "Look first", "Likely causes", "Mend", "If that fails", "Afterwards")
DASHBOARDS = {"metrica-fleet", "metrica-device", "metrica-rollouts", "metrica-hub", "metrica-vps", "metrica-logs"}
OTHERS = {  # of the stack's own files, not of the hub
    "metrica_backup_failed",
    "metrica_backup_last_success_timestamp_seconds",
    "metrica_backup_last_verified_timestamp_seconds",
    "metrica_postgres_checksum_failures",
}
TESTED = [file for file in FILES if file != "recording"]


def said_by(*arguments: str) -> str:
    done = subprocess.run([promtool(), *arguments], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", FILES)
def test_rules_are_rules(file: str) -> None:
    said_by("check", "rules", "--lint=all", "--lint-fatal", f"{file}.rules.yml")


@pytest.mark.parametrize("file", TESTED)
def test_the_alerts_do_what_they_say(file: str) -> None:
    said_by("test", "rules", f"{file}.test.yml")


def test_what_is_scraped_can_be_read() -> None:
    said_by("check", "config", "--syntax-only", "prometheus.yml")


@cache
def looks(file: str) -> list[tuple[set[str], set[str]]]:
    """Return of each look of a file's tests: the metrics that there are, the alerts that fire."""
    found: list[tuple[set[str], set[str]]] = []
    for test in yaml.safe_load((RULES / f"{file}.test.yml").read_text(encoding="utf-8"))["tests"]:
        series = {re.split(r"[{\s]", one["series"])[0] for one in test["input_series"]}
        given = {name.removesuffix("_bucket") for name in series} | series
        for look in test["promql_expr_test"]:
            samples: list[dict[str, Any]] = look["exp_samples"]
            found.append((given, {name for one in samples for name in re.findall(r'alertname="(\w+)"', one["labels"])}))
        looked: list[dict[str, Any]] = test.get("alert_rule_test", [])
        found += [(given, {look["alertname"]} if look["exp_alerts"] else set()) for look in looked]
    return found


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_alert_is_tested_both_ways(alert: Alert) -> None:
    all_looks = looks(alert.file)
    assert any(alert.name in firing for _, firing in all_looks), f"no test in which {alert.name} fires"
    if alert.name == "MetricaWatchdog":
        return  # it is there to fire
    asked = {name for one in alert.metrics for name in (metrics_of(recorded()[one]) if one in recorded() else {one})}
    quiet = [given for given, firing in all_looks if alert.name not in firing and asked & given]
    assert quiet, f"no test in which there is one of {sorted(asked)} and {alert.name} does not fire"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_alert_says_how_grave_it_is_and_where_to_go(alert: Alert) -> None:
    assert alert.labels["severity"] in ({"none"} if alert.name == "MetricaWatchdog" else {"P1", "P2", "P3"})
    assert alert.labels["about"] in {"device", "fleet", "hub", "vps", "watchdog"}
    assert set(alert.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert alert.annotations["summary"].endswith(".")
    assert alert.annotations["runbook_url"] == f"/docs/runbooks/{alert.name}"
    found = re.fullmatch(
        r"/grafana/d/([a-z-]+)(\?var-device=\{\{ \$labels\.device \}\})?", alert.annotations["dashboard_url"]
    )
    assert found is not None
    assert found[1] in DASHBOARDS
    if alert.labels["about"] == "device":
        assert "$labels.device" in alert.annotations["summary"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_alert_has_a_runbook(alert: Alert) -> None:
    page = (RUNBOOKS / f"{alert.name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {alert.name}\n")
    assert re.findall(r"(?m)^## (.+)$", page) == list(SECTIONS)
    for section in page.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        assert len(body.split()) > 2, f"{alert.name}: {title} says nothing"
    assert f"**{alert.labels['severity']}**" in page, "the page says how grave it is"


def test_there_is_no_runbook_of_an_alert_that_there_is_not_and_the_list_has_all() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"index"}
    assert pages == {alert.name for alert in ALERTS}
    listed = (HOUSE / "docs" / "reference" / "alerts.md").read_text(encoding="utf-8")
    for alert in ALERTS:
        assert re.search(
            rf"(?m)^\| \[`{alert.name}`\]\(\.\./runbooks/{alert.name}\.md\) \| {alert.labels['severity']} \|", listed
        )


def test_no_rule_asks_for_a_metric_of_ours_that_nobody_has() -> None:
    ours = set(known()) | OTHERS
    ours |= {
        f"{name}_{part}" for name, (kind, _) in known().items() if kind == "histogram" for part in ("bucket", "count")
    }
    rules = {alert.name: alert.expr for alert in ALERTS} | recorded()
    for name, expr in rules.items():
        for metric in metrics_of(expr):
            if metric.startswith("metrica_"):
                assert metric in ours, f"{name} asks for {metric}"
            else:
                assert ":" not in metric or metric in recorded(), f"{name} asks for {metric}"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_what_a_runbook_has_one_type_is_a_command_that_there_is(alert: Alert) -> None:
    page = (RUNBOOKS / f"{alert.name}.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?m)^    (.+)$", page)
    assert commands, "nothing to look at first"
    for command in commands:
        if command.startswith("metrica "):
            app.parse_args(shlex.split(command, comments=True)[1:], print_error=False, exit_on_error=False)
