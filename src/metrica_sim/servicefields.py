"""The fields of a Compose service that may be written in a short form, in their long one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from metrica_fleet.errors import Unusable


@dataclass(frozen=True, slots=True)
class Context:
    """What a file is resolved against."""

    folder: Path
    variables: Mapping[str, str]

    def absolute(self, path: str) -> str:
        """Return ``path`` as seen from the project's folder."""
        return os.path.normpath(self.folder / Path(path).expanduser())


def as_mapping(value: object, where: str) -> dict[str, Any]:
    """Return ``value``, which must be a mapping or nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(f"{where} must be a mapping")
    return {str(key): item for key, item in cast("dict[Any, Any]", value).items()}


def _invalid(message: str) -> Unusable:
    return Unusable(message, reason="compose-invalid")


def _as_list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise _invalid(f"{where} must be a list")
    return cast("list[object]", value)


def _is_long(entry: object) -> bool:
    return isinstance(entry, dict)


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# --- words and mappings ---------------------------------------------------------------------------------------


def _words(value: object, where: str, _: Context) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise _invalid(f"{where}: invalid command line string: {error}") from error
    return [str(item) for item in _as_list(value, where)]


def _one_or_many(value: object, where: str, _: Context) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in _as_list(value, where)]


def _pairs(value: object, where: str, _: Context) -> dict[str, str | None]:
    if isinstance(value, list):
        items = [str(item).partition("=") for item in cast("list[object]", value)]
        return {key: text if separator else None for key, separator, text in items}
    return {key: _text(item) for key, item in as_mapping(value, where).items()}


def _labels(value: object, where: str, context: Context) -> dict[str, str]:
    return {key: text or "" for key, text in _pairs(value, where, context).items()}


def _env_files(value: object, where: str, context: Context) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for entry in [value] if isinstance(value, str) or _is_long(value) else _as_list(value, where):
        long = as_mapping(entry, where) if _is_long(entry) else {"path": str(entry)}
        path = Path(context.absolute(str(long["path"])))
        if path.is_file():
            found |= _env_lines(path.read_text(encoding="utf-8"))
        elif long.get("required", True):
            raise _invalid(f"env file {path} not found")
    return found


def _env_lines(text: str) -> dict[str, str | None]:
    lines = (line.strip().removeprefix("export ") for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): item.strip().strip("\"'") if separator else None for key, separator, item in pairs}


def _restart(value: object, where: str, _: Context) -> str:
    if not isinstance(value, str):
        raise _invalid(f"{where} must be a string")
    return value


# --- health, order, scale -------------------------------------------------------------------------------------

_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float | None:
    """Return how long a duration such as ``1m30s`` is, ``None`` when it is none."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _duration(value: object, where: str, _: Context) -> str:
    total_s = seconds(value) if isinstance(value, str) else None
    if total_s is None:
        raise _invalid(f"{where} must be a duration such as 10s")
    return _go_duration(total_s)


def _go_duration(total_s: float) -> str:
    if total_s < 1:
        return f"{total_s * 1000:g}ms" if total_s else "0s"
    hours, rest_s = divmod(total_s, 3600)
    minutes, rest_s = divmod(rest_s, 60)
    if hours:
        return f"{int(hours)}h{int(minutes)}m{rest_s:g}s"
    return f"{int(minutes)}m{rest_s:g}s" if minutes else f"{rest_s:g}s"


def _healthcheck(value: object, where: str, context: Context) -> dict[str, Any]:
    check = as_mapping(value, where)
    if "test" in check:
        test = check["test"]
        words = (
            ["CMD-SHELL", test] if isinstance(test, str) else [str(word) for word in _as_list(test, f"{where}.test")]
        )
        if not words or words[0] not in {"CMD", "CMD-SHELL", "NONE"}:
            raise _invalid('healthcheck.test must start either by "CMD", "CMD-SHELL" or "NONE"')
        check["test"] = words
    for key in ("interval", "timeout", "start_period", "start_interval"):
        if key in check:
            check[key] = _duration(check[key], f"{where}.{key}", context)
    if "retries" in check:
        check["retries"] = _count(check["retries"], f"{where}.retries")
    return check


def _count(value: object, where: str) -> int:
    try:
        return int(str(value))
    except ValueError as error:
        raise _invalid(f"{where} must be a number") from error


def _scale(value: object, where: str, _: Context) -> int:
    return _count(value, where)


def _deploy(value: object, where: str, context: Context) -> dict[str, Any]:
    deploy = as_mapping(value, where)
    if "replicas" in deploy:
        deploy["replicas"] = _count(deploy["replicas"], f"{where}.replicas")
    resources = {
        kind: _bounds(as_mapping(body, where), where, context)
        for kind, body in as_mapping(deploy.get("resources"), where).items()
    }
    deploy |= {"placement": deploy.get("placement", cast("dict[str, Any]", {})), "resources": resources}
    return deploy


def _bounds(bounds: dict[str, Any], where: str, context: Context) -> dict[str, Any]:
    if "memory" in bounds:
        bounds["memory"] = _byte_count(bounds["memory"], f"{where}.memory", context)
    if "cpus" in bounds:
        bounds["cpus"] = float(str(bounds["cpus"]))
    return bounds


