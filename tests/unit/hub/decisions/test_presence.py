"""Which word about a connection prevails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import presence

from metrica_hub.decisions.presence import Word, prevails

CASES = [
    ("a later connection", presence("online", 2), False, presence("offline", 1), True),
    ("the end of the same connection", presence("offline", 2), False, presence("online", 2), True),
    ("a late will of an older connection", presence("offline", 1), False, presence("online", 2), False),
    ("the same word again", presence("online", 2), False, presence("online", 2), True),
    ("an online after the end of its connection", presence("online", 2), False, presence("offline", 2), False),
    ("an older online of the same boot", presence("online", 1), False, presence("online", 2), False),
    ("a count that began again", presence("online", 1, boot="new"), False, presence("offline", 70), True),
    ("the broker's memory of another boot", presence("online", 1, boot="old"), True, presence("online", 70), False),
    ("a will of another boot", presence("offline", 1, boot="old"), False, presence("online", 70), False),
    (
        "a late will of another boot, of a larger number",
        presence("offline", 71, boot="old"),
        False,
        presence("online", 1),
        False,
    ),
    (
        "the same from the broker's memory: the hub was away",
        presence("offline", 71, boot="b"),
        True,
        presence("online", 1),
        True,
    ),
    ("an end after another boot's end", presence("offline", 71, boot="b"), False, presence("offline", 1), True),
]


@pytest.mark.parametrize(("about", "new", "replayed", "held", "expected"), CASES, ids=[case[0] for case in CASES])
def test_which_word_prevails(about: str, new: object, replayed: bool, held: object, expected: bool) -> None:  # noqa: FBT001 - a table
    assert prevails(Word(new, replayed), held) is expected, about  # pyright: ignore[reportArgumentType]


@given(st.permutations([(1, "online"), (1, "offline"), (2, "online"), (2, "offline"), (3, "online")]))
def test_whatever_the_order_of_words_of_one_boot_the_last_connection_is_what_is_held(
    words: list[tuple[int, str]],
) -> None:
    held = presence(words[0][1], words[0][0])
    for connection, state in words[1:]:
        word = Word(presence(state, connection), replayed=False)
        held = word.presence if prevails(word, held) else held
    assert (held.connection, held.state) == (3, "online")
