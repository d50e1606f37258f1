"""What a release is made of and what makes it run: the order of effects behind the steps of the converge loop.

stage       export → secrets opened, if it uses any → digest → (Compose resolves → render) → durable on disk
preflight   files as published → bytes fit → host paths and secrets are there → images are here, pulled if need be
apply       files as published, or restored → data directories, secrets → Compose up, from the release's own path;
            an image that is gone since the preflight (a power cut, somebody's hand) is pulled again
repair      the same, for what differs and nothing else

The safe-mode stack is staged the same way, from a folder of the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from metrica_agent.decisions.drift import Repair
from metrica_agent.decisions.preflight import (
    ImageNeed,
    Space,
    require_host_sources,
    require_space,
)
from metrica_agent.decisions.priorities import with_priorities, written
from metrica_agent.decisions.references import Reference, require_inside
from metrica_agent.decisions.render import FileEntry, Places, Rendered, interpolation, plain, release_digest, render
from metrica_agent.decisions.steps import ApplyFailed, Clean, Cleaned
from metrica_agent.decisions.world import Deployed, Desired, Release
from metrica_agent.tasks import cleaning, unsealing
from metrica_agent.tasks.cleaning import Cleaner, Leftovers
from metrica_agent.tasks.unsealing import Secrets, Used, Vault
from metrica_fleet.definition import HealthPolicy, Limits
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId, ReleaseDigest, RoleId, short

SAFE_MODE = RoleId("safe-mode")
"""Stands where a role's name does."""
REST_DEADLINE_S = 120.0
"""For stopping what is to rest; past it the engine goes on, and is asked again later."""
HALT_DEADLINE_S = 45.0
"""For stopping everything gently; past it what still runs is killed."""
FOR_THE_AGENT = "role.toml"
"""No part of the release: what of it concerns a release is in the digest by itself; the rest must restart nothing."""
SHIPPED_SAFE_MODE = Path(__file__).resolve().parents[1] / "safe_mode"


class Exported(Protocol):
    """What is known of files that were written."""

    @property
    def references(self) -> Sequence[Reference]:
        """Every path that they give to Compose."""
        ...


class Git(unsealing.Git, Protocol):
    """The local mirror."""

    async def export(self, commit: CommitId, folder: str, into: Path) -> Exported:
        """Write the files of ``folder`` as of ``commit`` below ``into``. Raises Unusable or NotNow."""
        ...


class Store(cleaning.Store, Protocol):
    """Releases on disk."""

    def incoming(self) -> AbstractAsyncContextManager[Path]: ...
    def places(self, folder: Path, role: RoleId) -> Places: ...
    def folder(self, digest: ReleaseDigest) -> Path: ...
    async def data_directory(self, role: RoleId) -> Path: ...
    def locks_directory(self, role: RoleId) -> Path: ...
    async def leave_out(self, folder: Path, name: str) -> None: ...
    async def load(self, digest: ReleaseDigest) -> Release | None: ...
    async def restore(self, digest: ReleaseDigest) -> None: ...
    async def copy(self, source: Path, folder: Path) -> None: ...
    async def manifest(self, folder: Path) -> tuple[FileEntry, ...]: ...
    async def secrets_used(self, folder: Path, entries: tuple[FileEntry, ...]) -> tuple[str, ...]: ...
    async def publish(
        self,
        folder: Path,
        *,
        release: Release,
        rendered: Rendered,
        entries: tuple[FileEntry, ...],
        secrets: Mapping[str, bytes] | None = None,
        anew: bool = False,
    ) -> None: ...
    async def absent(self, paths: tuple[str, ...]) -> tuple[str, ...]: ...
    async def prepare(self, release: Release) -> None: ...
    async def verify(self, digest: ReleaseDigest) -> tuple[str, ...]: ...
    async def space(self) -> Space: ...


