"""docs/reference/configuration.md: every key of agent.toml and hub.toml, from the types that read them."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

import msgspec
from scripts.generators.repository import keys

import metrica_agent.settings
import metrica_hub.settings
from metrica_fleet.configuration import sections_of, variable

_HEAD: Final = """\
# Configuration

Made from `Settings` in src/metrica_agent/settings.py and src/metrica_hub/settings.py by `scripts/reference`; do not
edit.

| file | for | read by |
| --- | --- | --- |
| `/etc/metrica/agent.toml` | one device | `metrica-agent`; another one with `--config FILE` |
| `/etc/metrica/hub.toml` | the hub | `metrica-hub`; another one with `--config FILE` |
| `fleet.toml`, `devices/*.toml`, `roles/*/role.toml` | the fleet, in Git | devices, the hub, `metrica lint`: [the fleet repository](fleet-repository.md) |
| `config.toml`, `credentials.toml` | an operator | `metrica`, written by `metrica login`: [the command line](cli.md) |

Files are TOML in UTF-8. An unknown key is an error that names file, line, and the key that was perhaps meant.
`metrica-agent check` and `metrica-hub check` say in words what is wrong with the installation; the hub's prints what is
in force, and where each value came from. A change counts from the next start.

**From the environment.** Each key may also come from a variable, which prevails, or from the file that the variable
with `_FILE` at its end names, which is how secrets should come:

| key | variable | file |
| --- | --- | --- |
"""  # noqa: E501 - a row of a table is one line
_SAMPLES: Final = (
    ("agent.toml", "METRICA_AGENT_", ("device",)),
    ("agent.toml", "METRICA_AGENT_", ("git", "poll_s")),
    ("hub.toml", "METRICA_HUB_", ("database", "url")),
)
_FILES: Final[tuple[tuple[str, type[msgspec.Struct], str], ...]] = (
    ("agent.toml", metrica_agent.settings.Settings, "A commented example is stack/device/agent.toml."),
    ("hub.toml", metrica_hub.settings.Settings, "A commented example is stack/vps/hub.toml."),
)


def configuration() -> str:
    """Return the page."""
    samples = [
        f"| {_place(place)} of {file} | `{variable(prefix, place)}` | `{variable(prefix, place)}_FILE` |"
        for file, prefix, place in _SAMPLES
    ]
    return "\n".join([_HEAD + "\n".join(samples), "", *(_file(*one) for one in _FILES)])


def _place(place: tuple[str, ...]) -> str:
    return f"`{place[0]}`" if len(place) == 1 else f"`[{place[0]}] {place[1]}`"


def _file(name: str, kind: type[msgspec.Struct], note: str) -> str:
    parts = sections_of(kind)
    optional = {field.name for field in msgspec.structs.fields(kind) if not field.required}
    blocks = [f"## {name}\n\n{note} Keys above the first section:\n\n{keys(kind, but=tuple(parts))}\n"]
    for section, part in parts.items():
        must = "" if section in optional else " Required."
        blocks.append(f"### [{section}] of {name}\n\n{_about(part)}{must}\n\n{keys(part)}\n")
    return "\n".join(blocks)


def _about(part: type[Any]) -> str:
    """Return the docstring without the name of the section that it may begin with."""
    text = " ".join(inspect.cleandoc(part.__doc__ or "").split()).replace("``", "`")
    text = re.sub(r"^`\[\w+\]`: ", "", text)
    return text[:1].upper() + text[1:]
