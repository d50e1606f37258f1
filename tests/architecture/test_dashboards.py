"""What Grafana will read, checked without Grafana: by its own types, and by what dashboards promise to who looks."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from scripts.generators.dashboards.panels import OUTSIDE
from scripts.reference import HOUSE
from tests.fixtures.dashboards import GRAFANA, Shown, asked, boards, links, panels, targets

if TYPE_CHECKING:
    from collections.abc import Mapping

BOARDS: Final = boards()
UIDS: Final = {"fleet", "device", "rollouts", "hub", "vps", "logs"}
"""Alerts lead to /grafana/d/metrica-<one of these>."""
SHIPPED: Final[Mapping[str, set[str]]] = {
    "journal": {"fleet", "device", "role", "unit", "level"},
    "containers": {"fleet", "device", "role", "service"},
    "stack": {"fleet", "host", "service"},
}
"""The labels that the shippers set, by the job that they set; that of Docker's ``stream`` nobody asks for."""
EVERY_DEVICE: Final = {"fleet", "device", "role"}
"""Those of a device's logs, whatever the job."""


# --- the dashboards' form -----------------------------------------------------------------------------------------


def test_the_dashboards_are_those_that_alerts_lead_to() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == {name: f"metrica-{name}" for name in UIDS}


@pytest.mark.parametrize("name", BOARDS)
def test_grafana_s_own_types_read_a_dashboard_and_lose_nothing_of_it(name: str) -> None:
    register_default_plugins()
    board = BOARDS[name]
    read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    for kept, said in zip(read["annotations"]["list"], board["annotations"]["list"], strict=True):
        kept["target"] = said["target"]  # for which the SDK has no type
    assert read == board


@pytest.mark.parametrize("name", BOARDS)
def test_a_panel_says_what_it_shows_in_which_unit_and_from_where_on_that_is_bad(name: str) -> None:
    titles = [panel["title"] for panel in panels(BOARDS[name])]
    assert len(titles) == len(set(titles)) > 0
    for panel in panels(BOARDS[name]):
        field = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert field["unit"], panel["title"]
        assert field["noValue"], panel["title"]
        steps = [step["value"] for step in field["thresholds"]["steps"]]
        assert steps[0] is None, panel["title"]
        assert steps[1:] == sorted(steps[1:]), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]


