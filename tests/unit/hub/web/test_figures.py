"""The branch in /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from metrica_hub.decisions.lagging import Standing
from metrica_hub.web.figures import BranchFigures


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_what_is_not_known_has_no_series_and_what_was_found_stands_until_something_else_is() -> None:
    registry = CollectorRegistry()
    figures = BranchFigures(registry, now_s=lambda: 100.0)
    assert lines(registry) == []
    remotes = {
        "https://one.example": Standing(reachable=True),
        "https://two.example": Standing(reachable=True, differs_since_s=40.0, is_known=True),
        "https://three.example": Standing(reachable=False, differs_since_s=40.0),
    }
    figures.surveyed(remotes, believed=False, problems=2)
    assert lines(registry) == [
        'metrica_git_remote_reachable{remote="https://one.example"} 1.0',
        'metrica_git_remote_reachable{remote="https://two.example"} 1.0',
        'metrica_git_remote_reachable{remote="https://three.example"} 0.0',
        'metrica_git_remote_behind_seconds{remote="https://two.example"} 60.0',
        "metrica_hub_key_believed 0.0",
        "metrica_head_problems 2.0",
    ]
    figures.surveyed({}, believed=None, problems=None)
    assert lines(registry) == []
