"""The fleet repository: what operators edit, parsed into frozen values (DESIGN.md section 3).

    fleet.toml                   name, [health], [limits], [rollout], [secrets], [agent]
    devices/<id>.toml            role, tags, age, agent, [vars]
    roles/<role>/compose.yaml    an ordinary Compose file; only Compose parses it
    roles/<role>/role.toml       optional: [health] over the fleet's, key by key; [[checks]]; [update]; [services.NAME]
    agent/<version>/SHA256SUMS   the wheels of a version of the agent that [agent] names

The repository comes as a mapping of paths to contents, whole or the few files that concern one device.
Anything not understood is a ``Problem`` that names file, line and key; other files are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from metrica_fleet.agent_versions import AgentPolicy, AgentVersion, VersionText, chosen, listing_of, read_listing
from metrica_fleet.identity import DeviceId, FleetId, Name, RoleId, RoleName, is_name
from metrica_fleet.policies import (
    CHECKS,
    Check,
    CommandCheck,
    HealthPolicy,
    HttpCheck,
    Limits,
    RolloutPolicy,
    ServicePolicy,
    TcpCheck,
    UpdatePolicy,
)
from metrica_fleet.problems import DefinitionError, Problem, listed, shown, suggestion
from metrica_fleet.role_reading import service_policies, update_policy
from metrica_fleet.sealed import RECIPIENT_PATTERN
from metrica_fleet.toml_reading import NAME_WORDS, Reader

if TYPE_CHECKING:
    from metrica_fleet.toml_lines import Path, Table

__all__ = [
    "AgentPolicy",
    "AgentVersion",
    "Check",
    "CommandCheck",
    "DefinitionError",
    "DeviceDefinition",
    "Fleet",
    "HealthPolicy",
    "HttpCheck",
    "Limits",
    "Problem",
    "RoleDefinition",
    "Rollout",
    "RolloutPolicy",
    "SecretPolicy",
    "ServicePolicy",
    "TcpCheck",
    "UpdatePolicy",
    "agent_named_by",
    "for_device",
    "role_named_by",
    "rollout_in",
    "whole_fleet",
]

Files = Mapping[str, bytes]
"""Path in the repository → content."""

MAX_TAGS: Final = 32
MAX_CHECKS: Final = 64
MAX_OPERATORS: Final = 64
MAX_VARIABLE_BYTES: Final = 32 * 1024
"""Of one value: the kernel gives a program no variable of more than 128 KiB."""
RESERVED_PREFIXES: Final = ("METRICA_", "COMPOSE_", "DOCKER_", "LD_")
"""The first is the agent's; the others change what Compose itself does."""
RESERVED: Final = frozenset({"PATH", "HOME"})
RESERVED_DEVICES: Final = frozenset({"hub", "operator", "stream"})
"""Users of the broker that are no devices (mosquitto/acl): a device of that name would have their rights. ``stream`` is
a path of the hub's API (``/api/v1/devices/stream``): a device of that name could not be asked for."""

Recipient = Annotated[
    str,
    msgspec.Meta(
        pattern=RECIPIENT_PATTERN,
        extra_json_schema={"description": 'the public key of an age identity, "age1..." of 62 characters'},
    ),
]

_FLEET_FILE: Final = "fleet.toml"
_MAX_INT: Final = 2**63
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class RoleDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """What a role adds to its Compose file."""

    health: HealthPolicy
    checks: tuple[Check, ...] = ()
    update: UpdatePolicy = UpdatePolicy()
    services: dict[str, ServicePolicy] = {}


class SecretPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """``[secrets]``."""

    operators: Annotated[tuple[Recipient, ...], msgspec.Meta(max_length=MAX_OPERATORS)] = ()
    """Who can open every secret besides the devices that it is for: it takes one of them to seal them anew."""
    public: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_OPERATORS)] = ()
    """Patterns of paths that hold no secret, whatever they look like to ``metrica lint``."""


class DeviceDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """All that the repository says about one device, but for the files of its role."""

    fleet: FleetId
    role: RoleId
    tags: tuple[str, ...]
    variables: dict[str, str]
    health: HealthPolicy
    limits: Limits
    checks: tuple[Check, ...]
    update: UpdatePolicy = UpdatePolicy()
    services: dict[str, ServicePolicy] = {}
    rollout: RolloutPolicy | None = None
    """``None``: nobody waits for anybody."""
    age: str | None = None
    """To whom its secrets are sealed; the device itself goes by the key that it has."""
    agent: AgentVersion | None = None
    """The agent that it is to run; ``None``: whichever it has."""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """A whole fleet repository."""

    name: FleetId
    devices: dict[DeviceId, DeviceDefinition]
    roles: dict[RoleId, RoleDefinition]
    rollout: RolloutPolicy | None = None
    secrets: SecretPolicy = SecretPolicy()


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """What the repository says about rollouts, and whom they concern."""

    fleet: FleetId
    policy: RolloutPolicy | None
    devices: dict[DeviceId, tuple[str, ...]]
    """Each with its tags."""


def role_named_by(files: Files, device: DeviceId) -> RoleId:
    """Return the role of ``device``; of ``files`` only ``devices/<device>.toml`` is looked at.

    Raises:
        DefinitionError: ``device-unknown``, or that file is wrong.
    """
    problems: list[Problem] = []
    read = _read_device(files, device, problems)
    if read is None or problems:
        raise DefinitionError(problems)
    return read.role


def agent_named_by(files: Files, device: DeviceId) -> str | None:
    """Return the version of the agent that ``device`` is to run; ``None``: none is named, or the files are wrong."""
    unread: list[Problem] = []
    basics, read = _read_fleet(files, unread), _read_device(files, device, unread)
    return None if read is None or unread else _agent_version(basics, read)


def for_device(files: Files, device: DeviceId) -> DeviceDefinition:
    """Return what ``files`` say about ``device``.

    Looked at are ``fleet.toml``, ``devices/<device>.toml``, ``roles/<role>/role.toml`` where there is one, the listing
    of the agent's wheels where a version is named, and whether ``roles/<role>/compose.yaml`` is there; every other path
    only helps to suggest a role.

    Raises:
        DefinitionError: a needed file is missing, or one is wrong; all problems of these files are in it.
    """
    problems: list[Problem] = []
    basics = _read_fleet(files, problems)
    read = _read_device(files, device, problems)
    if read is not None:
        _require_role(files, read, problems)
    role = _read_role(files, read.role, basics.health, problems) if read is not None else None
    if role is not None:
        _require_time(basics, role)
    agent = _agent(files, basics, read, problems) if read is not None else None
    if read is None or role is None or problems:
        raise DefinitionError(problems)
    return _joined(basics, read, role, agent)


def whole_fleet(files: Files) -> Fleet:
    """Return the fleet that ``files``, a whole repository, define.

    Raises:
        DefinitionError: with every problem that there is.
    """
    problems: list[Problem] = []
    basics = _read_fleet(files, problems)
    roles = {role: _read_role(files, role, basics.health, problems) for role in _roles(files, problems)}
    problems.extend(_no_compose_file(files, role) for role in roles if _compose_file(role) not in files)
    read = {device: _read_device(files, device, problems) for device in _devices(files, problems)}
    for one in read.values():
        if one is not None and one.role not in roles:
            _require_role(files, one, problems)
    _require_time(basics, *roles.values())
    known = [one for one in read.values() if one is not None]
    _require_known(basics, known)
    agents = _agents(files, basics, known, problems)
    if problems:
        raise DefinitionError(sorted(problems, key=lambda problem: (problem.file, problem.line or 0)))
    devices = {
        device: _joined(basics, one, roles[one.role], agents.get(_agent_version(basics, one) or ""))
        for device, one in read.items()
        if one is not None
    }
    return Fleet(name=basics.name, devices=devices, roles=roles, rollout=basics.rollout, secrets=basics.secrets)


def rollout_in(files: Files) -> Rollout:
    """Return what ``files`` say about rollouts: ``fleet.toml`` and ``devices/*.toml``, and nothing else, is looked at.

    A device whose own file is wrong will refuse the commit, and is among the devices all the same, without tags.

    Raises:
        DefinitionError: ``fleet.toml`` is wrong: no device will take this commit.
    """
    problems: list[Problem] = []
    basics = _read_fleet(files, problems)
    if problems:
        raise DefinitionError(problems)
    read = {device: _read_device(files, device, []) for device in _devices(files, [])}
    devices = {device: one.tags if one is not None else () for device, one in read.items()}
    return Rollout(fleet=basics.name, policy=basics.rollout, devices=devices)


# --- one file -----------------------------------------------------------------------------------------------


