"""The fleet repository as operators make it: a graph of commits, each good or bad for a role in a known way.

What a commit asks for is a value, ``Content``; its files are made from it. So the world knows what a device must do
with a commit without asking the code that is on trial.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from metrica_fleet.identity import CommitId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

FLEET: Final = "world"
ROLES: Final = ("camera", "sensor")
START_DEADLINE_S: Final = 60.0
SOAK_S: Final = 30.0
PULL_DEADLINE_S: Final = 300.0
APPLY_DEADLINE_S: Final = 90.0
WORLD_LABEL: Final = "fleet.metrica.world"
"""What goes wrong with a service beyond its container's life: hangs, port-in-use."""
STALLED_REGISTRY: Final = "stalled.invalid/"

ILLS: Final = (
    "role-unparsable",
    "role-unknown",
    "compose-refused",
    "compose-missing",
    "bind-missing",
    "host-source-missing",
    "image-missing",
    "pull-stalls",
    "compose-hangs",
    "port-in-use",
    "exits",
    "unhealthy",
    "dies-in-soak",
    "check-fails",
    "check-hangs",
)
"""Every way in which a commit may be bad for one role."""
FLEET_ILLS: Final = ("fleet-unparsable",)
"""Bad for every role."""
POISON: Final = "poison"
"""Bad in a way that no device can refuse: it crashes the agent, again and again."""


@dataclass(frozen=True, slots=True)
class RoleContent:
    """What one role runs."""

    version: int = 1
    ill: str | None = None
    slow: bool = False
    """It takes its time to come up, and is well."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a whole repository asks for."""

    roles: tuple[RoleContent, ...] = (RoleContent(), RoleContent())
    ill: str | None = None
    stop: str | None = None
    """What its file ``STOP`` says, if it has one."""
    signers: str | None = None
    """Its ``allowed_signers``, where commits are to be signed."""

    def of(self, role: str) -> RoleContent:
        """Return what ``role`` is to run."""
        return self.roles[ROLES.index(role)]

    def ill_for(self, role: str) -> str | None:
        """Return what is wrong with it for a device of ``role``."""
        return self.ill or self.of(role).ill

    def with_role(self, role: str, content: RoleContent) -> Content:
        """Return it with another ``content`` for ``role``, and nothing wrong with the fleet's own file."""
        roles = tuple(content if name == role else old for name, old in zip(ROLES, self.roles, strict=True))
        return replace(self, roles=roles, ill=None)


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """A commit, its files and all that came before it."""

    id: CommitId
    number: int
    parents: tuple[Commit, ...]
    content: Content
    files: Mapping[str, bytes] = field(repr=False)
    ancestors: frozenset[CommitId] = field(repr=False)
    """Itself included."""
    by: str | None = None
    """Who has signed it."""
    forged: bool = False
    """Somebody made it who may not: no device may ever take it."""

    def __str__(self) -> str:
        ill = self.content.ill or ",".join(
            f"{name}:{one.ill}" for name, one in zip(ROLES, self.content.roles, strict=True) if one.ill
        )
        stops = " with STOP" if self.content.stop is not None else ""
        forged = f" (forged, signed by {self.by or 'nobody'})" if self.forged else ""
        return f"#{self.number}{f' ({ill})' if ill else ''}{stops}{forged}"


@dataclass(slots=True)
class History:
    """Every commit that was ever made."""

    devices: Mapping[str, str]
    """Device → role."""
    rollout: str = ""
    """What is said about it in fleet.toml."""
    windows: tuple[str, ...] = ()
    """When updates of either role may begin, in UTC; none: at any time."""
    signed: bool = False
    """Whether every commit is to be signed by somebody who may."""
    commits: dict[CommitId, Commit] = field(default_factory=dict[CommitId, Commit])

    def commit(self, content: Content, *parents: Commit, by: str | None = None, forged: bool = False) -> Commit:
        """Return a new commit on top of ``parents``."""
        number = len(self.commits) + 1
        name = CommitId(hashlib.sha1(f"commit {number}".encode(), usedforsecurity=False).hexdigest())
        ancestors = frozenset({name}).union(*(parent.ancestors for parent in parents))
        files = self._files(content)
        made = Commit(name, number, parents, content, files, ancestors, by=by, forged=forged and self.signed)
        self.commits[name] = made
        return made

    def _files(self, content: Content) -> Mapping[str, bytes]:
        return files_of(content, tuple(self.devices.items()), self.rollout, self.windows)

    def name(self, commit: CommitId | None) -> str:
        """Return how the story calls ``commit``."""
        return "-" if commit is None else f"#{self.commits[commit].number}"


