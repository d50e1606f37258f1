"""What a Compose file reads besides itself: all of it must be of the role's folder, so that it is in the digest.

Compose reads other files before it prints its model: ``env_file``, ``label_file``, ``extends`` and ``include``. One
that is not of the commit would be in no digest: a release would mean another thing the next day, and nobody could tell.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.value import Value
from metrica_fleet import sealed
from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_VARIABLE: Final = re.compile(r"\$(?:(?P<escape>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})", re.ASCII)
_REMOTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[^/]*@[^/]*:")
"""``https://…``, ``oci://…``, ``git@host:…``: Compose would fetch them."""


class Reference(Value, frozen=True, kw_only=True):
    """A path that a file of the role's folder gives to Compose."""

    file: str
    """Where it stands, as a path in the folder."""
    line: int
    key: str
    """``env_file``, ``include`` …"""
    path: str
    """As it is written."""
    base: str
    """The folder that it is relative to, itself a path in the role's folder; ``""`` for that."""


def require_inside(references: Sequence[Reference], variables: Mapping[str, str]) -> None:
    """Make sure that Compose will read nothing that is not of the role's folder.

    Args:
        references: all that the folder's Compose files name.
        variables: what ``${NAME}`` in them means.

    Raises:
        Unusable: ``reads-outside``; it names file, line and key, and what to do.
    """
    for reference in references:
        if sealed.VARIABLE in reference.path:
            what = f'"{reference.path}" is a secret: its value would stand in `docker inspect` and on the disk;'
            raise refusal(reference, f'{what} mount it as a file instead, by "secrets:"')
        path = _interpolated(reference, variables)
        if located(reference.base, path) is None:
            shown = f'"{reference.path}"' if path == reference.path else f'"{reference.path}" ("{path}")'
            raise refusal(reference, f"{shown} is not in the role's folder; put the file there")


def located(base: str, path: str) -> str | None:
    """Return where ``path``, relative to ``base``, is in the role's folder; ``None``: it is not in it.

    By its text, as Compose joins paths: links are not followed on the way up.
    """
    if path.startswith(("/", "~")) or _REMOTE.match(path) or "\0" in path:
        return None
    joined = posixpath.normpath(posixpath.join(base, path))
    return None if joined == ".." or joined.startswith("../") else joined


def _interpolated(reference: Reference, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match["plain"] or match["braced"]
        if name is None:
            return "$"
        if name not in variables:
            raise refusal(reference, f'variable "{name}" is not set for this device; set it in [vars]')
        return variables[name]

    without = _VARIABLE.sub("", reference.path)
    if "$" in without:
        raise refusal(reference, f'"{reference.path}": only $NAME and ${{NAME}} can stand here')
    return _VARIABLE.sub(value, reference.path)


def refusal(reference: Reference, what: str) -> Unusable:
    """Return the refusal of a reference; ``what`` is the end of its sentence."""
    return Unusable(f"{reference.file}: line {reference.line}: {reference.key} {what}", reason="reads-outside")
