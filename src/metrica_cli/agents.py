"""``metrica agent``: brings a version of the agent out, from wheels that are whole to where devices get them.

A wheel says itself what it needs, for which Python and processor. So what a device would find missing when it
installs is found here, before the commit.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from contextlib import contextmanager
from email.parser import BytesHeaderParser
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from cyclopts import App, Parameter
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from metrica_cli.options import add
from metrica_cli.output import count, say, tell
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.agent_versions import (
    DISTRIBUTION,
    WHEEL_BYTES,
    VersionText,
    listing_of,
    read_listing,
)
from metrica_fleet.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from packaging.utils import NormalizedName


_MB: Final = 1_000_000
_METADATA_BYTES: Final = 1024 * 1024
_EXTRA: Final = "agent"
_PYTHON: Final = re.compile(r"3\.(\d{1,2})")
_MACHINES: Final = {"arm64": "aarch64", "amd64": "x86_64"}
_GLIBC: Final = 36
"""Of Debian 12, the oldest that an agent is for; wheels for older ones run there, too."""
_OLDEST_GLIBC: Final = 17
_OLD_NAMES: Final = {"aarch64": ("manylinux2014",), "x86_64": ("manylinux2014", "manylinux2010", "manylinux1")}
_PINNED: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")

Checkout = Annotated[Path, Parameter(name="-C", help="The checkout of the fleet repository.")]


def register(app: App) -> None:
    """Add the commands."""
    agents = App(name="agent", help="Bring versions of the agent out to the devices.", help_epilogue="")
    add(
        agents,
        add_,
        "metrica agent add 1.4.0 --from wheels --in-git",
        "metrica agent add 1.4.0 --from wheels --to /opt/metrica/stack/stack/vps/hub/agent-wheels",
        "metrica agent add 1.4.0 --from wheels --in-git --python 3.13 --arch arm64 --arch amd64",
        name="add",
    )
    app.command(agents)


def add_(
    version: Annotated[str, Parameter(name="VERSION", help="As the agent's wheel calls itself.")],
    /,
    *,
    source: Annotated[Path, Parameter(name="--from", help="The folder with the wheels.")],
    in_git: Annotated[
        bool, Parameter(name="--in-git", negative=(), show_default=False, help="Put the wheels beside their listing.")
    ] = False,
    to: Annotated[
        Path | None, Parameter(name="--to", help="The folder that the hub serves: [agent_wheels] folder of hub.toml.")
    ] = None,
    python: Annotated[
        list[str] | None,
        Parameter(name="--python", negative=(), help="Of the devices; again. 3.11 where none is said."),
    ] = None,
    arch: Annotated[
        list[str] | None, Parameter(name="--arch", negative=(), help="arm64 or amd64; again. arm64 where none is said.")
    ] = None,
    pins: Annotated[
        Path | None, Parameter(name="--pins", help="A requirements file that has to have the hash of each dependency.")
    ] = None,
    directory: Checkout = Path(),
) -> Exit:
    """Make agent/VERSION/SHA256SUMS of the wheels in a folder, and put them where devices get them.

    The wheels must be whole for every Python and processor that is named: the agent's own, and of each that it needs
    one that fits. Nothing is fetched, and no wheel is run.
    """
    if in_git == (to is not None):
        raise Trouble("where are the wheels to lie?", code=Exit.USAGE, advice="--in-git, or --to FOLDER")
    _require_version(version)
    if not (directory / "fleet.toml").is_file():
        what = f"{directory} is no checkout of a fleet repository: it has no fleet.toml"
        raise Trouble(what, code=Exit.USAGE, advice="-C path/to/fleet")
    targets = _targets(python or ["3.11"], arch or ["arm64"])
    found = _wheels_in(source)
    listing = _listing(found, version)
    _require_one_of_each(found)
    for target in targets:
        _require_whole(found, version, target)
    if pins is not None:
        _require_pinned(found, pins)
    try:
        into = directory / listing_of(version)
        _require_free(into, listing)
        _bring(found, into.parent if to is None else to / version)
        _written(into, listing)
    except OSError as error:
        what = f"{error.filename or directory} can't be written"
        raise Trouble(what, code=Exit.NO, why=error.strerror or str(error)) from error
    _tell(version, found, targets, into, to)
    if to is not None:
        _tell_source(directory)
    return Exit.OK


def _tell(version: str, found: Sequence[_Found], targets: Sequence[_Target], into: Path, to: Path | None) -> None:
    size = sum(one.bytes for one in found) / _MB
    for_whom = ", ".join(map(str, targets))
    say(f"{into}: {count(len(found), 'wheel')}, {size:.1f} MB, whole for {for_whom}")
    where = f"they are in {to / version}; " if to is not None else ""
    tell(f'{where}commit {into.parent}; devices take it by [agent] version = "{version}" in fleet.toml')


class _Agent(msgspec.Struct):
    """What is of interest here of ``[agent]``."""

    source: str | None = None


class _FleetFile(msgspec.Struct):
    """What is of interest here of ``fleet.toml``."""

    agent: _Agent | None = None


def _tell_source(directory: Path) -> None:
    """Say what would keep devices from finding wheels that are not in Git."""
    try:
        named = msgspec.toml.decode((directory / "fleet.toml").read_bytes(), type=_FleetFile).agent
    except (OSError, msgspec.MsgspecError):
        named = None  # `metrica lint` says what is wrong with it, and where
    if named is None or named.source is None:
        tell('note: fleet.toml names no source; devices need [agent] source = "https://HUB/agent"')


def _require_version(version: str) -> None:
    try:
        msgspec.convert(version, VersionText)
    except msgspec.ValidationError as error:
        raise Trouble(f'"{version}" is no version', code=Exit.USAGE, advice="metrica agent add 1.4.0 …") from error


# --- what is for whom ---------------------------------------------------------------------------------------------


class _Target(NamedTuple):
    """What devices are."""

    python: str
    machine: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine}"

    @property
    def tags(self) -> frozenset[Tag]:
        """Return what a wheel may be made for to be of use there."""
        python = (3, int(self.python.partition(".")[2]))
        platforms = [f"manylinux_2_{minor}_{self.machine}" for minor in range(_GLIBC, _OLDEST_GLIBC - 1, -1)]
        platforms += [f"manylinux_2_5_{self.machine}", f"manylinux_2_12_{self.machine}"]
        platforms += [f"{name}_{self.machine}" for name in (*_OLD_NAMES[self.machine], "linux")]
        interpreter = f"cp{python[0]}{python[1]}"
        return frozenset((*cpython_tags(python, platforms=platforms), *compatible_tags(python, interpreter, platforms)))

    def environment(self, extra: str) -> dict[str, str]:
        """Return what conditions of a requirement are measured by."""
        return {
            "extra": extra,
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def _targets(pythons: Iterable[str], architectures: Iterable[str]) -> list[_Target]:
    targets: list[_Target] = []
    for python, architecture in product(dict.fromkeys(pythons), dict.fromkeys(architectures)):
        if not _PYTHON.fullmatch(python):
            raise Trouble(f"--python {python} is no Python", code=Exit.USAGE, advice="--python 3.11")
        if architecture not in _MACHINES:
            raise Trouble(f"--arch {architecture} is no processor of a device", code=Exit.USAGE, advice="--arch arm64")
        targets.append(_Target(python, _MACHINES[architecture]))
    return targets


# --- the wheels ---------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A wheel in the folder."""

    path: Path
    project: NormalizedName
    version: Version
    tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    pythons: SpecifierSet
    bytes: int
    sha256: str