def test_a_figure_that_can_be_bad_says_so_on_every_dashboard_of_figures() -> None:
    for name in UIDS - {"logs"}:
        drawn = [panel for panel in panels(BOARDS[name]) if panel["type"] in {"stat", "bargauge", "timeseries"}]
        bounded = [one for one in drawn if len(one["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1]
        assert len(bounded) >= len(drawn) / 4, name


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_a_place_of_their_own_and_a_number(name: str) -> None:
    placed = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    for one, other in combinations((panel["gridPos"] for panel in placed), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in placed)


# --- where they lead ----------------------------------------------------------------------------------------------


def test_links_within_grafana_lead_to_dashboards_and_choose_what_these_let_choose() -> None:
    by_uid = {board["uid"]: board for board in BOARDS.values()}
    inside = {address for address in links(BOARDS) if not address.startswith(OUTSIDE)}
    assert inside
    for address in inside:
        split = urlsplit(address)
        assert split.path.startswith("/d/"), address
        board = by_uid[split.path.removeprefix("/d/")]
        variables = {variable["name"] for variable in board["templating"]["list"]}
        chosen = {key.removeprefix("var-") for key in parse_qs(split.query) if key.startswith("var-")}
        assert chosen <= variables, address


def test_links_out_of_grafana_open_a_window_of_their_own() -> None:
    # One that does not is taken for a page of Grafana.
    found = [link for link in _links(BOARDS) if link["url"].startswith(OUTSIDE)]
    assert len(found) > 10
    assert all(link["targetBlank"] for link in found)


def test_every_runbook_that_is_linked_is_of_an_alert() -> None:
    rules = "".join(path.read_text() for path in (HOUSE / "stack/vps/prometheus").rglob("*.rules.yml"))
    alerts = set(re.findall(r"alert: (\w+)", rules))
    linked = {address.split("/")[-2] for address in links(BOARDS) if re.search(r"/docs/runbooks/\w+/$", address)}
    assert len(linked) > 5
    assert linked <= alerts


# --- what they ask ------------------------------------------------------------------------------------------------


def test_every_source_that_is_asked_is_provisioned() -> None:
    provisioned = {source.uid: source.type for source in _sources().datasources}
    named = {(one["uid"], one["type"]) for one in _sources_named(BOARDS)}
    assert named <= set(provisioned.items())
    assert set(provisioned) == {"prometheus", "postgres", "loki", "alertmanager"}


def test_postgres_is_asked_for_the_dashboards_views_alone() -> None:
    for target in targets():
        if target.kind == "sql":
            tables = re.findall(r"\b(?:FROM|JOIN) ([a-z_.0-9]+)", re.sub(r"epoch FROM \w+", "", target.text))
            assert tables, target.text
            assert all(table.startswith(("dashboards.", "pg_stat_")) for table in tables), target.text


def test_loki_is_asked_by_the_labels_that_the_shippers_set() -> None:
    # Whether the rest is LogQL is told by ./scripts/logql: there is no Loki here.
    shown = Shown(0.0, 3600.0, "pi-01")
    questions = [asked(target, shown) for target in targets() if target.kind == "logql"]
    assert len(questions) >= 10
    for question in questions:
        (selector,) = re.findall(r"\{[^}]*\}", question)
        matchers = dict(re.findall(r'(\w+)(?:=~|!=|!~|=)"([^"]*)"', selector))
        job = matchers.pop("job", None)
        known = EVERY_DEVICE if job is None else SHIPPED[job]
        grouped = {label for labels in re.findall(r"by \(([^)]*)\)", question) for label in labels.split(", ")}
        assert {*matchers, *grouped} <= known, question
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            if variable.get("datasource", {}).get("uid") == "loki":
                job = re.search(r'job="(\w+)"', variable["query"]["stream"])
                assert variable["query"]["label"] in (SHIPPED[job[1]] if job else EVERY_DEVICE)


def test_the_shippers_set_these_labels() -> None:
    for config in (HOUSE / "stack").glob("*/alloy/config.alloy"):
        text = config.read_text()
        for job, labels in SHIPPED.items():
            if re.search(rf'job\s*=\s*"{job}"', text):
                missing = {label for label in labels if not re.search(rf'\b{label}\b\s*=|"{label}"', text)}
                assert not missing, (config, job, missing)


# --- what Grafana is told at its start ----------------------------------------------------------------------------


class _Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """As Grafana documents it; what is not known is a slip."""


class _Source(_Strict):
    name: str
    uid: str
    type: Literal["prometheus", "grafana-postgresql-datasource", "loki", "alertmanager"]
    access: Literal["proxy"]
    url: str
    editable: Literal[False]
    jsonData: dict[str, str | int | bool]  # noqa: N815 - Grafana's own
    isDefault: bool = False  # noqa: N815
    user: str = ""
    secureJsonData: dict[str, Annotated[str, msgspec.Meta(pattern=r"^\$__file\{/run/secrets/\w+\}$")]] = {}  # noqa: N815


class _Sources(_Strict):
    apiVersion: Literal[1]  # noqa: N815
    prune: Literal[True]
    datasources: list[_Source]


class _Options(_Strict):
    path: str
    foldersFromFilesStructure: bool  # noqa: N815


class _Provider(_Strict):
    name: str
    orgId: Literal[1]  # noqa: N815
    folder: str
    folderUid: str  # noqa: N815
    type: Literal["file"]
    disableDeletion: Literal[True]  # noqa: N815
    allowUiUpdates: Literal[False]  # noqa: N815
    updateIntervalSeconds: int  # noqa: N815
    options: _Options


class _Providers(_Strict):
    apiVersion: Literal[1]  # noqa: N815
    providers: list[_Provider]


def test_the_sources_are_as_grafana_documents_them_and_have_no_secret_in_them() -> None:
    sources = _sources().datasources
    assert [source.name for source in sources if source.isDefault] == ["Prometheus"]
    assert {source.uid for source in sources if source.secureJsonData} == {"postgres"}
    postgres = next(source for source in sources if source.uid == "postgres")
    assert (postgres.user, postgres.jsonData["database"]) == ("grafana", "metrica")


def test_the_dashboards_are_found_by_grafana_and_not_edited_there() -> None:
    text = (GRAFANA / "provisioning" / "dashboards" / "metrica.yaml").read_text()
    (provider,) = msgspec.convert(yaml.safe_load(text), _Providers).providers
    assert provider.options.path == "/etc/grafana/dashboards"
    assert all(board["editable"] is False for board in BOARDS.values())


def _sources() -> _Sources:
    text = (GRAFANA / "provisioning" / "datasources" / "metrica.yaml").read_text()
    return msgspec.convert(yaml.safe_load(text), _Sources)


def _links(value: Any) -> list[dict[str, Any]]:
    return [one for one in _tables(value) if "targetBlank" in one and "url" in one]


def _sources_named(value: Any) -> list[dict[str, str]]:
    return [one["datasource"] for one in _tables(value) if isinstance(one.get("datasource"), dict)]


def _tables(value: Any) -> list[dict[str, Any]]:
    """Return every object in a document."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return [table, *(found for one in table.values() for found in _tables(one))]
    if isinstance(value, list):
        return [found for one in cast("list[Any]", value) for found in _tables(one)]
    return []
