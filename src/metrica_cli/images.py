"""What images weigh and for which machines they are, by their registries: ``docker manifest inspect``; no engine."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_DEADLINE_S: Final = 60.0
_AT_ONCE: Final = 4
"""Registries count the questions of those they do not know."""

_RUN_BESIDES: Final = {"arm64": ("arm",), "amd64": ("386",)}
"""What a machine runs besides its own."""


class Weight(msgspec.Struct, frozen=True):
    """An image as a registry has it for one architecture."""

    layers: Mapping[str, int]
    """Digest → bytes, compressed."""


class Unweighed(msgspec.Struct, frozen=True):
    """Why nothing is known of an image, or that it is wrong."""

    message: str
    is_wrong: bool = False
    """There is none for the architecture: a device would refuse it."""


Facts = dict[str, Weight | Unweighed]


async def weighed(images: Iterable[str], architecture: str) -> Facts:
    """Return what the registries say of each of ``images``."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(image: str) -> tuple[str, Weight | Unweighed]:
        async with at_once:
            return image, await _weight(image, architecture)

    return dict(await asyncio.gather(*(one(image) for image in sorted(set(images)))))


def to_download(new: Sequence[str], old: Sequence[str], facts: Facts) -> int | None:
    """Return the bytes of the layers that ``new`` has and ``old`` has not; ``None`` where one can't be known."""
    have: set[str] = set()
    for image in old:
        known = facts.get(image)
        have |= set(known.layers) if isinstance(known, Weight) else set()
    layers: dict[str, int] = {}
    for image in new:
        known = facts.get(image)
        if not isinstance(known, Weight):
            return None
        layers |= known.layers
    return sum(size for digest, size in layers.items() if digest not in have)


def weight_in(answer: bytes, image: str, architecture: str) -> Weight | Unweighed:
    """Return the weight that ``docker manifest inspect --verbose`` told of ``image``."""
    try:
        found: Any = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return Unweighed(f"{image}: docker manifest inspect answered no JSON")
    entries = cast("list[Any]", found if isinstance(found, list) else [found])
    there: dict[str, Weight] = {}
    for entry in entries:
        try:
            platform = str(entry["Descriptor"]["platform"]["architecture"])
            manifest = entry.get("SchemaV2Manifest") or entry["OCIManifest"]
            layers = {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # an attestation, or a schema of long ago
        there.setdefault(platform, Weight(layers))
    for platform in (architecture, *_RUN_BESIDES.get(architecture, ())):
        if platform in there:
            return there[platform]
    named = ", ".join(sorted(there.keys() - {"unknown"}))
    if named:
        return Unweighed(f"{image} is for {named}, not for {architecture}", is_wrong=True)
    return Unweighed(f"{image}: its registry says nothing of layers")


async def _weight(image: str, architecture: str) -> Weight | Unweighed:
    try:
        process = await asyncio.create_subprocess_exec(
            *("docker", "manifest", "inspect", "--verbose", *_how(image), image),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
    except OSError as error:
        return Unweighed(f"docker can't be run: {error.strerror}")
    try:
        async with asyncio.timeout(_DEADLINE_S):
            answer, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return Unweighed(f"{image}: its registry did not answer within {_DEADLINE_S:g} s")
    if process.returncode == 0:
        return weight_in(answer, image, architecture)
    said = " ".join(complaint.decode("utf-8", "replace").split())
    if "no such manifest" in said:
        # Docker says so of every registry that does not answer as it should: no proof that there is none.
        said = "its registry has no such image, or needs a docker login"
    return Unweighed(f"{image}: {said or 'docker manifest inspect failed'}")


def _how(image: str) -> tuple[str, ...]:
    """Return what lets a registry on this machine speak without TLS, as engines let it."""
    host = image.partition("/")[0].rpartition(":")[0]
    return ("--insecure",) if host == "localhost" or host.startswith("127.") else ()
