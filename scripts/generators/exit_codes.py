"""docs/reference/exit-codes.md: how each program ends, from the constants that they end with."""

from __future__ import annotations

from typing import Final

from scripts.generators.command_line import MEANS

from metrica_agent.adapters.watchman import EXIT_STUCK
from metrica_agent.main import EXIT_FAILED, EXIT_USAGE
from metrica_cli.trouble import Exit
from metrica_hub.main import FAILED, MISUSED, OK

_AGENT: Final = {
    0: "told to stop, and stopped in order; a command: done, or yes",
    EXIT_FAILED: "what no task expected, told in the log; a command: the answer is no (`check`: something is wrong,"
    " `stop-status`: something is stopped)",
    EXIT_USAGE: "a mistake in the call or in `agent.toml`, one sentence",
    EXIT_STUCK: "stuck: the event loop or a task did not come round; the next start tells `agent.stuck`",
}
_HUB: Final = {
    OK: "told to stop, and stopped in order; a command: done",
    FAILED: "`check`: something does not answer; else it failed",
    MISUSED: "a mistake in the call or the set-up, or the database is not there at the start: one sentence",
}
_DEMO: Final = {
    0: "all was as it should be, or you quit",
    1: "it was not, or something is missing: one sentence, and where its log is",
    130: "Ctrl-C; everything is ended",
}


def exit_codes() -> str:
    """Return the page."""
    return f"""\
# Exit codes

Made from the programs' own constants by `scripts/reference`; do not edit. 128 and a number: killed by that signal.

## metrica

{_table({int(code): MEANS[code] for code in Exit})}

So a script needs no text: `metrica wait pi-01 --for phase=confirmed --timeout 5m && …`. What is *no* (1) for a command
stands in [its help](cli.md): `plan` for what a device would refuse, `diff` for a difference, `rollout status` for a
halt, `audit verify` for a trail that was changed. `stop` and `resume` end with 6 when somebody who is connected has not
obeyed in time; the order stands.

## metrica-agent

{_table(_AGENT)}

What systemd does with each: [the agent as a service](device-service.md#exit-codes).

## metrica-hub

{_table(_HUB)}

## scripts/demo

{_table(_DEMO)}
"""


def _table(meanings: dict[int, str]) -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in sorted(meanings.items())]
    return "\n".join(["| code | means |", "| --- | --- |", *rows])
