"""``metrica login``, ``logout``, ``context``, ``whoami``, ``version``, ``check``, ``key``: which hub, as whom."""

from __future__ import annotations

import asyncio
import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from metrica_cli.contexts import Book, checked_token, token_in
from metrica_cli.hub import Hub
from metrica_cli.options import HERE, At, Output, add, seconds
from metrica_cli.output import count, listed, say, say_items, tell
from metrica_cli.table import Cell, clean
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet import __version__
from metrica_fleet.identity import is_name

if TYPE_CHECKING:
    from metrica_cli.values import Json

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SKEW_S: Final = 5.0
ContextName = Annotated[str, Parameter(name="NAME", help="Of the context.")]


def register(app: App) -> None:
    """Add the commands."""
    add(
        app,
        login,
        "metrica login https://hub.example.org --name home",
        "metrica login http://127.0.0.1:8080 --token-file .demo/token",
    )
    add(app, logout, "metrica logout", "metrica logout home")
    add(app, whoami, "metrica whoami")
    add(app, version, "metrica version")
    add(app, check, "metrica check")
    add(app, key, "metrica key >> allowed_signers")
    contexts = App(name="context", help="Show the hubs that are known, or choose one.", help_epilogue="")
    contexts.default(show_contexts)
    add(contexts, use, "metrica context use home")
    app.command(contexts)


