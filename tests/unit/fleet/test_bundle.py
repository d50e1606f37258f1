"""The manifest of a bundle: read back as it was written, and refused where it contradicts itself."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.bundle import (
    PIECE_BYTES,
    Bundle,
    Image,
    Payload,
    part,
    sizes,
    stand_in,
    stood_for,
    understood,
    written,
)
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import CommitId, DeviceId, FleetId

FLEET = FleetId("home")


def payload(total_bytes: int) -> Payload:
    return Payload(total_bytes=total_bytes, pieces=("0" * 64,) * -(-total_bytes // PIECE_BYTES))


def bundle(**changes: object) -> Bundle:
    whole = Bundle(
        bundle=1,
        fleet=FLEET,
        issued_at=datetime(2026, 11, 29, 9, 20, tzinfo=UTC),
        branch="main",
        commit=CommitId("a" * 40),
        devices=(DeviceId("pi-01"),),
        history=payload(1),
        images=(Image(name="app:1", tag="app:1", id=f"sha256:{'1' * 64}", layers=(), created=""),),
        archive=payload(PIECE_BYTES + 1),
    )
    return msgspec.structs.replace(whole, **changes)


def test_a_manifest_is_understood_as_it_was_written() -> None:
    assert understood(written(bundle()), FLEET) == bundle()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fleet": "away"}, "wrong-fleet"),
        ({"bundle": 2}, "bundle-unreadable"),
        ({"devices": ()}, "bundle-unreadable"),
        ({"commit": "main"}, "bundle-unreadable"),
        ({"history": Payload(total_bytes=PIECE_BYTES + 1, pieces=("0" * 64,))}, "bundle-unreadable"),
        ({"archive": Payload(total_bytes=1, pieces=("0" * 64,) * 2)}, "bundle-unreadable"),
        ({"archive": Payload(total_bytes=1, pieces=("../x",))}, "bundle-unreadable"),
        ({"archive": Payload(total_bytes=2**60, pieces=())}, "bundle-unreadable"),
    ],
)
def test_one_that_is_not_for_us_or_contradicts_itself_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        understood(written(bundle(**changes)), FLEET)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["", "-v", "--output", "App", "a b", "a\nb", "a" * 600])
def test_a_name_that_docker_could_take_for_something_else_is_none(name: str) -> None:
    image = msgspec.structs.replace(bundle().images[0], tag=name)
    with pytest.raises(Unusable):
        understood(written(bundle(images=(image,))), FLEET)


@given(st.binary(max_size=400))
def test_nothing_that_is_written_in_its_place_does_more_than_be_refused(text: bytes) -> None:
    with pytest.raises(Unusable):
        understood(text, FLEET)


@given(st.integers(1, 5 * PIECE_BYTES))
def test_the_pieces_have_all_of_it(total_bytes: int) -> None:
    lengths = [size for _, size in sizes(payload(total_bytes))]
    assert sum(lengths) == total_bytes
    assert all(0 < size <= PIECE_BYTES for size in lengths)


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("app:1", "app:1"),
        ("app", "app"),
        (f"app@sha256:{'1' * 64}", f"app:sha256-{'1' * 64}"),
        (f"127.0.0.1:5000/a/app:3@sha256:{'1' * 64}", f"127.0.0.1:5000/a/app:sha256-{'1' * 64}"),
    ],
)
def test_a_digest_has_a_tag_that_stands_in_for_it(image: str, tag: str) -> None:
    assert stand_in(image) == tag
    assert stand_in(stood_for(tag)) == tag
    assert "@" not in tag


def test_parts_are_named_by_their_place() -> None:
    assert [part("images", number) for number in (0, 12)] == ["images.000", "images.012"]
