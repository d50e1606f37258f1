from __future__ import annotations

import pytest

from metrica_fleet.errors import Unusable
from metrica_sim.yamlfile import parsed


def test_words_and_numbers_mean_what_they_mean_to_compose() -> None:
    text = 'a: no\nb: on\nc: true\nd: 22:22\ne: 010\nf: 1.50\ng: ~\nh: 2026-01-01\ni: "1"\n'
    assert parsed(text) == {
        "a": "no", "b": "on", "c": True, "d": "22:22", "e": 8, "f": 1.5, "g": None, "h": "2026-01-01", "i": "1",
    }  # fmt: skip


def test_what_is_merged_may_be_overridden_and_shared() -> None:
    text = "x: &x {restart: no, init: true}\na:\n  <<: *x\n  restart: always\nb:\n  <<: *x\n"
    assert parsed(text) == {
        "x": {"restart": "no", "init": True},
        "a": {"restart": "always", "init": True},
        "b": {"restart": "no", "init": True},
    }


@pytest.mark.parametrize(
    "text", ["a: [", "a: 1\na: 2", "a: &x [*x", "!!python/object:os.system {}", "[" * 2000, "a: \0"]
)
def test_what_is_no_yaml_is_one_sentence(text: str) -> None:
    with pytest.raises(Unusable) as refused:
        parsed(text)
    assert refused.value.reason == "compose-invalid"
    assert "\n" not in refused.value.message