def login(
    url: Annotated[str, Parameter(name="URL", help="As https://hub.example.org.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="What to call it; else the host's name.")] = None,
    token_file: Annotated[
        Path | None, Parameter(name="--token-file", env_var="METRICA_TOKEN_FILE", help="Where the token is.")
    ] = None,
    timeout: Annotated[str, Parameter(name="--timeout", help="How long to wait: 10, 500ms, 5m.")] = "10",
) -> Exit:
    """Keep a hub's address and a token for it, which is asked for."""
    host = urlsplit(url).hostname or ""
    called = name or host.partition(".")[0].lower()
    if not is_name(called):
        called = "home" if name is None else _refused_name(name)
    if url.startswith("http://") and host not in _LOOPBACK:
        tell(f"{url} is not encrypted: who is on the way to it can read the token")
    token = token_in(token_file) if token_file is not None else _asked(url)
    known = Hub(url, seconds(timeout, "--timeout"), token).get("/whoami").body
    book = Book()
    book.keep(called, url.rstrip("/"), token)
    say(f'{who(known)} at {url}; context "{called}", kept in {_shown(book.credentials)}')
    tell("next: metrica devices")
    return Exit.OK


def logout(
    name: Annotated[str | None, Parameter(name="NAME", help="Of the context; else the current one.")] = None, /
) -> Exit:
    """Forget a context and its token, on this machine; the token stays good until it is revoked."""
    book = Book()
    called = name or book.contexts().current
    if called is None:
        raise Trouble("there is no current context", code=Exit.NOT_FOUND, advice="metrica context")
    book.forget(called)
    say(f'context "{called}" is forgotten, on this machine')
    return Exit.OK


def show_contexts() -> Exit:
    """Show the hubs that are known."""
    book = Book()
    known, tokens = book.contexts(), book.tokens()
    if not known.contexts:
        tell("no context yet; metrica login URL")
        return Exit.OK
    rows = [
        ("*" if name == known.current else "", name, one.url, "yes" if name in tokens else "no")
        for name, one in sorted(known.contexts.items())
    ]
    say(listed(("", "CONTEXT", "HUB", "TOKEN"), rows))
    return Exit.OK


def use(name: ContextName, /) -> Exit:
    """Choose the context that is meant from now on."""
    Book().use(name)
    say(f'"{name}" is the current context')
    return Exit.OK


def whoami(*, output: Output = "table", at: At = HERE) -> Exit:
    """Show as whom the hub knows you, and with which role."""
    hub = at.there()
    answer = hub.get("/whoami")
    principal: Json = answer.body.get("principal") or {}
    fleet = answer.body.get("fleet", "a fleet of no name")
    text = f'{who(answer.body)} at {hub.address}, the hub of "{fleet}"'
    say_items(output, answer.body, [principal], text, "name")
    return Exit.OK


def version(*, at: At = HERE) -> Exit:
    """Show the versions of both sides."""
    say(f"metrica  {__version__}")
    hub = at.there()
    info: Json = hub.get("/openapi.json").body.get("info") or {}
    say(f"hub      {info.get('version') or 'unknown'}  ({hub.address})")
    return Exit.OK


def key(*, at: At = HERE) -> Exit:
    """Write the line of allowed_signers by which devices believe the hub's gates and commands."""
    say(str(at.there().get("/key").body.get("allowed_signers", "")))
    tell("put it into allowed_signers of the fleet repository, by a commit that is signed where commits must be")
    return Exit.OK


def check(*, at: At = HERE) -> Exit:
    """Look whether all is well between here and the fleet: hub, token, clocks, stream, devices."""
    return asyncio.run(_checked(at))


# --- one after another --------------------------------------------------------------------------------------


async def _checked(at: At) -> Exit:
    look, hub = at.look, at.there()
    well = True

    def told(what: str, *, good: bool, said: str) -> None:
        nonlocal well
        well = well and good
        mark = look.marked("done" if good else "failed")
        shape = mark.text.partition(" ")[0] if look.shapes else ("ok  " if good else "FAIL")
        say(listed((), [(Cell(shape, mark.style), what.ljust(8), said)]))
        sys.stdout.flush()

    told("client", good=True, said=f"version {__version__}")
    answer = await hub.ask_list("/devices")
    told("hub", good=True, said=hub.address)
    skew_s = abs((answer.now - datetime.now(UTC)).total_seconds())
    told("clock", good=skew_s < _SKEW_S, said=f"{skew_s:.0f} s apart; ages are told by the hub's")
    try:
        known = (await hub.ask("GET", "/whoami")).body
        told("token", good=True, said=who(known))
    except Trouble as trouble:
        told("token", good=False, said=trouble.what)
    try:
        await hub.opens("/events/stream")
        told("stream", good=True, said="events come as they happen")
    except Trouble as trouble:
        told("stream", good=False, said=trouble.what)
    told("branch", **await _branch(hub))
    away = [one for one in answer.items if one.get("connection") != "online"]
    said = f"{count(len(answer.items), 'device')}, {len(away)} of them not online"
    told("devices", good=True, said=said)
    return Exit.OK if well else Exit.NO


async def _branch(hub: Hub) -> dict[str, Any]:
    """Return how it stands with the branch that the hub follows, and whether devices heed the hub."""
    try:
        head = (await hub.ask("GET", "/head")).body
    except Trouble as trouble:
        if trouble.code is not Exit.NOT_FOUND:
            return {"good": False, "said": trouble.what}
        return {"good": True, "said": "the hub follows none: it begins no rollouts"}
    at = f"{head.get('branch')} at {str(head.get('commit'))[:8]}"
    problems: list[object] = head.get("problems") or []
    if problems:
        return {"good": False, "said": f"{at} can't be used: {clean(str(problems[0]))}"}
    if head.get("is_believed") is False:
        why = "devices heed no gate and no command; metrica key prints the line to commit"
        return {"good": False, "said": f"{at}: its allowed_signers lacks the hub's key: {why}"}
    heeds = "devices heed the hub" if head.get("is_believed") else "the hub has not read it yet"
    return {"good": True, "said": f"{at}; {heeds}"}


def who(known: Json) -> str:
    """Return whom the hub takes for who asks."""
    principal: Json = known.get("principal") or {}
    return f"{principal.get('name', 'somebody')} ({principal.get('role', 'no role')})"


def _shown(path: Path) -> str:
    """Return ``path`` as its owner would write it."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _asked(url: str) -> str:
    """Return the token that a person types or pastes; nothing of it is shown."""
    if not sys.stdin.isatty():
        raise Trouble("there is nobody to ask for the token", code=Exit.USAGE, advice="--token-file FILE")
    return checked_token(getpass.getpass(f"Token for {url}: ").strip(), "what was typed")


def _refused_name(name: str) -> str:
    raise Trouble(
        f'"{name}" is no name of a context', code=Exit.USAGE, why='use a-z, 0-9 and "-"', advice="--name home"
    )
