"""The larger statements, each in a file that an editor colours and ``psql`` reads."""

from __future__ import annotations

from importlib.resources import files


def statement(name: str) -> str:
    """Return the text of ``<name>.sql``."""
    return files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
