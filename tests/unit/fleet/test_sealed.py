from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.errors import Unusable
from metrica_fleet.sealed import (
    MOST_SECRETS,
    Place,
    Use,
    chosen,
    is_recipient,
    names_used,
    place_of,
    places_for,
    recipients_in,
    recipients_text,
    uses_in,
)

KEY = "age1sl6jeldnr3tez9dc56fttufa25qdqzn80r6vwfssaz0ueuqf93fqzla2fm"
ROOF = ("pi-01", "camera", ("roof", "north"))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("file: ${METRICA_SECRETS}/wifi", ["wifi"]),
        ('volumes: ["$METRICA_SECRETS/wifi:/run/wifi:ro", "${METRICA_SECRETS}/b:/b:ro"]', ["wifi", "b"]),
        ("{file: ${METRICA_SECRETS}/wifi}", ["wifi"]),
        ("# file: ${METRICA_SECRETS}/wifi", []),
        ("    # ${METRICA_SECRETS}/wifi", []),
        ("echo $${METRICA_SECRETS}/wifi", []),
        ("echo $$${METRICA_SECRETS}/wifi", ["wifi"]),
        ("$METRICA_SECRETSX/wifi ${METRICA_SECRETSX}/wifi", []),
        ("METRICA_SECRETS/wifi", []),
    ],
)
def test_a_file_names_the_secrets_that_it_uses(line: str, names: list[str]) -> None:
    assert [use.name for use in uses_in("compose.yaml", f"services:\n{line}\n")] == names


@pytest.mark.parametrize(
    "line",
    [
        "${METRICA_SECRETS}",
        "${METRICA_SECRETS}/",
        "${METRICA_SECRETS}/${WHICH}",
        "${METRICA_SECRETS}/Wifi",
        "${METRICA_SECRETS}/../x",
        "${METRICA_SECRETS}/a/b",
        "${METRICA_SECRETS:-/etc}/wifi",
        "${METRICA_SECRETS?}/wifi",
    ],
)
def test_what_names_no_single_secret_is_refused_with_file_and_line(line: str) -> None:
    with pytest.raises(Unusable) as caught:
        names_used(uses_in("compose.yaml", f"services:\n  {line}\n"))
    assert caught.value.reason == "secret-misused"
    assert caught.value.message.startswith("compose.yaml: line 2: ${METRICA_SECRETS} stands for no folder to mount")


def test_each_secret_counts_once_and_a_role_uses_so_many() -> None:
    assert names_used([Use("a", 1, "wifi"), Use("b", 2, "wifi"), Use("a", 3, "api")]) == ("api", "wifi")
    with pytest.raises(Unusable):
        names_used([Use("a", 1, f"s{number}") for number in range(MOST_SECRETS + 1)])


@pytest.mark.parametrize(
    ("there", "path"),
    [
        (["roles/camera"], "secrets/roles/camera/wifi.age"),
        (["roles/camera", "tags/north"], "secrets/tags/north/wifi.age"),
        (["roles/camera", "tags/north", "devices/pi-01"], "secrets/devices/pi-01/wifi.age"),
        (["roles/sensor", "tags/south", "devices/pi-02", "tags/roof"], "secrets/tags/roof/wifi.age"),
    ],
)
def test_the_more_exact_place_wins_and_what_is_for_others_is_not_looked_at(there: list[str], path: str) -> None:
    assert chosen("wifi", *ROOF, [f"secrets/{one}/wifi.age" for one in there]).path == path


def test_a_tag_that_is_written_twice_is_one() -> None:
    place = chosen("wifi", "pi-01", "camera", ("roof", "roof"), ["secrets/tags/roof/wifi.age"])
    assert place.path == "secrets/tags/roof/wifi.age"


def test_a_secret_that_is_nowhere_is_missing() -> None:
    with pytest.raises(Unusable) as caught:
        chosen("wifi", *ROOF, ["secrets/devices/pi-02/wifi.age"])
    assert caught.value.reason == "secret-missing"
    assert caught.value.message == (
        'roles/camera uses the secret "wifi", and pi-01 has none:'
        " metrica secret set wifi --device pi-01, or --tag, or --role camera"
    )


def test_two_tags_with_one_secret_are_told_apart_by_nobody() -> None:
    with pytest.raises(Unusable) as caught:
        chosen("wifi", *ROOF, ["secrets/tags/roof/wifi.age", "secrets/tags/north/wifi.age"])
    assert caught.value.reason == "secret-ambiguous"


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(name=NAMES, device=NAMES, role=NAMES, tags=st.lists(NAMES, unique=True, max_size=4))
def test_every_place_of_a_device_is_read_back_from_its_path_and_is_for_it(
    name: str, device: str, role: str, tags: list[str]
) -> None:
    for place in places_for(name, device, role, tags):
        assert place_of(place.path) == place
        assert place.is_for(device, role, tags)


@pytest.mark.parametrize(
    "path",
    [
        "secrets/wifi.age",
        "secrets/tags/wifi.age",
        "secrets/sites/a/wifi.age",
        "secrets/tags/roof/Wifi.age",
        "secrets/tags/roof/deep/wifi.age",
        "secrets/tags/roof/wifi",
        "roles/tags/roof/wifi.age",
        "secrets/tags//wifi.age",
    ],
)
def test_other_paths_are_no_place(path: str) -> None:
    assert place_of(path) is None


def test_who_can_open_it_is_a_file_that_age_reads_and_says_whose_each_key_is() -> None:
    text = recipients_text("wifi", [("pi-01", KEY)])
    assert recipients_in(text) == {KEY: "pi-01"}
    assert recipients_in(f"{KEY}\n\n# x\n") == {KEY: ""}
    assert Place("tags", "roof", "wifi").recipients == "secrets/tags/roof/wifi.recipients"


def test_a_recipient_is_the_public_key_of_age_and_nothing_else() -> None:
    assert is_recipient(KEY)
    for other in (KEY.upper(), f"{KEY}\n", KEY[:-1], "AGE-SECRET-KEY-1X", "ssh-ed25519 AAAA", "age1" + "b" * 58):
        assert not is_recipient(other)
