"""``metrica-agent apply-bundle``: what a stick brings, for a device without a network (docs/decisions/0035).

Nothing that runs is touched here. The images go into the engine, then the history goes to where the agent asks it as
one of its remotes; the rest is the agent's ordinary way, trial and way back included. The last step is one rename: a
power cut or a pulled stick before it leaves the device as it was, but for images that nothing uses yet.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.compose.loading import Loader
from metrica_agent.adapters.ledger import remembered
from metrica_agent.adapters.releases import Releases
from metrica_agent.adapters.spool import Spool
from metrica_agent.adapters.stick import Stick
from metrica_agent.console_orders import LOCK, SPOOL, ring
from metrica_agent.decisions.lineage import Relation, Verdict, may_follow
from metrica_agent.decisions.orders import BroughtOrder
from metrica_agent.decisions.preflight import Space, require_space
from metrica_agent.decisions.trust import signers_in_force
from metrica_agent.decisions.world import Memory
from metrica_agent.durable import Disk, in_thread
from metrica_agent.signatures import require_signer
from metrica_agent.wiring import LEDGER, STICK, engine_environment, mirror, own_signers, spare_signers
from metrica_fleet.bundle import Bundle, Image, understood
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import FleetId, short
from metrica_fleet.signed import BUNDLES, Signed, time_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from metrica_agent.settings import Settings

_MIB: Final = 1024 * 1024
_LOOK_S: Final = 0.2
_TAKEN_S: Final = 60.0
"""For an agent that runs to take the commit: it may be in the middle of a fetch that nobody answers."""
_BUSY_S: Final = 60.0
"""For the agent to let go of the mirror."""


def apply_bundle(settings: Settings, asked: argparse.Namespace) -> int:
    """Take what the stick brings, and tell how it ends; 1 when the device does not come to run it.

    Raises:
        Unusable: the bundle is not for this device, or not what somebody signed who may.
        NotNow: the stick, the disk or the engine is in the way; nothing was changed.
    """
    try:
        return asyncio.run(_Applying(settings, asked.folder, asked.wait).run())
    except PermissionError as error:
        message = f"{error.filename}: {error.strerror}; apply it as the user that the agent runs as, mostly root"
        raise NotNow(message, reason="not-allowed") from error


class _Applying:
    """One bundle on its way to this device."""

    def __init__(self, settings: Settings, folder: Path, wait_s: float) -> None:
        self._settings, self._folder, self._wait_s = settings, folder, wait_s
        self._state = Path(settings.state_dir)
        self._loader = Loader(settings.compose.project, environment=engine_environment(settings))

    async def run(self) -> int:
        with Stick(self._folder) as stick:
            signed = stick.manifest()
            memory = self._memory()
            who = self._signer(signed, memory)
            bundle = understood(signed.text, FleetId(self._settings.fleet))
            self._require_for_us(bundle)
            made = bundle.issued_at.astimezone(UTC)
            print(f"bundle of {made:%Y-%m-%d %H:%M}Z: commit {short(bundle.commit)}, signed by {who}")
            incoming = await self._copied(stick, bundle)
            try:
                await self._judge(bundle, incoming, memory)
                await self._load(stick, bundle)
                confirmed = memory.confirmed
                if confirmed is not None and confirmed.commit == bundle.commit:
                    print(f"this device runs commit {short(bundle.commit)} already")
                    return 0
                Disk().rename("stick", incoming, self._state / STICK)
            finally:
                incoming.unlink(missing_ok=True)
        return await self._followed(bundle, who)

    # --- whose it is, and for whom --------------------------------------------------------------------------------

    def _memory(self) -> Memory:
        """Return what the agent remembers; nothing where none has run yet."""
        file = self._state / LEDGER
        return remembered(file) if file.exists() else Memory()

    def _signer(self, signed: Signed, memory: Memory) -> str:
        signers = signers_in_force(memory, spare_signers(self._settings))
        if signers is None:
            file = self._settings.git.allowed_signers_file
            message = f"nobody is known here who may sign a bundle; put allowed_signers into {file}"
            raise Unusable(message, reason="signers-none")
        return require_signer(
            signed.text.encode(),
            signed.signature.encode(),
            signers,
            namespace=BUNDLES,
            at=time_of(signed),
            what="the bundle",
            way_out=f'have it signed by somebody whom allowed_signers lets sign in the namespace "{BUNDLES}"',
        )

    def _require_for_us(self, bundle: Bundle) -> None:
        device, branch = self._settings.device, self._settings.git.branch
        if device not in bundle.devices:
            named = ", ".join(bundle.devices[:5]) + (" …" if len(bundle.devices) > 5 else "")  # noqa: PLR2004 a line's
            message = f"the bundle is for {named}, not for {device}; make one with metrica bundle --device {device}"
            raise Unusable(message, reason="wrong-device")
        if branch != bundle.branch:
            message = f'the bundle has the branch "{bundle.branch}", this device follows "{branch}"'
            raise Unusable(f"{message}; make one with metrica bundle --branch {branch}", reason="wrong-branch")

    # --- the history ------------------------------------------------------------------------------------------------

    async def _copied(self, stick: Stick, bundle: Bundle) -> Path:
        """Write the history down, durably, as it was signed; return where."""
        most = self._settings.git.fetch_mb * _MIB
        size = bundle.history.total_bytes
        if size > most:
            message = f"the history has {size // _MIB} MiB, and a fetch may have {most // _MIB} (git.fetch_mb)"
            raise Unusable(f"{message}; make a bundle --since what this device has", reason="fetch-too-large")
        self._require_room(self._state, 2 * size)  # once more in the mirror
        return await in_thread(lambda: self._written(stick.history(bundle.history)))

    def _written(self, pieces: Iterator[bytes]) -> Path:
        Disk().directory(self._state, 0o700)
        incoming = self._state / f"{STICK}.new"
        incoming.unlink(missing_ok=True)
        try:
            descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        return incoming

    async def _judge(self, bundle: Bundle, incoming: Path, memory: Memory) -> None:
        """Have the history judged as the agent will: into the same mirror, by the same code.

        Raises:
            Unusable: it does not go forward, or its commit is not signed by somebody who may.
            NotNow: it builds on what is not here.
        """
        commit, refusal = bundle.commit, memory.refusal_of(bundle.commit)
        if refusal is not None:
            message = f"commit {short(commit)} was refused here: {refusal.message}; make a new commit"
            raise Unusable(message, reason=refusal.reason)
        git = mirror(self._settings)
        try:
            head = await git.head(str(incoming))
            if head != commit:
                message = f"the history ends in {short(head)}, the manifest says {short(commit)}; make the bundle again"
                raise Unusable(message, reason="bundle-altered")
            have = None if commit in memory.allowed else memory.accepted
            signers = own_signers(self._settings)
            if signers is not None and memory.trust is not None:
                signers = memory.trust.signers
            relation = await _patiently(lambda: git.fetch(str(incoming), commit, have, signers=signers))
        finally:
            await git.aclose()
        judgement = may_follow(relation, commit=commit, accepted=memory.accepted, allowed=frozenset(memory.allowed))
        if judgement.verdict is Verdict.REFUSE or judgement.reason == "behind":
            raise Unusable(judgement.message, reason=judgement.reason)

    # --- the images ---------------------------------------------------------------------------------------------------

    async def _load(self, stick: Stick, bundle: Bundle) -> None:
        """Load what is not here.

        Raises:
            Unusable: ``image-replaced``: a name would mean something else to what is in use; ``bundle-altered``.
            NotNow: the stick, the disk or the engine is in the way.
        """
        archive = bundle.archive
        missing = await self._missing(bundle.images)
        if archive is None or not missing:
            print("every image is here already" if bundle.images else "no images are in it")
            return
        await self._require_unused(missing)
        root = Path(await self._loader.data_root())
        self._require_room(root, archive.total_bytes + bundle.unpacked_bytes)
        progress = _Progress(archive.total_bytes)
        await self._loader.load(stick.images(archive), archive.total_bytes, progress.show)
        progress.end()
        absent = await self._missing(missing)
        if absent:
            message = f'the images were loaded, and "{absent[0].name}" is not what was signed; make the bundle again'
            raise Unusable(message, reason="bundle-altered")
        print(f"{len(missing)} of {len(bundle.images)} images loaded")

    async def _missing(self, images: Collection[Image]) -> list[Image]:
        known = await self._loader.known({name for one in images for name in (one.name, one.tag)})
        return [
            one
            for one in images
            if not any(name in known and known[name].is_content_of(one) for name in (one.name, one.tag))
        ]

    async def _require_unused(self, images: Collection[Image]) -> None:
        """Make sure that no name in use comes to mean something else: what runs could not be made again from it."""
        known = await self._loader.known({one.tag for one in images})
        if not known:
            return
        releases = Releases(self._state)
        kept = [await releases.load(digest) for digest in await releases.complete()]
        names = {service.image for release in kept if release is not None for service in release.services}
        used = await self._loader.used() | set((await self._loader.image_ids(names)).values())
        for tag, here in known.items():
            if here.id in used:
                message = f'image "{tag}" is here with other content, and in use'
                raise Unusable(f"{message}; give the new content a new name, or a digest", reason="image-replaced")

    @staticmethod
    def _require_room(folder: Path, needed_bytes: int) -> None:
        """Raise NotNow, ``disk-full``, where it does not fit. An engine elsewhere looks for itself."""
        there = next((one for one in (folder, *folder.parents) if one.exists()), None)
        if there is None:
            return
        disk = os.statvfs(there)
        space = Space(free_bytes=shutil.disk_usage(there).free, free_files=disk.f_favail or sys.maxsize)
        require_space(space, needed_bytes=needed_bytes, needed_files=0)

    # --- what comes of it -------------------------------------------------------------------------------------------

    async def _followed(self, bundle: Bundle, who: str) -> int:
        """Tell the agent, and wait for how it ends."""
        spool = Spool(self._state / SPOOL)
        order_id = spool.give(BroughtOrder(commit=bundle.commit, reason=f"signed by {who}"))
        ring(self._state / LOCK)
        commit, began_s = bundle.commit, time.monotonic()
        told = ""
        while time.monotonic() - began_s < self._wait_s:
            memory = self._memory()
            refusal = memory.refusal_of(commit)
            if refusal is not None:
                print(f"commit {short(commit)} is refused, and the device is where it was: {refusal.message}")
                return 1
            if memory.confirmed is not None and memory.confirmed.commit == commit:
                print(f"commit {short(commit)} runs and stayed well; it is what the device goes back to from now on")
                return 0
            if memory.accepted != commit and time.monotonic() - began_s > _TAKEN_S:
                break
            now = _phase(memory, bundle)
            if now != told:
                print(now, flush=True)
                told = now
            await asyncio.sleep(_LOOK_S)
        if spool.is_waiting(order_id):
            print("all is on the device; no agent has taken it yet: it will, once it runs")
        else:
            print("all is on the device; metrica-agent status tells how far it is")
        return 0


def _phase(memory: Memory, bundle: Bundle) -> str:
    if memory.accepted != bundle.commit:
        return "the agent is told"
    if memory.trial is not None and memory.trial.commit == bundle.commit:
        return "on trial"
    if memory.waiting is not None and not memory.waiting.aside:
        return f"taken; it waits: {memory.waiting.reason}"
    return "taken"


async def _patiently(fetch: Callable[[], Awaitable[Relation]]) -> Relation:
    """Fetch; while the agent is in the mirror itself, a while later."""
    until_s = time.monotonic() + _BUSY_S
    while True:
        try:
            return await fetch()
        except NotNow as error:
            if error.reason != "mirror-busy" or time.monotonic() > until_s:
                raise
        await asyncio.sleep(_LOOK_S)


class _Progress:
    """How much the engine has: a line that changes on a terminal, a line for each tenth elsewhere."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes, self._alive, self._last = total_bytes, sys.stdout.isatty(), -1

    def show(self, done_bytes: int) -> None:
        step = done_bytes * (100 if self._alive else 10) // self._total_bytes
        if step == self._last:
            return
        self._last = step
        line = f"images: {done_bytes // _MIB} of {self._total_bytes // _MIB} MiB"
        print(f"\r{line}" if self._alive else line, end="" if self._alive else "\n", flush=True)

    def end(self) -> None:
        if self._alive:
            print(flush=True)
