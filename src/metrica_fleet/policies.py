"""What operators may set: health, limits, when a release may begin, the role's checks, and the stages of a rollout."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from metrica_fleet.identity import DeviceName, Name

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Failures = Annotated[int, msgspec.Meta(ge=0, le=100)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Address = Annotated[
    str,
    msgspec.Meta(pattern=r"^https?://\S+$(?!\n)", description='an address like "http://127.0.0.1:8080/healthz"'),
]
Host = Annotated[str, msgspec.Meta(pattern=r"^\S+$(?!\n)", max_length=253, description='a host like "127.0.0.1"')]
Service = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9._-]+$(?!\n)",
        max_length=128,
        description="the name of a service of compose.yaml",
    ),
]

Patience = Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)]
Window = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$(?!\n)",
        description='a time of day like "22:00-04:30"',
    ),
]
Zone = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$(?!\n)",
        max_length=64,
        description='a time zone of the IANA database like "Europe/Berlin"',
    ),
]


class Day(StrEnum):
    """A day of the week, Monday first."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


Weekday = Annotated[Day, msgspec.Meta(description="one of " + ", ".join(f'"{day}"' for day in Day))]


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a release has to come up, and how long it must then stay well."""

    start_deadline_s: Seconds = 120.0
    """From applied to everything running and healthy."""
    soak_s: Seconds = 60.0
    """From then on: nothing may die, restart or turn unhealthy."""
    restarts_allowed: Failures = 0
    """Restarts of one container that the soak forgives."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds that a release must keep."""

    pull_deadline_s: Seconds = 600.0
    """From the first try to the last image being here; past it the commit is refused."""
    apply_deadline_s: Seconds = 180.0
    """For one run of Compose."""
    release_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**40)] = 256 * 1024 * 1024
    """All files of the role's folder together."""
    release_files: Annotated[int, msgspec.Meta(gt=0, le=10**6)] = 10_000
    """Files in the role's folder."""


Priority = Literal["low", "normal", "high"]


class UpdatePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a release of the role may replace the one that runs. Downloads and checks ahead of it happen any time."""

    windows: Annotated[tuple[Window, ...], msgspec.Meta(max_length=16)] = ()
    """Times of day, ``"22:00-04:30"`` (over midnight is fine); none: any time."""
    days: Annotated[tuple[Weekday, ...], msgspec.Meta(max_length=7)] = ()
    """Days on which a window may begin, ``"mon"`` to ``"sun"``; none: every day."""
    zone: Zone = "UTC"
    """Time zone of the windows, by its IANA name: ``"Europe/Berlin"``."""
    patience_s: Patience = 7 * 86_400.0
    """How long a release that is ready waits in all; then it begins, window or not."""


class ServicePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a role wants for one service of its Compose file."""

    lock_patience_s: Patience = 3600.0
    """How long the service's lock (``${METRICA_LOCKS}/<service>/lock``) puts its restart off; then it is restarted."""
    priority: Priority = "normal"
    """Who rests on a machine that is too hot or lacks memory: `low` first, then `normal`, `high` never."""


class HttpCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="http"):
    """Well when a GET of ``url`` from the device answers ``status``."""

    name: Name
    """What events call it; one of a kind within the role."""
    url: Address
    """What to get. ``127.0.0.1`` is the device, so the port must be published."""
    status: Annotated[int, msgspec.Meta(ge=100, le=599)] = 200
    """The HTTP status that means well."""
    timeout_s: Seconds = 5.0
    """Without an answer by then it has failed."""
    failures_allowed: Failures = 2
    """Failures in a row that the soak forgives."""


class TcpCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tcp"):
    """Well when a connection to ``host:port`` from the device is accepted."""

    name: Name
    """What events call it; one of a kind within the role."""
    host: Host = "127.0.0.1"
    """Where to connect to; by default the device itself."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    """A port there. Docker itself accepts on one that Compose publishes, whoever listens inside: ask it by ``http``."""
    timeout_s: Seconds = 5.0
    """Without a connection by then it has failed."""
    failures_allowed: Failures = 2
    """Failures in a row that the soak forgives."""


class CommandCheck(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="command"
):
    """Well when ``command`` ends with 0 inside a running container of ``service``."""

    name: Name
    """What events call it; one of a kind within the role."""
    service: Service
    """In a container of which service of ``compose.yaml`` to run it."""
    command: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=256)]
    """Program and arguments; no shell reads it unless it is one: ``["sh", "-c", "..."]``."""
    timeout_s: Seconds = 5.0
    """Without an end by then it has failed."""
    failures_allowed: Failures = 2
    """Failures in a row that the soak forgives."""


class RolloutStage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of a rollout: the devices that it names, or a share of those that no stage names."""

    name: Name
    """What events and pages call it; one of a kind."""
    devices: Annotated[tuple[DeviceName, ...], msgspec.Meta(max_length=256)] = ()
    """Devices that it names. A device belongs to the first stage that names it."""
    tags: Annotated[tuple[Name, ...], msgspec.Meta(max_length=32)] = ()
    """It names every device that has one of these."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """So much of the devices that no stage names, those of earlier shares included, rounded up: `0.1` of 5 is one."""
    soak_s: Patience = 600.0
    """How long it must stay well, counted from the last confirmation that it needed."""
    pause: bool = False
    """After it a person must say `metrica rollout resume` before the next one opens."""


class RolloutPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a commit goes through the fleet, stage by stage."""

    failure_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    """How much of a stage's devices that have started may fail, rounded down; one more, and the rollout halts."""
    minimum_healthy: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 1
    """Confirmed devices that a stage needs to pass; no more than there are that could be reached."""
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 86_400)] = 1800.0
    """A device that has started and says nothing more for so long has failed."""
    waiting_s: Patience = 86_400.0
    """After so long a stage passes without devices that wait: offline, in safe mode, out of their window."""
    hub_silent: Literal["hold", "go-on"] = "hold"
    """What devices do while the hub says nothing: wait for it, or open the stages by their own clocks."""
    hub_silent_s: Annotated[float, msgspec.Meta(ge=900, le=30 * 86_400)] = 21_600.0
    """From when on it says nothing."""
    abort: Literal["keep", "revert"] = "keep"
    """What devices that run the commit do when it is aborted: keep it, or go back. Who aborts may say otherwise."""
    prefetch_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 300.0
    """Over so long the devices spread the downloads that they do ahead, so that no registry is overrun."""
    stages: Annotated[tuple[RolloutStage, ...], msgspec.Meta(min_length=1, max_length=16)]
    """In this order."""


Check = HttpCheck | TcpCheck | CommandCheck

CHECKS: Final[dict[str, type[Check]]] = {
    "http": HttpCheck,
    "tcp": TcpCheck,
    "command": CommandCheck,
}
