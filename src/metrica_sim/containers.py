"""The life of one simulated container, by the clock: created, running, healthy, ended, restarted.

What the engine does follows Docker: a restart comes after a pause that doubles from 0.1 s to a minute and begins anew
once a life lasted ten seconds; a health check that fails counts as "starting" until its start period and retries are
used up, and as "unhealthy" from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, cast

from metrica_agent.decisions.drift import IMAGE, RESTART
from metrica_agent.decisions.world import Container
from metrica_fleet.errors import Unusable
from metrica_sim.servicefields import seconds

FAULT_LABEL: Final = "fleet.metrica.sim"
INPUTS_LABEL: Final = "fleet.metrica.inputs"
START_S: Final = 0.2
ONCE_S: Final = 0.5
EXITS_S: Final = 0.3
PAUSE_FIRST_S: Final = 0.1
PAUSE_LAST_S: Final = 60.0
FORGIVEN_AFTER_S: Final = 10.0
"""A life that lasted this long starts the pauses from the first again."""
_INTERVAL_S: Final = 30.0
_RETRIES: Final = 3
_NO_CHECK_INTERVAL_S: Final = 0.5
"""Of the health check that a service without one is given by the fault ``never-healthy``."""
STOPPED: Final = 143
"""The exit code of what SIGTERM ended."""
_BAD_COMMAND: Final = re.compile(r"(?:^|\s)(?:false|exit\s+([1-9]\d*))\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How every life of a container goes, in seconds from the moment that it runs."""

    start_s: float = START_S
    """From created to running."""
    healthy_s: float | None = None
    unhealthy_s: float | None = None
    """Both ``None``: there is no health check."""
    ends_s: float | None = None
    exit_code: int = 0
    restarts: bool = False
    """Restarted when it ends, or only when it ends with something else than 0 (``only_failed``)."""
    only_failed: bool = False
    tries: int | None = None

    @property
    def runs_once(self) -> bool:
        """Whether ending with 0 is how it is meant to end."""
        return self.ends_s is not None and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a container on request: never-healthy, exits, dies-after:5, slow-start:20."""

    kind: Literal["never-healthy", "exits", "dies-after", "slow-start"]
    after_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Return the fault that ``text`` asks for.

        Raises:
            Unusable: ``bad-fault``.
        """
        kind, separator, amount = text.partition(":")
        try:
            after_s = float(amount) if separator else 0.0
        except ValueError:
            kind = ""
            after_s = 0.0
        match kind, bool(separator):
            case ("never-healthy" | "exits") as plain, False:
                return cls(plain)
            case ("dies-after" | "slow-start") as timed, True:
                return cls(timed, after_s)
            case _:
                message = f'"{text}" is no fault: never-healthy, exits, dies-after:SECONDS or slow-start:SECONDS'
                raise Unusable(message, reason="bad-fault")


