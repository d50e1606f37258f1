"""The hub's REST API as operators use it: requests with a deadline and a bound, streams that go on by themselves.

What a request means to the person (whether it failed, why, with which exit code) is decided here, once.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

from metrica_cli.sse import Message, messages
from metrica_cli.trouble import Exit, Trouble
from metrica_cli.values import Json
from metrica_fleet.retry import full_jitter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from aiohttp import ClientResponse, ClientSession, TCPConnector

_MAX_BYTES: Final = 64 * 1024 * 1024
_LINE_BYTES: Final = 1024 * 1024
"""Of a stream."""
_PAGE: Final = 1000
_CODES: Final = {
    400: Exit.USAGE,
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    422: Exit.USAGE,
    429: Exit.NOT_ALLOWED,
    504: Exit.TIMED_OUT,
}
_OK: Final = range(200, 300)
_MOVED: Final = range(300, 400)
_NO_CONTENT: Final = 204
_UNKNOWN_TOKEN: Final = 401
_NOT_FOUND: Final = 404
_ITS_OWN_TROUBLE: Final = 500
_LISTS: Final = frozenset({"/devices", "/events"})
"""What every hub has."""
_MAX_TIMEOUT_S: Final = 86_400.0
_SILENCE_S: Final = 60.0
"""A stream is pinged every 15 s: past this it is dead."""
_BASE_S: Final = 0.5
_CAP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hub said, and when by its own clock: ages are told by one clock only."""

    body: Json
    now: datetime
    location: str | None = None
    """Of what was made."""

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
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a time in which nothing can be answered.

        Raises:
            Trouble: it is none.
        """
        if not 0 < self.timeout_s <= _MAX_TIMEOUT_S:  # not a number is neither
            what = f"--timeout {self.timeout_s:g} is no time to wait"
            raise Trouble(what, code=Exit.USAGE, advice=f"--timeout 10 (up to {_MAX_TIMEOUT_S:g})")

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """Return one resource.

        Raises:
            Trouble: the hub can't be reached, or says no.
        """
        return asyncio.run(self.ask("GET", path, query=query))

    def get_list(self, path: str, limit: int | None = None, query: Mapping[str, str] | None = None) -> Answer:
        """Return the first ``limit`` items of a list, or all, as one answer with the cursor behind them.

        Raises:
            Trouble: the hub can't be reached, or says no.
        """
        return asyncio.run(self.ask_list(path, limit, query))

    def post(self, path: str, body: Json | str | None = None, query: Mapping[str, str] | None = None) -> Answer:
        """Make something of ``body``: JSON, or plain text. Raises as ``get``."""
        return asyncio.run(self.ask("POST", path, query=query, body=body))

    def delete(self, path: str) -> Answer:
        """Remove something. Raises as ``get``."""
        return asyncio.run(self.ask("DELETE", path))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | str | None = None,
    ) -> Answer:
        """Return what the hub says to one request. Raises as ``get``."""
        async with self._reached() as session:
            return await self._one(session, method, path, query or {}, body)

    async def ask_list(
        self,
        path: str,
        limit: int | None = None,
        query: Mapping[str, str] | None = None,
        *,
        enough: Callable[[Answer], bool] = lambda _: False,
    ) -> Answer:
        """Follow the cursors until there are ``limit`` items, or it is ``enough``, or no more. Raises as ``get``."""
        items: list[Json] = []
        asked = dict(query or {})
        async with self._reached() as session:
            while True:
                asked["limit"] = str(min(limit - len(items), _PAGE) if limit else _PAGE)
                answer = await self._one(session, "GET", path, asked, None)
                items += answer.items
                following, whole = answer.body.get("next"), Answer({**answer.body, "items": items}, answer.now)
                full = bool(limit) and len(items) >= (limit or 0)
                if not isinstance(following, str) or not answer.items or full or enough(whole):
                    return whole
                asked["after"] = following

    async def follow(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        since: str | None = None,
        on_break: Callable[[str], None] = lambda _: None,
    ) -> AsyncGenerator[Message]:
        """Yield what a stream tells, from ``since`` on; one that breaks is asked to go on, until it is all.

        ``on_break`` is told why, each time. Whoever closes the generator ends it.

        Raises:
            Trouble: the hub can't be reached at first, or says no.
        """
        from aiohttp import ClientError  # noqa: PLC0415 see _reached

        last, attempt, heard = since, 0, False
        while True:
            try:
                async with self._streamed(path, query or {}, last) as response:
                    heard = True
                    if response.status == _NO_CONTENT:
                        return  # there is no more of it
                    async for message in messages(response.content):
                        attempt = 0
                        last = message.id or last
                        yield message
                why = "the hub ended the stream"
            except (ClientError, OSError, TimeoutError, ValueError) as error:
                if not heard:
                    raise self._unreachable(error) from error
                why = _sentence(error)
            except Trouble as trouble:
                if not heard or trouble.code is not Exit.NO:
                    raise
                why = trouble.what
            on_break(why)
            await asyncio.sleep(full_jitter(attempt, random.random(), _BASE_S, _CAP_S))  # noqa: S311 - spreads only
            attempt += 1

    async def opens(self, path: str) -> None:
        """Make sure that a stream opens. Raises as ``get``."""
        from aiohttp import ClientError  # noqa: PLC0415 see _reached

        try:
            async with asyncio.timeout(self.timeout_s), self._streamed(path, {}, None):
                return
        except TimeoutError as error:
            what = f"{path} did not open within {self.timeout_s:g} s"
            raise Trouble(what, code=Exit.TIMED_OUT) from error
        except (ClientError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def _streamed(self, path: str, query: Mapping[str, str], last: str | None) -> AsyncGenerator[ClientResponse]:
        from aiohttp import ClientSession, ClientTimeout  # noqa: PLC0415 see _reached

        headers = {"Accept": "text/event-stream", **self._authorization()}
        if last is not None:
            headers["Last-Event-ID"] = last
        patience = ClientTimeout(total=None, sock_connect=self.timeout_s, sock_read=_SILENCE_S)
        async with (
            ClientSession(timeout=patience, read_bufsize=_LINE_BYTES, connector=self._connector()) as session,
            session.get(self._url(path), params=dict(query), headers=headers, allow_redirects=False) as response,
        ):
            if response.status not in _OK:
                await self._understood(response, path)
            yield response

    @asynccontextmanager
    async def _reached(self) -> AsyncGenerator[ClientSession]:
        """Give a session; say what it means when there is no answer, or not in time."""
        # aiohttp costs a fifth of a second to import: only who asks a hub pays.
        from aiohttp import ClientError, ClientSession  # noqa: PLC0415

        try:
            connector = self._connector()
            async with asyncio.timeout(self.timeout_s), ClientSession(connector=connector) as session:
                yield session
        except TimeoutError as error:
            what = f"{self.address} did not answer within {self.timeout_s:g} s"
            raise Trouble(what, code=Exit.TIMED_OUT, advice="a larger --timeout") from error
        except (ClientError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    def _connector(self) -> TCPConnector:
        """Return what connects: a token goes by nothing older than TLS 1.3."""
        from aiohttp import TCPConnector  # noqa: PLC0415 see _reached

        if not self.address.lower().startswith("https:"):
            return TCPConnector()
        import ssl  # noqa: PLC0415 - likewise

        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return TCPConnector(ssl=context)

    def _unreachable(self, error: Exception) -> Trouble:
        from aiohttp import ClientConnectorError, InvalidURL, NonHttpUrlClientError  # noqa: PLC0415 see _reached

        if isinstance(error, InvalidURL | NonHttpUrlClientError | ValueError):
            what = f'"{self.address}" is no address of a hub'
            return Trouble(what, code=Exit.USAGE, advice="--hub http://127.0.0.1:8080")
        what = f"the hub at {self.address} can't be reached"
        advice, why = "--hub URL, or set METRICA_HUB_URL", _sentence(error)
        if isinstance(error, ClientConnectorError) and error.os_error.strerror is None:
            why = f"{error.host}:{error.port} ends the connection before TLS has begun; it has to speak TLS 1.3"
        return Trouble(what, code=Exit.HUB_UNREACHABLE, why=why, advice=advice)

    async def _one(
        self, session: ClientSession, method: str, path: str, query: Mapping[str, str], body: Json | str | None
    ) -> Answer:
        headers = {"Accept": "application/json", **self._authorization()}
        if method == "POST":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        data: bytes | None = None
        if isinstance(body, str):
            data, headers["Content-Type"] = body.encode(), "text/plain; charset=utf-8"
        elif body is not None:
            data, headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        # A redirect is not followed: a token goes to the address that it is for.
        async with session.request(
            method, self._url(path), params=dict(query), headers=headers, data=data, allow_redirects=False
        ) as response:
            return await self._understood(response, path)

    async def _understood(self, response: ClientResponse, path: str) -> Answer:
        url = self._url(path)
        content = await response.content.read(_MAX_BYTES)
        while chunk := await response.content.read(_MAX_BYTES):
            raise self._not_a_hub(f"its answer goes on after {_MAX_BYTES} bytes and {len(chunk)} more")
        body = _json(content)
        if response.status == _NOT_FOUND and (body is None or path in _LISTS):
            raise self._not_a_hub(f"404 from {url}")  # a hub has its lists, and says no in JSON
        if response.status in _MOVED:
            raise self._not_a_hub(f"it says: go to {response.headers.get('Location', 'nowhere')}")
        if response.status not in _OK:
            raise self._refusal(response.status, body, url)
        if body is None and response.status != _NO_CONTENT:
            raise self._not_a_hub("its answer is no JSON object")
        return Answer(body or {}, _date(response.headers.get("Date")), response.headers.get("Location"))

    def _authorization(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def _url(self, path: str) -> str:
        return f"{self.address.rstrip('/')}/api/v1{path}"

    def _refusal(self, status: int, body: Json | None, url: str) -> Trouble:
        """Return what the hub's problem+json says."""
        said = (body or {}).get("detail") or (body or {}).get("title")
        code = _CODES.get(status, Exit.NO)
        advice = "metrica devices" if code is Exit.NOT_FOUND else ""
        if status == _UNKNOWN_TOKEN:
            advice = f"metrica login {self.address}"
        elif code is Exit.NOT_ALLOWED:
            advice = "metrica whoami"
        what, why = str(said or f"the hub answered {status}"), f"{status} from {url}"
        slug = str((body or {}).get("type") or "").rpartition("/")[2]
        return Trouble(what, code=code, why=why, advice=advice, slug=slug)

    def _not_a_hub(self, why: str) -> Trouble:
        return Trouble(f"{self.address} is no Metrica hub", code=Exit.HUB_UNREACHABLE, why=why, advice="--hub URL")


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


def _sentence(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
