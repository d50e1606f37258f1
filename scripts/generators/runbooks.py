"""docs/runbooks/index.md: every alert, from the rules, and its page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOUSE: Final = Path(__file__).resolve().parent.parent.parent
_RULES: Final = _HOUSE / "stack" / "vps" / "prometheus"

_RUNBOOKS: Final = """\
# Runbooks

One page for each alert, named as it is: what it means, who is hurt, what to look at first, what it mostly is, how to
mend it, what if that fails, and what to think of afterwards. An alert carries the address of its page. Made from the
rules in stack/vps/prometheus by `scripts/reference`, do not edit; [all alerts](../reference/alerts.md) says what sets
each off.

- `metrica …` is typed where you are [logged in](../how-to/log-in.md); `docker compose …` and `scripts/…` on the VPS,
  `docker compose` in `stack/vps` of the checkout.
- `pi-07` stands for the device that the alert names, `SERVICE` for the service, `HOST` for the stack's public name,
  `$TOKEN` for a viewer's token.
- No alert is a reason to hurry a device: each runs on by itself, or went back by itself.

P1 wakes somebody, P2 is for the same day, P3 for the next working day.

| alert | severity | what it says |
| --- | --- | --- |
"""


def runbooks() -> str:
    """Return the index of runbooks."""
    every = sorted(alerts(), key=lambda alert: (alert[1], alert[0]))
    rows = [f"| {_linked(name)} | {severity} | {summary} |" for name, severity, summary in every]
    return _RUNBOOKS + "\n".join(rows) + "\n"


def alerts() -> Iterator[tuple[str, str, str]]:
    """Yield name, severity and summary of every alert that the rules have."""
    for file in sorted(_RULES.rglob("*.yml")):
        document: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        groups = cast("list[dict[str, list[dict[str, Any]]]]", document.get("groups", []))
        for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
            labels = cast("dict[str, str]", rule.get("labels", {}))
            annotations = cast("dict[str, str]", rule.get("annotations", {}))
            yield str(rule["alert"]), labels.get("severity", ""), _plain(annotations.get("summary", ""))


def _plain(summary: str) -> str:
    """Return a summary without Alertmanager's template language: what is filled in stands as its name."""
    words = " ".join(re.sub(r"\s*\(\{\{ with .*?\{\{ end \}\}\)|\{\{ with .*?\{\{ end \}\}", "", summary).split())
    return re.sub(r"\{\{ \$(?:labels\.)?(\w+).*?\}\}", r"*\1*", words)


def _linked(name: str) -> str:
    page = _HOUSE / "docs" / "runbooks" / f"{name}.md"
    return f"[{name}]({name}.md)" if page.is_file() else f"`{name}`"
