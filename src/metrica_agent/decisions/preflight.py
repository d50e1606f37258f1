"""What a rendered model needs of the machine before it may be switched to, and whether the machine has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.render import SECRETS_ROOT, Model, plain, within
from metrica_agent.decisions.value import Value
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVE_BYTES: Final = 64 * 1024 * 1024
RESERVE_FILES: Final = 1_000


class ImageNeed(Value, frozen=True):
    """An image that must be here before the switch."""

    name: str
    platform: str | None = None
    """Set where the Compose file says so; then the machine's own architecture is not asked."""


class Needs(Value, frozen=True):
    """What a release needs besides its own files. Derived from its ``compose.json``, so not stored twice."""

    images: tuple[ImageNeed, ...]
    data_directories: tuple[str, ...]
    """Absolute; the agent makes those that are missing."""
    host_sources: tuple[str, ...]
    """Absolute paths outside of the agent's state that a service mounts; they must exist."""
    contents: tuple[str, ...]
    """Digests that must exist under ``content/``."""
    secrets: tuple[str, ...] = ()
    """Keyed digests that must exist in the folder of secrets, in memory."""


class Space(Value, frozen=True):
    """What is free on the filesystem that holds the releases."""

    free_bytes: int
    free_files: int


def needs(compose: Model, *, content_root: str, data_root: str, secrets_root: str = SECRETS_ROOT) -> Needs:
    """Return what the rendered model ``compose`` needs of the machine."""
    services: dict[str, Model] = compose["services"]
    images = {ImageNeed(name=plain(one["image"]), platform=one.get("platform")) for one in services.values()}
    data: set[str] = set()
    host: set[str] = set()
    contents: set[str] = set()
    secrets: set[str] = set()
    for source, makeable in _sources(compose):
        relative, secret = within(source, content_root), within(source, secrets_root)
        if relative is not None:
            contents.add(relative.partition("/")[0])
        elif secret is not None:
            secrets.add(secret)
        elif makeable and within(source, data_root) is not None:
            data.add(source)
        else:
            host.add(source)
    return Needs(
        images=tuple(sorted(images, key=lambda need: (need.name, need.platform or ""))),
        data_directories=tuple(sorted(data)),
        host_sources=tuple(sorted(host)),
        contents=tuple(sorted(contents)),
        secrets=tuple(sorted(secrets)),
    )


def _sources(compose: Model) -> Iterator[tuple[str, bool]]:
    """Yield every path that containers of ``compose`` mount, and whether it may be made as a directory."""
    services: dict[str, Model] = compose["services"]
    for service in services.values():
        volumes: list[Model] = service.get("volumes", [])
        for volume in volumes:
            if volume["type"] == "bind":
                yield plain(volume["source"]), True
    for kind in ("configs", "secrets"):
        files: dict[str, Model] = compose.get(kind, {})
        for definition in files.values():
            if "file" in definition:
                yield plain(definition["file"]), False
    named: dict[str, Model] = compose.get("volumes", {})
    for volume in named.values():
        options: dict[str, str] = volume.get("driver_opts") or {}
        if "bind" in options.get("o", "").split(",") and "device" in options:
            yield plain(options["device"]), True


def require_space(space: Space, *, needed_bytes: int, needed_files: int) -> None:
    """Make sure that the release fits, and that the agent can still write afterwards.

    Raises:
        NotNow: ``disk-full``.
    """
    if space.free_bytes < needed_bytes + RESERVE_BYTES:
        missing = (needed_bytes + RESERVE_BYTES - space.free_bytes) // 1024 + 1
        raise NotNow(f"the disk lacks {missing} KiB for this release and a reserve", reason="disk-full")
    if space.free_files < needed_files + RESERVE_FILES:
        raise NotNow("the filesystem lacks inodes for this release and a reserve", reason="disk-full")


def require_host_sources(absent: tuple[str, ...]) -> None:
    """Make sure that every mounted path of the machine is there.

    Raises:
        NotNow: ``host-source-missing``; it names the first path.
    """
    if absent:
        msg = f"{absent[0]} is mounted by a service and does not exist on this device"
        raise NotNow(msg, reason="host-source-missing")
