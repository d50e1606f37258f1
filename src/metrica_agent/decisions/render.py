"""From the model that Compose resolved to the one that is applied: the traps of PEERS.md 4a can't spring.

Four things are changed, nothing else:

- What a service mounts from the release comes from ``content/<digest>``, the digest being of what is
  mounted. The path changes when, and only when, the content does, and no container ever sees the files of
  another release.
- Every service and network carries the label ``fleet.metrica.inputs``: a digest of its definition and of
  everything it reads. Compose recreates what has another label; drift and the judge of a trial compare it
  with what runs.
- A missing source of a mount is an error instead of a new, empty directory.
- A secret, ``${METRICA_SECRETS}/<name>``, is mounted from a file in memory by the digest of what it says, keyed by the
  device: who reads it is recreated when it says something else, and not when it was only sealed anew.

Compose escapes ``$`` as ``$$`` in what it prints, and reads it so again: strings stay escaped throughout,
only paths are unescaped to be looked at.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from metrica_agent.decisions.manifest import FileEntry, Folder
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Desired, ServicePlan
from metrica_fleet import sealed
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import ReleaseDigest, RoleId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metrica_fleet.definition import Check, HealthPolicy, Limits
    from metrica_fleet.policies import Priority

Model = dict[str, Any]
"""JSON, as Compose prints it."""

RENDERER_VERSION: Final = 1
"""Part of every release's digest: raise it when the same input is to be rendered differently."""
INPUTS_LABEL: Final = "fleet.metrica.inputs"
SECRETS_ROOT: Final = "/run/metrica/secrets"
"""Where a device has its secrets unless it is told otherwise: in memory."""

_TOP_LEVEL: Final = frozenset({"name", "version", "services", "networks", "volumes", "configs", "secrets"})
_DROPPED: Final = frozenset({"develop", "profiles", "pull_policy", "env_file", "label_file"})
"""Of a service: what Compose has already worked in, and what has no meaning on a device."""
_NO_INPUT: Final = frozenset({"depends_on", "scale"})
"""Of a service: what orders or counts its containers, and is no reason to recreate one."""
_ENDS: Final = frozenset({"", "no", "none", "on-failure"})
"""Restart policies under which exit code 0 is done."""


class Places(Value, frozen=True):
    """Where things are, as absolute paths: render touches no disk, so it is told."""

    folder: str
    """The exported role folder that Compose resolved against."""
    state: str
    """The agent's state directory; nothing in it may be mounted except ``data`` and what ``folder`` holds."""
    content: str
    """Where content-addressed copies of mounted files live."""
    data: str
    """What ``${METRICA_DATA}`` means: the role's own data directory."""
    secrets: str = SECRETS_ROOT
    """What ``${METRICA_SECRETS}`` means: a folder in memory."""


class Mount(Value, frozen=True):
    """What must exist as ``content/<digest>``: a file or directory of the release, or a text."""

    digest: str
    source: str | None = None
    """Path in the exported folder; ``.`` for all of it; ``None`` when ``text`` is meant."""
    text: str | None = None


class Rendered(Value, frozen=True):
    """The model to apply, and what it stands on."""

    compose: Model
    services: tuple[ServicePlan, ...]
    mounts: tuple[Mount, ...]


def interpolation(desired: Desired, data: str, locks: str, secrets: str | None = None) -> dict[str, str]:
    """Return every variable that a Compose file may use: the device's, and ``METRICA_*`` from the agent.

    ``secrets`` is given where the role uses some: what any other role comes to must not depend on it.
    """
    return {
        **({} if secrets is None else {sealed.VARIABLE: secrets}),
        **desired.variables,
        "METRICA_DATA": data,
        "METRICA_DEVICE": desired.device,
        "METRICA_FLEET": desired.fleet,
        "METRICA_LOCKS": locks,
        "METRICA_ROLE": desired.role,
    }


