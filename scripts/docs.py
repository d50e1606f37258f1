"""Builds or serves the documents as a site: ``python scripts/docs.py [serve]``. Run by ``scripts/docs``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.generators.contents import navigation

HOUSE: Final = Path(__file__).resolve().parent.parent
GIVEN: Final = HOUSE / "zensical.toml"
MADE: Final = HOUSE / ".zensical.toml"
"""With the navigation in it, which follows from the pages that there are. Paths are relative to it."""


def main() -> int:
    """Write the configuration, and hand over to Zensical; return its exit code."""
    write_configuration(MADE)
    serve = sys.argv[1:2] == ["serve"]
    command = ["zensical", "serve" if serve else "build", "--config-file", str(MADE)]
    return subprocess.run(command if serve else [*command, "--clean", "--strict"], cwd=HOUSE, check=False).returncode


def write_configuration(path: Path) -> None:
    """Write zensical.toml with the navigation to ``path``."""
    text = GIVEN.read_text(encoding="utf-8")
    path.write_text(text.replace("nav = []", f"nav = {_toml(navigation())}"), encoding="utf-8")


def _toml(value: object) -> str:
    match value:
        case dict():
            table: dict[str, object] = value  # pyright: ignore[reportUnknownVariableType]
            return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in table.items()) + " }"
        case list():
            items: list[object] = value  # pyright: ignore[reportUnknownVariableType]
            return f"[{', '.join(_toml(one) for one in items)}]"
        case _:
            return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
