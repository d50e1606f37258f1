"""Commands: what a device may be told to do, one at a time. No shell, no path: what is not in ``VERBS`` does not exist.

The hub signs each with its own key (namespace ``metrica-command``), for one device, under a number that is never given
twice, and until a time. So nobody on the way makes one, turns one to another device, or brings an old one again.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import Commit, DeviceName, Name, Slug
from metrica_fleet.records import Instant, Scalar, Seq

SHORTEST_S: Final = 1.0
LONGEST_S: Final = 3600.0
"""That a command may take."""
QUEUED_MOST_S: Final = 30 * 24 * 3600.0
"""That a command may wait for its device."""
LINES_MOST: Final = 10_000
"""Of a log, in one answer."""
ANSWER_BYTES: Final = 1024 * 1024
"""That all parts of an answer may come to."""
PART_BYTES: Final = 32 * 1024
"""Of a part's lines or data, before they are JSON: what the bus carries has room for it."""

Role = Literal["viewer", "operator", "admin"]
Timeout = Annotated[float, msgspec.Meta(ge=SHORTEST_S, le=LONGEST_S)]
Service = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9._-]*$(?!\n)", max_length=128, description="a service of the role"),
]
Why = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)", max_length=500, description="said with what comes of it, to all who look"
    ),
]
On = Annotated[bool, msgspec.Meta(description="into it, or out of it")]


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="verb"):
    """What is to be done. An argument that is not known is refused: it may have meant less than all."""


class Redeploy(Task, frozen=True, kw_only=True, tag="redeploy"):
    """Make the containers of the confirmed release anew."""


class Restart(Task, frozen=True, kw_only=True, tag="restart"):
    """Restart the containers of one service."""

    service: Service


class Sync(Task, frozen=True, kw_only=True, tag="sync"):
    """Ask the Git remotes now."""


class Logs(Task, frozen=True, kw_only=True, tag="logs"):
    """Tell what a service wrote."""

    service: Annotated[
        Service | None,
        msgspec.Meta(description="a service of the role; null: the only one, where there is no other"),
    ] = None
    tail: Annotated[int, msgspec.Meta(ge=0, le=LINES_MOST, description="so many of the last lines")] = 100
    since_s: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=QUEUED_MOST_S)] | None,
        msgspec.Meta(description="nothing older than this; null: whatever its age"),
    ] = None
    follow: Annotated[bool, msgspec.Meta(description="and what it writes from now on, until the time is over")] = False
    timestamps: Annotated[bool, msgspec.Meta(description="with the engine's time before each line")] = False


class Reboot(Task, frozen=True, kw_only=True, tag="reboot"):
    """Start the machine anew."""


class SafeMode(Task, frozen=True, kw_only=True, tag="safe-mode"):
    """Run the stack that always works and nothing else, or go back to the confirmed release."""

    on: On
    reason: Why


class Hold(Task, frozen=True, kw_only=True, tag="hold"):
    """Let nothing change, or let changes go on."""

    on: On
    reason: Why


class AcceptHistory(Task, frozen=True, kw_only=True, tag="accept-history"):
    """Let a commit follow whatever was accepted before, though its history does not."""

    commit: Annotated[Commit, msgspec.Meta(description="all 40 digits")]
    reason: Why


class Explain(Task, frozen=True, kw_only=True, tag="explain"):
    """Tell the last decisions with the facts that they saw, each a line of JSON."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200, description="so many of the last")] = 20


class Collect(Task, frozen=True, kw_only=True, tag="collect"):
    """Tell all that may help to find a fault: ledger, vitals, containers, last logs, redacted; a tar.gz."""


class Cancel(Task, frozen=True, kw_only=True, tag="cancel"):
    """End another command of this device that runs, a log that is followed before all."""

    command: Annotated[int, msgspec.Meta(ge=1, lt=2**53, description="its number")]


AnyTask = Redeploy | Restart | Sync | Logs | Reboot | SafeMode | Hold | AcceptHistory | Explain | Collect | Cancel


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a kind of command."""

    task: type[Task]
    role: Role
    """Who may give it: this role and those above."""
    timeout_s: float
    """How long it may take when nobody says."""
    changes: bool = False
    """Whether it changes the device: such go one after the other, and none while a stop is in force."""

    @property
    def name(self) -> str:
        """How it is called."""
        return str(self.task.__struct_config__.tag)

    @property
    def about(self) -> str:
        """What it does, in a sentence."""
        return (self.task.__doc__ or "").strip()


VERBS: Final = {
    verb.name: verb
    for verb in (
        Verb(task=Redeploy, role="operator", timeout_s=900, changes=True),
        Verb(task=Restart, role="operator", timeout_s=180, changes=True),
        Verb(task=Sync, role="operator", timeout_s=180),
        Verb(task=Logs, role="operator", timeout_s=60),
        Verb(task=Reboot, role="operator", timeout_s=900, changes=True),
        Verb(task=SafeMode, role="operator", timeout_s=60, changes=True),
        Verb(task=Hold, role="operator", timeout_s=60, changes=True),
        Verb(task=AcceptHistory, role="admin", timeout_s=60, changes=True),
        Verb(task=Explain, role="operator", timeout_s=30),
        Verb(task=Collect, role="operator", timeout_s=120),
        Verb(task=Cancel, role="operator", timeout_s=30),
    )
}
"""Every command there is; docs/reference/commands.md is made from it."""
FOLLOWED_S: Final = 600.0
"""How long a log is followed when nobody says."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command as it travels; signed."""

    fleet: Name
    """The fleet's name."""
    device: DeviceName
    """Whom it is for."""
    number: Seq
    """Larger than those of all commands before."""
    issued_at: Instant
    """By the hub's clock: the time for which its key must be good."""
    expires_at: Instant
    """Not taken any more by a device whose clock is behind this."""
    verb: Slug
    """What to do: docs/reference/commands.md."""
    arguments: Annotated[dict[str, Scalar], msgspec.Meta(max_length=16)] = {}
    """Of the verb."""
    timeout_s: Timeout
    """How long the device may take, from when it has it."""


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Command)


def written(command: Command) -> str:
    """Return the text to be signed; inverse of ``understood``."""
    return _ENCODER.encode(command).decode()


def understood(text: bytes | str) -> Command:
    """Return the command that a text says, once its signature was found good; what it asks for is not looked into.

    Raises:
        Unusable: ``bad-command``.
    """
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Unusable(f"this is no command: {error}", reason="bad-command") from error


def task_of(verb: str, arguments: dict[str, Scalar]) -> AnyTask:
    """Return what a command asks for.

    Raises:
        Unusable: ``unknown-verb`` or ``bad-arguments``, which names the argument.
    """
    if verb not in VERBS:
        raise Unusable(f'"{verb[:80]}" is no command; known are {", ".join(VERBS)}', reason="unknown-verb")
    if "verb" in arguments:
        raise Unusable(f'{verb}: "verb" is no argument', reason="bad-arguments")
    try:
        return msgspec.convert({**arguments, "verb": verb}, AnyTask)
    except msgspec.ValidationError as error:
        raise Unusable(f"{verb}: {error}", reason="bad-arguments") from error


def arguments_of(task: Task) -> dict[str, Scalar]:
    """Return the arguments of ``task``; inverse of ``task_of``."""
    fields: dict[str, Scalar] = msgspec.to_builtins(task)
    del fields["verb"]
    return fields


def timeout_of(task: AnyTask) -> float:
    """Return how long ``task`` may take when nobody says."""
    if isinstance(task, Logs) and task.follow:
        return FOLLOWED_S
    return VERBS[str(task.__struct_config__.tag)].timeout_s