class _Basics(msgspec.Struct, frozen=True, kw_only=True):
    """``fleet.toml``; what could not be read has its default, and a problem."""

    name: FleetId
    health: HealthPolicy
    limits: Limits
    reader: Reader | None = None
    rollout: RolloutPolicy | None = None
    secrets: SecretPolicy = SecretPolicy()
    agent: AgentPolicy = AgentPolicy()
    agent_of_tags: dict[str, str] = {}
    """Tag -> version, in the order of the file."""


class _Device(msgspec.Struct, frozen=True, kw_only=True):
    """``devices/<id>.toml``."""

    file: str
    id: DeviceId
    role_line: int
    role: RoleId
    tags: tuple[str, ...]
    variables: dict[str, str]
    age: str | None
    agent: str | None = None


def _read_fleet(files: Files, problems: list[Problem]) -> _Basics:
    content = files.get(_FLEET_FILE)
    if content is None:
        near = [path for path in files if path.lower() in {_FLEET_FILE, "flet.toml", "fleet.tml", "fleets.toml"}]
        advice = f"rename {near[0]}" if near else 'add it with name = "..."'
        problems.append(Problem(_FLEET_FILE, None, "", f"the file is missing; {advice}", "missing-file"))
        return _Basics(name=FleetId(""), health=HealthPolicy(), limits=Limits())
    reader = Reader(_FLEET_FILE, content, problems)
    reader.only((), reader.table, ("name", "health", "limits", "rollout", "secrets", "agent"))
    policy, of_tags = _agent_policy(reader)
    return _Basics(
        name=FleetId(reader.required("name", Name, example='"my-fleet"') or ""),
        health=reader.overlaid("health", HealthPolicy()),
        limits=reader.overlaid("limits", Limits()),
        reader=reader,
        rollout=_rollout(reader),
        secrets=reader.overlaid("secrets", SecretPolicy()),
        agent=policy,
        agent_of_tags=of_tags,
    )


def _agent_policy(reader: Reader) -> tuple[AgentPolicy, dict[str, str]]:
    """Return ``[agent]`` and ``[agent.tags]``."""
    section = reader.section("agent")
    given = reader.fields(
        ("agent",), {key: value for key, value in section.items() if key != "tags"}, AgentPolicy, also=("tags",)
    )
    tags: object = section.get("tags", {})
    if not isinstance(tags, dict):
        reader.complain(("agent", "tags"), "agent.tags must be a table, [agent.tags]", "wrong-type")
        tags = {}
    versions: dict[str, str] = {}
    for tag, version in cast("Table", tags).items():
        path = ("agent", "tags", tag)
        read = reader.value(path, version, VersionText)
        if reader.value(path, tag, Name) is not None and read is not None:
            versions[tag] = read
    return AgentPolicy(**given), versions


def _rollout(reader: Reader) -> RolloutPolicy | None:
    if "rollout" not in reader.table:
        return None
    from metrica_fleet import rollout_reading  # noqa: PLC0415 few fleets have one, and an agent has little room

    return rollout_reading.rollout_policy(reader)


def _read_device(files: Files, device: DeviceId, problems: list[Problem]) -> _Device | None:
    """Return what the device's file says, ``None`` when its role can't be known."""
    file = f"devices/{device}.toml"
    content = files.get(file)
    if content is None:
        text = f'the fleet has no device "{device}"; add {file} with role = "..."'
        problems.append(Problem(file, None, "", text, "device-unknown"))
        return None
    if device in RESERVED_DEVICES:
        text = f'"{device}" means something else to the broker or the hub; rename the device'
        problems.append(Problem(file, None, "", text, "bad-name"))
    reader = Reader(file, content, problems)
    reader.only((), reader.table, ("role", "tags", "age", "agent", "vars"))
    role = reader.required("role", RoleName, example='"..."')
    kind = Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_TAGS)]
    tags = reader.value(("tags",), reader.table.get("tags", []), kind)
    age = reader.value(("age",), reader.table["age"], Recipient) if "age" in reader.table else None
    agent = reader.value(("agent",), reader.table["agent"], VersionText) if "agent" in reader.table else None
    variables = _variables(reader)
    if role is None:
        return None
    line = reader.line_of(("role",))
    return _Device(
        file=file, id=device, role_line=line, role=role, tags=tags or (), variables=variables, age=age, agent=agent
    )


