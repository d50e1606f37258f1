"""Which names and links a release may hold, so that it means the same on every disk and stays inside its folder."""

from __future__ import annotations

import unicodedata
from collections import deque
from typing import TYPE_CHECKING, Final

from dulwich.index import (
    validate_path,
    validate_path_element_default,
    validate_path_element_hfs,
    validate_path_element_ntfs,
)

from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_NAME_BYTES: Final = 255
_MOST_HOPS: Final = 40
"""The kernel's own limit of links in one path."""
_VALIDATORS: Final = (validate_path_element_default, validate_path_element_ntfs, validate_path_element_hfs)
_INVISIBLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def checked_name(name: bytes, folder: str) -> str:
    """Return ``name`` as text.

    Raises:
        Unusable: ``path-unsafe`` or ``name-not-utf8``.
    """
    if not all(validate_path(name, validator) for validator in _VALIDATORS) or b"/" in name:
        raise _unsafe(name, folder, "it is not allowed as a name")
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise Unusable(
            f"a name in {folder or '/'} is not UTF-8: {ascii(name)[:200]}; rename it", reason="name-not-utf8"
        ) from None
    if not text or len(name) > LONGEST_NAME_BYTES:
        raise _unsafe(name, folder, f"a name has 1 to {LONGEST_NAME_BYTES} bytes")
    if any(unicodedata.category(char) in _INVISIBLE for char in text):
        raise _unsafe(name, folder, "it holds control characters")
    return text


def _unsafe(name: bytes, folder: str, why: str) -> Unusable:
    return Unusable(f"{ascii(name)[:200]} in {folder or '/'}: {why}; rename it", reason="path-unsafe")


def folded(name: str) -> str:
    """Return what two names share that a disk without case, or with normalisation, would take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_links(links: Mapping[str, str]) -> None:
    """Make sure that every link, through all other links, ends inside the folder.

    Args:
        links: Path of each link below the folder, and its target.

    Raises:
        Unusable: ``symlink-escapes``.
    """
    for path, target in links.items():
        if not target or target.startswith("/") or any(unicodedata.category(char) in _INVISIBLE for char in target):
            raise _escapes(path, target)
        if not _stays_inside(path, links):
            raise _escapes(path, target)


def _escapes(path: str, target: str) -> Unusable:
    return Unusable(
        f"the link {path} leads out of its folder, or nowhere ({ascii(target)[:200]}); use a relative one that stays",
        reason="symlink-escapes",
    )


def _stays_inside(path: str, links: Mapping[str, str]) -> bool:
    here = path.split("/")[:-1]
    ahead = deque(links[path].split("/"))
    hops = 1
    while ahead:
        step = ahead.popleft()
        if step in ("", "."):
            continue
        if step == "..":
            if not here:
                return False
            here.pop()
            continue
        onward = links.get("/".join([*here, step]))
        if onward is None:
            here.append(step)
            continue
        hops += 1
        if hops > _MOST_HOPS or onward.startswith("/"):
            return False
        ahead.extendleft(reversed(onward.split("/")))
    return True
