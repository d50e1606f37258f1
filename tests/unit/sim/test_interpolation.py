from __future__ import annotations

import pytest

from metrica_fleet.errors import Unusable
from metrica_sim.interpolation import escaped, fill, filled

VARIABLES = {"A": "one", "EMPTY": "", "B": "two"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A and ${B}", "one and two"),
        ("$$A", "$A"),
        ("${NONE:-default}", "default"),
        ("${NONE-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY-default}", ""),
        ("${NONE:-${A}-${NONE:-x}}", "one-x"),
        ("${A:+set}", "set"),
        ("${EMPTY:+set}", ""),
        ("${A:?must}", "one"),
        ("http://x/${A}/y", "http://x/one/y"),
    ],
)
def test_variables_are_filled_in_as_compose_does(text: str, expected: str) -> None:
    assert fill(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$NONE", "variable-unset"),
        ("${NONE}", "variable-unset"),
        ("${NONE:?say it}", "compose-invalid"),
        ("${A", "compose-invalid"),
        ("cost: 5$", "compose-invalid"),
        ("${1}", "compose-invalid"),
        ("${A!}", "compose-invalid"),
    ],
)
def test_what_compose_refuses_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(Unusable) as refused:
        filled({"services": {"web": {"image": text}}}, VARIABLES)
    assert refused.value.reason == reason
    assert "services.web.image" in refused.value.message


def test_only_texts_are_filled_in_and_keys_stay() -> None:
    assert filled({"$A": ["$A", 1, None, True]}, VARIABLES) == {"$A": ["one", 1, None, True]}


def test_escaped_text_is_read_back_unchanged() -> None:
    assert fill(str(escaped("a $b ${c} $$")), {}) == "a $b ${c} $$"
