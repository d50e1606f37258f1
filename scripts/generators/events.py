"""docs/reference/events.md: every kind of event, from ``metrica_fleet.records``."""

from __future__ import annotations

from itertools import groupby

from metrica_fleet.records import EVENT_KINDS

_HEAD = """\
# Events

Made from `EVENT_KINDS` in src/metrica_fleet/records.py by `scripts/reference`; do not edit.

A device writes an event for each decision it takes and each finding that matters. Each is stored once, never thinned.
`kind` is one of the names below, `reason` a stable slug, `message` one sentence for people, `detail` the facts. `at` is
`null` while the device's clock is not synchronised; `stream` and `seq` give the order in which a device spoke.

    metrica events --device pi-07
    curl http://127.0.0.1:8080/api/v1/devices/pi-07/events
"""


def events() -> str:
    """Return the page."""
    parts = [_HEAD]
    for group, kinds in groupby(sorted(EVENT_KINDS), key=lambda kind: kind.partition(".")[0]):
        rows = [f"| `{kind}` | {EVENT_KINDS[kind]} |" for kind in kinds]
        parts.append("\n".join([f"## {group}", "", "| kind | when |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)
