"""``metrica token``: who may ask the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, NoHeaders, Output, Yes, add
from metrica_cli.output import agreed, listed, say, say_items, tell
from metrica_cli.table import age, ahead
from metrica_cli.trouble import Exit, Trouble

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_cli.values import Json

_HEADS: Final = ("ID", "NAME", "ROLE", "AGE", "EXPIRES", "LAST USED", "MADE BY")
Role = Literal["viewer", "operator", "admin"]


def register(app: App) -> None:
    """Add the commands."""
    tokens = App(name="token", help="Say who may ask the hub, and who no more.", help_epilogue="")
    add(tokens, create, "metrica token create ada --role operator --days 90 > ada.token")
    add(tokens, list_, "metrica token list", name="list")
    add(tokens, revoke, "metrica token revoke ada", "metrica token revoke 7 --yes")
    app.command(tokens)


def create(
    name: Annotated[str, Parameter(name="NAME", help="Whose it is to be.")],
    /,
    *,
    role: Annotated[
        Role, Parameter(name="--role", help="viewer looks, operator steers, admin gives tokens.")
    ] = "viewer",
    days: Annotated[int | None, Parameter(name="--days", help="Until it expires; else it does not.")] = None,
    at: At = HERE,
) -> Exit:
    """Make a token; it is written to standard output, this once."""
    body: Json = {"name": name, "role": role} | ({} if days is None else {"days": days})
    given = at.there().post("/tokens", body).body
    say(str(given.get("token", "")))
    known: Json = given.get("known") or {}
    tell(f"it is shown this once; to end it: metrica token revoke {known.get('id', name)}")
    return Exit.OK


def list_(*, output: Output = "table", no_headers: NoHeaders = False, at: At = HERE) -> Exit:
    """List the tokens that were not revoked, not their text."""
    answer = at.there().get_list("/tokens")
    rows = [_row(token, answer.now) for token in answer.items]
    say_items(output, answer.body, answer.items, listed(_HEADS, rows, no_headers=no_headers), "name")
    return Exit.OK


def revoke(
    token: Annotated[str, Parameter(name="ID", help="Its number or its name.")], /, *, yes: Yes = False, at: At = HERE
) -> Exit:
    """Let a token be good for nothing any more, and the browsers that signed in with it."""
    hub = at.there()
    found = [one for one in hub.get_list("/tokens").items if token in {str(one.get("id")), one.get("name")}]
    if not found:
        raise Trouble(f'there is no token "{token}"', code=Exit.NOT_FOUND, advice="metrica token list")
    [one] = found[:1]
    agreed(f"Revoke the token {one.get('id')} of {one.get('name')} ({one.get('role')})? It can't be undone.", yes=yes)
    hub.delete(f"/tokens/{one.get('id')}")
    say(f"the token of {one.get('name')} is revoked")
    return Exit.OK


def _row(token: Json, now: datetime) -> tuple[str, ...]:
    return (
        str(token.get("id", "-")),
        str(token.get("name", "-")),
        str(token.get("role", "-")),
        age(token.get("created_at"), now),
        ahead(token.get("expires_at"), now) if token.get("expires_at") else "never",
        age(token.get("last_used_at"), now),
        str(token.get("created_by", "-")),
    )
