"""``metrica rollout``: how a commit goes through the fleet; pause, resume, abort."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, NoHeaders, Output, Watch, Yes, add, seconds
from metrica_cli.output import agreed, count, listed, say, say_items, tell
from metrica_cli.progress import Progress
from metrica_cli.table import Cell, age, instant, painted, table, terminal_width
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.identity import short

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_cli.hub import Answer, Hub
    from metrica_cli.look import Look
    from metrica_cli.values import Json

_STAGE_HEADS: Final = ("STAGE", "GATE", "WAITING", "STARTED", "CONFIRMED", "UNCHANGED", "REFUSED", "SILENT", "FORGIVEN")
_HISTORY_HEADS: Final = ("ROLLOUT", "COMMIT", "BEFORE", "STATE", "CONFIRMED", "REFUSED", "AGE", "TOOK", "WHY")
_DEVICE_HEADS: Final = ("DEVICE", "STAGE", "STATE", "SINCE", "WHY")
_COUNTS: Final = ("waiting", "started", "confirmed", "unchanged", "refused", "silent")
_BAD: Final = frozenset({"halted", "aborted"})
_OVER: Final = frozenset({"done", "aborted", "superseded"})
_LOOK_S: Final = 1.0
_PATIENCE_S: Final = 30.0
"""That a hub which is away is asked again."""

Number = Annotated[str | None, Parameter(name="ROLLOUT", help="Its number; else the newest.")]
Which = Annotated[str | None, Parameter(name="--rollout", help="Its number; else the newest.")]
Why = Annotated[str, Parameter(name="--reason", help="Why; it is kept, and others read it.")]


def register(app: App) -> None:
    """Add the commands."""
    rollout = App(name="rollout", help="Show and steer how a commit goes through the fleet.", help_epilogue="")
    add(
        rollout,
        status,
        "metrica rollout status                    the newest: stages, who waits and why, what failed",
        "metrica rollout status -w --within 2h     until it ends; exit code 1 when it halts",
    )
    add(rollout, devices, "metrica rollout devices --state refused")
    add(rollout, pause, 'metrica rollout pause "customer on site"')
    add(rollout, resume, 'metrica rollout resume "it was the network"')
    add(rollout, abort, 'metrica rollout abort "crashes on old cameras" --revert')
    add(rollout, history, "metrica rollout history")
    app.command(rollout)


def status(
    rollout: Number = None,
    /,
    *,
    watch: Watch = False,
    within: Annotated[str, Parameter(name="--within", help="How long to watch: 30m, 2h.")] = "1d",
    output: Output = "table",
    at: At = HERE,
) -> Exit:
    """Show a rollout: its stages, who waits and why, what failed. Exit code 1 when it was halted or aborted."""
    hub = at.there()
    answer = hub.get(_path(_found(hub, rollout)))
    if watch:
        answer = asyncio.run(_to_the_end(hub, answer, seconds(within, "--within")))
    text = _page(answer.body, answer.now, at.look) if output in {"table", "wide"} else ""
    say_items(output, answer.body, [answer.body], text, "id")
    state = str(answer.body.get("state"))
    if output in {"table", "wide"} and state in _NEXT:
        tell(_NEXT[state])
    return Exit.NO if state in _BAD else Exit.OK


def devices(
    rollout: Number = None,
    /,
    *,
    state: Annotated[
        str | None, Parameter(name="--state", help="waiting, started, confirmed, unchanged, refused or silent.")
    ] = None,
    stage: Annotated[str | None, Parameter(name="--stage", help="Of this stage only.")] = None,
    output: Output = "table",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """List the devices of a rollout, and why each waits or failed."""
    hub, look = at.there(), at.look
    query = {name: value for name, value in (("state", state), ("stage", stage)) if value is not None}
    answer = hub.get_list(f"{_path(_found(hub, rollout))}/devices", query=query)
    rows = [
        (
            str(one.get("device", "-")),
            str(one.get("stage", "-")),
            look.marked(str(one.get("state", "-"))),
            age(one.get("since"), answer.now),
            ": ".join(str(part) for part in (one.get("why"), one.get("message")) if part),
        )
        for one in answer.items
    ]
    say_items(output, answer.body, answer.items, listed(_DEVICE_HEADS, rows, no_headers=no_headers), "device")
    return Exit.OK


def pause(reason: Why, *, rollout: Which = None, at: At = HERE) -> Exit:
    """Let no further device begin, until it is resumed; those that have begun go on."""
    return _steered(at, rollout, "pause", {"reason": reason})


def resume(reason: Why, *, rollout: Which = None, yes: Yes = False, at: At = HERE) -> Exit:
    """Go on after a pause or a halt; what has failed by then is forgiven."""
    hub = at.there()
    found = hub.get(_path(_found(hub, rollout))).body
    waiting, failed = _sum(found, "waiting"), _sum(found, "refused") + _sum(found, "silent")
    agreed(
        f"{_title(found)} is {found.get('state')}: {count(waiting, 'device')} may begin, stage by stage;"
        f" {count(failed, 'failure')} will be forgiven. Undo: metrica rollout pause",
        yes=yes or failed == 0,
    )
    return _steered(at, str(found.get("id")), "resume", {"reason": reason})


def abort(
    reason: Why,
    *,
    rollout: Which = None,
    revert: Annotated[
        bool | None,
        Parameter(
            name="--revert", negative="--keep", help="Devices on the commit go back, or keep it; else the policy says."
        ),
    ] = None,
    yes: Yes = False,
    at: At = HERE,
) -> Exit:
    """End a rollout: no further device begins, those on the commit keep it or go back to the release before."""
    hub = at.there()
    found = hub.get(_path(_found(hub, rollout))).body
    told: Json = found.get("abort") or {}
    back = bool(told.get("revert")) if revert is None else revert
    on_it = count(int(told.get("devices") or 0), "device")
    what = f"{on_it} on the commit go back to what they had before" if back else f"{on_it} on the commit keep it"
    agreed(f"Abort {_title(found)}? {what}; no other begins. Undo: push a new commit.", yes=yes)
    body: Json = {"reason": reason} | ({} if revert is None else {"revert": revert})
    return _steered(at, str(found.get("id")), "abort", body)


def history(
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many, newest first.")] = 20,
    output: Output = "table",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """List all rollouts, newest first."""
    look = at.look
    answer = at.there().get_list("/rollouts", limit)
    rows = [_history_row(one, answer.now, look) for one in answer.items]
    say_items(output, answer.body, answer.items, listed(_HISTORY_HEADS, rows, no_headers=no_headers), "id")
    return Exit.OK


# --- one rollout ------------------------------------------------------------------------------------------------

_NEXT: Final = {
    "open": "next: metrica rollout status -w",
    "aborted": "next: a commit that is better; what became of each device: metrica rollout devices",
    "paused": "next: metrica rollout resume, or metrica rollout abort; either with a reason",
    "halted": "next: metrica rollout devices --state refused; then resume or abort it, or push a commit that mends it",
}


def _found(hub: Hub, number: str | None) -> str:
    """Return the number of the rollout that is meant."""
    if number is not None:
        if not number.isascii() or not number.isdigit():
            raise Trouble(f'"{number}" is no rollout', code=Exit.USAGE, advice="metrica rollout history")
        return number
    newest = hub.get_list("/rollouts", 1).items
    if not newest:
        why = "fleet.toml has no [rollout], or nothing was pushed since"
        raise Trouble("there is no rollout yet", code=Exit.NOT_FOUND, why=why, advice="metrica devices")
    return str(newest[0].get("id"))


def _path(number: str) -> str:
    return f"/rollouts/{number}"


def _steered(at: At, number: str | None, verb: str, body: Json) -> Exit:
    hub = at.there()
    after = hub.post(f"{_path(_found(hub, number))}/{verb}", body).body
    state = str(after.get("state"))
    say(f"{_title(after)} is {state}")
    tell(_NEXT.get(state, "next: metrica rollout status -w"))
    return Exit.OK


async def _to_the_end(hub: Hub, answer: Answer, within_s: float) -> Answer:
    """Look again until the rollout ends or halts, and show how far it is. Ctrl-C ends only the looking."""
    progress = Progress()
    path = _path(str(answer.body.get("id")))
    away_s = 0.0
    try:
        async with asyncio.timeout(within_s):
            while str(answer.body.get("state")) not in _OVER | _BAD:
                progress.show(_how_far(answer.body))
                await asyncio.sleep(_LOOK_S)
                try:
                    answer, away_s = await hub.ask("GET", path), 0.0
                except Trouble as trouble:
                    away_s += _LOOK_S
                    if away_s > _PATIENCE_S or trouble.code in {Exit.NOT_ALLOWED, Exit.NOT_FOUND}:
                        raise
                    progress.show(f"{_how_far(answer.body)}; {trouble.what}")
    except TimeoutError as error:
        what = f"{_title(answer.body)} goes on; it was watched for {within_s:g} s"
        raise Trouble(
            what, code=Exit.TIMED_OUT, why=_how_far(answer.body), advice="metrica rollout status -w"
        ) from error
    except asyncio.CancelledError:
        progress.end()
        tell("the rollout goes on; to look again: metrica rollout status -w")
        raise
    finally:
        progress.end()
    return answer


def _how_far(rollout: Json) -> str:
    """Return ``[+] Rolling out 3f2c1a9d  37/50 confirmed``, and what is not well."""
    there = _sum(rollout, "confirmed") + _sum(rollout, "unchanged")
    total = sum(_sum(rollout, name) for name in _COUNTS)
    more = [f"{_sum(rollout, name)} {name}" for name in ("started", "refused", "silent") if _sum(rollout, name)]
    stages = _stages(rollout)
    stage = int(rollout.get("stage") or 0)
    named = f"stage {stages[stage].get('name')}" if 0 <= stage < len(stages) else "no stage is open"
    state = [] if rollout.get("state") == "open" else [str(rollout.get("state"))]
    return "  ".join(
        [
            f"[+] Rolling out {short(str(rollout.get('commit') or ''))}",
            f"{there}/{total} confirmed",
            *more,
            named,
            *state,
        ]
    )


def _page(rollout: Json, now: datetime, look: Look) -> str:
    state = look.marked(str(rollout.get("state", "-")))
    why = ": ".join(str(part) for part in (rollout.get("reason"), rollout.get("message")) if part)
    head = f"{_title(rollout)}  {painted(state)}  begun {age(rollout.get('begun_at'), now)} ago"
    parts = [f"{head}\n{why}" if why else head]
    rows = [_stage_row(stage, look) for stage in _stages(rollout)]
    parts += [table(_STAGE_HEADS, rows, width=terminal_width())] if rows else []
    waits = [(str(one.get("devices")), str(one.get("stage")), str(one.get("why"))) for one in _list(rollout, "waits")]
    parts += [table(("WAITING", "STAGE", "WHY"), waits, width=terminal_width())] if waits else []
    failures = [
        tuple(str(one.get(name, "-")) for name in ("devices", "stage", "reason", "example", "message"))
        for one in _list(rollout, "failures")
    ]
    heads = ("FAILED", "STAGE", "REASON", "AS", "MESSAGE")
    parts += [table(heads, failures, width=terminal_width())] if failures else []
    return "\n\n".join(parts)


def _stage_row(stage: Json, look: Look) -> tuple[str | Cell, ...]:
    gate = "open" if stage.get("is_open") else "closed"
    bad = "bad" if look.colour else ""
    counts = [
        Cell(str(stage.get(name, "-")), bad if name in {"refused", "silent"} and stage.get(name) else "")
        for name in (*_COUNTS, "forgiven")
    ]
    return (str(stage.get("name", "-")), gate, *counts)


def _history_row(rollout: Json, now: datetime, look: Look) -> tuple[str | Cell, ...]:
    return (
        str(rollout.get("id", "-")),
        short(rollout.get("commit")),
        short(rollout.get("previous")),
        look.marked(str(rollout.get("state", "-"))),
        str(_sum(rollout, "confirmed") + _sum(rollout, "unchanged")),
        str(_sum(rollout, "refused") + _sum(rollout, "silent")),
        age(rollout.get("begun_at"), now),
        _took(rollout),
        str(rollout.get("message") or rollout.get("reason") or ""),
    )


def _took(rollout: Json) -> str:
    ended = instant(rollout.get("ended_at"))
    return age(rollout.get("begun_at"), ended) if ended is not None else "-"


def _title(rollout: Json) -> str:
    return f"rollout {rollout.get('id')} of {short(str(rollout.get('commit') or ''))}"


def _stages(rollout: Json) -> list[Json]:
    return _list(rollout, "stages")


def _list(value: Json, key: str) -> list[Json]:
    found: Any = value.get(key)
    return (
        [cast("Json", one) for one in cast("list[Any]", found) if isinstance(one, dict)]
        if isinstance(found, list)
        else []
    )


def _sum(rollout: Json, name: str) -> int:
    return sum(int(stage.get(name) or 0) for stage in _stages(rollout))
