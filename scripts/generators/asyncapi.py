"""docs/reference/asyncapi.json: the bus as an AsyncAPI 3.0.0 document, from topics and message types."""

from __future__ import annotations

import json
from typing import Any, Final, cast

import msgspec

from metrica_fleet.codec import MAX_PAYLOAD_BYTES
from metrica_fleet.identity import NAME_PATTERN, DeviceId, FleetId
from metrica_fleet.messages import Answer, Head, Presence, Services, Status, Stored
from metrica_fleet.records import Record
from metrica_fleet.topics import (
    ANSWERS,
    CHANNELS,
    HEAD,
    PRESENCE,
    RECORDS,
    SERVICES,
    STATUS,
    STORED,
    Address,
    Channel,
    topic_of,
)

Json = dict[str, Any]

MESSAGES: Final[dict[Channel, Any]] = {
    PRESENCE: Presence,
    STATUS: Status,
    SERVICES: Services,
    RECORDS: Record,
    STORED: Stored,
    HEAD: Head,
    ANSWERS: Answer,
}
"""What is said on each channel whose messages are JSON."""
_SIGNED: Final[Json] = {
    "type": "string",
    "description": "The exact text that was signed, then OpenSSH's armoured signature of it (ssh-keygen -Y sign).",
}

_REF: Final = "#/components/schemas/{name}"


def asyncapi() -> str:
    """Return the document."""
    schemas, components = msgspec.json.schema_components(list(MESSAGES.values()), ref_template=_REF)
    payloads = dict(zip(MESSAGES, schemas, strict=True))
    document: Json = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Metrica Fleet: the bus",
            "version": "1.0.0",
            "description": (
                "Made from src/metrica_fleet by scripts/reference; do not edit. MQTT 5, JSON in UTF-8,"
                f" at most {MAX_PAYLOAD_BYTES} bytes a message."
                " Readers ignore unknown fields and refuse missing ones. null is unknown."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {_key(channel): _channel(channel) for channel in CHANNELS},
        "operations": dict(_operation(channel, side) for channel in CHANNELS for side in ("device", "hub")),
        "components": {
            "messages": {_key(channel): _message(channel, payloads.get(channel, _SIGNED)) for channel in CHANNELS},
            "schemas": components,
        },
    }
    return json.dumps(_without_discriminators(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _channel(channel: Channel) -> Json:
    parameters: Json = {"fleet": {"description": f"The fleet's name, {NAME_PATTERN}"}}
    if channel.per_device:
        parameters["device"] = {"description": f"The device's id and broker user, {NAME_PATTERN}"}
    return {
        "address": topic_of(Address(FleetId("{fleet}"), channel, DeviceId("{device}"))),
        "description": f"{channel.about[:1].upper()}{channel.about[1:]}. Written by {_writers(channel)}.",
        "messages": {_key(channel): {"$ref": f"#/components/messages/{_key(channel)}"}},
        "parameters": parameters,
    }


def _operation(channel: Channel, side: str) -> tuple[str, Json]:
    verb = "send" if channel.writer == side else "receive"
    operation: Json = {
        "action": verb,
        "summary": f"The {side} {'sends' if verb == 'send' else 'receives'}: {channel.about}",
        "channel": {"$ref": f"#/channels/{_key(channel)}"},
        "messages": [{"$ref": f"#/channels/{_key(channel)}/messages/{_key(channel)}"}],
    }
    if verb == "send":
        operation["bindings"] = {"mqtt": {"qos": channel.qos, "retain": channel.retained, "bindingVersion": "0.2.0"}}
    return f"{side}.{verb}.{_key(channel)}", operation


def _key(channel: Channel) -> str:
    return channel.name.replace("/", "-")


def _writers(channel: Channel) -> str:
    return f"the {channel.writer}{', or an operator' if channel.operators else ''}"


def _message(channel: Channel, payload: Json) -> Json:
    return {
        "name": _key(channel),
        "title": channel.about,
        "contentType": "text/plain" if channel.signed else "application/json",
        "payload": payload,
    }


def _without_discriminators(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return ``value`` without what msgspec adds for OpenAPI alone."""
    if isinstance(value, dict):
        items = cast("Json", value).items()
        return {key: _without_discriminators(one) for key, one in items if key != "discriminator"}
    if isinstance(value, list):
        return [_without_discriminators(one) for one in cast("list[Any]", value)]
    return value
