from __future__ import annotations

import io

from metrica_sim.demo.console import Console


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def printed(encoding: str, environment: dict[str, str], *, terminal: bool = False) -> str:
    raw = io.BytesIO()
    out = (Terminal if terminal else io.TextIOWrapper)(raw, encoding=encoding)
    console = Console(out, environment)
    console.progress("working")
    console.done("work → done", 1.25)
    console.failed("not so")
    out.flush()
    return raw.getvalue().decode(encoding)


def test_off_a_terminal_there_is_neither_colour_nor_animation() -> None:
    assert printed("utf-8", {}) == "✔ work → done (1.2 s)\n✖ not so\n"


def test_without_utf_8_the_signs_are_words() -> None:
    assert printed("ascii", {}) == "ok work -> done (1.2 s)\nFAILED not so\n"


def test_a_terminal_has_colours_unless_it_wants_none() -> None:
    assert "\x1b[32m✔" in printed("utf-8", {}, terminal=True)
    assert "\x1b[32m" not in printed("utf-8", {"NO_COLOR": "1"}, terminal=True)
    assert "\x1b" not in printed("utf-8", {"TERM": "dumb"}, terminal=True)
