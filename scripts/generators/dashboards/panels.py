"""The kinds of panel that the dashboards are made of, and what all have in common.

Each has a title, a description that says how to read it, a unit, thresholds (``LIMITLESS`` where no value is bad by
itself) and a word for when there is nothing to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import bargauge, common, logs, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models.dashboard import (
    DashboardFieldConfigSourceOverrides,
    DashboardLink,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColor,
    FieldColorModeId,
    FieldConfig,
    FieldConfigSource,
    MatcherConfig,
    Panel,
    Threshold,
    ThresholdsConfig,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scripts.generators.dashboards.queries import Query

OUTSIDE: Final = "../../../../"
"""From any page of Grafana to the root of its host, where the hub and the documents are: a path that begins with a
slash Grafana takes for its own, below /grafana. It takes these, too, unless they open a window of their own."""

GOOD, WARN, BAD, NEUTRAL = "green", "orange", "red", "text"


@dataclass(frozen=True, slots=True)
class Limits:
    """From which value on a figure has which colour."""

    begins: str
    steps: tuple[tuple[float, str], ...] = ()

    def built(self) -> ThresholdsConfig:
        """Return them in Grafana's types."""
        steps = [Threshold(None, self.begins), *(Threshold(value, color) for value, color in self.steps)]
        return ThresholdsConfig(ThresholdsMode.ABSOLUTE, steps)


LIMITLESS: Final = Limits(NEUTRAL)


def bad_from(warn: float, bad: float | None = None) -> Limits:
    """Return limits of what should be low."""
    steps = [(warn, BAD if bad is None else WARN)]
    return Limits(GOOD, tuple(steps if bad is None else [*steps, (bad, BAD)]))


def bad_below(warn: float, bad: float | None = None) -> Limits:
    """Return limits of what should be high."""
    if bad is None:
        return Limits(BAD, ((warn, GOOD),))
    return Limits(BAD, ((bad, WARN), (warn, GOOD)))


@dataclass(frozen=True, slots=True)
class Words:
    """What values are called."""

    of: Mapping[str, tuple[str, str]]
    """Value → word, colour."""

    def built(self) -> list[ValueMap]:
        """Return them in Grafana's types."""
        options = {
            value: ValueMappingResult(word, color, index=at)
            for at, (value, (word, color)) in enumerate(self.of.items())
        }
        return [ValueMap(options)]


NO_YES: Final = Words({"0": ("no", GOOD), "1": ("yes", BAD)})
YES_NO: Final = Words({"0": ("no", BAD), "1": ("yes", GOOD)})


@dataclass(frozen=True, slots=True)
class Placed:
    """A panel and the room it takes, of 24 columns."""

    panel: Panel
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What every panel has."""

    title: str
    says: str
    unit: str
    limits: Limits
    link: DashboardLink | None = None
    """Where a value leads."""
    runbook: str | None = None
    """The alert that watches this: its runbook is linked."""
    empty: str = "no data"
    words: Words | None = None
    low: float | None = None
    high: float | None = None
    decimals: float | None = None


def figure(about: About, query: Query, *, width: int = 4, named: bool = False, height: int = 4) -> Placed:
    """Return one value, large; ``named``: the name of the series is the answer."""
    options = stat.Options(
        graph_mode=common.BigValueGraphMode.NONE,
        color_mode=common.BigValueColorMode.VALUE if about.limits is LIMITLESS else common.BigValueColorMode.BACKGROUND,
        text_mode=common.BigValueTextMode.NAME if named else common.BigValueTextMode.AUTO,
        reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields=""),
    )
    return Placed(_panel("stat", about, (query,), options), width, height)


def lines(about: About, *queries: Query, width: int = 12, stacked: bool = False, height: int = 8) -> Placed:
    """Return values over time; limits are drawn as lines."""
    drawn = common.GraphThresholdsStyleMode.OFF if about.limits is LIMITLESS else common.GraphThresholdsStyleMode.DASHED
    custom = common.GraphFieldConfig(
        draw_style=common.GraphDrawStyle.LINE,
        line_width=1,
        fill_opacity=40 if stacked else 8,
        show_points=common.VisibilityMode.AUTO,
        span_nulls=False,
        stacking=common.StackingConfig(common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, "A"),
        thresholds_style=common.GraphThresholdsStyleConfig(drawn),
    )
    options = timeseries.Options(
        legend=_legend(),
        tooltip=common.VizTooltipOptions(common.TooltipDisplayMode.MULTI, common.SortOrder.DESCENDING),
    )
    color = FieldColor(FieldColorModeId.PALETTE_CLASSIC)
    return Placed(_panel("timeseries", about, queries, options, custom=custom, color=color), width, height)


def columns(about: About, *queries: Query, width: int = 12, height: int = 8) -> Placed:
    """Return counts of a while each, as stacked columns."""
    custom = common.GraphFieldConfig(
        draw_style=common.GraphDrawStyle.BARS,
        fill_opacity=60,
        line_width=0,
        stacking=common.StackingConfig(common.StackingMode.NORMAL, "A"),
    )
    options = timeseries.Options(
        legend=_legend(),
        tooltip=common.VizTooltipOptions(common.TooltipDisplayMode.MULTI, common.SortOrder.DESCENDING),
    )
    color = FieldColor(FieldColorModeId.PALETTE_CLASSIC)
    return Placed(_panel("timeseries", about, queries, options, custom=custom, color=color), width, height)


def bars(about: About, query: Query, *, width: int = 12, height: int = 8) -> Placed:
    """Return a bar for each of a few values."""
    options = bargauge.Options(
        display_mode=common.BarGaugeDisplayMode.BASIC,
        orientation=common.VizOrientation.HORIZONTAL,
        reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields=""),
    )
    return Placed(_panel("bargauge", about, (query,), options), width, height)


def states(about: About, *queries: Query, width: int = 12, height: int = 6) -> Placed:
    """Return a lane for each series, coloured by its value over time."""
    options = statetimeline.Options(
        show_value=common.VisibilityMode.NEVER, legend=_legend(), tooltip=common.VizTooltipOptions()
    )
    custom = statetimeline.FieldConfig(line_width=0, fill_opacity=80)
    return Placed(_panel("state-timeline", about, queries, options, custom=custom), width, height)


@dataclass(frozen=True, slots=True)
class Column:
    """How a column of a table differs from the others."""

    name: str
    unit: str | None = None
    limits: Limits | None = None
    link: DashboardLink | None = None
    hidden: bool = False
    width: int | None = None

    def built(self) -> DashboardFieldConfigSourceOverrides:
        """Return it in Grafana's types."""
        properties: list[DynamicConfigValue] = []
        if self.unit is not None:
            properties.append(DynamicConfigValue("unit", self.unit))
        if self.limits is not None:
            properties.append(DynamicConfigValue("thresholds", self.limits.built()))
            properties.append(DynamicConfigValue("custom.cellOptions", common.TableColorTextCellOptions()))
        if self.link is not None:
            properties.append(DynamicConfigValue("links", [self.link]))
        if self.width is not None:
            properties.append(DynamicConfigValue("custom.width", self.width))
        if self.hidden:
            properties.append(DynamicConfigValue("custom.hidden", value=True))
        return DashboardFieldConfigSourceOverrides(MatcherConfig("byName", self.name), properties)


