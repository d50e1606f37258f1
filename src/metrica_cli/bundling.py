"""``metrica bundle``: what a device without a network is to run, as a signed folder for a stick.

Git writes the history, the engine here the images, a device's own code says which images those are, and the operator's
key signs what all of it is.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from cyclopts import App, Parameter

from metrica_cli.options import add, device_path
from metrica_cli.output import count, say, tell
from metrica_cli.progress import Progress
from metrica_cli.signing import signed
from metrica_cli.snapshots import snapshots
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet import signers, stop
from metrica_fleet.bundle import (
    HISTORY,
    IMAGES,
    MANIFEST,
    PART_BYTES,
    PIECE_BYTES,
    Bundle,
    Image,
    Payload,
    part,
    stand_in,
    written,
)
from metrica_fleet.definition import DefinitionError, Fleet, whole_fleet
from metrica_fleet.errors import FleetError, Unusable
from metrica_fleet.identity import CommitId, DeviceId, short
from metrica_fleet.signed import BUNDLES, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

_GIT_S: Final = 300.0
_PULL_S: Final = 3600.0
_ASK_S: Final = 60.0
_MB: Final = 1_000_000
_FORMAT: Final = "{{.Id}}\t{{.Created}}\t{{json .RootFS.Layers}}\t{{.Architecture}}\t{{.Size}}"
_RUN_BESIDES: Final = {"arm64": ("arm",), "amd64": ("386",)}


def register(app: App) -> None:
    """Add the command."""
    add(
        app,
        bundle,
        "metrica bundle /media/stick/pi-01 --device pi-01",
        "metrica bundle out --role camera --since 3f2a91c0    images and history that 3f2a91c0 has not",
        "metrica bundle out --all --arch amd64 --local",
    )


def bundle(
    out: Annotated[Path, Parameter(name="OUT", help="The folder to write; it must not exist.")],
    /,
    *,
    device: Annotated[list[str] | None, Parameter(name="--device", negative=(), help="For this device; again.")] = None,
    role: Annotated[str | None, Parameter(name="--role", help="For the devices of this role.")] = None,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), show_default=False, help="For all devices of the fleet.")
    ] = False,
    since: Annotated[
        str | None, Parameter(name="--since", help="Leave out what this commit has: the devices have it.")
    ] = None,
    branch: Annotated[str, Parameter(name="--branch", help="Which branch the devices follow.")] = "main",
    architecture: Annotated[str, Parameter(name="--arch", help="Of the devices.")] = "arm64",
    local: Annotated[
        bool,
        Parameter(
            name="--local", negative=(), show_default=False, help="Images as the engine here has them: pull nothing."
        ),
    ] = False,
    key: Annotated[str | None, Parameter(name="--key", help="The SSH key to sign with; else Git's own.")] = None,
    directory: Annotated[Path, Parameter(name="-C", help="The checkout of the fleet repository.")] = Path(),
) -> Exit:
    """Write what devices without a network are to run as a folder for a stick; there, metrica-agent apply-bundle.

    It has the branch as it is committed here, and the images of the devices' releases, pulled by the Docker engine of
    this machine. Who signs it must be in the fleet's allowed_signers for the namespace metrica-bundle.
    """
    if sum((bool(device), role is not None, every)) != 1:
        raise Trouble("for which devices?", code=Exit.USAGE, advice="--device pi-01, --role camera or --all")
    if out.exists():
        raise Trouble(f"{out} is there already", code=Exit.USAGE, advice="name a folder that is not, or remove it")
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        made = _Making(directory, work, branch, architecture, local=local).made(device, role, since)
        _write(work / MANIFEST, joined(signed(written(made), key, BUNDLES)))
        work.rename(out)
    except OSError as error:
        raise Trouble(f"{out} can't be written", code=Exit.NO, why=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    total_bytes = made.history.total_bytes + (made.archive.total_bytes if made.archive else 0)
    say(f"{out}: commit {short(made.commit)}, {count(len(made.images), 'image')}, {total_bytes / _MB:.1f} MB")
    named = ", ".join(made.devices[:5]) + (" …" if len(made.devices) > 5 else "")  # noqa: PLR2004 a line's worth
    tell(f"for {named}; on each of them: metrica-agent apply-bundle FOLDER")
    return Exit.OK


class _Found(NamedTuple):
    """An image as the engine here has it."""

    image: Image
    bytes: int


class _Making:
    """One bundle in the making, in a folder of its own."""

    def __init__(self, directory: Path, work: Path, branch: str, architecture: str, *, local: bool) -> None:
        self._directory, self._work, self._branch = directory, work, branch
        self._architecture, self._local = architecture, local
        self._progress = Progress()

    def made(self, device: list[str] | None, role: str | None, since: str | None) -> Bundle:
        """Write history and images; return what they are. Raises Trouble."""
        commit, base = self._commits(since)
        fleet = self._fleet(commit)
        names = _chosen(fleet, device, role)
        history = self._history(base)
        self._progress.show(f"[+] Rehearsing  {count(len(names), 'device')}")
        wanted = asyncio.run(self._images(names, commit, base))
        found = [self._found(name) for name in sorted(wanted)]
        archive = self._archive([one.image for one in found]) if found else None
        self._progress.clear()
        return Bundle(
            bundle=1,
            fleet=fleet.name,
            issued_at=datetime.now(UTC).replace(microsecond=0),
            branch=self._branch,
            commit=commit,
            since=base,
            devices=tuple(names),
            history=history,
            images=tuple(one.image for one in found),
            archive=archive,
            unpacked_bytes=sum(one.bytes for one in found),
        )

    # --- the history ----------------------------------------------------------------------------------------------

    def _commits(self, since: str | None) -> tuple[CommitId, CommitId | None]:
        if _git(self._directory, "rev-parse", "--show-prefix"):
            message = "the fleet repository is a folder of a larger one, which no device could follow"
            raise Trouble(message, code=Exit.USAGE, advice="-C the top of the fleet repository")
        if _git(self._directory, "rev-parse", "--is-shallow-repository") == "true":
            message = "this checkout is shallow, and a device must see where a commit comes from"
            raise Trouble(message, code=Exit.USAGE, advice="git fetch --unshallow")
        commit = self._commit(f"refs/heads/{self._branch}")
        base = None if since is None else self._commit(since)
        if base is not None and base == commit:
            raise Trouble(f"{since} is what {self._branch} points at: there is nothing to bring", code=Exit.NO)
        if base is not None and _git(self._directory, "merge-base", base, commit) != base:
            raise Trouble(f"{self._branch} does not come after {since}", code=Exit.NO, advice="leave --since out")
        return commit, base

    def _commit(self, name: str) -> CommitId:
        try:
            return CommitId(_git(self._directory, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}"))
        except Trouble as trouble:
            raise Trouble(f'there is no commit "{name}"', code=Exit.NOT_FOUND, advice="git log --oneline") from trouble

    def _history(self, base: CommitId | None) -> Payload:
        file = self._work / HISTORY
        less = () if base is None else (f"^{base}",)
        _git(self._directory, "bundle", "create", "--quiet", str(file.resolve()), f"refs/heads/{self._branch}", *less)
        return _payload_of(file)

    def _fleet(self, commit: CommitId) -> Fleet:
        """Return what the commit says, not what is on disk."""
        files = _files(self._directory, commit)
        try:
            fleet = whole_fleet(files)
        except DefinitionError as error:
            what = f"a device would refuse commit {short(commit)}"
            raise Trouble(what, code=Exit.NO, why=str(error.problems[0]), advice="metrica lint") from error
        self._warn(files.get(signers.FILE))
        return fleet

    @staticmethod
    def _warn(content: bytes | None) -> None:
        if content is None:
            tell(f"note: there is no {signers.FILE} here; devices take the bundle only if their own file names you")
            return
        try:
            people = signers.who_may_sign(signers.signers_in(content), BUNDLES, at=None)
        except Unusable as error:
            tell(f"note: {error.message}")
            return
        if not people:
            tell(f"note: {signers.FILE}: nobody may sign in the namespace {BUNDLES}; devices will refuse the bundle")

    # --- the images -------------------------------------------------------------------------------------------------

    async def _images(self, names: Sequence[DeviceId], commit: CommitId, base: CommitId | None) -> frozenset[str]:
        """Return the images that the devices' releases need, and not for ``base`` already. Raises Trouble."""
        try:
            from metrica_agent.adapters.compose import Engine  # noqa: PLC0415 - who looks after a fleet need not have it
            from metrica_cli.rehearsal import Refusal, Rehearsal  # noqa: PLC0415 - likewise
        except ImportError as error:
            what = f"the code that devices run is not installed ({error})"
            raise Trouble(what, code=Exit.USAGE, advice='pip install "metrica-fleet[agent,cli]"') from error
        new: set[str] = set()
        with snapshots(self._directory) as states, tempfile.TemporaryDirectory(prefix="metrica-") as folder:
            rehearsal = Rehearsal(states.mirror, Path(folder), Engine("metrica", environment=os.environ))
            after, before = states.at(commit)[0], None if base is None else states.at(base)[0]
            for name in names:
                try:
                    staged = await rehearsal.staged(after, name)
                    known = None if before is None else await rehearsal.staged(before, name)
                except FleetError as error:
                    raise Trouble(error.message, code=Exit.NO, why=error.reason) from error
                if isinstance(staged, Refusal):
                    raise Trouble(f"{name} would refuse it: {staged.message}", code=Exit.NO, why=staged.reason)
                had = () if known is None or isinstance(known, Refusal) else known.release.services
                new |= {one.image for one in staged.release.services} - {one.image for one in had}
        return frozenset(new)

    def _found(self, name: str) -> _Found:
        """Have the image here, for the devices' architecture, under the name that it is saved by."""
        if not self._local:
            self._progress.show(f"[+] Pulling  {name}")
            _docker("pull", "--quiet", "--platform", f"linux/{self._architecture}", name, within_s=_PULL_S)
        try:
            told = _docker("image", "inspect", "--format", _FORMAT, name)
        except Trouble as trouble:
            what = f"the engine here has no image {name}"
            raise Trouble(what, code=Exit.NO, why=trouble.why, advice="leave --local out, or build it") from trouble
        one, created, layers, architecture, size = told.split("\t")
        if architecture not in (self._architecture, *_RUN_BESIDES.get(self._architecture, ())):
            what = f"{name} is for {architecture} here, the devices are {self._architecture}"
            raise Trouble(what, code=Exit.NO, advice=f"--arch {architecture}, or leave --local out")
        tag = stand_in(name)
        if tag != name:
            _docker("image", "tag", name, tag)
        known = tuple(msgspec.json.decode(layers, type=list[str] | None) or ())
        return _Found(Image(name=name, tag=tag, id=one, layers=known, created=created), int(size))

    def _archive(self, images: Sequence[Image]) -> Payload:
        """Write what ``docker save`` says of all images at once: a layer that several have is in it once."""
        program = ["docker", "image", "save", *sorted({image.tag for image in images})]
        try:
            with tempfile.TemporaryFile() as said:
                with subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said) as saving:
                    if saving.stdout is None:
                        raise AssertionError("asked for a pipe, got none")
                    payload = _cut(saving.stdout, self._work, self._progress)
                said.seek(0)
                why = said.read().decode("utf-8", "replace").strip()
        except FileNotFoundError as error:
            raise Trouble("docker is not installed", code=Exit.USAGE) from error
        if saving.returncode != 0 or payload is None:
            raise Trouble("the engine here did not save the images", code=Exit.NO, why=why)
        return payload


