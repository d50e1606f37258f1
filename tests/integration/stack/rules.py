"""The alert rules as they are shipped, read as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import yaml
from tests.fixtures.monitoring import RULES

FILES: Final = sorted(path.name.removesuffix(".rules.yml") for path in RULES.glob("*.rules.yml"))
_WORDS: Final = re.compile(
    r"^(?:and|or|unless|on|ignoring|by|without|bool|offset|group_left|group_right|inf|nan|le|e\d+)$"
)


@dataclass(frozen=True)
class Alert:
    """One alert."""

    name: str
    file: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that it asks for."""
        return metrics_of(self.expr)


def metrics_of(expr: str) -> frozenset[str]:
    """Return the names in a PromQL expression that are neither functions, words of the language, nor labels."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.])[A-Za-z_:][\w:]*(?!\s*\(|[\w:])", bare)
    return frozenset(name for name in names if not _WORDS.match(name))


def read(file: str) -> list[dict[str, Any]]:
    """Return the rules of a file."""
    groups = yaml.safe_load((RULES / f"{file}.rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[Alert]:
    """Return all alerts that are shipped."""
    return [
        Alert(rule["alert"], file, rule["expr"], rule["labels"], rule["annotations"])
        for file in FILES
        for rule in read(file)
        if "alert" in rule
    ]


def recorded() -> dict[str, str]:
    """Return the recording rules: name to expression."""
    return {rule["record"]: rule["expr"] for file in FILES for rule in read(file) if "record" in rule}


ALERTS: Final = alerts()
"""All of them."""
