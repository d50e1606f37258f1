"""What Docker's sentences mean for us: it has no other interface for errors. Tests pin them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from metrica_fleet.errors import NotNow, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metrica_agent.adapters.compose.running import Finished
    from metrica_fleet.errors import FleetError

MESSAGE_CHARACTERS: Final = 400

_LOGGED: Final = re.compile(r'^time="[^"]*" level=\w+ msg=')
_PROGRESS: Final = re.compile(r"^\s*(Container|Network|Volume|Image) \S+\s+\w+$|^\s*\S+ (Pulling|Pulled|Warning)\b")
_UNSET: Final = re.compile(r'The \\?"([^"\\]+)\\?" variable is not set')
_UNREACHABLE: Final = re.compile(
    r"Cannot connect to the Docker daemon|error during connect|failed to connect to the docker API",
    re.IGNORECASE,
)
_FORBIDDEN: Final = re.compile(r"permission denied while trying to connect", re.IGNORECASE)
_NO_COMPOSE: Final = re.compile(r"'compose' is not a docker command|unknown (shorthand )?flag: .*(-p|--project)")
_FULL: Final = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_OUT_OF_MEMORY: Final = re.compile(r"^(fatal error: .*|runtime: )out of memory|^goroutine \d+ ", re.MULTILINE)
"""Its complaint may be longer than what is kept of it; then the end of Go's stacks is there."""
_NO_IMAGE: Final = re.compile(r"no such image", re.IGNORECASE)
_NOT_RUNNING: Final = re.compile(r"No such container|is not running|is restarting|is paused", re.IGNORECASE)
_HELD: Final = re.compile(r'container name .* is already in use by container "?([0-9a-f]{12,64})', re.IGNORECASE)
_REMOVING: Final = re.compile(r"removal of container \S+ is already in progress", re.IGNORECASE)
_GONE: Final = re.compile(r"No such (object|container)", re.IGNORECASE)

_APPLY_FAILURES: Final = (
    ("port-in-use", r"port is already allocated|address already in use"),
    ("image-missing", r"no such image|image .* not found locally"),
    ("bind-source-missing", r"bind source path does not exist"),
    ("name-in-use", r"container name .* is already in use"),
    ("network-conflict", r"Pool overlaps with other one|has active endpoints"),
    ("network-missing", r"network .*(could not be found|not found)"),
    ("volume-missing", r"external volume .* not found"),
    ("device-missing", r"error gathering device information"),
    (
        "command-not-found",
        r"executable file not found|stat .*: no such file or directory|no such file or directory.*exec",
    ),
    ("wrong-architecture", r"exec format error"),
    ("dependency-failed", r"dependency failed to start|didn't complete successfully|is unhealthy"),
    ("disk-full", r"no space left on device"),
)
_PULL_ANSWERS: Final = (
    ("wrong-architecture", r"no matching manifest for|does not match the (specified|expected) platform"),
    ("image-missing", r"manifest unknown|manifest for .* not found|no such manifest|name unknown|: not found\s*$"),
    ("image-missing", r"repository does not exist|access .*denied|invalid reference format"),
)


def said(text: str) -> str:
    """Return the decisive words of a command in one line: no log lines, no progress."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not _LOGGED.match(line) and not _PROGRESS.match(line)]
    return " ".join(telling[-3:])[-MESSAGE_CHARACTERS:] or "it gave no reason"


def unset_variables(complaint: str) -> list[str]:
    """Return the variables that Compose took for empty because nobody set them."""
    return sorted(set(_UNSET.findall(complaint)))


def refuse_invalid(done: Finished, folder: str) -> None:
    """Raise what a failed ``docker compose config`` in ``folder`` means."""
    if done.code == 0:
        return
    refuse_trouble(done)
    if _OUT_OF_MEMORY.search(done.complaint):
        message = "compose.yaml: docker compose ran out of the memory that it may have; make what it reads smaller"
        raise Unusable(message, reason="compose-too-large")
    if done.code < 0 or not done.complaint.strip():
        raise NotNow(f"docker compose ended with code {done.code} and no word", reason="compose-failed")
    sentence = said(done.complaint).replace(f"{folder}/", "").replace(folder, ".")
    reason = "variable-unset" if "required variable" in sentence else "compose-invalid"
    raise Unusable(f"compose.yaml: {sentence}", reason=reason)


def refuse_unset(complaint: str) -> None:
    """Raise when Compose put an empty string where the file asks for something this device does not have."""
    unset = unset_variables(complaint)
    if unset:
        msg = (
            f"compose.yaml: the variable {unset[0]} is not set for this device; set it in [vars], give it a"
            f" default with ${{{unset[0]}:-...}}, or write $${unset[0]} where a dollar is meant"
        )
        raise Unusable(msg, reason="variable-unset")
    if "cannot expand '~'" in complaint:
        msg = 'compose.yaml: a path begins with "~", and a workload has no home here; use an absolute path'
        raise Unusable(msg, reason="home-path")


def refuse_trouble(done: Finished) -> None:
    """Raise when the command failed for a reason of this machine."""
    refuse_engine_trouble(done)
    if done.code != 0 and _FULL.search(done.complaint):
        raise NotNow(said(done.complaint), reason="disk-full")


def refuse_engine_trouble(done: Finished) -> None:
    """Raise when the command failed for a reason that no release can have; it can fill the disk."""
    if done.code == 0:
        return
    for reason, pattern in (
        ("engine-forbidden", _FORBIDDEN),
        ("engine-unresponsive", _UNREACHABLE),
        ("compose-missing", _NO_COMPOSE),
    ):
        if pattern.search(done.complaint):
            raise NotNow(said(done.complaint), reason=reason)


def pull_failure(image: str, complaint: str) -> FleetError:
    """Return what a failed pull means: the registry's own answer is final, all else is worth another try."""
    sentence = f'image "{image}": {said(complaint)}'
    reason = _first(_PULL_ANSWERS, complaint.splitlines())
    if reason is not None:
        return Unusable(sentence, reason=reason)
    return NotNow(sentence, reason="disk-full" if _FULL.search(complaint) else "image-unreachable")


def apply_failure(complaint: str) -> str:
    """Return the reason of a failed ``up``, as exactly as it can be told."""
    return _first(_APPLY_FAILURES, complaint.splitlines()) or "apply-failed"


def is_missing_image(complaint: str) -> bool:
    """Whether the engine says that it has no such image."""
    return _NO_IMAGE.search(complaint) is not None


def is_not_running(complaint: str) -> bool:
    """Whether the engine says that a container can't be asked because it does not run."""
    return _NOT_RUNNING.search(complaint) is not None


def all_gone(complaint: str) -> bool:
    """Whether a failed inspect only met containers that went between being listed and being asked."""
    lines = [line for line in complaint.splitlines() if line.strip()]
    return bool(lines) and all(_GONE.search(line) for line in lines)


def holder_of_name(complaint: str) -> str | None:
    """Return the id of the container that has the name which a failed ``up`` wanted."""
    held = _HELD.search(complaint)
    return None if held is None else held.group(1)


def is_removing(complaint: str) -> bool:
    """Whether the engine says that it removes the container just now."""
    return _REMOVING.search(complaint) is not None


def _first(table: Sequence[tuple[str, str]], lines: Iterable[str]) -> str | None:
    text = "\n".join(lines)
    return next((reason for reason, pattern in table if re.search(pattern, text, re.IGNORECASE | re.MULTILINE)), None)
