"""The pages of rollouts: how a commit goes through the fleet, what failed and why, who waits and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, get_args
from urllib.parse import urlencode

from metrica_hub.decisions.rollout_view import State, view_of
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.cursors import NEWEST, id_of, only
from metrica_hub.web.routing import Route
from metrica_hub.web.views import Word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from metrica_hub.decisions.progress import Rollout
    from metrica_hub.decisions.rollout_view import DeviceView, RolloutDetail, StageView
    from metrica_hub.web.pages.fleet import Doubts
    from metrica_hub.web.pages.frame import Frame
    from metrica_hub.web.pages.parts import PartStream

_LISTED: Final = 50
_DEVICES: Final = 200
STATES: Final[tuple[str, ...]] = get_args(State)
WORDS: Final = {
    "open": Word("◐", "under way", "busy"),
    "paused": Word("▮", "paused", "warn"),
    "halted": Word("■", "halted", "bad"),
    "aborted": Word("✖", "aborted", "bad"),
    "done": Word("✔", "done", "good"),
    "superseded": Word("·", "superseded", "off"),
}
BAR: Final = (
    ("confirmed", Word("✔", "confirmed", "good")),
    ("unchanged", Word("=", "unchanged", "off")),
    ("started", Word("◐", "on trial", "busy")),
    ("refused", Word("✖", "refused", "bad")),
    ("silent", Word("?", "silent", "warn")),
    ("forgiven", Word("~", "forgiven", "off")),
    ("waiting", Word("◌", "waiting", "plain")),
)
"""What a stage's devices are, in the order of its bar."""


class Rollouts(Protocol):
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


class RolloutPages:
    """The pages at ``/rollouts`` and ``/rollouts/{id}``, and their streams."""

    def __init__(self, frame: Frame, parts: PartStream, rollouts: Rollouts, doubts: Doubts) -> None:
        self._doubts = doubts
        self._frame = frame
        self._parts = parts
        self._rollouts = rollouts

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        humane = self._frame.humane
        return (
            Route("GET", "/rollouts", "getRolloutsPage", humane(self.list_all), "All rollouts, for people."),
            Route("GET", "/rollouts/live", "streamRolloutsPage", self.stream_all, "What changes on their page."),
            Route("GET", "/rollouts/{id}", "getRolloutPage", humane(self.get), "One rollout, for people."),
            Route("GET", "/rollouts/{id}/live", "streamRolloutPage", self.stream, "What changes on its page."),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with the list."""
        only(request, ())
        return self._frame.page(request, "rollouts.html", at="rollouts", live="/rollouts/live", parts=await self._all())

    async def stream_all(self, request: web.Request) -> web.StreamResponse:
        """Send the list as it changes."""
        return await self._parts.send(request, self._all)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one rollout."""
        only(request, ("state", "stage"))
        rollout = await self._rollout(request)
        live = f"/rollouts/{rollout.id}/live?" + urlencode(dict(request.query))
        return self._frame.page(
            request, "rollout.html", at="rollouts", live=live, rollout=rollout, parts=await self._one(request)
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the parts of its page that change."""
        only(request, ("state", "stage"))
        return await self._parts.send(request, lambda: self._one(request))

    async def _all(self) -> Mapping[str, str]:
        found = [view_of(one) for one in await self._rollouts.rollouts(before=NEWEST, limit=_LISTED)]
        return {
            "rollouts": self._frame.part("rollouts-list.html", rollouts=found, words=WORDS, doubts=await self._doubts())
        }

    async def _one(self, request: web.Request) -> Mapping[str, str]:
        rollout = await self._rollout(request)
        detail = await self._rollouts.detail(rollout)
        state, stage = _state_of(request), _stage_of(request, rollout)
        devices = await self._rollouts.devices(rollout, state=state, stage=stage, after="", limit=_DEVICES + 1)
        link = f"/rollouts/{rollout.id}"
        part = self._frame.part
        return {
            "rollout-now": part(
                "rollout-now.html",
                rollout=detail,
                word=WORDS[detail.state],
                stages=[(one, _bar(one)) for one in detail.stages],
                policies=detail.policy.stages,
                bar=BAR,
                link=link,
            ),
            "rollout-effects": part("rollout-effects.html", rollout=detail, sums=_sums(detail)),
            "rollout-devices": part(
                "rollout-devices.html",
                devices=devices[:_DEVICES],
                are_more=len(devices) > _DEVICES,
                bar=BAR,
                states=STATES,
                state=state,
                stage=request.query.get("stage"),
                link=link,
            ),
        }

    async def _rollout(self, request: web.Request) -> Rollout:
        number = id_of(request)
        rollout = await self._rollouts.rollout(number)
        if rollout is None:
            raise NotThere(f"There is no rollout {number}.")
        return rollout


def _sums(rollout: RolloutDetail) -> dict[str, int]:
    return {name: sum(getattr(stage, name) for stage in rollout.stages) for name, _ in BAR}


def _bar(stage: StageView) -> list[tuple[str, float, float]]:
    """Return the pieces of a stage's bar: tone, where it begins, how wide it is, in hundredths."""
    counts = [(word.tone, getattr(stage, name)) for name, word in BAR]
    total = sum(count for _, count in counts) or 1
    pieces: list[tuple[str, float, float]] = []
    begins = 0.0
    for tone, count in counts:
        width = 100 * count / total
        if count:
            pieces.append((tone, begins, width))
        begins += width
    return pieces


def _state_of(request: web.Request) -> str | None:
    state = request.query.get("state")
    if state is not None and state not in STATES:
        raise BadRequest(f'"{state[:40]}" is no state; known are {", ".join(STATES)}', parameter="state")
    return state


def _stage_of(request: web.Request, rollout: Rollout) -> int | None:
    name = request.query.get("stage")
    names = [stage.name for stage in rollout.stages]
    if name is not None and name not in names:
        raise BadRequest(f'"{name[:40]}" is no stage; known are {", ".join(names)}', parameter="stage")
    return None if name is None else names.index(name)
