"""Small edits of a Compose file as a person would make them: by lines, comments and order kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from metrica_sim.demo.trouble import Trouble
from metrica_sim.yamlfile import parsed

RELEASE_VARIABLE: Final = "DEMO_RELEASE"
BAD_CHECK: Final = (
    "healthcheck:",
    '  test: ["CMD", "false"]',
    "  interval: 1s",
    "  timeout: 1s",
    "  retries: 2",
    "  start_period: 0s",
)


def released(text: str, number: int) -> str:
    """Return the file as release ``number``: one variable of one service is another."""
    return with_entry(text, main_service(text), "environment", RELEASE_VARIABLE, str(number))


def broken(text: str) -> str:
    """Return the file with a service that never becomes healthy, simulated or real."""
    service = main_service(text)
    return with_block(with_entry(text, service, "labels", "fleet.metrica.sim", "never-healthy"), service, BAD_CHECK)


def main_service(text: str) -> str:
    """Return the first service that is meant to stay."""
    services = services_of(text)
    staying = [
        name for name, body in services.items() if str(body.get("restart", "no")) in {"always", "unless-stopped"}
    ]
    if not services:
        raise Trouble("a compose.yaml of the example fleet has no services")
    return (staying or list(services))[0]


def services_of(text: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the services of a Compose file, as they are written."""
    return cast("Mapping[str, Any]", parsed(text) or {}).get("services") or {}


def with_block(text: str, service: str, block: Sequence[str]) -> str:
    """Return ``text`` with the key that ``block`` begins with replaced, or added, in ``service``."""
    lines = text.splitlines()
    start, end, indent = _service(lines, service)
    at, beyond = _key(lines, start, end, indent, block[0].partition(":")[0])
    lines[at:beyond] = [" " * indent + line for line in block]
    return "\n".join(lines) + "\n"


def with_entry(text: str, service: str, key: str, name: str, value: str) -> str:
    """Return ``text`` with ``name`` set to ``value`` in the mapping or list ``key`` of ``service``."""
    lines = text.splitlines()
    start, end, indent = _service(lines, service)
    at, beyond = _key(lines, start, end, indent, key)
    if at == beyond:
        lines[at:at] = [" " * indent + f"{key}:", " " * (indent + 2) + f'{name}: "{value}"']
        return "\n".join(lines) + "\n"
    if lines[at].partition("#")[0].rstrip() != " " * indent + f"{key}:":
        raise Trouble(f'service "{service}": write its {key} one a line, so that the demo can change one')
    body = lines[at + 1 : beyond]
    listed = any(line.lstrip().startswith("- ") for line in body)
    inner = next((len(line) - len(line.lstrip()) for line in body if line.strip()), indent + 2)
    entry = " " * inner + (f"- {name}={value}" if listed else f'{name}: "{value}"')
    known = re.compile(rf"^\s*(?:- )?[\"']?{re.escape(name)}[\"']?\s*[:=]")
    lines[at + 1 : beyond] = [*(line for line in body if not known.match(line)), entry]
    return "\n".join(lines) + "\n"


def _service(lines: Sequence[str], service: str) -> tuple[int, int, int]:
    """Return the first line in the service, the line after its last, and the indent of its keys."""
    top = next((at for at, line in enumerate(lines) if re.match(r"services:\s*(#.*)?$", line)), None)
    if top is not None:
        for at in range(top + 1, len(lines)):
            found = re.match(rf"^(\s+)[\"']?{re.escape(service)}[\"']?:\s*(#.*)?$", lines[at])
            if found:
                end = _end(lines, at + 1, len(found[1]))
                indents = (len(line) - len(line.lstrip()) for line in lines[at + 1 : end] if _says(line))
                return at + 1, end, min(indents, default=len(found[1]) + 2)
    raise Trouble(f'service "{service}" is not written one key a line, so that the demo can\'t change it')


def _key(lines: Sequence[str], start: int, end: int, indent: int, key: str) -> tuple[int, int]:
    """Return where ``key`` stands in a service and where it ends; the service's end twice when it does not stand."""
    for at in range(start, end):
        if re.match(rf"^ {{{indent}}}{key}:", lines[at]):
            return at, min(_end(lines, at + 1, indent), end)
    return end, end


def _end(lines: Sequence[str], start: int, indent: int) -> int:
    """Return the line after the last one that is indented deeper than ``indent``."""
    last = start
    for at in range(start, len(lines)):
        if not _says(lines[at]):
            continue
        if len(lines[at]) - len(lines[at].lstrip()) <= indent:
            break
        last = at + 1
    return last


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
