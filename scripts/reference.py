"""Writes what is made from the code: ``python scripts/reference.py [--check]``. Run by ``scripts/reference``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.generators.access import acl
from scripts.generators.asyncapi import asyncapi
from scripts.generators.command_line import command_line
from scripts.generators.commands import commands
from scripts.generators.configuration import configuration
from scripts.generators.contents import how_to
from scripts.generators.dashboards import DASHBOARDS
from scripts.generators.events import events
from scripts.generators.exit_codes import exit_codes
from scripts.generators.metrics import metrics
from scripts.generators.repository import fleet_repository
from scripts.generators.rest import rest
from scripts.generators.runbooks import runbooks
from scripts.generators.topics import topics

if TYPE_CHECKING:
    from collections.abc import Callable

HOUSE: Final = Path(__file__).resolve().parent.parent
GENERATED: Final[dict[str, Callable[[], str]]] = {
    "mosquitto/acl": acl,
    "docs/how-to/index.md": how_to,
    "docs/reference/asyncapi.json": asyncapi,
    "docs/reference/commands.md": commands,
    "docs/reference/cli.md": command_line,
    "docs/reference/configuration.md": configuration,
    "docs/reference/events.md": events,
    "docs/reference/exit-codes.md": exit_codes,
    "docs/reference/fleet-repository.md": fleet_repository,
    "docs/reference/metrics.md": metrics,
    "docs/reference/rest.md": rest,
    "docs/reference/topics.md": topics,
    "docs/runbooks/index.md": runbooks,
    **DASHBOARDS,
}
"""Path in the repository → what makes its text."""


def main() -> int:
    """Write every file that differs; with ``--check`` only say which."""
    check = "--check" in sys.argv[1:]
    stale = [path for path, make in GENERATED.items() if not _same(HOUSE / path, make())]
    for path in stale:
        if not check:
            (HOUSE / path).parent.mkdir(parents=True, exist_ok=True)
            (HOUSE / path).write_text(GENERATED[path](), encoding="utf-8")
        sys.stdout.write(f"{'stale' if check else 'written'}: {path}\n")
    return 1 if check and stale else 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
