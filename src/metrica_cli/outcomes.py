"""What a change comes to on a device: which services restart, what is removed first, which images are new. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from metrica_cli.images import Facts, Unweighed, to_download
from metrica_cli.rehearsal import Refusal, Staged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Change = Literal["none", "policy", "changed", "new", "gone", "refused", "mended"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one device would do about the new state of the repository."""

    device: str
    role: str | None
    change: Change
    """``policy``: no service is touched; ``mended``: the old state was refused, so that nothing can be compared."""
    restarts: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()
    """Before anything is started."""
    images: tuple[str, ...] = ()
    """That the old release does not have."""
    download_bytes: int | None = None
    """Compressed; ``None``: not asked, or not to be known."""
    free_bytes: int | None = None
    """Of the device's tightest disk, where the hub was asked."""
    reason: str | None = None
    message: str = ""


def outcome(device: str, before: Staged | Refusal | None, after: Staged | Refusal | None) -> Outcome:
    """Return what ``device`` would do; ``None`` where the repository has no such device."""
    if isinstance(after, Refusal):
        return Outcome(device=device, role=None, change="refused", reason=after.reason, message=after.message)
    if after is None:
        # A device that the repository does not name any more refuses the commit and runs on.
        message = "the repository has no such device any more; it keeps what it runs"
        return Outcome(device=device, role=None, change="gone", reason="device-unknown", message=message)
    if before is None or isinstance(before, Refusal):
        change: Change = "new" if before is None else "mended"
        return _compared(device, change, {}, after)
    if before.digest == after.digest:
        same = msgspec.structs.replace(before.desired, commit=after.desired.commit) == after.desired
        return Outcome(device=device, role=after.desired.role, change="none" if same else "policy")
    found = _compared(device, "changed", _services(before), after)
    touched = found.restarts or found.starts or found.removes
    return found if touched else msgspec.structs.replace(found, change="policy")


def _compared(device: str, change: Change, before: Mapping[str, tuple[str, str, int]], after: Staged) -> Outcome:
    now = _services(after)
    images = {image for _, image, _ in now.values()} - {image for _, image, _ in before.values()}
    return Outcome(
        device=device,
        role=after.desired.role,
        change=change,
        restarts=tuple(sorted(name for name in now.keys() & before.keys() if now[name] != before[name])),
        starts=tuple(sorted(now.keys() - before.keys())),
        removes=tuple(sorted(before.keys() - now.keys())),
        images=tuple(sorted(images)),
    )


def _services(staged: Staged) -> dict[str, tuple[str, str, int]]:
    return {one.name: (one.inputs, one.image, one.replicas) for one in staged.release.services}


def weighed(found: Outcome, old: Sequence[str], facts: Facts, free_bytes: int | None) -> Outcome:
    """Return ``found`` with what the registries and the hub say; a device refuses an image that it can't run.

    Args:
        found: an outcome.
        old: the images of the old release.
        facts: of all images.
        free_bytes: on the device.
    """
    known = [facts.get(image) for image in found.images]
    wrong = [one.message for one in known if isinstance(one, Unweighed) and one.is_wrong]
    unknown = [one.message for one in known if isinstance(one, Unweighed) and not one.is_wrong]
    size = to_download(found.images, old, facts)
    told = msgspec.structs.replace(found, download_bytes=size, free_bytes=free_bytes)
    if wrong:
        return msgspec.structs.replace(told, change="refused", reason="wrong-architecture", message="; ".join(wrong))
    if size is not None and free_bytes is not None and size > free_bytes:
        message = f"it does not fit: {size:,} bytes to download, {free_bytes:,} free"
        return msgspec.structs.replace(told, reason="disk-full", message=message)
    return msgspec.structs.replace(told, message="; ".join(unknown)) if unknown else told


def shown(staged: Staged) -> dict[str, Any]:
    """Return what the device would be given, to be compared by people: a file by what is in it, not by where it is."""
    desired = staged.desired
    return {
        "role": desired.role,
        "tags": desired.tags,
        "vars": desired.variables,
        "health": desired.health,
        "limits": desired.limits,
        "checks": desired.checks,
        "update": desired.update,
        "service policies": desired.services,
        "compose": dict(staged.model),
    }
