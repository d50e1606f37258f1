"""``compose.yaml`` as ``docker compose config --format json`` shows it, without Docker.

As much of Compose as a fleet repository uses; what Compose would refuse is refused here, and so is what only the real
one can do (``extends``, ``include``). tests/unit/sim/test_composefile.py holds it against what Compose printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from metrica_fleet.errors import Unusable
from metrica_sim.interpolation import escaped, filled
from metrica_sim.servicefields import NORMALISED, Context, as_mapping
from metrica_sim.yamlfile import parsed

Model = dict[str, Any]

FILE_NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_ROOT_KEYS: Final = frozenset({"version", "name", "services", "networks", "volumes", "configs", "secrets"})
_ONLY_COMPOSE: Final = frozenset({"extends", "include"})
_SERVICE_WORDS: Final = """
annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name cpu_count
cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy
develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file environment expose
external_links extra_hosts group_add healthcheck hostname image init ipc isolation labels links logging mac_address
mem_limit mem_reservation mem_swappiness memswap_limit network_mode networks oom_kill_disable oom_score_adj pid
pids_limit platform ports privileged profiles pull_policy read_only restart runtime scale secrets security_opt shm_size
stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits user userns_mode uts volumes volumes_from
working_dir
"""
_SERVICE_KEYS: Final = frozenset(_SERVICE_WORDS.split())


def resolved(folder: Path, variables: Mapping[str, str], project: str) -> Model:
    """Return the model of the Compose file in ``folder``.

    Raises:
        Unusable: ``compose-missing-file``, ``compose-invalid`` or ``variable-unset``; the message says where.
    """
    document = filled(parsed(_text(folder)), variables)
    root = _checked_root(document)
    context = Context(folder=folder, variables=variables)
    written = as_mapping(root.get("services"), "services")
    enabled = {name: body for name, body in written.items() if not as_mapping(body, f"services.{name}").get("profiles")}
    services = {name: _service(name, body, context) for name, body in sorted(enabled.items())}
    _require_references(services, root)
    model: Model = {"name": project, "services": services}
    _add_networks(model, root, project)
    for kind in ("volumes", "configs", "secrets"):
        _add_resources(model, root, kind, project, context)
    model |= {key: value for key, value in root.items() if key.startswith("x-")}
    return cast("Model", escaped(dict(sorted(model.items()))))


def _text(folder: Path) -> str:
    path = next((folder / name for name in FILE_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise Unusable("the role's folder has no compose.yaml", reason="compose-missing-file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Unusable(f"{path.name}: it is not UTF-8: {error}", reason="compose-invalid") from error


def _checked_root(document: object) -> Model:
    if not isinstance(document, dict):
        raise invalid("compose.yaml: top-level object must be a mapping")
    root = cast("Model", document)
    for key in root:
        if key in _ONLY_COMPOSE:
            raise invalid(f'the simulated engine does not know "{key}"')
        if key not in _ROOT_KEYS and not str(key).startswith("x-"):
            raise invalid(f"compose.yaml: (root) Additional property {key} is not allowed")
    return root


def invalid(message: str) -> Unusable:
    """Return what Compose's refusal of a file is in our family."""
    return Unusable(message, reason="compose-invalid")


# --- services -------------------------------------------------------------------------------------------------


def _service(name: str, body: object, context: Context) -> Model:
    written = as_mapping(body, f"services.{name}")
    for key in written:
        if key in _ONLY_COMPOSE:
            raise invalid(f'services.{name}: the simulated engine does not know "{key}"')
        if key not in _SERVICE_KEYS and not key.startswith("x-"):
            raise invalid(f"services.{name} Additional property {key} is not allowed")
    if not isinstance(written.get("image", ""), str):
        raise invalid(f"services.{name}.image must be a string")
    if not written.get("image") and "build" not in written:
        raise invalid(f'service "{name}" has neither an image nor a build context specified')
    service: Model = {"command": None, "entrypoint": None}
    for key, value in written.items():
        normalise: Callable[[Any, str, Context], Any] | None = NORMALISED.get(key)
        service[key] = normalise(value, f"services.{name}.{key}", context) if normalise else value
    _take_env_files(service)
    if "network_mode" not in service and not service.get("networks"):
        service["networks"] = {"default": None}
    return dict(sorted(service.items()))


def _take_env_files(service: Model) -> None:
    """What ``env_file`` says stands behind ``environment``, and is shown as part of it."""
    from_files = cast("dict[str, str | None]", service.pop("env_file", {}))
    if from_files or "environment" in service:
        own = cast("dict[str, str | None]", service.get("environment", {}))
        service["environment"] = dict(sorted((from_files | own).items()))


# --- what services refer to -----------------------------------------------------------------------------------


def _require_references(services: Model, root: Model) -> None:
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            if other not in services:
                raise invalid(f'service "{name}" depends on undefined service "{other}"')
        for kind, used in _used(service).items():
            known = as_mapping(root.get(kind), kind)
            for resource in used:
                if resource not in known and (kind, resource) != ("networks", "default"):
                    raise invalid(f'service "{name}" refers to undefined {kind[:-1]} {resource}')


def _used(service: Model) -> dict[str, list[str]]:
    volumes = [volume for volume in service.get("volumes", []) if volume["type"] == "volume" and "source" in volume]
    return {
        "networks": list(service.get("networks") or {}),
        "volumes": [volume["source"] for volume in volumes],
        "configs": [one["source"] for one in service.get("configs", [])],
        "secrets": [one["source"] for one in service.get("secrets", [])],
    }


def _all_used(model: Model, kind: str) -> list[str]:
    return sorted({name for service in model["services"].values() for name in _used(service)[kind]})


def _add_networks(model: Model, root: Model, project: str) -> None:
    written = as_mapping(root.get("networks"), "networks")
    networks = {
        name: _named(name, written.get(name), "networks", project, {"ipam": {}})
        for name in _all_used(model, "networks")
    }
    if networks:
        model["networks"] = networks


def _add_resources(model: Model, root: Model, kind: str, project: str, context: Context) -> None:
    written = as_mapping(root.get(kind), kind)
    found: Model = {}
    for name in _all_used(model, kind):
        resource = _named(name, written.get(name), kind, project, {})
        if isinstance(resource.get("file"), str):
            resource["file"] = context.absolute(resource["file"])
        found[name] = resource
    if found:
        model[kind] = found


def _named(name: str, body: object, kind: str, project: str, more: Model) -> Model:
    written = as_mapping(body, f"{kind}.{name}") if body is not None else {}
    if written.get("external"):
        return {"name": written.get("name", name), "external": True} | more
    return {"name": f"{project}_{name}"} | more | written