def labels_of(service: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of a service of a resolved model."""
    return service.get("labels") or cast("dict[str, str]", {})


def script_of(service: Mapping[str, Any], fault: Fault | None) -> Script:
    """Return how a container of ``service``, as the resolved model has it, goes."""
    policy, _, tries = str(service.get("restart") or "no").partition(":")
    healthy_s, unhealthy_s = _health_times(service.get("healthcheck") or {})
    ends_s, exit_code = _end(service, policy, healthy_s)
    script = Script(
        healthy_s=healthy_s,
        ends_s=ends_s,
        exit_code=exit_code,
        restarts=policy != "no",
        only_failed=policy == "on-failure",
        tries=int(tries) if tries.isdigit() else None,
    )
    return _faulty(script, fault, unhealthy_s)


def _health_times(check: Mapping[str, Any]) -> tuple[float | None, float]:
    """Return when the first check passes, and when enough of them would have failed."""
    interval_s = seconds(str(check.get("interval", ""))) or _INTERVAL_S
    period_s = seconds(str(check.get("start_period", ""))) or 0.0
    retries = int(check.get("retries") or _RETRIES)
    test = list(check.get("test") or ["NONE"])
    if check.get("disable") or test[0] == "NONE":
        return None, _RETRIES * _NO_CHECK_INTERVAL_S
    failing = _BAD_COMMAND.search(" ".join(test[1:])) is not None
    return float("inf") if failing else interval_s, period_s + retries * interval_s


def _end(service: Mapping[str, Any], policy: str, healthy_s: float | None) -> tuple[float | None, int]:
    command = " ".join([*(service.get("entrypoint") or []), *(service.get("command") or [])])
    bad = _BAD_COMMAND.search(command)
    if bad:
        return EXITS_S, int(bad[1] or 1)
    once = policy in {"no", "on-failure"} and healthy_s is None and not service.get("ports")
    return (ONCE_S, 0) if once else (None, 0)


def _faulty(script: Script, fault: Fault | None, unhealthy_s: float) -> Script:
    healthy_s, start_s, ends_s, exit_code = script.healthy_s, script.start_s, script.ends_s, script.exit_code
    match fault:
        case Fault(kind="never-healthy"):
            healthy_s = float("inf")
        case Fault(kind="exits"):
            ends_s, exit_code = EXITS_S, 1
        case Fault(kind="dies-after"):
            ends_s, exit_code = fault.after_s, 1
        case Fault(kind="slow-start") if healthy_s is None:
            start_s = fault.after_s
        case Fault(kind="slow-start"):
            healthy_s = fault.after_s
        case _:
            pass
    return Script(
        start_s=start_s,
        healthy_s=healthy_s,
        unhealthy_s=unhealthy_s if healthy_s is not None else None,
        ends_s=ends_s,
        exit_code=exit_code,
        restarts=script.restarts,
        only_failed=script.only_failed,
        tries=script.tries,
    )


class State(StrEnum):
    """What Docker says of a container."""

    CREATED = "created"
    RUNNING = "running"
    RESTARTING = "restarting"
    EXITED = "exited"


class Life:
    """One container. ``advance`` it to the present before it is asked anything."""

    def __init__(self, identity: str, service: str, model: Mapping[str, Any], script: Script, now_s: float) -> None:
        self.id = identity
        self.service = service
        self.model = model
        self.script = script
        self.foreign = False
        self.traits = {IMAGE: f"sim:{model.get('image', '')}", RESTART: str(model.get("restart") or "no")}
        self._started_s: float | None = None
        """When it ran last; told of one that has ended, too."""
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self.state = State.CREATED
        self.exit_code = 0
        self.restarts = 0
        self._pause_s = PAUSE_FIRST_S
        self._since_s = now_s
        """When the present state began."""
        self._until_s: float | None = now_s + self.script.start_s
        """When it ends by itself."""

    def start_again(self, now_s: float) -> None:
        """Start a container that ended, as ``docker start`` does."""
        self._begin(now_s)

    def halt(self, now_s: float, exit_code: int) -> None:
        """Let it end now and stay so until it is started again: somebody stopped it, or the power went."""
        self.advance(now_s)
        self.state, self.exit_code = State.EXITED, exit_code
        self._since_s, self._until_s = now_s, None

    @property
    def inputs(self) -> str:
        """The digest of everything that the service reads."""
        return str(labels_of(self.model).get(INPUTS_LABEL, ""))

    def advance(self, now_s: float) -> None:
        """Let happen what happens until ``now_s``."""
        while self._until_s is not None and self._until_s <= now_s:
            at_s = self._until_s
            if self.state is State.RUNNING:
                self._end(at_s)
            else:
                self.restarts += self.state is State.RESTARTING
                self.state, self._since_s, self._started_s = State.RUNNING, at_s, at_s
                self._until_s = None if self.script.ends_s is None else at_s + self.script.ends_s

    def _end(self, at_s: float) -> None:
        script = self.script
        self.exit_code = script.exit_code
        if at_s - self._since_s >= FORGIVEN_AFTER_S:
            self._pause_s = PAUSE_FIRST_S
        again = script.restarts and not (script.only_failed and script.exit_code == 0)
        if again and (script.tries is None or self.restarts < script.tries):
            self.state, self._until_s = State.RESTARTING, at_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_LAST_S)
        else:
            self.state, self._until_s = State.EXITED, None
        self._since_s = at_s

    def next_change_s(self, now_s: float) -> float | None:
        """Return when something about it changes next by itself."""
        times = [] if self._until_s is None else [self._until_s]
        if self.state is State.RUNNING:
            turns = (self.script.healthy_s, self.script.unhealthy_s)
            times += [self._since_s + turn for turn in turns if turn is not None and turn != float("inf")]
        return min((time for time in times if time > now_s), default=None)

    def health(self, now_s: float) -> Literal["healthy", "unhealthy", "starting"] | None:
        """Return what its health check came to."""
        healthy_s, unhealthy_s = self.script.healthy_s, self.script.unhealthy_s
        if self.state is not State.RUNNING or healthy_s is None or unhealthy_s is None:
            return None
        age_s = now_s - self._since_s
        if age_s >= healthy_s:
            return "healthy"
        return "unhealthy" if healthy_s == float("inf") and age_s >= unhealthy_s else "starting"

    def seen(self, now_s: float, began: datetime | None = None) -> Container:
        """Return it as the engine tells it; ``began``: what the time was when the clock began, where anybody knew."""
        has_ended = self.state in {State.EXITED, State.RESTARTING}
        return Container(
            id=self.id,
            service=self.service,
            state=self.state.value,
            health=self.health(now_s),
            exit_code=0 if self.state is State.RUNNING else self.exit_code,
            restarts=self.restarts,
            started_at=_instant(self._started_s, began),
            finished_at=_instant(self._since_s if has_ended else None, began),
            inputs=self.inputs,
            image_id=self.traits[IMAGE],
            image=str(self.model.get("image", "")),
            name=self.id,
            traits=dict(self.traits),
            foreign=self.foreign,
        )


def _instant(at_s: float | None, began: datetime | None) -> str:
    if at_s is None:
        return ""
    return f"{at_s:.6f}" if began is None else (began + timedelta(seconds=at_s)).isoformat()
