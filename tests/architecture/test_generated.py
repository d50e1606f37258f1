from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest
from scripts.generators.asyncapi import MESSAGES, asyncapi
from scripts.generators.repository import fleet_repository
from scripts.reference import GENERATED, HOUSE

from metrica_fleet import codec
from metrica_fleet.policies import CHECKS, HealthPolicy, Limits, RolloutStage
from metrica_fleet.topics import CHANNELS


@pytest.mark.parametrize("path", GENERATED)
def test_what_is_made_from_the_code_is_as_the_code_makes_it(path: str) -> None:
    assert (HOUSE / path).read_text(encoding="utf-8") == GENERATED[path](), "run ./scripts/reference"


def test_the_document_of_the_bus_has_the_types_that_the_codec_reads() -> None:
    decoders = cast("dict[Any, msgspec.json.Decoder[Any]]", codec._DECODERS)  # pyright: ignore[reportPrivateUsage]
    assert {channel: decoder.type for channel, decoder in decoders.items()} == MESSAGES
    assert tuple(MESSAGES) == tuple(channel for channel in CHANNELS if not channel.signed)


def test_every_reference_in_the_document_of_the_bus_leads_somewhere() -> None:
    document = json.loads(asyncapi())
    references = list(_references(document))
    assert len(references) > 20
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_the_document_of_the_bus_says_what_each_side_sends() -> None:
    operations = json.loads(asyncapi())["operations"]
    sent = {name for name, operation in operations.items() if operation["action"] == "send"}
    assert sent == {f"{channel.writer}.send.{channel.name.replace('/', '-')}" for channel in CHANNELS}
    assert len(operations) == 2 * len(CHANNELS)


@pytest.mark.parametrize("kind", [HealthPolicy, Limits, RolloutStage, *CHECKS.values()])
def test_every_key_of_the_fleet_repository_is_documented(kind: type[msgspec.Struct]) -> None:
    page = fleet_repository()
    for field in msgspec.structs.fields(kind):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{field.name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert all(cells), row
        assert cells[3].endswith("."), row


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        own = [table["$ref"]] if isinstance(table.get("$ref"), str) else []
        return own + [found for one in table.values() for found in _references(one)]
    if isinstance(value, list):
        return [found for one in cast("list[Any]", value) for found in _references(one)]
    return []
