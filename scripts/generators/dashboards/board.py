"""A dashboard: its rows, its variables, what is marked on the time axis, and where else it leads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationContainer,
    AnnotationQuery,
    AnnotationTarget,
    Dashboard,
    DashboardCursorSync,
    DashboardDashboardTemplating,
    DashboardDashboardTime,
    DashboardLink,
    DashboardLinkType,
    GridPos,
    Panel,
    RowPanel,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
    VariableType,
)
from scripts.generators.dashboards.panels import Placed, link_out
from scripts.generators.dashboards.queries import LOKI, POSTGRES, PROMETHEUS, Sql

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS: Final = 24
TAG: Final = "metrica"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, each below the one before where there is no room beside it."""

    title: str
    panels: Sequence[Placed]


@dataclass(frozen=True, slots=True)
class Mark:
    """What Postgres knows to have happened: columns ``time``, ``timeend``, ``text`` and ``tags``."""

    name: str
    color: str
    text: str


class _SqlTarget(AnnotationTarget):
    """A question in the place where the SDK knows only Grafana's own annotations."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._query = Sql(ref_id="A", text=text, is_series=False)

    def to_json(self) -> dict[str, object]:
        return self._query.to_json()


def board(
    *,
    uid: str,
    title: str,
    says: str,
    rows: Sequence[Row],
    variables: Sequence[VariableModel] = (),
    marks: Sequence[Mark] = (),
    links: Sequence[DashboardLink] = (),
    begins: str = "now-6h",
) -> str:
    """Return the text of a dashboard's file."""
    others = DashboardLink("Dashboards", DashboardLinkType.DASHBOARDS, tags=[TAG], as_dropdown=True, keep_time=True)
    made = Dashboard(
        uid=uid,
        title=title,
        description=says,
        tags=[TAG],
        timezone="utc",
        editable=False,
        graph_tooltip=DashboardCursorSync.CROSSHAIR,
        time=DashboardDashboardTime(begins, "now"),
        refresh="30s",
        panels=_laid_out(rows),
        templating=DashboardDashboardTemplating(list(variables)),
        annotations=AnnotationContainer([_annotation(mark) for mark in marks]),
        links=[others, *links, link_out("Hub", ""), link_out("Runbooks", "docs/runbooks/")],
    )
    return json.dumps(made, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def choice(name: str, label: str, query: str, *, says: str, several: bool) -> VariableModel:
    """Return a variable whose values Prometheus names; ``several``: any number of them, at first all."""
    return VariableModel(
        type_val=VariableType.QUERY,
        name=name,
        label=label,
        description=says,
        datasource=PROMETHEUS,
        query={"query": query, "refId": "Variable"},
        refresh=VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=VariableSort.ALPHABETICAL_ASC,
        multi=several,
        include_all=several,
        all_value=".*" if several else None,
        current=VariableOption(selected=True, text="All", value="$__all") if several else None,
    )


def label_choice(name: str, label: str, log_label: str, stream: str, *, says: str) -> VariableModel:
    """Return a variable with the values of a label that Loki knows."""
    return VariableModel(
        type_val=VariableType.QUERY,
        name=name,
        label=label,
        description=says,
        datasource=LOKI,
        query={"label": log_label, "refId": "Variable", "stream": stream, "type": 1},
        refresh=VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=VariableSort.ALPHABETICAL_ASC,
        multi=True,
        include_all=True,
        all_value=".*",
        current=VariableOption(selected=True, text="All", value="$__all"),
    )


def typed(name: str, label: str, *, says: str) -> VariableModel:
    """Return a variable that people type."""
    return VariableModel(
        type_val=VariableType.TEXTBOX,
        name=name,
        label=label,
        description=says,
        query="",
        current=VariableOption(selected=True, text="", value=""),
    )


def _annotation(mark: Mark) -> AnnotationQuery:
    return AnnotationQuery(
        name=mark.name, datasource=POSTGRES, enable=True, icon_color=mark.color, target=_SqlTarget(mark.text)
    )


def _laid_out(rows: Sequence[Row]) -> list[Panel | RowPanel]:
    panels: list[Panel | RowPanel] = []
    y = 0
    for row in rows:
        panels.append(RowPanel(title=row.title, id_val=len(panels) + 1, grid_pos=GridPos(1, COLUMNS, 0, y), panels=[]))
        y += 1
        x = height = 0
        for placed in row.panels:
            if x + placed.width > COLUMNS:
                x, y, height = 0, y + height, 0
            placed.panel.id_val = len(panels) + 1
            placed.panel.grid_pos = GridPos(placed.height, placed.width, x, y)
            panels.append(placed.panel)
            x, height = x + placed.width, max(height, placed.height)
        y += height
    return panels
