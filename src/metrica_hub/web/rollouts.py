"""``/api/v1/rollouts``: how commits go through the fleet; paused, resumed and aborted by operators."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final, Protocol, get_args

import msgspec

from metrica_fleet.errors import NotNow
from metrica_hub.decisions.reading import has_key
from metrica_hub.decisions.rollout_view import (
    DeviceView,
    HeadView,
    RolloutDetail,
    RolloutView,
    State,
    doubts_of,
    view_of,
)
from metrica_hub.decisions.steering import Verb, steered
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.answers import Page, json, page, versioned
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.bodies import body_of
from metrica_hub.web.cursors import NEWEST, device_start_of, limit_of, only, part_of, start_of
from metrica_hub.web.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import web

    from metrica_fleet.rollout import Course
    from metrica_hub.decisions.progress import Entry, Rollout
    from metrica_hub.web.audit import Audit

_KIND: Final = "rollout"
_DEVICE_KIND: Final = "rollout-device"
_MOST_DIGITS: Final = 18
_DOUBTED_FOR_S: Final = 5.0
"""So old may be what pages say of the branch."""
_STATES: Final[tuple[str, ...]] = get_args(State)
_LIMIT: Final = Parameter("limit", "How many at most.", int)
_AFTER: Final = Parameter("after", "The cursor of the part that is asked for.")


class Word(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an operator pauses a rollout, or lets it go on."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class LastWord(Word, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an operator aborts it."""

    revert: bool | None = None
    """Whether devices that run the commit go back to what they had before; ``null``: as the policy has it."""