class Engine(cleaning.Engine, Protocol):
    """The container engine of this device's project."""

    async def resolve(self, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]: ...
    async def missing_images(self, images: Sequence[ImageNeed]) -> tuple[ImageNeed, ...]: ...
    async def pull(self, image: ImageNeed, deadline_s: float) -> None: ...
    async def up(self, release: Path, deadline_s: float, *, resting: Collection[str] = ()) -> None: ...
    async def repair(self, release: Path, repair: Repair, deadline_s: float) -> None: ...
    async def rest(self, services: Collection[str], deadline_s: float) -> None: ...
    async def halt(self, deadline_s: float) -> None: ...
    async def restart(self, release: Path, service: str, deadline_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Staging:
    """Makes releases, and makes them run. Every step may be interrupted anywhere and taken again."""

    git: Git
    store: Store
    engine: Engine
    project: str
    safe_mode: Path
    """The folder of the safe-mode stack."""
    leftovers: Leftovers
    vault: Vault | None = None
    """``None``: this device has no key."""
    stand_ins: Callable[[Collection[str]], Awaitable[Mapping[str, str]]] | None = None
    """Says which images are here under another name than their digest, brought by a stick. Raises NotNow."""

    async def stage(self, desired: Desired, *, anew: bool = False) -> Deployed:
        """Make the release that ``desired`` means complete on disk; ``anew``: also where it is that already.

        Raises:
            Unusable: the commit can't be made a release; the message says what to change.
            NotNow: the disk or Compose is in the way.
        """
        async with self.store.incoming() as root:
            folder = root / "files"
            exported = await self.git.export(desired.commit, f"roles/{desired.role}", folder)
            await self.store.leave_out(folder, FOR_THE_AGENT)
            entries = await self.store.manifest(folder)
            _require_small(desired, entries)
            data = await self.store.data_directory(desired.role)
            names = await self.store.secrets_used(folder, entries)
            mounted_from = self.store.places(folder, desired.role).secrets if names else None
            variables = interpolation(desired, str(data), str(self.store.locks_directory(desired.role)), mounted_from)
            require_inside(exported.references, variables)
            secrets = await self._secrets.used(self.git, desired, names)
            digest = release_digest(
                role=desired.role,
                entries=entries,
                variables=variables,
                checks=desired.checks,
                health=desired.health,
                limits=desired.limits,
                priorities=written(desired.services),
                secrets=secrets.digests,
            )
            if anew or digest not in await self.store.complete() or await self.store.verify(digest):
                await self._publish(desired, digest, folder, entries, variables=variables, secrets=secrets)
        await self._require_known_services(desired, digest)
        return Deployed(commit=desired.commit, release=digest)

    async def _publish(
        self,
        desired: Desired,
        digest: ReleaseDigest,
        folder: Path,
        entries: tuple[FileEntry, ...],
        *,
        variables: Mapping[str, str],
        secrets: Used,
    ) -> None:
        model = await self.engine.resolve(folder, variables)
        await self._name_as_here(model)
        places = self.store.places(folder, desired.role)
        rendered = render(
            model,
            project=self.project,
            places=places,
            entries=entries,
            variables=variables,
            secrets=secrets.digests,
        )
        release = Release(
            digest=digest,
            role=desired.role,
            services=with_priorities(rendered.services, rendered.compose, desired.services),
            checks=desired.checks,
            health=desired.health,
            limits=desired.limits,
            commit=desired.commit,
        )
        require_known_services(desired, release)
        # Whatever is there under this digest was looked at, and is to be replaced.
        await self.store.publish(
            folder, release=release, rendered=rendered, entries=entries, secrets=secrets.sealed, anew=True
        )

    async def _name_as_here(self, model: dict[str, Any]) -> None:
        """Name the images of ``model`` by what they are here under: only for the engine's sake, they are the same."""
        services: dict[str, dict[str, Any]] = model.get("services") or {}
        pinned = {plain(image) for one in services.values() if isinstance(image := one.get("image"), str)}
        if self.stand_ins is None or not any("@" in name for name in pinned):
            return
        named = await self.stand_ins(pinned)
        for service in services.values():
            service["image"] = named.get(plain(service.get("image", "")), service.get("image"))

    async def _require_known_services(self, desired: Desired, digest: ReleaseDigest) -> None:
        """A release may be on disk already, and its commit's policies be new."""
        release = await self.store.load(digest)
        if release is not None:
            require_known_services(desired, release)

    async def stage_safe(self) -> ReleaseDigest:
        """Make the safe-mode stack complete on disk, by the way that a commit's release goes.

        Raises:
            Unusable: it can't be made a release; the message says what to change.
            NotNow: the disk or Compose is in the way.
        """
        async with self.store.incoming() as root:
            folder = root / "files"
            await self.store.copy(self.safe_mode, folder)
            entries = await self.store.manifest(folder)
            data, locks = await self.store.data_directory(SAFE_MODE), self.store.locks_directory(SAFE_MODE)
            variables = {"METRICA_DATA": str(data), "METRICA_LOCKS": str(locks)}
            health, limits = HealthPolicy(), Limits()
            digest = release_digest(
                role=SAFE_MODE, entries=entries, variables=variables, checks=(), health=health, limits=limits
            )
            if digest not in await self.store.complete() or await self.store.verify(digest):
                model = await self.engine.resolve(folder, variables)
                places = self.store.places(folder, SAFE_MODE)
                rendered = render(
                    model, project=self.project, places=places, entries=entries, variables=variables, may_be_empty=True
                )
                release = Release(
                    digest=digest,
                    role=SAFE_MODE,
                    services=rendered.services,
                    checks=(),
                    health=health,
                    limits=limits,
                )
                await self.store.publish(folder, release=release, rendered=rendered, entries=entries)
        return digest

    async def preflight(self, desired: Desired, release: Release) -> None:
        """Make everything that ``release`` needs be here, ahead of the switch.

        Raises:
            Unusable: an image does not exist or can't run here; the files are not as published.
            NotNow: a registry, a path of the machine, or room is missing.
        """
        changed = await self.store.verify(release.digest)
        if changed:
            raise NotNow(f"release {short(release.digest)} was altered on disk: {changed[0]}", reason="release-altered")
        require_space(await self.store.space(), needed_bytes=0, needed_files=0)
        needs = await self.store.needs(release)
        require_host_sources(await self.store.absent(needs.host_sources))
        pinned = {image.name for image in needs.images if "@" in image.name}
        if pinned and self.stand_ins is not None and await self.stand_ins(pinned):
            # A stick came after it was staged. By the release's own limits: ours may have less time by now.
            await self.stage(replace(desired, limits=release.limits), anew=True)
            needs = await self.store.needs(release)
        await self._secrets.keep(release)
        await self._pull_missing(needs.images, desired.limits.pull_deadline_s)

    async def _pull_missing(self, images: Sequence[ImageNeed], deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline_s
        for image in await self.engine.missing_images(images):
            await self.engine.pull(image, max(until_s - loop.time(), 1.0))
        still = await self.engine.missing_images(images)
        if still:
            raise NotNow(f'image "{still[0].name}" was pulled and is not here', reason="image-unreachable")

    async def apply(self, release: Release, resting: tuple[str, ...] = (), *, pull_s: float | None = None) -> None:
        """Make what runs equal to ``release``, but for what rests; nothing is run that is not as it was published.

        Images that are gone are pulled, for ``pull_s`` at most; its ``pull_deadline_s`` by default.

        Raises:
            ApplyFailed: (a ``NotNow``) Compose refused it, or ``release-lost``: its files can't be restored.
            NotNow: the engine does not answer; ``image-unreachable``: an image is gone and its registry, too.
        """
        folder, deadline_s = self.store.folder(release.digest), release.limits.apply_deadline_s
        await self._bring(release, lambda: self.engine.up(folder, deadline_s, resting=resting), pull_s)

    async def _bring(self, release: Release, bring: Callable[[], Awaitable[None]], pull_s: float | None = None) -> None:
        """Bring up what is whole, and once more with the images that were missing."""
        await self._make_whole(release)
        await self.store.prepare(release)
        try:
            await self._secrets.keep(release)
        except Unusable as error:
            raise ApplyFailed(error.message, reason=error.reason, output="") from error
        try:
            await bring()
        except ApplyFailed as error:
            if error.reason != "image-missing":
                raise
            within_s = release.limits.pull_deadline_s if pull_s is None else pull_s
            try:
                await self._pull_missing((await self.store.needs(release)).images, within_s)
            except Unusable as why:
                raise ApplyFailed(why.message, reason=why.reason, output=error.output) from why
            await bring()

    async def rest(self, services: tuple[str, ...]) -> None:
        """Stop these services, and nothing else. Raises NotNow."""
        await self.engine.rest(services, REST_DEADLINE_S)

    async def halt(self) -> None:
        """Stop every workload, whatever made it. Raises NotNow."""
        await self.engine.halt(HALT_DEADLINE_S)

    async def clean(self, step: Clean) -> Cleaned:
        """Make room by one kind of cleaning. Raises NotNow."""
        return await self._cleaner.clean(step)

    async def images(self, releases: frozenset[ReleaseDigest]) -> frozenset[str]:
        """Return the names of the images that these releases on disk need. Raises NotNow."""
        return await self._cleaner.images(releases)

    @property
    def _cleaner(self) -> Cleaner:
        return Cleaner(self.store, self.engine, self.leftovers, self._safe_images)

    async def _safe_images(self) -> frozenset[str]:
        """Return the images of the safe-mode stack. Raises NotNow: who doesn't know them removes no image."""
        data = self.store.places(self.safe_mode, SAFE_MODE).data
        variables = {"METRICA_DATA": data, "METRICA_LOCKS": str(self.store.locks_directory(SAFE_MODE))}
        try:
            model = await self.engine.resolve(self.safe_mode, variables)
        except Unusable as error:
            raise NotNow(f"{self.safe_mode}: {error.message}", reason=error.reason) from error
        services: dict[str, dict[str, Any]] = model.get("services") or {}
        return frozenset(plain(one["image"]) for one in services.values() if one.get("image"))

    async def repair(self, release: Release, repair: Repair) -> None:
        """Set right what ``repair`` names of what runs, and nothing else. Raises as ``apply`` does."""
        folder, deadline_s = self.store.folder(release.digest), release.limits.apply_deadline_s
        await self._bring(release, lambda: self.engine.repair(folder, repair, deadline_s))

    async def restart(self, release: Release, service: str) -> None:
        """Restart the containers of one service, as gently as its stop_grace_period says. Raises Unusable or NotNow."""
        await self._secrets.keep(release)
        await self.engine.restart(self.store.folder(release.digest), service, release.limits.apply_deadline_s)

    async def _make_whole(self, release: Release) -> None:
        if await self.store.verify(release.digest):
            try:
                await self.store.restore(release.digest)
            except NotNow as error:
                raise ApplyFailed(error.message, reason=error.reason, output="") from error

    async def mend(self, digest: ReleaseDigest, desired: Desired | None) -> None:
        """Make the files of a release what was published: from the copy on this disk, else from the mirror.

        Args:
            digest: of the release.
            desired: the commit that means it, where the mirror has that.

        Raises:
            NotNow: ``release-lost``, when neither has it whole.
        """
        try:
            await self.store.restore(digest)
        except NotNow:
            if desired is None:
                raise
            staged = await self.stage(desired)
            if staged.release != digest:
                message = f"commit {short(desired.commit)} does not mean release {short(digest)} to this agent any more"
                raise NotNow(message, reason="release-lost") from None

    async def sweep(self, keep: frozenset[ReleaseDigest]) -> None:
        """Remove releases not in ``keep`` that no container mounts. Raises NotNow."""
        mounted = await self.engine.mounted()
        await self.store.sweep(keep, mounted)
        await self._secrets.forget(mounted)

    @property
    def _secrets(self) -> Secrets:
        return Secrets(self.store, self.vault)


def _require_small(desired: Desired, entries: Sequence[FileEntry]) -> None:
    total_bytes = sum(entry.bytes for entry in entries)
    limits = desired.limits
    if len(entries) > limits.release_files:
        message = f"roles/{desired.role} has {len(entries)} files; limits.release_files allows {limits.release_files}"
        raise Unusable(message, reason="too-many-files")
    if total_bytes > limits.release_bytes:
        message = f"roles/{desired.role} has {total_bytes} bytes; limits.release_bytes allows {limits.release_bytes}"
        raise Unusable(message, reason="too-large")


def require_known_services(desired: Desired, release: Release) -> None:
    """Make sure that every service that ``role.toml`` names is one of ``compose.yaml``.

    Raises:
        Unusable: ``unknown-service``; it names the file and what is there.
    """
    known = {service.name for service in release.services}
    there = f"which compose.yaml does not have; it has {', '.join(sorted(known))}"
    file = f"roles/{desired.role}/{FOR_THE_AGENT}"
    for check in desired.checks:
        service = getattr(check, "service", None)
        if service is not None and service not in known:
            message = f'{file}: check "{check.name}" asks service "{service}", {there}'
            raise Unusable(message, reason="unknown-service")
    for name in desired.services:
        if name not in known:
            message = f'{file}: [services.{name}] is for service "{name}", {there}'
            raise Unusable(message, reason="unknown-service")
