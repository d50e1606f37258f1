"""What becomes of files that somebody else wrote, too. Pure: text in, text out.

Nothing that is there is overwritten: what the operator, or Debian, has said stays as it is.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

MEMORY_CGROUP: Final = ("cgroup_enable=memory", "cgroup_memory=1")
"""Raspberry Pi OS boots with the memory cgroup off: its firmware says cgroup_disable=memory; the later word counts."""


class Unreadable(ValueError):
    """What is there can't be understood, and so can't be added to."""


def told(os_release: str) -> dict[str, str]:
    """Return what ``/etc/os-release`` says of the system: lines for a shell, with its quotes or without."""
    pairs = (line.split("=", 1) for line in os_release.splitlines() if re.match(r"[A-Z_]+=", line))
    return {name: value.strip().strip("\"'") for name, value in pairs}


def with_memory_cgroup(command_line: str) -> str:
    """Return the kernel's command line with the memory cgroup on: one line, each word once, nothing taken away.

    Raises:
        Unreadable: it is not one line; the firmware reads the first one only.
    """
    lines = [line for line in command_line.splitlines() if line.strip()]
    if len(lines) != 1:
        raise Unreadable(f"it has {len(lines)} lines where the firmware wants one")
    words = lines[0].split()
    missing = [word for word in MEMORY_CGROUP if word not in words]
    return command_line if not missing else " ".join([lines[0].strip(), *missing]) + "\n"


def with_log_limits(present: str | None, wanted: str) -> tuple[str, tuple[str, ...]]:
    """Return Docker's ``daemon.json`` with what ``wanted`` says, and what somebody has said otherwise, which stays.

    Options of a log driver make sense to that driver alone, so that they are left out where another one is chosen.

    Raises:
        Unreadable: what is there is no JSON object.
    """
    try:
        found = cast("Json", json.loads(present)) if present and present.strip() else {}
    except json.JSONDecodeError as error:
        raise Unreadable(f"line {error.lineno} is no JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise Unreadable("it is no JSON object")
    ours = cast("dict[str, Json]", json.loads(wanted))
    if found.get("log-driver", ours["log-driver"]) != ours["log-driver"]:
        ours = {name: value for name, value in ours.items() if name != "log-opts"}
    merged, kept = _merged(found, ours, "")
    unchanged = present is not None and merged == found
    return present if unchanged and present else json.dumps(merged, indent=2) + "\n", kept


def _merged(found: dict[str, Json], ours: dict[str, Json], within: str) -> tuple[dict[str, Json], tuple[str, ...]]:
    merged, kept = dict(found), list[str]()
    for name, value in ours.items():
        there = found.get(name)
        if name not in found:
            merged[name] = value
        elif isinstance(value, dict) and isinstance(there, dict):
            merged[name], below = _merged(there, value, f"{within}{name}.")
            kept += below
        elif there != value:
            kept.append(f"{within}{name} = {json.dumps(there)}")
    return merged, tuple(kept)


def filled_in(template: str, values: dict[str, str | int | list[str] | None]) -> str:
    """Return ``agent.toml`` made from the commented one: ``values`` by ``key`` or ``table.key``; ``None``: no setting.

    A line that is commented out is taken for its key, too; the comment behind a value stays.

    Raises:
        KeyError: the template has no such line.
    """
    rest, table, lines = dict(values), "", list[str]()
    for line in template.splitlines():
        if header := re.match(r"#? ?\[(\w+)\]", line):
            table = f"{header[1]}."
        elif (pair := re.match(r"(?:# )?(\w+) = (?:\"[^\"]*\"|\[[^\]]*\]|\S+)(.*)", line)) and table + pair[1] in rest:
            value = rest.pop(table + pair[1])
            lines.append(f"# {line.removeprefix('# ')}" if value is None else f"{pair[1]} = {_toml(value)}{pair[2]}")
            continue
        lines.append(line)
    if rest:
        raise KeyError(next(iter(rest)))
    return "\n".join(lines) + "\n"


def _toml(value: str | int | list[str]) -> str:
    # JSON's strings, numbers and lists of strings are TOML's, too.
    return json.dumps(value, ensure_ascii=False)


def shipper_environment(*, fleet: str, device: str, role: str, loki: str, user: str, password: str) -> str:
    """Return what both log shippers read from their environment.

    Raises:
        Unreadable: ``loki`` is no address with http or https, or a value can't stand in such a file.
    """
    url = urlsplit(loki)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise Unreadable(f"{loki} is no http or https address")
    values = {
        "METRICA_FLEET": fleet,
        "METRICA_DEVICE": device,
        "METRICA_ROLE": role,
        "LOKI_URL": f"{url.scheme}://{url.netloc}{url.path.rstrip('/') or '/loki/api/v1/push'}",
        "LOKI_HOST": url.hostname,
        "LOKI_PORT": str(url.port or (443 if url.scheme == "https" else 80)),
        "LOKI_URI": url.path.rstrip("/") or "/loki/api/v1/push",
        "LOKI_TLS": "on" if url.scheme == "https" else "off",
        "LOKI_USER": user,
        "LOKI_PASSWORD": password,
        # Alloy's own unit reads where its configuration is from its environment.
        "CONFIG_FILE": "/etc/metrica/alloy/config.alloy",
    }
    for name, value in values.items():
        if re.search(r"[\n\r\"\\$`]", value):
            raise Unreadable(f"{name} holds a line break, a quote, a backslash, a dollar or a backtick")
    lines = "".join(f'{name}="{value}"\n' for name, value in values.items())
    return f"# Read by the log shipper's unit. Made by scripts/install-agent; yours to change.\n{lines}"
