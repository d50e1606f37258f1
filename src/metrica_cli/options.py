"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from metrica_cli.contexts import Book, Target
from metrica_cli.hub import Hub
from metrica_cli.look import Color, Look, look_for
from metrica_cli.output import Format
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.identity import is_name

Output = Annotated[
    Format,
    Parameter(
        name=["--output", "-o"], help="wide has more columns, json is the hub's own JSON, jsonl one item a line."
    ),
]
NoHeaders = Annotated[
    bool, Parameter(name="--no-headers", negative=(), show_default=False, help="No line of headings.")
]
Yes = Annotated[bool, Parameter(name="--yes", negative=(), show_default=False, help="Do not ask.")]
Reason = Annotated[str, Parameter(name="--reason", help="Why; it is kept, and others read it.")]
Colored = Annotated[Color, Parameter(name="--color", help="Words and shapes say the same.")]
Watch = Annotated[
    bool, Parameter(name=["--watch", "-w"], negative=(), show_default=False, help="Go on, and show what changes.")
]
DeviceId = Annotated[str, Parameter(name="ID", help="As in devices/<id>.toml.")]
OfDevice = Annotated[str | None, Parameter(name="--device", help="Of this device only.")]
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def add(app: App, command: Callable[..., Exit], *examples: str, name: str | None = None) -> None:
    """Give ``app`` a command, whose help begins with examples of it."""
    shown = "\n".join(["For example:", "", *(f"  {example}" for example in examples)])
    app.command(command, name=name, help_prologue=shown, help_epilogue="")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class At:
    """Which hub, and how its answers look."""

    hub: Annotated[
        str | None, Parameter(name="--hub", env_var="METRICA_HUB_URL", help="The hub's address; else the context's.")
    ] = None
    context: Annotated[
        str | None, Parameter(name="--context", env_var="METRICA_CONTEXT", help="One of `metrica context`.")
    ] = None
    token_file: Annotated[
        Path | None, Parameter(name="--token-file", env_var="METRICA_TOKEN_FILE", help="Where the token is.")
    ] = None
    timeout: Annotated[str, Parameter(name="--timeout", help="How long to wait: 10, 500ms, 5m.")] = "10"
    color: Colored = "auto"

    def target(self) -> Target:
        """Return which hub is meant. Raises Trouble."""
        return Book().target(hub=self.hub, context=self.context, token_file=self.token_file)

    def there(self) -> Hub:
        """Return the hub, to be asked. Raises Trouble."""
        target = self.target()
        return Hub(target.url, self.timeout_s, target.token)

    @property
    def timeout_s(self) -> float:
        """Seconds to wait."""
        return seconds(self.timeout, "--timeout")

    @property
    def look(self) -> Look:
        """How output looks."""
        return look_for(self.color)


HERE: Final = At()


def seconds(text: str, option: str) -> float:
    """Return ``5m`` in seconds; a plain number is seconds.

    Raises:
        Trouble: it is no length of time.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise Trouble(f"{option} {text} is no time to wait", code=Exit.USAGE, advice=f"{option} 90, or 30s, 5m, 2h, 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def device_path(device: str) -> str:
    """Return the path of a device that an operator named. Raises Trouble."""
    if not is_name(device):
        raise Trouble(f'"{device}" is no name of a device', code=Exit.USAGE, advice="metrica devices")
    return f"/devices/{device}"


def selected(selector: list[str] | None) -> dict[str, str]:
    """Return ``-l role=camera,tag=north`` as the API's query.

    Raises:
        Trouble: it is no selector.
    """
    query: dict[str, str] = {}
    for part in ",".join(selector or ()).split(","):
        if not part.strip():
            continue
        key, separator, value = part.strip().partition("=")
        if not separator or key not in _SELECTABLE or not value:
            known = ", ".join(f"{one}=…" for one in _SELECTABLE)
            raise Trouble(f'-l "{part.strip()}" selects nothing', code=Exit.USAGE, why=f"known: {known}")
        if key in query:
            raise Trouble(f"-l {key}= is there twice", code=Exit.USAGE, why="a device has to fit all that is asked for")
        query[key] = value
    return query


_SELECTABLE: Final = ("role", "tag", "mode", "release", "offline", "q")