def rows(about: About, query: Query, *special: Column, width: int = 24, height: int = 8) -> Placed:
    """Return a table."""
    panel = _panel(
        "table",
        about,
        (query,),
        table.Options(show_header=True, cell_height=common.TableCellHeight.SM),
        custom=common.TableFieldOptions(cell_options=common.TableAutoCellOptions(), filterable=True),
        overrides=[column.built() for column in special],
    )
    return Placed(panel, width, height)


def counted_rows(about: About, query: Query, *special: Column, width: int = 12, height: int = 8) -> Placed:
    """Return a table of Prometheus' answer: its labels and the value, without the time."""
    placed = rows(about, query, *special, width=width, height=height)
    hide_time = DataTransformerConfig("organize", options={"excludeByName": {"Time": True}})
    placed.panel.transformations = [hide_time]
    return placed


def log(about: About, query: Query, *, width: int = 24, height: int = 16) -> Placed:
    """Return lines of logs, the newest first."""
    options = logs.Options(
        show_time=True,
        wrap_log_message=True,
        enable_log_details=True,
        sort_order=common.LogsSortOrder.DESCENDING,
        dedup_strategy=common.LogsDedupStrategy.NONE,
    )
    return Placed(_panel("logs", about, (query,), options), width, height)


def link_out(title: str, path: str) -> DashboardLink:
    """Return a link to the hub or the documents, in a window of its own."""
    return DashboardLink(title, DashboardLinkType.LINK, "external link", url=f"{OUTSIDE}{path}", target_blank=True)


def link_to(title: str, path: str) -> DashboardLink:
    """Return a link within Grafana that keeps the time range."""
    joined = "&" if "?" in path else "?"
    return DashboardLink(title, DashboardLinkType.LINK, url=f"/d/{path}{joined}${{__url_time_range}}")


def link_beside(title: str, path: str) -> DashboardLink:
    """Return a link from one dashboard to another, at the same time range."""
    return DashboardLink(title, DashboardLinkType.LINK, "dashboard", url=f"/d/{path}", keep_time=True)


def runbook(alert: str) -> DashboardLink:
    """Return a link to what to do when this alert fires."""
    return link_out(f"Runbook: {alert}", f"docs/runbooks/{alert}/")


def _legend() -> common.VizLegendOptions:
    return common.VizLegendOptions(
        common.LegendDisplayMode.LIST, common.LegendPlacement.BOTTOM, show_legend=True, calcs=[]
    )


def _panel(
    kind: str,
    about: About,
    queries: Sequence[Query],
    options: object,
    *,
    custom: object | None = None,
    color: FieldColor | None = None,
    overrides: list[DashboardFieldConfigSourceOverrides] | None = None,
) -> Panel:
    defaults = FieldConfig(
        unit=about.unit,
        decimals=about.decimals,
        min_val=about.low,
        max_val=about.high,
        mappings=None if about.words is None else [*about.words.built()],
        thresholds=about.limits.built(),
        color=color or FieldColor(FieldColorModeId.THRESHOLDS),
        links=None if about.link is None else [about.link],
        no_value=about.empty,
        custom=custom,
    )
    return Panel(
        type_val=kind,
        title=about.title,
        description=about.says,
        datasource=queries[0].source,
        targets=[query.built(letter) for query, letter in zip(queries, ascii_uppercase, strict=False)],
        links=None if about.runbook is None else [runbook(about.runbook)],
        options=options,
        field_config=FieldConfigSource(defaults, overrides or []),
    )
