from __future__ import annotations

import pytest

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import checked_name, is_name, short


@pytest.mark.parametrize("name", ["a", "0", "pi-01", "a" * 63, "a--b"])
def test_a_dns_label_is_a_name(name: str) -> None:
    assert is_name(name)
    assert checked_name(name, "device") == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a" * 64, "a\n", "a/b", "..", "+", "#", "a b"]
)
def test_what_could_be_a_path_or_a_wildcard_is_no_name(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(Unusable) as caught:
        checked_name(name, "device")
    assert caught.value.reason == "bad-name"


def test_a_commit_is_shown_by_its_first_eight_digits() -> None:
    assert short("0123456789" * 4) == "01234567"
    assert short(None) == "-"