def _wheels_in(folder: Path) -> list[_Found]:
    if not folder.is_dir():
        raise Trouble(f"{folder} is no folder", code=Exit.USAGE, advice="--from the folder with the wheels")
    found = [_read(path) for path in sorted(folder.glob("*.whl"))]
    if not found:
        raise Trouble(f"{folder} has no wheels", code=Exit.USAGE, advice="docs/how-to/agent-version.md")
    return found


def _read(path: Path) -> _Found:
    """Read a wheel's name and what it says of itself. Raises Trouble."""
    try:
        project, version, _, tags = parse_wheel_filename(path.name)
        size = path.stat().st_size
        if size > WHEEL_BYTES:
            what = f"{path} has {size / _MB:.0f} MB; a device takes no wheel of more than {WHEEL_BYTES / _MB:.0f}"
            raise Trouble(what, code=Exit.NO)
        requires, pythons = _asked(path)
        digest = _sha256(path)
    except InvalidWheelFilename as error:
        raise Trouble(f"{path}: that is no name of a wheel", code=Exit.NO, why=str(error)) from error
    except (OSError, zipfile.BadZipFile, KeyError, InvalidRequirement, InvalidSpecifier) as error:
        raise Trouble(f"{path} is no whole wheel", code=Exit.NO, why=str(error), advice="get it again") from error
    return _Found(path, project, version, tags, requires, pythons, size, digest)


def _asked(path: Path) -> tuple[tuple[Requirement, ...], SpecifierSet]:
    """Return what a wheel needs, and for which Pythons it is."""
    with zipfile.ZipFile(path) as wheel:
        broken = wheel.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} in it is damaged")
        info = "-".join(path.name.split("-")[:2])
        with wheel.open(f"{info}.dist-info/METADATA") as metadata:
            told = BytesHeaderParser().parsebytes(metadata.read(_METADATA_BYTES))
    needed = tuple(Requirement(str(text)) for text in told.get_all("Requires-Dist", []))
    return needed, SpecifierSet(str(told.get("Requires-Python", "")))