def _variables(reader: Reader) -> dict[str, str]:
    """Return ``[vars]`` as texts for interpolation: a float as it was written, ``true`` and ``false``."""
    section = reader.section("vars")
    written = cast("Table", reader.as_written().get("vars")) if section else {}
    variables: dict[str, str] = {}
    for name, value in section.items():
        wrong = _wrong_variable(name, value)
        if wrong is not None:
            reader.complain(("vars", name), *wrong)
        else:
            variables[name] = str(written[name]).lower() if isinstance(value, bool) else str(written[name])
    return variables


def _wrong_variable(name: str, value: object) -> tuple[str, str] | None:
    """Return what is wrong with a variable, and the reason."""
    if _VARIABLE.fullmatch(name) is None:
        text = f'{shown(name)} is no name of a variable; use letters, digits and "_", as in CAMERA_PORT'
        return text, "bad-name"
    if name.startswith(RESERVED_PREFIXES) or name in RESERVED:
        return f"{name} is reserved for the agent and for Compose; choose another name", "reserved-variable"
    match value:
        case str() if "\0" in value:
            text = "holds a NUL character; no program can be given one"
        case str() if len(value.encode()) > MAX_VARIABLE_BYTES:
            text = f"is longer than {MAX_VARIABLE_BYTES} bytes; put it in a file of the role"
        case int() if abs(value) >= _MAX_INT:
            text = "is too large a number; put it in quotes if it is text"
        case str() | int() | float():
            return None
        case _:
            text = "must be text, a number, true or false"
    return f"vars.{name} {text}", "wrong-type"


def _read_role(files: Files, role: RoleId, health: HealthPolicy, problems: list[Problem]) -> RoleDefinition:
    file = f"roles/{role}/role.toml"
    reader = Reader(file, files.get(file, b""), problems)
    reader.only((), reader.table, ("health", "checks", "update", "services"))
    return RoleDefinition(
        health=reader.overlaid("health", health),
        checks=_checks(reader),
        update=update_policy(reader),
        services=service_policies(reader),
    )


def _checks(reader: Reader) -> tuple[Check, ...]:
    value: object = reader.table.get("checks", [])
    entries = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        reader.complain(("checks",), "checks must be a list of tables, [[checks]]", "wrong-type")
        return ()
    if len(entries) > MAX_CHECKS:
        reader.complain(("checks", MAX_CHECKS), f"a role has at most {MAX_CHECKS} checks", "wrong-type")
        return ()
    checks: list[Check] = []
    for at, entry in enumerate(entries):
        check = _check(reader, ("checks", at), cast("Table", entry))
        if check is not None and any(check.name == other.name for other in checks):
            reader.complain(
                ("checks", at, "name"), f'there are two checks "{check.name}"; rename one', "duplicate-name"
            )
        checks += [check] if check is not None else []
    return tuple(checks)


def _check(reader: Reader, path: Path, table: Table) -> Check | None:
    kind: Any = table.get("type")
    if "type" not in table:
        reader.complain(path, f'a check lacks "type"; it is {listed(list(CHECKS), "or")}', "missing-key")
        return None
    if not isinstance(kind, str) or kind not in CHECKS:
        text = f"unknown type of check {shown(str(kind))}{suggestion(str(kind), CHECKS)}"
        reader.complain((*path, "type"), text, "wrong-type")
        return None
    check = reader.complete(path, table, CHECKS[kind], also=("type",))
    if isinstance(check, HttpCheck) and not _is_address(check.url):
        reader.complain((*path, "url"), f"{shown(check.url)} is no address; check host and port", "wrong-type")
    return check


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


# --- between files ------------------------------------------------------------------------------------------


def _joined(basics: _Basics, device: _Device, role: RoleDefinition, agent: AgentVersion | None) -> DeviceDefinition:
    return DeviceDefinition(
        fleet=basics.name,
        role=device.role,
        tags=device.tags,
        variables=device.variables,
        health=role.health,
        limits=basics.limits,
        checks=role.checks,
        update=role.update,
        services=role.services,
        rollout=basics.rollout,
        age=device.age,
        agent=agent,
    )


def _agent_version(basics: _Basics, device: _Device) -> str | None:
    return chosen(basics.agent, basics.agent_of_tags, device.agent, device.tags)


def _agent(files: Files, basics: _Basics, device: _Device, problems: list[Problem]) -> AgentVersion | None:
    """Return the agent that ``device`` is to run; ``None``: none is named, or its listing is wrong, which is told."""
    version = _agent_version(basics, device)
    if version is None:
        return None
    content = files.get(listing_of(version))
    if content is None:
        text = f"the file is missing; list the wheels of agent {version} in it, or name another version"
        problems.append(Problem(listing_of(version), None, "", text, "agent-listing-missing"))
        return None
    wheels = read_listing(version, content, problems)
    return AgentVersion(version=version, wheels=wheels, source=basics.agent.source) if wheels else None


