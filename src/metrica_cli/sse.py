"""Server-sent events, read as https://html.spec.whatwg.org/multipage/server-sent-events.html says."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from metrica_cli.values import Json


class Message(NamedTuple):
    """One event of a stream."""

    id: str
    """The last that the stream gave; empty for none."""
    event: str
    data: str

    @property
    def json(self) -> Json | None:
        """The data, where it is a JSON object."""
        try:
            found: object = msgspec.json.decode(self.data)
        except (msgspec.DecodeError, RecursionError):
            return None
        return cast("Json", found) if isinstance(found, dict) else None


async def messages(lines: AsyncIterable[bytes]) -> AsyncGenerator[Message]:
    """Yield each message that ``lines`` hold; one that is cut off at the end is none."""
    last, event, data = "", "", list[str]()
    async for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data:
                yield Message(last, event or "message", "\n".join(data))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id" if "\0" not in value:
                last = value
            case "event":
                event = value
            case "data":
                data.append(value)
            case _:
                pass  # a comment, a ping, or what a later hub says
