"""Wheels of the agent, for devices whose fleet repository names this hub as their source.

Nobody is asked who he is: a device that has lost its way must get them, and takes only what its commit names by hash.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from metrica_fleet.agent_versions import VersionText, WheelName
from metrica_hub.errors import NotThere
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH: Final = "/agent/{version}/{wheel}"


class Wheels:
    """The files of one folder: ``<version>/<name>.whl``."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "A wheel of the agent; devices take it by the hash that their commit names."
        return (Route("GET", PATH, "getAgentWheel", self.get, about, role=None),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with a wheel."""
        path = await asyncio.to_thread(self._found, request.match_info)
        if path is None:
            raise NotThere(f"There is no wheel at {request.path}.")
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    def _found(self, named: Mapping[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        try:
            version = msgspec.convert(named["version"], VersionText)
            wheel = msgspec.convert(named["wheel"], WheelName)
        except msgspec.ValidationError:
            return None
        path = self._folder / version / wheel
        return path if path.is_file() and not path.is_symlink() else None