def _chosen(fleet: Fleet, devices: list[str] | None, role: str | None) -> list[DeviceId]:
    if devices:
        for name in devices:
            device_path(name)
            if name not in fleet.devices:
                raise Trouble(f'the repository has no device "{name}"', code=Exit.NOT_FOUND)
        return [DeviceId(name) for name in sorted(set(devices))]
    found = sorted(name for name, one in fleet.devices.items() if role in {None, one.role})
    if not found:
        raise Trouble(f'no device has the role "{role}"', code=Exit.NOT_FOUND)
    return found


def _cut(source: IO[bytes], folder: Path, progress: Progress) -> Payload | None:
    """Write ``source`` in parts; return what it is, ``None`` where it is empty."""
    pieces: list[str] = []
    total_bytes = 0
    file: IO[bytes] | None = None
    try:
        while piece := source.read(PIECE_BYTES):
            if total_bytes % PART_BYTES == 0:
                if file is not None:
                    _close(file)
                file = (folder / part(IMAGES, total_bytes // PART_BYTES)).open("xb")
            if file is not None:
                file.write(piece)
            pieces.append(sha256(piece).hexdigest())
            total_bytes += len(piece)
            progress.show(f"[+] Saving images  {total_bytes // _MB} MB")
    finally:
        if file is not None:
            _close(file)
    return Payload(total_bytes=total_bytes, pieces=tuple(pieces)) if pieces else None


def _payload_of(file: Path) -> Payload:
    with file.open("rb") as source:
        pieces = [sha256(piece).hexdigest() for piece in iter(lambda: source.read(PIECE_BYTES), b"")]
        os.fsync(source.fileno())
        return Payload(total_bytes=source.tell(), pieces=tuple(pieces))


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        _close(file)


def _close(file: IO[bytes]) -> None:
    """Close a file once the stick has it: people pull sticks as soon as the command has ended."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _files(directory: Path, commit: CommitId) -> dict[str, bytes]:
    """Return the files of ``commit`` as ``whole_fleet`` takes them: what it reads, and the names of all others."""
    files: dict[str, bytes] = {}
    wanted: list[tuple[str, str]] = []
    for row in _git(directory, "ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
        facts, _, path = row.partition("\t")
        if path.startswith(("devices/", "roles/")) or (path and "/" not in path):
            files[path] = b""
            if path.endswith(".toml") or path in {signers.FILE, stop.FILE}:
                wanted.append((path, facts.rpartition(" ")[2]))
    for path, name in wanted:
        files[path] = _git(directory, "cat-file", "blob", name, plain=True).encode("utf-8", "surrogateescape")
    return files


def _git(directory: Path, *arguments: str, plain: bool = False) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            capture_output=True,
            check=False,
            timeout=_GIT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        missing = "git is not installed" if directory.is_dir() else f"{directory} is no folder"
        raise Trouble(missing, code=Exit.USAGE) from error
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"git {arguments[0]} did not end", code=Exit.NO, why=str(error)) from error
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Trouble(f"git {arguments[0]} failed", code=Exit.NO, why=why[-1] if why else "")
    said = done.stdout.decode("utf-8", "surrogateescape")
    return said if plain else said.strip()


def _docker(*arguments: str, within_s: float = _ASK_S) -> str:
    try:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, check=False, timeout=within_s, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise Trouble("docker is not installed", code=Exit.USAGE) from error
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"docker {arguments[0]} did not end", code=Exit.NO, why=str(error)) from error
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Trouble(f"docker {' '.join(arguments[:2])} failed", code=Exit.NO, why=why[-1] if why else "")
    return done.stdout.decode("utf-8", "replace").strip()
