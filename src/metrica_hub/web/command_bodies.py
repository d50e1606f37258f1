"""What a request for a command may be: a type for each verb, made from the verb's own: the document has them all."""

from __future__ import annotations

from typing import Annotated, Any, Final, Protocol, Union, get_type_hints

import msgspec

from metrica_fleet.commands import QUEUED_MOST_S, VERBS, Task, Timeout
from metrica_fleet.records import Scalar

QUEUE_S: Final = 300.0
"""How long a command waits for its device when nobody says."""

_Timeout = Annotated[Timeout | None, msgspec.Meta(description="null: as the verb has it")]
_Queue = Annotated[
    float, msgspec.Meta(ge=0, le=QUEUED_MOST_S, description="how long it may wait for its device; 0: not at all")
]


class NewCommand(Protocol):
    """A command that is given."""

    @property
    def arguments(self) -> msgspec.Struct:
        """The arguments of its verb."""
        ...

    @property
    def timeout_s(self) -> float | None:
        """How long it may take."""
        ...

    @property
    def queue_s(self) -> float:
        """How long it may wait."""
        ...


def verb_of(new: NewCommand) -> str:
    """Return what is to be done."""
    return str(getattr(new, "__struct_config__").tag)  # noqa: B009 - of every Struct, and of no Protocol


def given_arguments(new: NewCommand) -> dict[str, Scalar]:
    """Return with what."""
    return msgspec.structs.asdict(new.arguments)


def _kind(name: str, task: type[Task]) -> type[msgspec.Struct]:
    hints = get_type_hints(task, include_extras=True)
    fields = msgspec.structs.fields(task)
    taken: list[Any] = [
        (one.name, hints[one.name]) if one.required else (one.name, hints[one.name], one.default) for one in fields
    ]
    arguments = msgspec.defstruct(
        f"{task.__name__}Arguments", taken, frozen=True, kw_only=True, forbid_unknown_fields=True
    )
    may_be_left_out = not any(one.required for one in fields)
    given: list[Any] = [("arguments", arguments, arguments()) if may_be_left_out else ("arguments", arguments)]
    return msgspec.defstruct(
        f"New{task.__name__}",
        [*given, ("timeout_s", _Timeout, None), ("queue_s", _Queue, QUEUE_S)],
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        tag_field="verb",
        tag=name,
        namespace={"__doc__": VERBS[name].about},
    )


NEW_COMMAND: Final[Any] = Union[tuple(_kind(name, verb.task) for name, verb in VERBS.items())]  # noqa: UP007 - of a table
"""The type of the body."""
