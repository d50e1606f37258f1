"""Static files: few, small, read once, each with its version as ETag."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from metrica_hub.errors import NotThere
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    body: bytes
    content_type: str
    version: str


class Assets:
    """All files of ``static/``."""

    def __init__(self) -> None:
        self._files = _read()

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (Route("GET", "/static/{file}", "getAsset", self.get, "A file that the page needs.", role=None),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file, or 304."""
        asset = self._files.get(request.match_info["file"])
        if asset is None:
            raise NotThere(f"There is no file at {request.path}.")
        if any(tag.value == asset.version for tag in request.if_none_match or ()):
            response = web.Response(status=304)
        else:
            response = web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8")
            response.enable_compression()
        response.etag = asset.version
        response.headers["Cache-Control"] = "no-cache"
        return response


def _read() -> Mapping[str, Asset]:
    found: dict[str, Asset] = {}
    for file in files(__package__ or "metrica_hub.web").joinpath("static").iterdir():
        suffix = f".{file.name.rpartition('.')[2]}"
        if suffix in _TYPES:
            body = file.read_bytes()
            found[file.name] = Asset(body, _TYPES[suffix], hashlib.sha256(body).hexdigest()[:16])
    return found
