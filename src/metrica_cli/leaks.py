"""Secrets in the clear in a fleet repository: what ``detect-secrets`` takes for one, told without its text.

Private keys and the well-known shapes of tokens are found anywhere; anything else by its key, as in ``MQTT_PASSWORD:``.
Entropy alone is not asked for: digests of images, commits and public keys are what a fleet repository is full of. And
nobody is asked on the network whether a token is good.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

from metrica_fleet.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

REASON: Final = "secret-in-clear"
_NOT_ASKED: Final = frozenset({"Base64HighEntropyString", "HexHighEntropyString"})
_FILTERS: Final = (
    "allowlist.is_line_allowlisted",
    "heuristic.is_indirect_reference",
    "heuristic.is_likely_id_string",
    "heuristic.is_not_alphanumeric_string",
    "heuristic.is_potential_uuid",
    "heuristic.is_prefixed_with_dollar_sign",
    "heuristic.is_sequential_string",
    "heuristic.is_templated_secret",
)
"""When something is none. ``# pragma: allowlist secret`` on a line is the first of them."""
_LARGEST_BYTES: Final = 1024 * 1024
_BINARY_AHEAD: Final = 8192
_OURS: Final = re.compile(rb"(?P<age>AGE-SECRET-KEY-1[0-9A-Z]{50,})|(?P<hub>\bmt[re]_[A-Za-z0-9_-]{30,})")
_ALLOWED: Final = b"pragma: allowlist secret"
_KINDS: Final = {"age": "Age Secret Key", "hub": "Token of a Hub"}


def in_the_clear(root: Path, names: Iterable[str], public: Sequence[str] = ()) -> list[Problem]:
    """Return each line of the files ``names`` under ``root`` that holds a secret; none of those that are ``public``.

    ``public`` are patterns of paths, as in ``roles/*/ca.pem``.
    """
    classes = get_mapping_from_secret_type_to_class().values()
    plugins = [{"name": one.__name__} for one in classes if one.__name__ not in _NOT_ASKED]
    filters = [{"path": f"detect_secrets.filters.{one}"} for one in _FILTERS]
    found: dict[tuple[str, int], str] = {}
    with transient_settings({"plugins_used": plugins, "filters_used": filters}):
        for name in sorted(names):
            path = root / name
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
                continue
            if any(fnmatchcase(name, pattern) for pattern in public):
                continue
            content = path.read_bytes()
            if b"\0" in content[:_BINARY_AHEAD]:
                continue
            for number, line in enumerate(content.splitlines(), 1):
                if (match := _OURS.search(line)) and _ALLOWED not in line:
                    found[name, number] = _KINDS[match.lastgroup or ""]
            for secret in scan_file(str(path)):
                found.setdefault((name, secret.line_number), secret.type)
    return [_problem(name, number, kind) for (name, number), kind in sorted(found.items())]


def _problem(name: str, number: int, kind: str) -> Problem:
    way_out = (
        "seal it (metrica secret set) and give it a new value, for whoever could read the repository knows this one;"
        ' if it is none, write "# pragma: allowlist secret" on the line, or the path in [secrets] public of fleet.toml'
    )
    return Problem(name, number or None, "", f"a secret in the clear ({kind}): {way_out}", REASON)
