"""The hub's REST API, as far as operators look: one request at a time, with a deadline and a bound."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from metrica_cli.trouble import Exit, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientSession

Json = dict[str, Any]

_MAX_BYTES: Final = 64 * 1024 * 1024
_PAGE: Final = 1000
_CODES: Final = {401: Exit.NOT_ALLOWED, 403: Exit.NOT_ALLOWED, 404: Exit.NOT_FOUND, 504: Exit.TIMED_OUT}
_OK: Final = 200
_NOT_FOUND: Final = 404
_MAX_TIMEOUT_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hub said, and when by its own clock: ages are told by one clock only."""

    body: Json
    now: datetime

    @property
    def items(self) -> list[Json]:
        """The items of a list; those that are no objects are left out."""
        found: object = self.body.get("items")
        items = cast("list[object]", found) if isinstance(found, list) else []
        return [cast("Json", item) for item in items if isinstance(item, dict)]


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub at ``address``."""

    address: str
    timeout_s: float

    def __post_init__(self) -> None:
        """Refuse a time in which nothing can be answered.

        Raises:
            Trouble: it is none.
        """
        if not 0 < self.timeout_s <= _MAX_TIMEOUT_S:  # not a number is neither
            what = f"--timeout {self.timeout_s:g} is no time to wait"
            raise Trouble(what, code=Exit.USAGE, advice=f"--timeout 10 (up to {_MAX_TIMEOUT_S:g})")

    def get(self, path: str) -> Answer:
        """Return one resource.

        Raises:
            Trouble: the hub can't be reached, or says no.
        """
        return asyncio.run(self._in_time(path, None))

    def get_list(self, path: str, limit: int | None = None) -> Answer:
        """Return the first ``limit`` items of a list, or all, as one answer with the cursor behind them.

        Raises:
            Trouble: the hub can't be reached, or says no.
        """
        return asyncio.run(self._in_time(path, limit or 0))

    async def _in_time(self, path: str, limit: int | None) -> Answer:
        # aiohttp costs a fifth of a second to import: only who asks a hub pays.
        from aiohttp import ClientError, ClientSession, InvalidURL, NonHttpUrlClientError  # noqa: PLC0415

        try:
            async with asyncio.timeout(self.timeout_s), ClientSession(auto_decompress=True) as session:
                return await (self._one(session, path, {}) if limit is None else self._all(session, path, limit))
        except TimeoutError as error:
            what = f"{self.address} did not answer within {self.timeout_s:g} s"
            raise Trouble(what, code=Exit.TIMED_OUT, advice="a larger --timeout") from error
        except (InvalidURL, NonHttpUrlClientError, ValueError) as error:
            what = f'"{self.address}" is no address of a hub'
            raise Trouble(what, code=Exit.USAGE, advice="--hub http://127.0.0.1:8080") from error
        except (ClientError, OSError) as error:
            what = f"the hub at {self.address} can't be reached"
            advice = "--hub URL, or set METRICA_HUB_URL"
            raise Trouble(what, code=Exit.HUB_UNREACHABLE, why=_sentence(error), advice=advice) from error

    async def _all(self, session: ClientSession, path: str, limit: int) -> Answer:
        """Follow the cursors until there are ``limit`` items, or no more."""
        items: list[Json] = []
        query: dict[str, str] = {}
        while True:
            query["limit"] = str(min(limit - len(items), _PAGE) if limit else _PAGE)
            answer = await self._one(session, path, query)
            items += answer.items
            following = answer.body.get("next")
            if not isinstance(following, str) or not answer.items or (limit and len(items) >= limit):
                return Answer({**answer.body, "items": items}, answer.now)
            query["after"] = following

    async def _one(self, session: ClientSession, path: str, query: Mapping[str, str]) -> Answer:
        url = f"{self.address.rstrip('/')}/api/v1{path}"
        async with session.get(url, params=query, headers={"Accept": "application/json"}) as response:
            body = _json(await response.content.read(_MAX_BYTES))
            while chunk := await response.content.read(_MAX_BYTES):
                raise _not_a_hub(self.address, f"its answer goes on after {_MAX_BYTES} bytes and {len(chunk)} more")
            if response.status == _NOT_FOUND and (body is None or path.count("/") == 1):
                raise _not_a_hub(self.address, f"404 from {url}")  # a hub has its lists, and says no in JSON
            if response.status != _OK:
                raise _refusal(response.status, body, url)
            if body is None:
                raise _not_a_hub(self.address, "its answer is no JSON object")
            return Answer(body, _date(response.headers.get("Date")))


def _json(content: bytes) -> Json | None:
    try:
        found: object = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return cast("Json", found) if isinstance(found, dict) else None


def _date(text: str | None) -> datetime:
    try:
        return parsedate_to_datetime(text or "").astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _refusal(status: int, body: Json | None, url: str) -> Trouble:
    """Return what the hub's problem+json says."""
    said = (body or {}).get("detail") or (body or {}).get("title")
    code = _CODES.get(status, Exit.NO)
    advice = "metrica devices" if code is Exit.NOT_FOUND else ""
    return Trouble(str(said or f"the hub answered {status}"), code=code, why=f"{status} from {url}", advice=advice)


def _not_a_hub(address: str, why: str) -> Trouble:
    return Trouble(f"{address} is no Metrica hub", code=Exit.HUB_UNREACHABLE, why=why, advice="--hub URL")


def _sentence(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
