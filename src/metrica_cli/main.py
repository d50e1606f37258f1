"""``metrica``: which commands there are, and how one ends."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

from cyclopts import App, CycloptsError

from metrica_cli import (
    access,
    agents,
    auditing,
    bundling,
    commanding,
    devices,
    events,
    planning,
    repository,
    rollout,
    secret,
    shell,
    simulation,
    stop,
    tokens,
    webhooks,
)
from metrica_cli.helping import PlainHelp
from metrica_cli.output import tell
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES: Final = """\
For example:

  metrica login https://hub.example.org   keep its address and a token
  metrica devices -w                      every device, problems first, as it changes
  metrica device pi-01                    one device: facts, why, last events
  metrica device add pi-02 --role camera  let one in: a line to paste on the Pi
  metrica logs pi-01 web -f               what a service writes
  metrica events -f --kind 'release.*'    what happens
  metrica lint                            check the repository here before a push
  metrica plan --all                      what a push would restart, and where

Exit codes: 0 ok, 1 no or failed, 2 usage, 3 hub unreachable, 4 not allowed, 5 not found, 6 timed out, 130 interrupted.
"""

app = App(
    name="metrica",
    help="Look after a fleet.",
    help_epilogue=_EXAMPLES,
    version=f"metrica {__version__}",
    help_format="plaintext",
    help_formatter=PlainHelp(),
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
)
for _topic in (
    access,
    devices,
    events,
    commanding,
    rollout,
    stop,
    repository,
    planning,
    secret,
    agents,
    bundling,
    tokens,
    webhooks,
    auditing,
    shell,
    simulation,
):
    _topic.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that can't show a letter shows "?"
    try:
        result: object = app(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except Trouble as trouble:
        tell(str(trouble))
        return trouble.code
    except CycloptsError as error:
        tell(f"error: {_flat(str(error))}\n  try: metrica --help")
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough (`| head`). Nothing more may be flushed into the pipe at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    return result if isinstance(result, int) else Exit.OK


def _flat(text: str) -> str:
    return " ".join(text.split())