class Store(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def rollouts(self, *, before: int, limit: int) -> list[Rollout]:
        """Return rollouts that were begun before another, newest first."""
        ...

    async def rollout(self, number: int) -> Rollout | None:
        """Return one rollout."""
        ...

    async def detail(self, rollout: Rollout) -> RolloutDetail:
        """Return a rollout in full."""
        ...

    async def devices(
        self, rollout: Rollout, *, state: str | None, stage: int | None, after: str, limit: int
    ) -> list[DeviceView]:
        """Return devices of a rollout by name."""
        ...

    async def head(self, branch: str) -> tuple[HeadView, str | None] | None:
        """Return where the branch is, and its ``allowed_signers``."""
        ...

    async def steer(self, rollout: int, decide: Callable[[Rollout, Sequence[Entry], float], Course]) -> Rollout | None:
        """Write down what a person's word makes of a rollout."""
        ...


class RolloutResource:
    """The resource."""

    def __init__(self, store: Store, audit: Audit) -> None:
        self._store = store
        self._audit = audit

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        one = "/api/v1/rollouts/{id}"
        pausing = "Lets no further device begin, until it is resumed."
        resuming = "Goes on after a pause or a halt; what has failed by then is forgiven."
        aborting = "Ends it: no further device begins; those on the commit keep it or go back."
        return (
            Route(
                "GET",
                "/api/v1/rollouts",
                "listRollouts",
                self.list_all,
                "All rollouts, the newest first.",
                query=(_LIMIT, _AFTER),
                answers=Page[RolloutView],
            ),
            Route(
                "GET",
                one,
                "getRollout",
                self.get,
                "One rollout: its stages with their counts, who waits and why, what failed.",
                answers=RolloutDetail,
            ),
            Route(
                "GET",
                f"{one}/devices",
                "listRolloutDevices",
                self.list_devices,
                "The devices of a rollout, by name.",
                query=(
                    _LIMIT,
                    _AFTER,
                    Parameter("state", "Only those in this state.", State),
                    Parameter("stage", "Only those of the stage of this name."),
                ),
                answers=Page[DeviceView],
            ),
            self._steering("pause", "pauseRollout", pausing, self.pause),
            self._steering("resume", "resumeRollout", resuming, self.resume),
            self._steering("abort", "abortRollout", aborting, self.abort, takes=LastWord),
        )

    def _steering(
        self,
        verb: Verb,
        name: str,
        about: str,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        takes: type[Word] = Word,
    ) -> Route:
        return Route(
            "POST",
            f"/api/v1/rollouts/{{id}}/{verb}",
            name,
            handler,
            about,
            role="operator",
            takes=takes,
            answers=RolloutView,
            problems=(409,),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after"))
        limit = limit_of(request)
        before = start_of(request, _KIND, NEWEST)
        found = [view_of(one) for one in await self._store.rollouts(before=before, limit=limit + 1)]
        return page(request, *part_of(_KIND, found, limit, lambda one: one.id))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one rollout."""
        only(request, ())
        rollout = await self._rollout(request)
        return json(await self._store.detail(rollout))

    async def list_devices(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of its devices."""
        only(request, ("limit", "after", "state", "stage"))
        limit = limit_of(request)
        after = device_start_of(request, _DEVICE_KIND)
        state = request.query.get("state")
        if state is not None and state not in _STATES:
            raise BadRequest(f'state "{state[:40]}" is none of {", ".join(_STATES)}', parameter="state")
        rollout = await self._rollout(request)
        stage = _stage_of(request, rollout)
        found = await self._store.devices(rollout, state=state, stage=stage, after=after, limit=limit + 1)
        return page(request, *part_of(_DEVICE_KIND, found, limit, lambda one: one.device))

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Pause it."""
        return await self._steer(request, "pause", await body_of(request, Word))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Let it go on."""
        return await self._steer(request, "resume", await body_of(request, Word))

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """End it."""
        return await self._steer(request, "abort", await body_of(request, LastWord))

    async def _steer(self, request: web.Request, verb: Verb, word: Word) -> web.StreamResponse:
        only(request, ())
        rollout = await self._rollout(request)
        revert = word.revert if isinstance(word, LastWord) else None
        words = f"{request[PRINCIPAL].name}: {word.reason}"
        decide = steered(verb, words, revert=revert)
        decide(rollout, (), 0.0)  # so that what can't be done is not written down as done
        detail = {"commit": rollout.commit, "reason": word.reason} | ({} if revert is None else {"revert": revert})
        await self._audit.note(request, f"rollout.{verb}", f"rollout/{rollout.id}", detail)
        after = await self._store.steer(rollout.id, decide)
        return json(view_of(after or rollout))

    async def _rollout(self, request: web.Request) -> Rollout:
        text = request.match_info["id"]
        is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
        rollout = await self._store.rollout(int(text)) if is_number else None
        if rollout is None:
            raise NotThere(f'There is no rollout "{text[:40]}".')
        return rollout


class BranchResource:
    """The branch that rollouts come from."""

    def __init__(self, store: Store, branch: str | None, line: Callable[[], Awaitable[str]]) -> None:
        """``branch``: ``None`` for a hub that follows none; ``line``: of the hub's own key, in ``allowed_signers``."""
        self._store = store
        self._branch = branch
        self._line = line
        self._doubted: tuple[float, tuple[str, ...]] = (float("-inf"), ())

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "The branch's commit as the hub sees it, and what is wrong with it."
        key = "The line of allowed_signers by which devices believe this hub's gates and commands."
        return (
            Route("GET", "/api/v1/head", "getHead", self.get, about, answers=HeadView, problems=(404,)),
            Route("GET", "/api/v1/key", "getKey", self.key, key, answers=KeyView),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the branch's commit."""
        only(request, ())
        view = await self._seen()
        if view is None:
            raise NotThere("This hub has not seen the fleet's branch yet; [git] in hub.toml says where it is.")
        return versioned(request, view, view.commit)

    async def doubts(self) -> tuple[str, ...]:
        """Return, in sentences, why devices may not heed this hub, or not take the branch's commit; a little old."""
        now_s = time.monotonic()
        if now_s - self._doubted[0] >= _DOUBTED_FOR_S:
            view = await self._seen()
            self._doubted = now_s, () if view is None else doubts_of(view)
        return self._doubted[1]

    async def _seen(self) -> HeadView | None:
        found = None if self._branch is None else await self._store.head(self._branch)
        if found is None:
            return None
        view, signers = found
        believed = None if view.read_commit is None else await self._is_in(signers or "")
        return msgspec.structs.replace(view, is_believed=believed)

    async def key(self, request: web.Request) -> web.StreamResponse:
        """Answer with the public half of the hub's key."""
        only(request, ())
        return json(KeyView(allowed_signers=await self._line()))

    async def _is_in(self, signers: str) -> bool | None:
        try:
            return has_key(signers, await self._line())
        except NotNow:
            return None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of the hub's key."""

    allowed_signers: str


def _stage_of(request: web.Request, rollout: Rollout) -> int | None:
    name = request.query.get("stage")
    if name is None:
        return None
    names = [stage.name for stage in rollout.stages]
    if name not in names:
        raise BadRequest(f'stage "{name[:40]}" is none of {", ".join(names)}', parameter="stage")
    return names.index(name)