_BYTES: Final = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?$", re.IGNORECASE)


def _byte_count(value: object, where: str, _: Context) -> str:
    found = _BYTES.match(str(value))
    if found is None:
        raise _invalid(f"{where}: invalid size: '{value}'")
    return str(int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " ")))


def _depends_on(value: object, where: str, _: Context) -> dict[str, Any]:
    if isinstance(value, list):
        return {str(name): {"condition": "service_started", "required": True} for name in cast("list[object]", value)}
    return {
        name: {"condition": "service_started", "required": True} | as_mapping(body, f"{where}.{name}")
        for name, body in as_mapping(value, where).items()
    }


def _networks(value: object, where: str, _: Context) -> dict[str, Any]:
    if isinstance(value, list):
        return {str(name): None for name in cast("list[object]", value)}
    return as_mapping(value, where)


# --- ports and files ------------------------------------------------------------------------------------------

_PORT: Final = re.compile(
    r"^(?:(?:(?P<ip>\[[0-9a-fA-F:]+\]|[0-9.]+):)?(?P<published>\d+(?:-\d+)?)?:)?(?P<target>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?$"
)


def _ports(value: object, where: str, _: Context) -> list[dict[str, Any]]:
    ports: list[dict[str, Any]] = []
    for entry in _as_list(value, where):
        if _is_long(entry):
            ports.append({"mode": "ingress", "protocol": "tcp"} | as_mapping(entry, where))
        else:
            ports.extend(_short_port(str(entry), where))
    return ports


def _short_port(text: str, where: str) -> list[dict[str, Any]]:
    found = _PORT.match(text)
    if found is None:
        raise _invalid(f"{where}: invalid port {text}")
    targets, published = _span(found["target"]), _span(found["published"])
    if published and len(published) != len(targets):
        raise _invalid(f"{where}: invalid ranges in {text}")
    ports: list[dict[str, Any]] = []
    for index, target in enumerate(targets):
        port: dict[str, Any] = {"mode": "ingress", "target": target, "protocol": found["protocol"] or "tcp"}
        if found["ip"]:
            port["host_ip"] = found["ip"].strip("[]")
        if published:
            port["published"] = str(published[index])
        ports.append(port)
    return ports


def _span(text: str | None) -> list[int]:
    if not text:
        return []
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _volumes(value: object, where: str, context: Context) -> list[dict[str, Any]]:
    return [_volume(entry, where, context) for entry in _as_list(value, where)]


def _volume(entry: object, where: str, context: Context) -> dict[str, Any]:
    if _is_long(entry):
        volume = as_mapping(entry, where)
        if "type" not in volume:
            raise _invalid(f"{where}: type is required")
        if volume["type"] == "bind":
            volume["source"] = context.absolute(str(volume.get("source", "")))
        return volume
    return _short_volume(str(entry), where, context)


def _short_volume(text: str, where: str, context: Context) -> dict[str, Any]:
    parts = text.split(":")
    if len(parts) == 1:
        return {"type": "volume", "target": text, "volume": {}}
    if len(parts) > 3 or not parts[1]:  # noqa: PLR2004 # source, target, options
        raise _invalid(f"{where}: invalid spec {text}: too many colons")
    options = parts[2].split(",") if parts[2:] else []
    read_only = {"read_only": True} if "ro" in options else {}
    if parts[0].startswith((".", "/", "~")):
        source = {"type": "bind", "source": context.absolute(parts[0]), "target": parts[1]}
        return source | read_only | {"bind": {"create_host_path": True}}
    return {"type": "volume", "source": parts[0], "target": parts[1]} | read_only | {"volume": {}}


def _configs(value: object, where: str, _: Context) -> list[dict[str, Any]]:
    return [_source(entry, where) for entry in _as_list(value, where)]


def _secrets(value: object, where: str, _: Context) -> list[dict[str, Any]]:
    sources = [_source(entry, where) for entry in _as_list(value, where)]
    return [{"target": f"/run/secrets/{source['source']}"} | source for source in sources]


def _source(entry: object, where: str) -> dict[str, Any]:
    return as_mapping(entry, where) if _is_long(entry) else {"source": str(entry)}


NORMALISED: Final[dict[str, Callable[[Any, str, Context], Any]]] = {
    "command": _words,
    "configs": _configs,
    "depends_on": _depends_on,
    "deploy": _deploy,
    "entrypoint": _words,
    "env_file": _env_files,
    "environment": _pairs,
    "healthcheck": _healthcheck,
    "labels": _labels,
    "mem_limit": _byte_count,
    "mem_reservation": _byte_count,
    "memswap_limit": _byte_count,
    "networks": _networks,
    "ports": _ports,
    "restart": _restart,
    "scale": _scale,
    "secrets": _secrets,
    "shm_size": _byte_count,
    "stop_grace_period": _duration,
    "tmpfs": _one_or_many,
    "volumes": _volumes,
}
"""How each field that has a short form is brought to its long one; all others stay as they are written."""