def _listing(found: Sequence[_Found], version: str) -> bytes:
    """Return what SHA256SUMS will say, after devices' own reading of it. Raises Trouble."""
    lines = [f"{one.sha256}  {one.path.name}\n" for one in found]
    listing, problems = "".join(lines).encode(), list[Problem]()
    if not read_listing(version, listing, problems):
        where = found[0].path.parent
        raise Trouble(f"devices would refuse these wheels of {where}", code=Exit.NO, why=str(problems[0]))
    return listing


def _require_one_of_each(found: Sequence[_Found]) -> None:
    """Make sure that nothing is there in two versions: which of them a device takes would be chance. Raises Trouble."""
    first: dict[NormalizedName, _Found] = {}
    for one in found:
        other = first.setdefault(one.project, one)
        if other.version != one.version:
            what = f"{one.project} is there twice: {other.path.name} and {one.path.name}"
            raise Trouble(what, code=Exit.NO, advice="take one of them away")


def _require_whole(found: Sequence[_Found], version: str, target: _Target) -> None:
    """Make sure that of all that the agent needs there, there is a wheel that fits. Raises Trouble."""
    tags = target.tags
    full = target.environment("")["python_full_version"]
    fitting = {one.project: one for one in found if one.tags & tags and one.pythons.contains(full)}
    names = {one.project: [other for other in found if other.project == one.project] for one in found}
    own = Requirement(f"{DISTRIBUTION}[{_EXTRA}]=={version}")
    waiting, seen = [(own, "the agent")], set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement, needed_by = waiting.pop()
        project = canonicalize_name(requirement.name)
        one = fitting.get(project)
        if one is None or not requirement.specifier.contains(one.version, prereleases=True):
            there = ", ".join(other.path.name for other in names.get(project, []))
            what = f"no wheel of {requirement.name}{requirement.specifier} fits {target}, and {needed_by} needs it"
            why = f"there is {there}" if there else "there is none for any"
            raise Trouble(what, code=Exit.NO, why=why, advice="docs/how-to/agent-version.md")
        key = (project, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        waiting += [(more, one.path.name) for more in one.requires if _applies(more, requirement.extras, target)]
    # A device has no use for a listing with a project in it of which nothing fits it (wheel-does-not-fit).
    strange = sorted(one.path.name for one in found if one.project not in fitting)
    if strange:
        what = f"of {strange[0]} there is no wheel that fits {target}"
        raise Trouble(what, code=Exit.NO, why="a device would refuse the version", advice="take it away, or add one")


def _applies(requirement: Requirement, extras: Iterable[str], target: _Target) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate(target.environment(extra)) for extra in (*extras, ""))


def _require_pinned(found: Sequence[_Found], pins: Path) -> None:
    """Make sure that each wheel but the agent's own is one that ``pins`` names by its hash. Raises Trouble."""
    try:
        known = frozenset(_PINNED.findall(pins.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{pins} can't be read", code=Exit.USAGE, why=str(error)) from error
    own = canonicalize_name(DISTRIBUTION)
    strange = [one.path.name for one in found if one.project != own and one.sha256 not in known]
    if strange:
        what = f"{strange[0]} is not what {pins} pins"
        raise Trouble(what, code=Exit.NO, why=f"{count(len(strange), 'wheel')} differ", advice="get it by these pins")


# --- writing ------------------------------------------------------------------------------------------------------


def _require_free(into: Path, listing: bytes) -> None:
    """Make sure that the version is not there with other wheels: devices may have it. Raises Trouble."""
    if into.exists() and into.read_bytes() != listing:
        what = f"{into} is there, and lists other wheels"
        advice = "another number; or git rm it first, if no device is to keep what it lists"
        raise Trouble(what, code=Exit.NO, advice=advice)


def _bring(found: Sequence[_Found], folder: Path) -> None:
    """Copy the wheels, each whole or not at all. Raises Trouble, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        target = folder / one.path.name
        if target.exists() and target.samefile(one.path):
            continue
        if target.exists() and _sha256(target) != one.sha256:
            what = f"{target} is there, and is another wheel"
            raise Trouble(what, code=Exit.NO, why="devices may need that one", advice="another number")
        if not target.exists():
            _copied(one.path, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copied(source: Path, target: Path) -> None:
    with source.open("rb") as file, _whole(target) as new:
        shutil.copyfileobj(file, new)


def _written(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as new:
        new.write(content)


@contextmanager
def _whole(path: Path) -> Generator[IO[bytes]]:
    """Write ``path`` whole or not at all, for everybody to read: the hub is another user."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.chmod(0o644)
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)
