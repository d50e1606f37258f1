"""What the engine keeps on disk, and how it lets go of it.

Not ``docker image prune``: it takes every image without a tag, and so those that a release names by digest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.compose import answers
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Collection

    from metrica_agent.adapters.compose.docker import Docker
    from metrica_agent.adapters.compose.running import Finished

_REMOVE_S: Final = 120.0
"""Many small files on a slow card."""
_NEEDED: Final = re.compile(r"conflict|is being used|is using|has dependent child images|must be forced", re.IGNORECASE)


class Storage:
    """The engine's images and build cache. Every method may raise ``NotNow`` (``engine-unresponsive`` ...)."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    async def data_root(self) -> str:
        """Return where the engine keeps its data."""
        return _answered(await self._docker.ask("info", "--format", "{{.DockerRootDir}}")).strip()

    async def image_ids(self, names: Collection[str]) -> dict[str, str]:
        """Return the ids of those of the images ``names`` that are here."""
        found: dict[str, str] = {}
        for name in sorted(names):
            done = await self._docker.ask("image", "inspect", "--format", "{{.Id}}", name)
            if done.code == 0:
                found[name] = done.answer.strip()
            elif not answers.is_missing_image(done.complaint):
                raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return found

    async def dangling_images(self) -> tuple[str, ...]:
        """Return the ids of the images that no name and no digest leads to any more."""
        listing = ("image", "ls", "--filter", "dangling=true", "--quiet", "--no-trunc")
        ids = tuple(dict.fromkeys(_answered(await self._docker.ask(*listing)).split()))
        if not ids:
            return ()
        template = "{{.Id}} {{len .RepoTags}} {{len .RepoDigests}}"
        done = await self._docker.ask("image", "inspect", "--format", template, *ids)
        if done.code != 0 and not answers.is_missing_image(done.complaint):
            raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
        return tuple(line.split()[0] for line in done.answer.splitlines() if line.endswith(" 0 0"))

    async def remove_image(self, image: str) -> bool:
        """Remove an image, by name or id; false when a container, running or not, or another image needs it."""
        done = await self._docker.ask("image", "rm", image, deadline_s=_REMOVE_S)
        if done.code == 0 or answers.is_missing_image(done.complaint):
            return True
        if _NEEDED.search(done.complaint):
            return False
        raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")

    async def prune_build_cache(self) -> None:
        """Remove what builds left."""
        _answered(await self._docker.ask("builder", "prune", "--all", "--force", deadline_s=_REMOVE_S))


def _answered(done: Finished) -> str:
    if done.code != 0:
        raise NotNow(answers.said(done.complaint), reason="engine-unresponsive")
    return done.answer
