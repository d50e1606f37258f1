from __future__ import annotations

import os
import time
from contextlib import suppress
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.toml_lines import Document, NotTomlError, dotted

PART = 4 if os.environ.get("METRICA_QUICK") else 1
"""Of the largest files: what grows faster than they do shows there, too."""
TEXT = """\
top = 1

[a] # comment
b = 2
c.d = 3
c.e = [ 4,
  5,

  # comment
  [ 6,
    7 ],
]
"quoted key" = '''
[not a header]
x = 1
'''
after = { f = 8, g = [ 9,
  10 ] }

[a.h.i]
j = 11

[[list]]
k = 12

[list.sub]
l = 13

[[list.inner]]
m = 14
[[list.inner]]
m = 15

[[list]]
k = 16
[[list.inner]]
m = 17
"""

LINES = [
    (("top",), 1),
    (("a",), 3),
    (("a", "b"), 4),
    (("a", "c"), 5),
    (("a", "c", "d"), 5),
    (("a", "c", "e"), 6),
    (("a", "c", "e", 0), 6),
    (("a", "c", "e", 1), 7),
    (("a", "c", "e", 2), 10),
    (("a", "c", "e", 2, 1), 11),
    (("a", "quoted key"), 13),
    (("a", "after"), 17),
    (("a", "after", "g", 1), 18),
    (("a", "h"), 20),
    (("a", "h", "i", "j"), 21),
    (("list",), 23),
    (("list", 0, "k"), 24),
    (("list", 0, "sub"), 26),
    (("list", 0, "sub", "l"), 27),
    (("list", 0, "inner", 1, "m"), 32),
    (("list", 1), 34),
    (("list", 1, "k"), 35),
    (("list", 1, "inner", 0, "m"), 37),
    (("a", "nowhere"), 3),
    (("nowhere",), 1),
]


@pytest.mark.parametrize(("path", "line"), LINES)
def test_every_part_of_a_document_has_the_line_where_it_begins(path: tuple[str | int, ...], line: int) -> None:
    assert Document(TEXT.encode()).line_of(path) == line


@given(st.lists(st.sampled_from(["", "# x", "\t"]), max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_lines_hold_whatever_stands_between_the_keys(gaps: list[str], counts: list[int]) -> None:
    lines: list[str] = []
    expected: dict[str, int] = {}
    for number, count in enumerate(counts):
        lines += gaps[:count]
        expected[f"k{number}"] = len(lines) + 1
        lines += [f"k{number} = ["] + ["1,"] * count + ["]"] if number % 2 else [f"k{number} = '''x", "'''"]
    document = Document("\n".join(lines).encode())
    assert {key: document.line_of((key,)) for key in expected} == expected


def test_a_path_is_shown_as_people_write_it() -> None:
    assert dotted(("checks", 0, "command", 2)) == "checks[0].command[2]"
    assert dotted(()) == ""


def test_a_line_separator_of_unicode_is_no_new_line() -> None:
    assert Document("a = '\u2028\x85'\nb = 1\n".encode()).line_of(("b",)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "x = '''\n" + "line of text\n" * (18_000 // PART) + "'''\nlast = 1\n",
        "x = [\n" + "1,\n" * (80_000 // PART) + "]\nlast = 1\n",
        "".join(f"k{number} = {{ a = 1 }}\n" for number in range(13_000 // PART)),
        "[" + "a." * 1000 + "a]\n" + "".join(f"b{number}.c = 1\n" for number in range(15_000 // PART)),
        "x = [\n" + "[\n" * 80 + "]\n" * 80 + "]\n",
    ],
)
def test_the_largest_files_take_seconds_not_minutes(text: str) -> None:
    began = time.process_time()
    with suppress(NotTomlError):
        Document(text.encode()).line_of(("last",))
    assert time.process_time() - began < 10


def test_a_document_that_the_end_cuts_off_has_the_line_where_that_begins() -> None:
    text = dedent(
        """\
        a = 1
        b = [
          1,
          2,
        """
    )
    with pytest.raises(NotTomlError) as caught:
        Document(text.encode())
    assert (caught.value.line, caught.value.text) == (2, "a list without its closing bracket; add ]")
