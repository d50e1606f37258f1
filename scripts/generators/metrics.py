"""docs/reference/metrics.md: every metric of the hub, from the registry that ``/metrics`` is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from metrica_fleet.identity import CommitId
from metrica_fleet.policies import RolloutPolicy
from metrica_fleet.rollout import Course
from metrica_hub.decisions.broker_figures import FIGURES
from metrica_hub.decisions.progress import Rollout
from metrica_hub.web.arrears import ArrearFigures
from metrica_hub.web.board import Board
from metrica_hub.web.broker import BrokerFigures
from metrica_hub.web.command_figures import CommandFigures
from metrica_hub.web.expiry import ExpiryFigures, OwnExpiryFigures
from metrica_hub.web.figures import BranchFigures, RolloutFigures
from metrica_hub.web.metrics import Metrics
from metrica_hub.web.series import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

_HEAD: Final = """\
# Metrics

Made from the hub's own registry by `scripts/reference`; do not edit.

    curl http://127.0.0.1:8080/metrics

`/metrics` needs no token, and names every device: the stack's proxy shows it to nobody, and one of your own should not
either. What the other parts of the VPS say (`node_…`, `pg_…`, `prometheus_…`, `alertmanager_…`,
`probe_…`, `metrica_backup_…`, `metrica_postgres_…`), and a device's Netdata (`netdata_…`), is theirs. Which alerts are
made of them: [alerts.md](alerts.md).
"""
_GROUPS: Final = (
    ("Devices", ("metrica_device_",), "One series for each device, unless `[metrics] devices = false`."),
    ("The fleet", ("metrica_devices", "metrica_stop_"), ""),
    (
        "Rollouts, and what updates rest on",
        ("metrica_rollout_", "metrica_git_", "metrica_head_", "metrica_hub_key_"),
        "Told by the hub that leads alone.",
    ),
    ("The hub", ("metrica_hub_", "process_"), ""),
    ("The bus", ("metrica_bus_",), ""),
    ("The broker", ("metrica_broker_",), "What Mosquitto says of itself, while the hub is connected to it."),
)


def metrics() -> str:
    """Return the page."""
    left = known()
    parts = [_HEAD]
    for title, beginnings, about in _GROUPS:
        rows = {name: row for name, row in left.items() if name.startswith(beginnings)}
        left = {name: row for name, row in left.items() if name not in rows}
        table = [f"| `{name}` | {kind} | {help_} |" for name, (kind, help_) in sorted(rows.items())]
        head = [f"## {title}", "", *([about, ""] if about else []), "| metric | type | what |", "| --- | --- | --- |"]
        parts.append("\n".join([*head, *table, ""]))
    if left:
        raise ValueError(f"no group for {sorted(left)}")
    return "\n".join(parts)


def known() -> dict[str, tuple[str, str]]:
    """Return the type and the meaning of every metric, by the name under which Prometheus asks for it."""
    found = {name: ("gauge", help_) for name, help_ in names().items()}
    for family in _collected():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family.type, family.documentation
    found |= {
        f"{figure.name}_total" if figure.kind == "counter" else figure.name: (figure.kind, figure.about)
        for figure in FIGURES.values()
    }
    return found


def _collected() -> Iterable[Metric]:
    metrics = Metrics(Board(), each_device=True, now=lambda: datetime.now(UTC))
    metrics.watch_bus(connected=bool, unacknowledged=int, broker=BrokerFigures(connected=bool))
    metrics.watch_lead(bool)
    metrics.watch_share(bool)
    CommandFigures(metrics.registry)
    RolloutFigures(metrics.registry).rolls_out(_any_rollout())
    branch = BranchFigures(metrics.registry, now_s=float)
    arrears = ArrearFigures(metrics.registry)
    expiry, own = ExpiryFigures(metrics.registry), OwnExpiryFigures(metrics.registry)
    absent = (*branch.describe(), *arrears.describe(), *expiry.describe(), *own.describe())
    return [*metrics.registry.collect(), *absent]


def _any_rollout() -> Rollout:
    at = datetime.fromtimestamp(0, UTC)
    return Rollout(
        id=1,
        commit=CommitId("0" * 40),
        previous=None,
        policy=RolloutPolicy(stages=()),
        stages=(),
        course=Course(opened_s=0.0),
        number=1,
        begun_at=at,
        changed_at=at,
        ended_at=None,
    )
