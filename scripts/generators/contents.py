"""What the documents are and in which order: the list of how-tos, and the site's navigation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).resolve().parent.parent.parent / "docs"

HOW_TOS: Final[dict[str, tuple[str, ...]]] = {
    "Begin": ("demo", "log-in", "access"),
    "Set up": ("vps", "device", "identity", "by-hand", "alerts", "grafana", "backup", "release"),
    "Bring changes out": ("rollout", "rollout-rules", "consent", "secrets", "agent-version", "offline"),
    "Look after it": ("find-a-device", "commands", "dashboard"),
    "When something is wrong": ("emergency-stop", "safe-mode"),
}
"""Groups of pages of docs/how-to, by their names; what is in no group comes last."""
ORDER: Final[dict[str, tuple[str, ...]]] = {
    "explanation": ("architecture", "security", "sizing", "comparison"),
    "reference": ("fleet-repository", "configuration", "cli", "exit-codes", "commands", "events", "metrics", "alerts",
                  "rest", "topics", "hub", "device-service", "sandbox", "performance", "faults"),
}  # fmt: skip
"""Which pages come first in these folders."""

_HOW_TO: Final = """\
# How to

Made from the pages in docs/how-to by `scripts/reference`; do not edit. Whoever is new here begins with
[the tutorial](../tutorial.md).
"""
Entry = dict[str, "str | list[Entry]"]


def how_to() -> str:
    """Return the index of the how-tos."""
    parts = [_HOW_TO]
    for group, names in _grouped().items():
        parts.append(f"## {group}\n")
        parts.append("".join(f"- [{title(DOCS / 'how-to' / f'{name}.md')}]({name}.md)\n" for name in names))
    return "\n".join(parts)


def navigation() -> list[Entry]:
    """Return the site's navigation: titles and paths below docs/, as Zensical and MkDocs read it."""
    how_tos: list[Entry] = [{"All": "how-to/index.md"}]
    for group, names in _grouped().items():
        how_tos.append({group: [_entry("how-to", name) for name in names]})
    return [
        {"Metrica Fleet": "index.md"},
        {"Tutorial": "tutorial.md"},
        {"How to": how_tos},
        {"Reference": _pages("reference")},
        {"Runbooks": [{"All": "runbooks/index.md"}, *_pages("runbooks")]},
        {"Explanation": [*_pages("explanation"), _entry("", "glossary")]},
        {"Decisions": [{"All": "decisions/README.md"}, *_pages("decisions")]},
    ]


def title(path: Path) -> str:
    """Return the heading that a page begins with."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").strip()


def _pages(folder: str) -> list[Entry]:
    names = sorted(
        path.stem for path in (DOCS / folder).glob("*.md") if path.stem not in {"index", "README", "template"}
    )
    first = [name for name in ORDER.get(folder, ()) if name in names]
    return [_entry(folder, name) for name in (*first, *(name for name in names if name not in first))]


def _entry(folder: str, name: str) -> Entry:
    path = f"{folder}/{name}.md".lstrip("/")
    return {title(DOCS / path): path}


def _grouped() -> dict[str, list[str]]:
    there = {path.stem for path in (DOCS / "how-to").glob("*.md")} - {"index"}
    groups = {group: [name for name in names if name in there] for group, names in HOW_TOS.items()}
    rest = sorted(there - {name for names in groups.values() for name in names})
    return {group: names for group, names in (groups | {"More": rest}).items() if names}