def release_digest(
    *,
    role: RoleId,
    entries: Sequence[FileEntry],
    variables: Mapping[str, str],
    checks: Sequence[Check],
    health: HealthPolicy,
    limits: Limits,
    priorities: Mapping[str, Priority] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> ReleaseDigest:
    """Return the name of the release that these inputs make; Compose need not be asked for it.

    ``secrets``: name → keyed digest of those that the role uses.
    """
    inputs = {
        "renderer": RENDERER_VERSION,
        "role": role,
        "files": sorted((entry.path, entry.mode, entry.sha256) for entry in entries),
        "variables": dict(variables),
        "checks": list(checks),
        "health": health,
        "limits": limits,
        "priorities": dict(priorities or {}),
        **({"secrets": dict(secrets)} if secrets else {}),
    }
    return ReleaseDigest(_digest(inputs))


def render(
    model: Model,
    *,
    project: str,
    places: Places,
    entries: Sequence[FileEntry],
    variables: Mapping[str, str],
    secrets: Mapping[str, str] | None = None,
    may_be_empty: bool = False,
) -> Rendered:
    """Return what to apply for the ``model`` that ``docker compose config --format json`` printed.

    A role runs at least one service; the safe-mode stack (``may_be_empty``) may run none. ``secrets``: name → keyed
    digest of those that may be used.

    Raises:
        Unusable: ``bind-source-missing``, ``bind-writable``, ``bind-outside``, ``config-file-missing``,
            ``secret-file-missing``, ``mount-target-relative``, ``build-unsupported``, ``compose-unsupported``,
            ``no-services``, ``variable-unset``, ``path-into-release`` or ``secret-misused``; the message names service
            and source.
    """
    if not may_be_empty:
        _refuse_empty(model)
    rendering = _Rendering(model, places=places, folder=Folder(entries), variables=variables, secrets=secrets or {})
    return rendering.rendered(project)


class _Rendering:
    """One rendering: the input, and the mounts found so far."""

    def __init__(
        self,
        model: Model,
        *,
        places: Places,
        folder: Folder,
        variables: Mapping[str, str],
        secrets: Mapping[str, str],
    ) -> None:
        self._model = model
        self._secrets = secrets
        self._places = places
        self._folder = folder
        self._variables = variables
        self._mounts: dict[str, Mount] = {}

    def rendered(self, project: str) -> Rendered:
        _refuse_unknown(self._model)
        shared: Model = {
            "networks": {key: _network(one) for key, one in _section(self._model, "networks").items()},
            "volumes": _section(self._model, "volumes"),
            "configs": self._files("configs"),
            "secrets": self._files("secrets"),
        }
        services: Model = {}
        plans: list[ServicePlan] = []
        for name, service in sorted(_section(self._model, "services").items()):
            definition = self._service(name, service)
            inputs = _digest({"service": _as_input(definition), **_used(definition, shared)})
            labels = {**_part(definition, "labels"), INPUTS_LABEL: inputs}
            services[name] = {**definition, "labels": labels}
            plans.append(_plan(name, definition, inputs))
        used = {key: section for key, section in shared.items() if section}
        compose = {"name": project, "services": services, **used}
        self._refuse_paths_into_the_folder(compose)
        self._refuse_other_uses_of_secrets(compose)
        return Rendered(compose=compose, services=tuple(plans), mounts=tuple(self._mounts.values()))

    def _service(self, name: str, service: Model) -> Model:
        if "build" in service:
            msg = f'service "{name}" has "build:"; devices build no images, push one and name it in "image:"'
            raise Unusable(msg, reason="build-unsupported")
        if not service.get("image"):
            msg = f'service "{name}" has no "image:"; a device runs nothing else'
            raise Unusable(msg, reason="compose-unsupported")
        definition = {
            key: value
            for key, value in service.items()
            if value is not None and key not in _DROPPED and not key.startswith("x-")
        }
        if "volumes" in definition:
            definition["volumes"] = [self._volume(name, volume) for volume in _entries(definition, "volumes")]
        return definition

    def _volume(self, service: str, volume: Model) -> Model:
        target = plain(volume["target"])
        if not target.startswith("/"):
            msg = f'service "{service}" mounts something at "{target}", which is not an absolute path'
            raise Unusable(msg, reason="mount-target-relative")
        if volume.get("type") != "bind":
            return volume
        source = self._bind_source(service, volume)
        bind = {**_part(volume, "bind"), "create_host_path": False}
        return {**volume, "source": escaped(source), "bind": bind}

    def _bind_source(self, service: str, volume: Model) -> str:
        source = plain(volume["source"])
        where = f'service "{service}" mounts {self._shown(source)} at {plain(volume["target"])}'
        relative, secret = within(source, self._places.folder), within(source, self._places.secrets)
        if relative is None and secret is None:
            self._refuse_state(source, where)
            return source
        if not volume.get("read_only"):
            msg = (
                f"{where} writable, and a release is read-only, its secrets too: mount it with :ro,"
                " or write to ${METRICA_DATA}/... or to a named volume"
            )
            raise Unusable(msg, reason="bind-writable")
        if relative is None:
            return self._secret(source, where)
        return self._content(relative, where, missing="bind-source-missing")

    def _files(self, kind: str) -> Model:
        """Return the ``configs`` or ``secrets``, each file's content-addressed path in place of its own."""
        what = kind.removesuffix("s")
        return {key: self._file(what, key, one) for key, one in _section(self._model, kind).items()}

    def _file(self, what: str, key: str, definition: Model) -> Model:
        if "environment" in definition:
            return self._variable(what, key, definition)
        if "file" not in definition:
            return definition
        source = plain(definition["file"])
        where = f'{what} "{key}" is the file {self._shown(source)}'
        relative = within(source, self._places.folder)
        if relative is None and within(source, self._places.secrets) is not None:
            return {**definition, "file": escaped(self._secret(source, where))}
        if relative is None:
            self._refuse_state(source, where)
            return definition
        if self._folder.is_directory(relative):
            raise Unusable(f"{where}, which is a directory", reason=f"{what}-file-missing")
        return {**definition, "file": escaped(self._content(relative, where, missing=f"{what}-file-missing"))}

    def _variable(self, what: str, key: str, definition: Model) -> Model:
        """Return a config or secret that is the value of a variable as one that is a file."""
        variable = plain(definition["environment"])
        if variable not in self._variables:
            msg = f'{what} "{key}" is the variable {variable}, and this device has none of that name'
            raise Unusable(msg, reason="variable-unset")
        text = self._variables[variable]
        path = self._remember(Mount(digest=self._folder.digest_of_text(text), text=text))
        kept = {one: value for one, value in definition.items() if one != "environment"}
        return {**kept, "file": escaped(path)}

    def _secret(self, source: str, where: str) -> str:
        """Return where the secret is whose place Compose was told as ``source``."""
        digest = self._secrets.get(within(source, self._places.secrets) or "")
        if digest is None:
            msg = f"{where}, which names no secret: write ${{{sealed.VARIABLE}}}/<name> in full where it is mounted"
            raise Unusable(msg, reason="secret-misused")
        return f"{self._places.secrets}/{digest}"

    def _content(self, relative: str, where: str, *, missing: str) -> str:
        target = self._folder.follow(relative)
        if target is None:
            raise Unusable(f"{where}, a link that leads out of the role's folder", reason="bind-outside")
        digest = self._folder.digest(target)
        if digest is None:
            raise Unusable(f"{where}, which is not in the role's folder", reason=missing)
        return self._remember(Mount(digest=digest, source=target))

    def _remember(self, mount: Mount) -> str:
        self._mounts.setdefault(mount.digest, mount)
        return f"{self._places.content}/{mount.digest}"

    def _refuse_state(self, source: str, where: str) -> None:
        if within(source, self._places.data) is None and within(source, self._places.state) is not None:
            msg = f"{where}, which is outside of the role's folder; use what is in it, or ${{METRICA_DATA}}/..."
            raise Unusable(msg, reason="bind-outside")

    def _refuse_paths_into_the_folder(self, compose: Model) -> None:
        """Whatever else Compose resolved against the folder would be gone with the next release."""
        for where, text in _strings(compose):
            if within(plain(text), self._places.folder) is not None:
                msg = (
                    f"{where} is {self._shown(plain(text))}, which is gone with the next release:"
                    " use ${METRICA_DATA}/... or a named volume"
                )
                raise Unusable(msg, reason="path-into-release")

    def _refuse_other_uses_of_secrets(self, compose: Model) -> None:
        """A path that is no mount's would lead nowhere; what it leads to must be nobody's value."""
        mounted = {f"{self._places.secrets}/{digest}" for digest in self._secrets.values()}
        for where, text in _strings(compose):
            if within(plain(text), self._places.secrets) is not None and plain(text) not in mounted:
                msg = (
                    f"{where} is {self._shown(plain(text))}, and a secret can only be mounted:"
                    ' as the "file:" of an entry of "secrets:", or as the source of a volume with :ro'
                )
                raise Unusable(msg, reason="secret-misused")

    def _shown(self, source: str) -> str:
        """Return ``source`` as the operator wrote it, as far as that can be known."""
        name = within(source, self._places.secrets)
        if name is not None:
            return f"${{{sealed.VARIABLE}}}{'' if name == '.' else f'/{name}'}"
        relative = within(source, self._places.folder)
        if relative is not None:
            return "." if relative == "." else f"./{relative}"
        above = within(source, self._places.state)
        return source if above is None or within(source, self._places.data) else f'".." or {source}'


# --- strings and paths --------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Return what a string of a Compose model means."""
    return text.replace("$$", "$")


def escaped(text: str) -> str:
    """Return ``text`` as it must stand in a Compose model."""
    return text.replace("$", "$$")


def within(path: str, root: str) -> str | None:
    """Return ``path`` relative to ``root`` (``.`` for the root itself), ``None`` when it is not inside."""
    if path.rstrip("/") == root:
        return "."
    return path.removeprefix(f"{root}/").rstrip("/") if path.startswith(f"{root}/") else None


def _strings(value: Any, where: str = "") -> list[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """Return every string in ``value`` with the dotted path of its key."""
    if isinstance(value, str):
        return [(where, value)]
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{where}.{key}".lstrip("."), one) for key, one in cast("Model", value).items()]
    elif isinstance(value, list):
        items = [(where, one) for one in cast("list[Any]", value)]
    return [found for key, one in items for found in _strings(one, key)]


# --- parts of the model -------------------------------------------------------------------------------------


def _refuse_unknown(model: Model) -> None:
    unknown = sorted(key for key in model if key not in _TOP_LEVEL and not key.startswith("x-"))
    if unknown:
        msg = f'the Compose file has "{unknown[0]}:", which devices do not know'
        raise Unusable(msg, reason="compose-unsupported")


def _refuse_empty(model: Model) -> None:
    if not _section(model, "services"):
        raise Unusable('the Compose file has no "services:"; a role runs at least one', reason="no-services")


def _part(model: Model, key: str) -> Model:
    part: Model = model.get(key) or {}
    return part


def _entries(model: Model, key: str) -> list[Model]:
    entries: list[Model] = model.get(key) or []
    return entries


def _section(model: Model, key: str) -> dict[str, Model]:
    return {name: _part(_part(model, key), name) for name in _part(model, key)}


def _network(network: Model) -> Model:
    """Return a network that tells how it was made: Compose 2.26 keeps one whose definition changed."""
    if network.get("external"):
        return network
    return {**network, "labels": {**_part(network, "labels"), INPUTS_LABEL: _digest(network)}}


def _used(definition: Model, shared: Model) -> Model:
    """Return what ``definition`` reads that is defined elsewhere; of a volume the name: data stays."""
    volumes = {one["source"] for one in _entries(definition, "volumes") if one["type"] == "volume" and "source" in one}
    return {
        "networks": {key: shared["networks"].get(key) for key in _part(definition, "networks")},
        "volumes": {key: _part(shared["volumes"], key).get("name") for key in volumes},
        "configs": [shared["configs"].get(one["source"]) for one in _entries(definition, "configs")],
        "secrets": [shared["secrets"].get(one["source"]) for one in _entries(definition, "secrets")],
    }


def _as_input(definition: Model) -> Model:
    kept = {key: value for key, value in definition.items() if key not in _NO_INPUT}
    if "deploy" in kept:
        kept["deploy"] = {key: value for key, value in kept["deploy"].items() if key != "replicas"}
    return kept


def _plan(name: str, definition: Model, inputs: str) -> ServicePlan:
    return ServicePlan(
        name=name,
        inputs=inputs,
        image=plain(definition["image"]),
        replicas=_replicas(definition),
        runs_once=_restart_policy(definition) in _ENDS,
    )


def _replicas(definition: Model) -> int:
    counts: tuple[int | None, ...] = (definition.get("scale"), _part(definition, "deploy").get("replicas"))
    return next((count for count in counts if count is not None), 1)


def _restart_policy(definition: Model) -> str:
    """Return the policy that Compose gives the containers, without its count of tries: ``deploy`` wins."""
    deploy = _part(definition, "deploy")
    policy: str | None = definition.get("restart")
    if deploy.get("restart_policy") is not None:
        policy = _part(deploy, "restart_policy").get("condition")
    return (policy or "").partition(":")[0]


def _digest(value: object) -> str:
    return sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
