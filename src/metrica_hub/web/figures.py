"""The branch and its rollout in ``/metrics``: told by the hub that leads, for as long as it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from metrica_hub.decisions.progress import FIVE_AND_MORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import CollectorRegistry, Metric

    from metrica_hub.decisions.lagging import Standing
    from metrica_hub.decisions.progress import Rollout


class BranchFigures(Collector):
    """What updates rest on: the repository and its mirrors, and whether devices believe this hub."""

    def __init__(self, registry: CollectorRegistry, *, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._remotes: Mapping[str, Standing] = {}
        self._believed: bool | None = None
        self._problems: int | None = None
        registry.register(self)

    def surveyed(self, remotes: Mapping[str, Standing], *, believed: bool | None, problems: int | None) -> None:
        """Show this until something else is found; what is not known has no series."""
        self._remotes, self._believed, self._problems = dict(remotes), believed, problems

    def describe(self) -> Iterable[Metric]:
        """Return what may be shown, so that it is known before it is."""
        return self._families({}, believed=None, problems=None)

    def collect(self) -> Iterable[Metric]:
        """Return what is known now."""
        return [
            one
            for one in self._families(self._remotes, believed=self._believed, problems=self._problems)
            if one.samples
        ]

    def _families(
        self, remotes: Mapping[str, Standing], *, believed: bool | None, problems: int | None
    ) -> tuple[Metric, ...]:
        reachable = GaugeMetricFamily(
            "metrica_git_remote_reachable", "Whether a repository answered when it was asked last.", labels=["remote"]
        )
        behind = GaugeMetricFamily(
            "metrica_git_remote_behind_seconds",
            "For how long a mirror has not had the commit that the branch has; 0 while it has it.",
            labels=["remote"],
        )
        key = GaugeMetricFamily(
            "metrica_hub_key_believed",
            "Whether allowed_signers of the branch has this hub's key, so that devices heed its gates and commands.",
        )
        head = GaugeMetricFamily(
            "metrica_head_problems",
            "What is wrong with the branch's commit, so that no device takes it; 0: nothing.",
        )
        now_s = self._now_s()
        for remote, standing in remotes.items():
            reachable.add_metric([remote], standing.reachable)
            behind_s = standing.behind_s(now_s)
            if behind_s is not None:
                behind.add_metric([remote], behind_s)
        if believed is not None:
            key.add_metric([], believed)
        if problems is not None:
            head.add_metric([], problems)
        return reachable, behind, key, head


class RolloutFigures(Collector):
    """The newest rollout, until another is told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rollout: Rollout | None = None
        registry.register(self)

    def rolls_out(self, rollout: Rollout | None) -> None:
        """Show this one; ``None``: none is ours to show."""
        self._rollout = rollout

    def collect(self) -> Iterable[Metric]:
        """Return what is known now."""
        rollout = self._rollout
        if rollout is None:
            return ()
        course, stages = rollout.course, rollout.stages
        devices = GaugeMetricFamily(
            "metrica_rollout_devices", "Devices of the newest rollout by stage and state.", labels=["stage", "state"]
        )
        for stage in stages:
            for state in FIVE_AND_MORE:
                devices.add_metric([stage.name, state], getattr(stage.counts, state))
        open_now = [stage.counts for stage in stages[: course.stage + 1]][-1:]
        failed = sum(counts.failed for counts in open_now)
        reached = sum(counts.reached for counts in open_now)
        return (
            devices,
            _gauge("stage", "Its last stage that is open, from 1; 0: none.", course.stage + 1),
            _gauge("stages", "How many stages it has.", len(stages)),
            _gauge(
                "refused_ratio",
                "Of the devices of its last open stage that started: the share that refused, or fell silent.",
                failed / reached if reached else 0.0,
            ),
            _gauge("halted", "Whether it halted itself, or was halted.", course.state == "halted"),
            _gauge("paused", "Whether it waits for a person.", course.state == "paused"),
            _gauge(
                "changed_timestamp_seconds", "When its state or its stage changed last.", rollout.changed_at.timestamp()
            ),
        )


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"metrica_rollout_{name}", f"The newest rollout: {about[0].lower()}{about[1:]}", value)
