"""docs/reference/topics.md: the bus for people; the same as docs/reference/asyncapi.json, from the same types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from scripts.generators.asyncapi import MESSAGES
from scripts.generators.repository import meanings
from scripts.generators.schemas import REF, anchor, documented, fields, title

from metrica_fleet.codec import MAX_PAYLOAD_BYTES
from metrica_fleet.commands import Command
from metrica_fleet.gate import Gate
from metrica_fleet.head import Vouched
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.stop import StopOrder
from metrica_fleet.topics import CHANNELS, COMMANDS, GATE, STOP, Address, Channel, topic_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNED: Final[dict[Channel, type[msgspec.Struct]]] = {COMMANDS: Command, STOP: StopOrder, GATE: Gate}
"""What the signed texts say."""
_INSIDE: Final = (Vouched,)
"""What signed texts say that are a part of a message."""

_HEAD: Final = f"""\
# Topics and messages

Made from `CHANNELS` in src/metrica_fleet/topics.py and the message types by `scripts/reference`; do not edit. For
programs: [asyncapi.json](asyncapi.json), AsyncAPI 3.0.0.

MQTT 5, JSON in UTF-8, at most {MAX_PAYLOAD_BYTES // 1024} KiB a message. Readers ignore fields that they do not
know and refuse a message that lacks one; `null` is "not known". What is retained is what is: whoever subscribes later
hears it at once. `mosquitto/acl` says who may write and read what; a device's user at the broker is its id.

    mosquitto_sub -V 5 -h BROKER -u operator -P … -t 'metrica/v1/home/devices/+/status' -v

*Signed* messages are a text and behind it OpenSSH's armoured signature of it (`ssh-keygen -Y sign`):
[orders](../how-to/emergency-stop.md), [gates](../how-to/rollout-rules.md), [commands](../how-to/commands.md).
So is what [Head](#type-head) has of [Vouched](#type-vouched).

| topic | written by | retained | QoS | what |
| --- | --- | --- | --- | --- |
"""


def topics() -> str:
    """Return the page."""
    rows = [
        f"| [`{_topic(channel)}`](#{_fragment(channel)}) | {_writers(channel)} | {'yes' if channel.retained else ''} |"
        f" {channel.qos} | {channel.about}{'; signed' if channel.signed else ''} |"
        for channel in CHANNELS
    ]
    kinds = {channel: MESSAGES.get(channel) or _SIGNED[channel] for channel in CHANNELS}
    all_kinds = [*kinds.values(), *_INSIDE]
    schemas, components = msgspec.json.schema_components(all_kinds, ref_template=f"{REF}{{name}}")
    parts = [_HEAD + "\n".join(rows) + "\n"]
    for channel, schema in zip(kinds, schemas[: len(kinds)], strict=True):
        parts.append(f"## Topic {channel.name}\n\n{_sentence(channel)}\n\nSays: {', '.join(_named(schema))}.\n")
    known = _meanings(all_kinds)
    for name, schema in sorted(components.items()):
        if schema.get("properties"):
            parts.append(f"## Type {title(name)}\n\n{documented(schema)}\n\n{fields(schema, known.get(name, {}))}\n")
        else:
            parts.append(f"## Type {title(name)}\n\n{documented(schema)} One of {_values(schema)}.\n")
    return "\n".join(parts)


def _topic(channel: Channel) -> str:
    return topic_of(Address(FleetId("<fleet>"), channel, DeviceId("<device>")))


def _fragment(channel: Channel) -> str:
    return f"topic-{channel.name.replace('/', '')}"


def _writers(channel: Channel) -> str:
    return f"{channel.writer}{', operators' if channel.operators else ''}"


def _sentence(channel: Channel) -> str:
    return f"`{_topic(channel)}`: {channel.about}."


def _named(schema: dict[str, Any]) -> Iterator[str]:
    for one in schema.get("anyOf", [schema]):
        name = one["$ref"].removeprefix(REF)
        yield f"[{title(name)}](#{anchor(name)})"


def _values(schema: dict[str, Any]) -> str:
    return ", ".join(f"`{value}`" for value in schema.get("enum", []))


def _here(text: str) -> str:
    """Return a docstring as it is read on this page: pages beside it are linked, and the bus has no ``None``."""
    return re.sub(r"docs/reference/(([\w-]+)\.md)", r"[\2](\1)", text.replace("`None`", "`null`"))


def _meanings(kinds: Any) -> dict[str, dict[str, str]]:  # noqa: ANN401 - types and unions of them
    """Return, of each Struct that is reached, what the docstrings of its fields say."""
    found: dict[str, dict[str, str]] = {}

    def walk(info: msgspec.inspect.Type) -> None:
        match info:
            case msgspec.inspect.StructType(cls=cls, fields=its) if cls.__name__ not in found:
                found[cls.__name__] = {name: _here(text) for name, text in meanings(cls).items()}
                for field in its:
                    walk(field.type)
            case msgspec.inspect.UnionType(types=types):
                for one in types:
                    walk(one)
            case msgspec.inspect.Metadata(type=one):
                walk(one)
            case msgspec.inspect.VarTupleType(item_type=one) | msgspec.inspect.ListType(item_type=one):
                walk(one)
            case msgspec.inspect.DictType(value_type=one):
                walk(one)
            case _:
                pass

    for kind in kinds:
        walk(msgspec.inspect.type_info(kind))
    return found
