"""How help looks: plain text that is broken once, at the terminal's width, and hangs below the name that it explains.

cyclopts' own plain formatter breaks descriptions at the terminal's width, puts a name before them, and has the whole
broken again.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from cyclopts.help.formatters.plain import PlainFormatter

if TYPE_CHECKING:
    from rich.console import Console

_HANGING: Final = "    "


class PlainHelp(PlainFormatter):
    """The formatter."""

    def _print_plain(self, console: Console, text: str) -> None:
        lines = (broken(paragraph, console.width) for paragraph in text.split("\n\n"))
        console.print("\n\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def broken(paragraph: str, width: int) -> str:
    """Return ``paragraph``, wherever it was broken before, in lines of up to ``width``."""
    indent = paragraph[: len(paragraph) - len(paragraph.lstrip(" "))]
    return textwrap.fill(
        " ".join(paragraph.split()),
        width=width,
        initial_indent=indent,
        subsequent_indent=indent + _HANGING if indent else "",
        break_long_words=False,
        break_on_hyphens=False,
    )
