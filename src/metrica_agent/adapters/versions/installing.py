"""The child that installs a version: gets the wheels for this machine, checks each, and has pip install them.

Only wheels whose SHA-256 the commit names come in, and no index is asked. Nothing of a wheel is run before all of them
are checked; what then runs is the version itself, as ``metrica-agent --version``.
"""

from __future__ import annotations

import ctypes
import ensurepip
import hashlib
import os
import signal
import ssl
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import urllib3
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from metrica_agent.adapters.versions.orders import Answer, Failed, Install, Installed
from metrica_agent.certificates import trust
from metrica_fleet.agent_versions import Wheel
from metrica_fleet.errors import FleetError, NotNow, Unusable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 5
"""As the Git child: with 10, on a busy machine, it came to nothing for minutes."""
_BLOCK: Final = 1 << 16
_CONNECT_S: Final = 20.0
_READ_S: Final = 60.0
_OK: Final = 200
_GONE: Final = frozenset({403, 404, 410})
_SAID: Final = 800
_WHEELS_OF_DEBIAN: Final = Path("/usr/share/python-wheels")
_PIP: Final = (
    "--isolated",
    "--disable-pip-version-check",
    "--no-input",
    "--no-cache-dir",
    "--quiet",
)


def main() -> None:
    """Live: one order from stdin, one answer to stdout."""
    _die_with_parent()
    os.nice(_NICENESS)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Install)
    sys.stdout.buffer.write(msgspec.json.encode(carried_out(order)))


