"""``metrica webhook``: who is told of events by HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, NoHeaders, Output, Yes, add
from metrica_cli.output import agreed, listed, say, say_items, tell
from metrica_cli.table import age, clean
from metrica_cli.trouble import Exit, Trouble

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_cli.look import Look
    from metrica_cli.table import Cell
    from metrica_cli.values import Json

_HEADS: Final = ("ID", "URL", "KINDS", "STATE", "LAST TOLD", "AGE", "MADE BY", "WHY")
Number = Annotated[str, Parameter(name="ID", help="As metrica webhook list has it.")]


def register(app: App) -> None:
    """Add the commands."""
    webhooks = App(name="webhook", help="Say who is told of events by HTTP, and who no more.", help_epilogue="")
    add(
        webhooks,
        add_,
        "metrica webhook add https://example.org/hook --kind 'release.*' --kind rollback.finished > hook.secret",
        name="add",
    )
    add(webhooks, list_, "metrica webhook list", name="list")
    add(webhooks, try_, "metrica webhook test 7", name="test")
    add(webhooks, remove, "metrica webhook remove 7")
    app.command(webhooks)


def add_(
    url: Annotated[str, Parameter(name="URL", help="Where events are posted to; https, unless hub.toml allows more.")],
    /,
    *,
    kind: Annotated[
        list[str] | None,
        Parameter(
            name="--kind",
            negative=(),
            consume_multiple=False,
            help="Of these events only: release.refused, or release.*; may be given several times.",
        ),
    ] = None,
    at: At = HERE,
) -> Exit:
    """Tell somebody of the events that come from now on; the secret is written to standard output, this once."""
    given = at.there().post("/webhooks", {"url": url, "kinds": kind or ["*"]}).body
    say(str(given.get("secret", "")))
    known: Json = given.get("known") or {}
    tell(f"this secret signs its messages, and is shown this once; to end it: metrica webhook remove {known.get('id')}")
    return Exit.OK


def list_(*, output: Output = "table", no_headers: NoHeaders = False, at: At = HERE) -> Exit:
    """List who is told, and how that goes; not the secrets."""
    look = at.look
    answer = at.there().get_list("/webhooks")
    rows = [_row(one, answer.now, look) for one in answer.items]
    say_items(output, answer.body, answer.items, listed(_HEADS, rows, no_headers=no_headers), "id")
    return Exit.OK


def try_(number: Number, /, *, at: At = HERE) -> Exit:
    """Send somebody a signed message that is no event, and say whether it was taken; exit code 1 when not."""
    path, hub = _path(number), at.there()
    url = clean(str(hub.get(path).body.get("url")))
    tried = hub.post(f"{path}/test").body
    if not tried.get("taken"):
        raise Trouble(f"{url} did not take it", code=Exit.NO, why=clean(str(tried.get("why"))))
    say(f"{url} took it")
    return Exit.OK


def remove(number: Number, /, *, yes: Yes = False, at: At = HERE) -> Exit:
    """Tell somebody no more."""
    path, hub = _path(number), at.there()
    known = hub.get(path).body
    url = clean(str(known.get("url")))
    agreed(f"Tell {url} no more? Another one has another secret.", yes=yes)
    hub.delete(path)
    say(f"{url} is told no more")
    return Exit.OK


def _path(number: str) -> str:
    if not number.isascii() or not number.isdigit():
        raise Trouble(f'"{clean(number)}" is no webhook', code=Exit.USAGE, advice="metrica webhook list")
    return f"/webhooks/{number}"


def _row(webhook: Json, now: datetime, look: Look) -> tuple[str | Cell, ...]:
    disabled, failing = webhook.get("disabled_at"), webhook.get("failing_since")
    state = "disabled" if disabled else "failing" if failing else "well"
    since = f" for {age(failing, now)}" if failing else ""
    return (
        str(webhook.get("id", "-")),
        str(webhook.get("url", "-")),
        ",".join(str(kind) for kind in webhook.get("kinds") or ()),
        look.marked(state),
        age(webhook.get("told_at"), now),
        age(webhook.get("created_at"), now),
        str(webhook.get("created_by", "-")),
        clean(f"{webhook.get('failure')}{since}" if webhook.get("failure") else ""),
    )
