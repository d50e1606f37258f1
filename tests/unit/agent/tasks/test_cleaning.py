"""Random sequences of releases whose images overlap: cleaning never takes what a kept release needs (PEERS.md 4d).

Real releases on a real disk, the converge loop's own order of effects, a simulated engine; the real one: tests/faults.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.adapters.releases import Releases
from metrica_agent.decisions import remembering, sparing
from metrica_agent.decisions.preflight import ImageNeed
from metrica_agent.decisions.render import release_digest, render
from metrica_agent.decisions.steps import Clean, Cleaning
from metrica_agent.decisions.strain import Need
from metrica_agent.decisions.world import Memory, Release, Trial, TrialKind
from metrica_agent.tasks.cleaning import Cleaner
from metrica_fleet.definition import HealthPolicy, Limits
from metrica_fleet.identity import BootId, CommitId, RoleId
from metrica_sim.engine import SimulatedEngine
from metrica_sim.virtual.loop import now_s, virtually

ROLE = RoleId("camera")
SAFE = "safe-mode"
IMAGES = ("a", "b", "c", "d", "e", SAFE)


class Rooted(SimulatedEngine):
    """A simulated engine whose data are on the same disk as all else."""

    def __init__(self, folder: Path) -> None:
        super().__init__("metrica", now_s)
        self._folder = folder

    async def data_root(self) -> str:
        """Return that disk."""
        return str(self._folder)


class Machine:
    """The disk and the engine of one device."""

    def __init__(self, folder: Path) -> None:
        self.releases = Releases(folder / "state")
        self.engine = Rooted(folder)
        leftovers = Leftovers()
        self.cleaner = Cleaner(self.releases, self.engine, leftovers, self.safe_images)
        self.need = Need(path=str(folder), free_bytes=2**60, free_inodes=0)

    async def safe_images(self) -> frozenset[str]:
        """What the safe-mode stack needs."""
        return frozenset({SAFE})

    async def here(self) -> set[str]:
        """The images that are here."""
        return set(await self.engine.image_ids(IMAGES))

    async def confirm(self, memory: Memory, number: int, images: frozenset[str]) -> Memory:
        """Stage, pull, apply and confirm a release of these images."""
        release = await self._publish(images, number)
        for name in sorted(images):
            await self.engine.pull(ImageNeed(name=name), 10)
        await self.releases.switch(release.digest)
        await self.engine.up(self.releases.folder(release.digest), 60)
        trial = Trial(
            kind=TrialKind.FORWARD,
            commit=CommitId(f"{number:040x}"),
            release=release.digest,
            boot_id=BootId("boot"),
            begun_s=0,
        )
        return remembering.passed(replace(memory, trial=trial), trial, 1).memory

    async def _publish(self, images: frozenset[str], number: int) -> Release:
        services = {f"s-{name}": {"image": name, "restart": "always"} for name in sorted(images)}
        async with self.releases.incoming() as root:
            folder = root / "files"
            folder.mkdir()
            (folder / "compose.yaml").write_bytes(msgspec.json.encode({"services": services}))
            entries = await self.releases.manifest(folder)
            variables = {"NUMBER": str(number)}
            health, limits = HealthPolicy(), Limits()
            digest = release_digest(
                role=ROLE, entries=entries, variables=variables, checks=(), health=health, limits=limits
            )
            places = self.releases.places(folder, ROLE)
            model = await self.engine.resolve(folder, {})
            rendered = render(model, project="metrica", places=places, entries=entries, variables=variables)
            release = Release(
                digest=digest, role=ROLE, services=rendered.services, checks=(), health=health, limits=limits
            )
            await self.releases.publish(folder, release=release, rendered=rendered, entries=entries)
        return release

    async def clean(self, memory: Memory) -> Memory:
        """Clean by every kind there is, as the loop does, and never find it enough."""
        for what in Cleaning:
            if what is Cleaning.RELEASES:
                memory = sparing.least(memory)
                memory = await self.sweep(memory, only_note=True)
            step = Clean(what=what, need=self.need, keep=sparing.kept(memory), spare_images=memory.spare_images)
            memory = sparing.cleaned(memory, what, await self.cleaner.clean(step)).memory
        return memory

    async def sweep(self, memory: Memory, *, only_note: bool = False) -> Memory:
        """Remove what is not kept, noting before which images that leaves."""
        keep = sparing.kept(memory)
        doomed = await self.releases.complete() - keep
        memory = sparing.spared(memory, await self.cleaner.images(doomed))
        if not only_note:
            await self.releases.sweep(keep, await self.engine.mounted())
        return memory


@settings(max_examples=settings().max_examples // 4)
@given(
    st.lists(
        st.tuples(st.frozensets(st.sampled_from(IMAGES[:-1]), min_size=1, max_size=3), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
def test_what_a_kept_release_needs_is_never_cleaned_away(story: list[tuple[frozenset[str], bool]]) -> None:
    async def scene(folder: Path) -> None:
        machine = Machine(folder)
        await machine.engine.pull(ImageNeed(name=SAFE), 10)
        memory, worn = Memory(), list[frozenset[str]]()
        for number, (images, low) in enumerate(story):
            memory = await machine.confirm(memory, number, images)
            worn.append(images)
            memory = await machine.sweep(memory)
            if low:
                memory = await machine.clean(memory)
                assert len(await machine.releases.complete()) <= 2
            here, complete = await machine.here(), await machine.releases.complete()
            kept = await machine.cleaner.images(complete)
            assert kept | {SAFE} <= here
            assert images <= kept
            if number:
                assert worn[-2] <= kept
            if low:
                assert here == kept | {SAFE}

    with tempfile.TemporaryDirectory() as folder:
        virtually(scene(Path(folder)))