def _die_with_parent() -> None:
    """Have this process end when who started it ends: what is left over would write where the next one installs."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def carried_out(order: Install) -> Answer:
    """Carry out ``order``."""
    try:
        wheels = fitting(order.wheels, order.version)
        fetched = _brought(wheels, order)
        _installed(order, wheels)
    except FleetError as error:
        return Failed(reason=error.reason, message=error.message, unusable=isinstance(error, Unusable))
    except OSError as error:
        return Failed(reason="disk-failed", message=f"{error.filename or order.folder}: {error}", unusable=False)
    return Installed(wheels=len(wheels), fetched_bytes=fetched)


def fitting(wheels: Iterable[Wheel], version: str) -> tuple[Wheel, ...]:
    """Return of each project the wheel that fits this Python and processor best.

    Raises:
        Unusable: ``wheel-does-not-fit``: of one there is none.
    """
    ranks = {tag: rank for rank, tag in enumerate(sys_tags())}
    best: dict[str, tuple[int, Wheel]] = {}
    projects: set[str] = set()
    for wheel in wheels:
        try:
            project, _, _, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename as error:
            raise Unusable(
                f"{wheel.name}: it is no name of a wheel ({error}); rename it", reason="bad-listing"
            ) from error
        projects.add(project)
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None and (project not in best or rank < best[project][0]):
            best[project] = (rank, wheel)
    missing = sorted(projects - set(best))
    if missing:
        here = next(iter(ranks))
        text = f"agent {version} has no wheel of {', '.join(missing)} for this machine ({here}); add it to its listing"
        raise Unusable(text, reason="wheel-does-not-fit")
    return tuple(sorted(wheel for _, wheel in best.values()))


# --- the wheels -----------------------------------------------------------------------------------------------


def _brought(wheels: Iterable[Wheel], order: Install) -> int:
    """Make sure that these wheels are here, and are those that the commit means; return how many bytes were fetched.

    Raises:
        Unusable: ``wheel-hash-wrong``, ``wheel-missing``, ``wheel-too-large``.
        NotNow: ``wheel-unreachable``.
    """
    near, missing = Path(order.near), list[Wheel]()
    for wheel in wheels:
        if (near / wheel.name).is_file():
            _require_meant(wheel, near / wheel.name)
        else:
            missing.append(wheel)
    if not missing:
        return 0
    if order.source is None:
        text = f"{missing[0].name} is not beside its listing; put it there, or say [agent] source in fleet.toml"
        raise Unusable(text, reason="wheel-missing")
    source, fetched = f"{order.source.rstrip('/')}/{order.version}", 0
    with _line_to(source, order.ca_file) as http:
        # Nothing is fetched in vain, at every try anew, because the last of them is not there.
        for wheel in missing:
            _require_offered(http, f"{source}/{wheel.name}")
        for wheel in missing:
            fetched += _fetched(http, f"{source}/{wheel.name}", near / wheel.name, order.wheel_bytes)
            _require_meant(wheel, near / wheel.name)
    return fetched


def _require_meant(wheel: Wheel, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        path.unlink()
        way_out = "list what is really there, or put the right file there"
        text = f"{wheel.name} has the SHA-256 {found[:16]}…, the commit says {wheel.sha256[:16]}…; {way_out}"
        raise Unusable(text, reason="wheel-hash-wrong")


@contextmanager
def _line_to(source: str, ca_file: str | None) -> Generator[urllib3.PoolManager]:
    try:
        with urllib3.PoolManager(
            retries=False,
            ssl_context=trust(ca_file),
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
        ) as http:
            yield http
    except (urllib3.exceptions.HTTPError, ssl.SSLError) as error:
        raise NotNow(f"{source}: {error}"[:_SAID], reason="wheel-unreachable") from error


def _require_offered(http: urllib3.PoolManager, address: str) -> None:
    """Make sure that a wheel is there. Who does not say without giving it is asked for it in its turn."""
    status = http.request("HEAD", address, redirect=False).status
    if status in _GONE:
        raise _not_there(address, status)


def _not_there(address: str, status: int) -> NotNow:
    text = f"{address}: it is not there ({status}); put it there, or take [agent] source from fleet.toml"
    return NotNow(text, reason="wheel-unreachable", retry_after_s=600)


def _fetched(http: urllib3.PoolManager, address: str, path: Path, most: int) -> int:
    answer = http.request("GET", address, preload_content=False, redirect=False)
    if answer.status in _GONE:
        raise _not_there(address, answer.status)
    if answer.status != _OK:
        raise NotNow(f"{address}: answered {answer.status}", reason="wheel-unreachable")
    return _written(answer, path, most, address)


def _written(answer: urllib3.BaseHTTPResponse, path: Path, most: int, address: str) -> int:
    written, new = 0, path.with_name(f"{path.name}.part")
    with new.open("wb") as file:
        for block in answer.stream(_BLOCK):
            written += len(block)
            if written > most:
                raise Unusable(f"{address} has more than {most} bytes; a wheel may not", reason="wheel-too-large")
            file.write(block)
    new.rename(path)
    return written


# --- installing -----------------------------------------------------------------------------------------------


def _installed(order: Install, wheels: tuple[Wheel, ...]) -> None:
    """Make the venv, and have it say which version it is.

    Raises:
        Unusable: ``wheels-unusable``, ``agent-does-not-start``, ``agent-version-wrong``.
    """
    folder = Path(order.folder)
    python = str(folder / "bin/python")
    requirements = Path(order.near) / "requirements.txt"
    lines = [f"{_requirement(wheel.name)} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    requirements.write_text("".join(lines), encoding="ascii")
    base = str(Path(sys.executable).resolve())
    _done((base, "-I", "-m", "venv", "--without-pip", str(folder)), "no venv can be made", unusable=False)
    pip = (python, "-I", str(_pip(Path(order.near) / "pip")), *_PIP)
    install = ("install", "--no-index", "--no-deps", "--only-binary", ":all:", "--require-hashes")
    found = ("-f", order.near, "-r", str(requirements))
    _done((*pip, *install, *found), "the wheels can't be installed")
    _done((*pip, "check"), "the wheels do not fit each other")
    said = _done((str(folder / "bin/metrica-agent"), "--version"), "it does not start", reason="agent-does-not-start")
    if said.strip() != f"metrica-agent {order.version}":
        text = f"it says that it is {said.strip()[:100]!r}, and the commit that it is {order.version}"
        raise Unusable(text, reason="agent-version-wrong")


def _pip(folder: Path) -> Path:
    """Unpack the pip that comes with Python into ``folder``; return what to run.

    It is not installed into the venv: there it would be of no use afterwards, and a third of what that takes.

    Raises:
        NotNow: ``venv-failed``.
    """
    for place in (Path(ensurepip.__file__).parent / "_bundled", _WHEELS_OF_DEBIAN):
        for wheel in sorted(place.glob("pip-*.whl"), reverse=True):
            with zipfile.ZipFile(wheel) as files:
                files.extractall(folder)
            return folder / "pip"
    raise NotNow("this Python has no pip with it; install Debian's python3-venv", reason="venv-failed")


def _requirement(wheel: str) -> str:
    project, version, _, _ = parse_wheel_filename(wheel)
    return f"{project}=={version}"


def _done(command: tuple[str, ...], what: str, *, reason: str = "wheels-unusable", unusable: bool = True) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", "LC_ALL": "C", "PYTHONUTF8": "1"}
    temporary = os.environ.get("TMPDIR")
    if temporary is not None:
        environment["TMPDIR"] = temporary
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=_die_with_parent,  # safe: this process has one thread
    )
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr.strip() or done.stdout.strip())[-_SAID:]
    message = f"{what}: {said or f'exit code {done.returncode}'}"
    if unusable:
        raise Unusable(message, reason=reason)
    raise NotNow(message, reason="venv-failed")
