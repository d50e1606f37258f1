"""docs/reference/cli.md: every command of ``metrica``, by its own help."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from rich.console import Console

from metrica_cli.main import app
from metrica_cli.trouble import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyclopts import App

_WIDTH: Final = 110
_BUILT_IN: Final = frozenset({"--help", "-h", "--version"})
_HEAD: Final = """\
# Command line

Made from the help of the commands by `scripts/reference`; do not edit.

`metrica` is what an operator types. Data goes to standard output, everything else to standard error. `-o json` is the
hub's own JSON, and stable with the API's version. A token is never given on the command line: `metrica login` asks for
it, `--token-file` and `METRICA_TOKEN_FILE` name a file.

Nothing is told by colour alone. `NO_COLOR`, `FORCE_COLOR`, `TERM=dumb` and `--color` decide; a locale that is not UTF-8
gets words without shapes. A table is cut to the terminal's width, and whole where a program reads it. Lengths of time
are `90`, `30s`, `5m`, `2h`, `1d`.

Where the hub is: `--hub` or `METRICA_HUB_URL`, else `--context` or `METRICA_CONTEXT`, else the current context, else
`http://127.0.0.1:8080`. Contexts are kept in `$XDG_CONFIG_HOME/metrica/config.toml`, tokens in `credentials.toml`
beside it, which only its owner may read; a token goes to the address that it was kept for, and to no other.

| exit code | means |
| --- | --- |
"""
MEANS: Final = {
    Exit.OK: "done, or yes",
    Exit.NO: "the answer is no, or it failed: a difference, a rollout that halted, a plan that a device would refuse",
    Exit.USAGE: "the call makes no sense, or there is nobody to ask and no `--yes`",
    Exit.HUB_UNREACHABLE: "the hub can't be reached, or is none",
    Exit.NOT_ALLOWED: "no token, one that is not good, or its role is too low",
    Exit.NOT_FOUND: "there is no such device, rollout, token, context",
    Exit.TIMED_OUT: "not in time",
    Exit.INTERRUPTED: "Ctrl-C",
}


def command_line() -> str:
    """Return the page."""
    codes = [f"| {code.value} | {MEANS[code]} |" for code in Exit]
    sections = [f"## {' '.join(('metrica', *path))}\n\n```\n{_help(path)}\n```\n" for path in _paths(app, ())]
    return _HEAD + "\n".join([*codes, "", *sections])


def _paths(of: App, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, those below after the one above."""
    for name in sorted(set(of) - _BUILT_IN):
        path = (*above, name)
        yield path
        yield from _paths(of[name], path)


def _help(path: tuple[str, ...]) -> str:
    out = io.StringIO()
    app.help_print(list(path), console=Console(file=out, width=_WIDTH, no_color=True, force_terminal=False))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())
