"""Who wrote what, when?

The labels are those that the shippers set: stack/device/alloy and fluent-bit (``fleet``, ``device``, ``role``; ``job``
is ``journal`` with ``unit`` and ``level``, or ``containers`` with ``service`` and ``stream``), and stack/vps/alloy
(``fleet``, ``host``, ``service``, ``stream``; ``job`` is ``stack``).
"""

from __future__ import annotations

from typing import Final

from scripts.generators.dashboards.board import Row, board, label_choice, typed
from scripts.generators.dashboards.fleet import ROLLOUTS, STOPS
from scripts.generators.dashboards.panels import LIMITLESS, About, Placed, columns, log
from scripts.generators.dashboards.queries import log_counts, log_lines

SEARCH: Final = "|~ `(?i)$search`"
JOURNALS: Final = f'{{job="journal",device=~"$device",unit=~"$unit"}} {SEARCH}'
WORKLOADS: Final = f'{{job="containers",device=~"$device",service=~"$workload"}} {SEARCH}'
STACK: Final = f'{{job="stack",service=~"$part"}} {SEARCH}'
TROUBLE: Final = "|~ `(?i)(error|fatal|panic|critical|traceback|exception)`"


def _loud(whose: str, lines: str, by: str) -> Placed:
    about = About(
        title=f"{whose}: how much they say",
        says="The ten that say most. Who suddenly says much, or nothing, is seen here.",
        unit="short",
        limits=LIMITLESS,
        empty="no line in this time",
    )
    return columns(about, log_counts(f"topk(10, sum by ({by}) (count_over_time({lines} [$__auto])))", f"{{{{{by}}}}}"))


def _trouble(whose: str, lines: str, by: str) -> Placed:
    about = About(
        title=f"{whose}: what sounds like trouble",
        says="Those with error, fatal, panic, critical, traceback or exception in them; the ten that say most.",
        unit="short",
        limits=LIMITLESS,
        empty="no such line in this time",
    )
    counted = f"topk(10, sum by ({by}) (count_over_time({lines} {TROUBLE} [$__auto])))"
    return columns(about, log_counts(counted, f"{{{{{by}}}}}"))


def _lines(title: str, says: str, lines: str) -> Placed:
    about = About(title=title, says=says, unit="none", limits=LIMITLESS, empty="no line in this time")
    return log(about, log_lines(lines))


def logs() -> str:
    """Return the dashboard's file."""
    return board(
        uid="metrica-logs",
        title="Logs",
        says="Who wrote what, when? Kept for 30 days.",
        variables=(
            label_choice("device", "Device", "device", "", says="Lines of these devices."),
            label_choice("unit", "Unit", "unit", '{job="journal"}', says="Lines of these systemd units."),
            label_choice("workload", "Workload", "service", '{job="containers"}', says="Lines of these services."),
            label_choice("part", "Part of the stack", "service", '{job="stack"}', says="Lines of these parts."),
            typed("search", "Search", says="A regular expression (RE2); case does not matter."),
        ),
        marks=(ROLLOUTS, STOPS),
        begins="now-1h",
        rows=(
            Row(
                "Workloads",
                (
                    _loud("Workloads", WORKLOADS, "device"),
                    _trouble("Workloads", WORKLOADS, "device"),
                    _lines("Workloads", "What containers on the devices wrote, the newest first.", WORKLOADS),
                ),
            ),
            Row(
                "Devices",
                (
                    _loud("Journals", JOURNALS, "device"),
                    _trouble("Journals", JOURNALS, "device"),
                    _lines("Journals", "What agents, engines and kernels wrote, the newest first.", JOURNALS),
                ),
            ),
            Row(
                "The stack",
                (
                    _loud("The stack", STACK, "service"),
                    _trouble("The stack", STACK, "service"),
                    _lines("The stack", "What the hub, the broker, Postgres and the others wrote.", STACK),
                ),
            ),
        ),
    )