def _agents(files: Files, basics: _Basics, devices: list[_Device], problems: list[Problem]) -> dict[str, AgentVersion]:
    """Return every version that some device is to run; each is looked at once."""
    named = {version: device for device in devices if (version := _agent_version(basics, device)) is not None}
    read = {version: _agent(files, basics, device, problems) for version, device in named.items()}
    return {version: agent for version, agent in read.items() if agent is not None}


def _require_time(basics: _Basics, *roles: RoleDefinition | None) -> None:
    """Complain of a rollout that would give up a device of one of ``roles`` while it still judges."""
    if basics.rollout is None or basics.reader is None:
        return
    from metrica_fleet import rollout_reading  # noqa: PLC0415 as above

    longest_s = max(
        (rollout_reading.longest_trial_s(role.health, basics.limits) for role in roles if role), default=0.0
    )
    rollout_reading.complain_of_deadline(basics.reader, basics.rollout, longest_s)


def _require_known(basics: _Basics, devices: list[_Device]) -> None:
    """Complain of stages that name what the fleet does not have."""
    if basics.rollout is None or basics.reader is None:
        return
    from metrica_fleet import rollout_reading  # noqa: PLC0415 as above

    tags = {tag for device in devices for tag in device.tags}
    rollout_reading.complain_of_strangers(basics.reader, basics.rollout, [device.id for device in devices], tags)


def _compose_file(role: str) -> str:
    return f"roles/{role}/compose.yaml"


def _require_role(files: Files, device: _Device, problems: list[Problem]) -> None:
    """Complain, in the device's file, of a role that is not there."""
    if _compose_file(device.role) in files:
        return
    known = {path.split("/")[1] for path in files if path.startswith("roles/") and path.count("/") > 1}
    if device.role in known:
        problems.append(_no_compose_file(files, device.role))
        return
    advice = suggestion(device.role, known) or f"; add {_compose_file(device.role)}"
    text = f'there is no role "{device.role}"{advice}'
    problems.append(Problem(device.file, device.role_line, "role", text, "unknown-role"))


def _no_compose_file(files: Files, role: RoleId) -> Problem:
    others = (f"roles/{role}/{name}" for name in ("compose.yml", "docker-compose.yaml", "docker-compose.yml"))
    there = next((path for path in others if path in files), None)
    advice = f"rename {there}" if there else "add the role's Compose file"
    return Problem(_compose_file(role), None, "", f"the file is missing; {advice}", "missing-compose-file")


def _devices(files: Files, problems: list[Problem]) -> list[DeviceId]:
    """Return the devices that have a file; whatever else lies in ``devices/`` is told, but for notes."""
    devices: list[DeviceId] = []
    for path in sorted(files):
        name = path.removeprefix("devices/")
        if not path.startswith("devices/") or _is_note(name):
            continue
        device = name.removesuffix(".toml")
        if "/" in name or device == name:
            text = "devices/ holds one <id>.toml a device, and nothing else; rename or move the file"
            problems.append(Problem(path, None, "", text, "unknown-file"))
        elif is_name(device):
            devices.append(DeviceId(device))
        else:
            problems.append(_bad_name(path, device))
    return devices


def _roles(files: Files, problems: list[Problem]) -> list[RoleId]:
    """Return the roles that have a folder; whatever else lies in ``roles/`` is told, but for notes."""
    names = sorted({path.removeprefix("roles/").partition("/")[0] for path in files if path.startswith("roles/")})
    roles: list[RoleId] = []
    for name in names:
        if f"roles/{name}" in files:
            if not _is_note(name):
                text = "a role is a folder with a compose.yaml; rename or move the file"
                problems.append(Problem(f"roles/{name}", None, "", text, "unknown-file"))
        elif is_name(name):
            roles.append(RoleId(name))
        else:
            problems.append(_bad_name(f"roles/{name}", name))
    return roles


def _bad_name(path: str, name: str) -> Problem:
    return Problem(path, None, "", f"{shown(name)} is no name; rename it: {NAME_WORDS}", "bad-name")


def _is_note(name: str) -> bool:
    return name.startswith(".") or name.upper().startswith("README") or name.endswith((".md", ".txt", "~"))
