"""``metrica audit``: who did what, and whether the trail of it is as it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, NoHeaders, Output, add
from metrica_cli.output import listed, say, say_items, tell
from metrica_cli.table import age
from metrica_cli.trouble import Exit, Trouble

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_cli.values import Json

_HEADS: Final = ("NUMBER", "AGE", "WHO", "FROM", "ACTION", "SUBJECT", "DETAIL")


def register(app: App) -> None:
    """Add the commands."""
    audit = App(name="audit", help="Show who did what; verify that nothing of it was changed.", help_epilogue="")
    audit.default(show)
    add(
        audit,
        verify,
        "metrica audit verify",
        "metrica audit verify --seal 4711:9f86d081…    a seal that was noted earlier is there still",
    )
    app.command(audit)


def show(
    *,
    actor: Annotated[str | None, Parameter(name="--actor", help="By whom, exactly.")] = None,
    action: Annotated[str | None, Parameter(name="--action", help="As token.create.")] = None,
    subject: Annotated[str | None, Parameter(name="--subject", help="As device/pi-01.")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many, newest first.")] = 20,
    output: Output = "table",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """List who did what, newest first."""
    if limit < 1:
        raise Trouble(f"-n {limit} asks for nothing", code=Exit.USAGE, advice="metrica audit -n 20")
    asked = {"actor": actor, "action": action, "subject": subject}
    query = {name: value for name, value in asked.items() if value is not None}
    answer = at.there().get_list("/audit", limit, query)
    rows = [_row(entry, answer.now) for entry in answer.items]
    say_items(output, answer.body, answer.items, listed(_HEADS, rows, no_headers=no_headers), "number")
    return Exit.OK


def verify(
    *,
    seal: Annotated[
        str | None, Parameter(name="--seal", help="One that was noted earlier, NUMBER:HEX: is it there still?")
    ] = None,
    at: At = HERE,
) -> Exit:
    """Verify that nothing of the trail was changed, left out or, by an earlier seal, cut off; exit code 1 if it was."""
    found = at.there().get("/audit/verify", {} if seal is None else {"seal": seal}).body
    if not found.get("holds"):
        raise Trouble(f"the trail does not hold at {found.get('broken_at')}", code=Exit.NO, why=str(found.get("why")))
    entries = int(found.get("entries") or 0)
    say(f"{entries:,} {'entry' if entries == 1 else 'entries'}, as written; the last seal: {found.get('seal')}")
    tell(f"note it elsewhere, and ask later: metrica audit verify --seal {found.get('seal')}")
    return Exit.OK


def _row(entry: Json, now: datetime) -> tuple[str, ...]:
    detail: Any = entry.get("detail")
    return (
        str(entry.get("number", "-")),
        age(entry.get("at"), now),
        f"{entry.get('actor', '-')} ({entry.get('role', '-')})",
        f"{entry.get('remote', '-')}",
        str(entry.get("action", "-")),
        str(entry.get("subject", "-")),
        msgspec.json.encode(detail).decode() if detail else "",
    )
