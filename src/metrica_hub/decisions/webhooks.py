"""Webhooks: to whom events may be told, in which words, and when to try again (Standard Webhooks, CloudEvents 1.0)."""

from __future__ import annotations

import base64
import hmac
import ipaddress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from metrica_fleet.retry import full_jitter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_hub.decisions.fleet_state import EventRow

MOST: Final = 20
LASTS_S: Final = 86_400.0
"""Of failures without a success, after which nobody is told any more."""
_BASE_S: Final = 2.0
_CAP_S: Final = 600.0
_SECRET: Final = "whsec_"  # noqa: S105 - how each begins
_LOCALHOST: Final = "localhost"

Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]+$(?!\n)", max_length=2000)]
Kind = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z0-9]+([._-][a-z0-9]+)*(\.\*)?)$(?!\n)", max_length=80)]
Kinds = Annotated[tuple[Kind, ...], msgspec.Meta(min_length=1, max_length=50)]


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of events; not its secret."""

    id: int
    url: str
    kinds: tuple[str, ...]
    created_at: datetime
    created_by: str
    told_at: datetime | None
    """When it took the last one."""
    failing_since: datetime | None
    failure: str | None
    """Why it did not take the next one."""
    disabled_at: datetime | None


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """The same, as whoever tells it needs it."""

    id: int
    url: str
    kinds: tuple[str, ...]
    secret: str
    cursor: int
    attempts: int
    """That failed since the last success."""
    failing_s: float
    """For so long."""

    def __repr__(self) -> str:
        return f"Listener({self.id}, {self.url!r})"


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a failure."""

    after_s: float | None
    """``None``: it is told no more."""


def wants(kinds: Sequence[str], kind: str) -> bool:
    """Whether one of ``kinds`` is ``kind``, or a beginning of it (``release.*``), or ``*``."""
    return any(one in {"*", kind} or (one.endswith(".*") and kind.startswith(one[:-1])) for one in kinds)


def objection(url: str, *, private: bool) -> str | None:
    """Return why nobody is told at ``url``, or ``None``; ``private``: addresses of one's own network will do."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "it is no address"
    if not host or port == 0:
        return "it names no host"
    if parts.username is not None or parts.password is not None:
        return "it holds a user or a password; the signature says who we are"
    if parts.fragment:
        return "what stands behind # is never sent"
    literal = _literal(host)
    if literal is not None and not may_reach(str(literal), private=private):
        return "its address is of this machine or of a private network ([webhooks] private)"
    if parts.scheme == "https":
        return None
    if not private or not (host == _LOCALHOST or (literal is not None and literal.is_loopback)):
        return "it has to be https"
    return None


def may_reach(address: str, *, private: bool) -> bool:
    """Whether something may be sent to ``address``: never where a cloud's machines are told their secrets."""
    found = _literal(address)
    if found is None or found.is_multicast or found.is_unspecified or found.is_link_local:
        return False
    return found.is_global or private


def cloud_event(fleet: str, event: EventRow) -> bytes:
    """Return ``event`` as a CloudEvent."""
    facts: dict[str, Any] = {
        "specversion": "1.0",
        "id": message_id(event),
        "source": f"/fleets/{fleet}/devices/{event.device}",
        "type": f"fleet.metrica.{event.kind}.v1",
        "datacontenttype": "application/json",
        "data": event,
    }
    if event.at is not None:
        facts["time"] = event.at
    if event.release is not None:
        facts["subject"] = event.release
    return msgspec.json.encode(facts)


def trial_event(fleet: str, webhook: int, id_: str, at: datetime) -> bytes:
    """Return what a webhook is told when somebody tries whether it takes anything: no event of any device."""
    facts: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_,
        "source": f"/fleets/{fleet}/webhooks/{webhook}",
        "type": "fleet.metrica.webhook.test.v1",
        "datacontenttype": "application/json",
        "time": at,
        "data": {"webhook": webhook},
    }
    return msgspec.json.encode(facts)


def message_id(event: EventRow) -> str:
    """Return by what a receiver knows an event that it is told again."""
    return f"{event.stream}:{event.seq}"


def secret_of(chance: bytes) -> str:
    """Return the text of a secret with this chance in it."""
    return _SECRET + base64.b64encode(chance).decode()


def headers_of(secret: str, message: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message: its id, its time, and the signature of both and the body."""
    key = base64.b64decode(secret.removeprefix(_SECRET))
    made = hmac.digest(key, f"{message}.{at_s}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "webhook-id": message,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(made).decode()}",
    }


def after_failure(listener: Listener, *, is_gone: bool, chance: float) -> Retry:
    """Return when to try again; ``is_gone``: its receiver said that it will never take anything again."""
    if is_gone or listener.failing_s >= LASTS_S:
        return Retry(after_s=None)
    return Retry(after_s=full_jitter(listener.attempts + 1, chance, _BASE_S, _CAP_S))


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
