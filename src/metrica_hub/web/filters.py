"""What somebody typed into the search field, understood: ``role:camera mode:trial lens``.

Words are joined by "and"; ``-role:camera`` and ``-lens`` mean "not". A key that is none is said, and filters nothing:
better too many devices than none for a slip of the finger.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metrica_hub.web.views import SHOWN, deployment_of, shown_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metrica_hub.decisions.fleet_state import DeviceState

MAX_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Term:
    """One word of it; without a key it is looked for everywhere."""

    key: str
    value: str
    negated: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices are meant."""

    text: str = ""
    terms: tuple[Term, ...] = ()
    unknown: tuple[str, ...] = ()
    """Sentences about what could not be understood."""

    def meets(self, device: DeviceState) -> bool:
        """Whether ``device`` is meant."""
        return all(_TESTS[term.key](device, term.value) is not term.negated for term in self.terms)


def read_filter(text: str) -> Filter:
    """Return what ``text`` means."""
    terms: list[Term] = []
    unknown: list[str] = []
    text = " ".join(text[:MAX_LENGTH].split())
    for word in text.casefold().split():
        negated = len(word) > 1 and word.startswith("-")
        key, colon, value = word.removeprefix("-").partition(":")
        if not colon:
            terms.append(Term("", word.removeprefix("-") if negated else word, negated))
        elif key not in _TESTS or not key:
            unknown.append(_sentence(key))
        elif key == "is" and value not in SHOWN:
            unknown.append(f"“is:{value}” is no state; there are {', '.join(SHOWN)}")
        elif value:
            terms.append(Term(key, value, negated))
    return Filter(text, tuple(terms), tuple(unknown))


def _sentence(key: str) -> str:
    keys = [f"{one}:" for one in _TESTS if one]
    near = difflib.get_close_matches(f"{key}:", keys, n=1)
    return f"“{key}:” is no filter; " + (f"did you mean {near[0]}?" if near else f"there are {' '.join(keys)}")


def _anywhere(device: DeviceState, word: str) -> bool:
    texts = (device.device, device.role, *device.tags, device.mode, device.phase, device.reason, device.message)
    return any(word in text.casefold() for text in texts if text)


def _release(device: DeviceState, prefix: str) -> bool:
    return any(one.startswith(prefix) for one in (device.commit, device.release, device.wanted_commit) if one)


_TESTS: Final[Mapping[str, Callable[[DeviceState, str], bool]]] = {
    "": _anywhere,
    "role": lambda device, value: device.role == value,
    "tag": lambda device, value: value in device.tags,
    "mode": lambda device, value: value in {device.mode, deployment_of(device)},
    "release": _release,
    "is": lambda device, value: value in shown_of(device),
}
