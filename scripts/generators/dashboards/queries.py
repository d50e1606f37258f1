"""Questions to the data sources, which stack/vps/grafana/provisioning/datasources names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import loki, prometheus
from grafana_foundation_sdk.models.dashboard import DataSourceRef

PROMETHEUS: Final = DataSourceRef("prometheus", "prometheus")
POSTGRES: Final = DataSourceRef("grafana-postgresql-datasource", "postgres")
LOKI: Final = DataSourceRef("loki", "loki")


@dataclass(frozen=True, kw_only=True)
class Sql(Dataquery):
    """A question to Postgres, for which the SDK has no type."""

    ref_id: str
    text: str
    is_series: bool
    """Whether it answers with series over time, columns ``time``, ``metric`` and a value; else with a table."""

    def to_json(self) -> dict[str, object]:
        """Return it as Grafana keeps it."""
        return {
            "refId": self.ref_id,
            "datasource": POSTGRES,
            "editorMode": "code",
            "format": "time_series" if self.is_series else "table",
            "rawQuery": True,
            "rawSql": self.text,
        }


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question of a panel."""

    source: DataSourceRef
    text: str
    legend: str = ""
    is_instant: bool = False
    is_table: bool = False

    def built(self, ref_id: str) -> Dataquery:
        """Return it in Grafana's types, under the letter by which its panel knows it."""
        if self.source is POSTGRES:
            return Sql(ref_id=ref_id, text=self.text, is_series=not self.is_table)
        if self.source is LOKI:
            return loki.Dataquery(
                expr=self.text, legend_format=self.legend, ref_id=ref_id, query_type="range", datasource=LOKI
            )
        return prometheus.Dataquery(
            expr=self.text,
            legend_format=self.legend or "__auto",
            instant=self.is_instant,
            range_val=not self.is_instant,
            format_val=prometheus.PromQueryFormat.TABLE if self.is_table else prometheus.PromQueryFormat.TIME_SERIES,
            editor_mode=prometheus.QueryEditorMode.CODE,
            ref_id=ref_id,
            datasource=PROMETHEUS,
        )


def over_time(expr: str, legend: str = "") -> Query:
    """Ask Prometheus for series over the range that is shown."""
    return Query(source=PROMETHEUS, text=expr, legend=legend)


def now(expr: str, legend: str = "") -> Query:
    """Ask Prometheus for the values at the end of the range."""
    return Query(source=PROMETHEUS, text=expr, legend=legend, is_instant=True)


def now_in_rows(expr: str) -> Query:
    """Ask Prometheus for the values at the end of the range, as a table with a column for each label."""
    return Query(source=PROMETHEUS, text=expr, is_instant=True, is_table=True)


def sql_rows(text: str) -> Query:
    """Ask Postgres for a table."""
    return Query(source=POSTGRES, text=text, is_table=True)


def sql_over_time(text: str) -> Query:
    """Ask Postgres for series."""
    return Query(source=POSTGRES, text=text)


def log_lines(expr: str) -> Query:
    """Ask Loki for lines."""
    return Query(source=LOKI, text=expr)


def log_counts(expr: str, legend: str = "") -> Query:
    """Ask Loki for series over the range that is shown."""
    return Query(source=LOKI, text=expr, legend=legend)