@lru_cache(maxsize=64)
def files_of(
    content: Content, devices: tuple[tuple[str, str], ...], rollout: str = "", windows: tuple[str, ...] = ()
) -> Mapping[str, bytes]:
    """Return every file of a repository of ``content``."""
    files: dict[str, str] = {"fleet.toml": _FLEET_TOML + rollout if content.ill is None else "name = \n"}
    if content.stop is not None:
        files["STOP"] = content.stop
    if content.signers is not None:
        files["allowed_signers"] = content.signers
    for device, role in devices:
        asked = "nobody-has-it" if content.of(role).ill == "role-unknown" else role
        files[f"devices/{device}.toml"] = f'role = "{asked}"\n'
    for name, role in zip(ROLES, content.roles, strict=True):
        files |= {f"roles/{name}/{path}": text for path, text in _role_files(role, windows).items()}
    return {path: text.encode() for path, text in files.items()}


LOCKS: Final = "web"
"""The service that may ask not to be restarted."""
LOCK_PATIENCE_S: Final = 1200.0
WINDOW_PATIENCE_S: Final = 1800.0
"""How long an update waits for a window."""
LEAST: Final = "recorder"
"""The service that rests first."""
_FLEET_TOML: Final = f"""
name = "{FLEET}"
[health]
start_deadline_s = {START_DEADLINE_S:g}
soak_s = {SOAK_S:g}
[limits]
pull_deadline_s = {PULL_DEADLINE_S:g}
apply_deadline_s = {APPLY_DEADLINE_S:g}
"""
_CHECK: Final = '[[checks]]\ntype = "command"\nname = "page"\nservice = "web"\ncommand = {command}\ntimeout_s = 5\n'
_PRIORITIES: Final = f'[services.{LEAST}]\npriority = "low"\n'
_LOCK: Final = f"[services.{LOCKS}]\nlock_patience_s = {LOCK_PATIENCE_S:g}\n"
_WINDOWS: Final = "[update]\nwindows = [{windows}]\npatience_s = {patience_s:g}\n"


def is_in_window(windows: Sequence[str], at: datetime) -> bool:
    """Whether an update may begin at ``at``: our own reading, against the agent's."""
    now, spans = at.strftime("%H:%M"), [window.split("-") for window in windows]
    return any(begin <= now < end if begin < end else now >= begin or now < end for begin, end in spans)


def _role_files(role: RoleContent, windows: Sequence[str]) -> dict[str, str]:
    files = {"compose.yaml": _compose(role), "site/index.html": f"version {role.version}\n"}
    commands = {"check-hangs": '["sleep", "infinity"]', "check-fails": '["false"]'}
    files["role.toml"] = _CHECK.format(command=commands.get(role.ill or "", '["true"]'))
    if windows:
        quoted = ", ".join(f'"{window}"' for window in windows)
        files["role.toml"] = _WINDOWS.format(windows=quoted, patience_s=WINDOW_PATIENCE_S) + files["role.toml"]
    files["role.toml"] += _PRIORITIES + _LOCK
    if role.ill == "role-unparsable":
        files["role.toml"] = "[[checks]\n"
    if role.ill == "compose-missing":
        del files["compose.yaml"]
    return files


def _compose(role: RoleContent) -> str:
    registry = {"image-missing": "missing.invalid/", "pull-stalls": STALLED_REGISTRY}.get(role.ill or "", "")
    life = {"exits": "exits", "dies-in-soak": "dies-after:20"}.get(role.ill or "", "slow-start:25" if role.slow else "")
    trouble = {"compose-hangs": "hangs", "port-in-use": "port-in-use", "poison": "poison"}.get(role.ill or "", "")
    labels = {"fleet.metrica.sim": life, WORLD_LABEL: trouble}
    written = "\n".join(f'      {key}: "{value}"' for key, value in labels.items() if value)
    mount = {"bind-missing": "./nothing:/srv/site:ro", "host-source-missing": "/nobody/has/this:/srv/site:ro"}
    return f"""
services:
  web:
    image: {registry}web:{role.version}
    restart: unless-stopped
    {"nobody_knows_this: 1" if role.ill == "compose-refused" else "init: true"}
    labels:
      version: "{role.version}"
{written}
    volumes: ["{mount.get(role.ill or "", "./site:/srv/site:ro")}"]
    ports: ["8088:8080"]
    healthcheck:
      test: [CMD, "{"false" if role.ill == "unhealthy" else "true"}"]
      interval: 5s
      retries: 2
      start_period: 5s
  recorder:
    image: recorder:1
    restart: always
    volumes: ["${{METRICA_DATA}}/recordings:/recordings"]
    depends_on: [setup]
  setup:
    image: setup:1
    restart: "no"
"""
