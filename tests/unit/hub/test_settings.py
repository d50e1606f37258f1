"""``hub.toml`` and the environment: what is understood, and what is said when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metrica_hub import settings
from metrica_hub.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

URL = "postgresql:///metrica"
WHOLE = """\
fleet = "home"

[database]
url = "postgresql:///metrica"

[bus]
host = "broker"
port = 8883
username = "hub"
password_file = "/run/secrets/bus"
share = true

[http]
host = "0.0.0.0"
port = 8081
anonymous = "viewer"
proxies = ["127.0.0.1", "10.0.0.2"]

[git]
url = "https://example.org/fleet.git"
poll_s = 5
"""


def load(tmp_path: Path, text: str, **environment: str) -> settings.Settings:
    file = tmp_path / "hub.toml"
    file.write_text(text, encoding="utf-8")
    return settings.load(file, environment).settings


def test_a_whole_file(tmp_path: Path) -> None:
    parts = load(tmp_path, WHOLE)
    assert (parts.fleet, parts.database.url) == ("home", URL)
    assert (parts.bus.host, parts.bus.port, parts.bus.username, parts.bus.share) == ("broker", 8883, "hub", True)
    assert (parts.http.host, parts.http.port) == ("0.0.0.0", 8081)  # noqa: S104 - a value
    assert (parts.http.anonymous, parts.http.proxies) == ("viewer", ("127.0.0.1", "10.0.0.2"))
    assert parts.git is not None
    assert (parts.git.branch, parts.git.poll_s) == ("main", 5.0)


def test_the_environment_alone_will_do_and_the_rest_has_defaults() -> None:
    parts = settings.load(None, {"METRICA_HUB_FLEET": "home", "METRICA_HUB_DATABASE_URL": URL}).settings
    assert (parts.bus.host, parts.bus.port, parts.http.port, parts.git) == ("127.0.0.1", 1883, 8080, None)
    assert not parts.bus.share
    assert (parts.http.anonymous, parts.http.proxies) == ("none", ())


def test_the_environment_outranks_the_file_and_a_secret_may_come_as_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql:///other\n", encoding="utf-8")
    parts = load(tmp_path, WHOLE, METRICA_HUB_BUS_PORT="1884", METRICA_HUB_DATABASE_URL_FILE=str(secret))
    assert (parts.bus.port, parts.database.url) == (1884, "postgresql:///other")
    assert "other" not in repr(parts)


@pytest.mark.parametrize(
    ("text", "environment", "sentence"),
    [
        (WHOLE + "brnach = 'x'\n", {}, ':22: unknown key "brnach"; did you mean "branch"?'),
        ("flet = 'home'\n", {}, ':1: unknown key "flet"; did you mean "fleet"?'),
        (WHOLE + "[zebra]\na = 1\n", {}, ':22: unknown key "zebra"; known: "agent_wheels", "authority", "bus"'),
        ("fleet = 'home'\nbus = 3\n", {}, ":2: bus must be a table, [bus], not 3"),
        ("fleet = 'home'\n", {}, ": missing section [database]; add it, or set METRICA_HUB_DATABASE_"),
        ("fleet = 'home'\n[database]\n", {}, ':2: database lacks "url"; add it'),
        (WHOLE.replace("8081", "80810"), {}, ":15: http.port must be a whole number from 0 to 65535, not 80810"),
        (WHOLE.replace("8081", '"8081"'), {}, ':15: http.port must be a whole number from 0 to 65535, not "8081"'),
        (WHOLE.replace("true", '"hub"'), {}, ':11: bus.share must be true or false, not "hub"'),
        (WHOLE, {"METRICA_HUB_BUS_SHARE": "perhaps"}, "METRICA_HUB_BUS_SHARE: bus.share must be true or false"),
        (WHOLE, {"METRICA_HUB_HTTP_PORT": "many"}, "METRICA_HUB_HTTP_PORT: http.port must be a whole number from 0"),
        (WHOLE.replace('"home"', '"My Home"'), {}, ":1: fleet must be a name of 1 to 63 of"),
        ("fleet = 'home\n", {}, ":1: no TOML"),
        ("", {"METRICA_HUB_DATBASE_URL": "x"}, 'METRICA_HUB_DATBASE_URL; did you mean "METRICA_HUB_DATABASE_URL"?'),
        ("", {"METRICA_HUB_DATABASE_URL_FILE": "/nowhere"}, "/nowhere: there is no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_place(
    text: str, environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, text, **environment)
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.toml: there is no such file; write it, or name another"):
        settings.load(tmp_path / "none.toml", {})


def test_where_each_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(WHOLE, encoding="utf-8")
    origins = settings.load(file, {"METRICA_HUB_HTTP_PORT": "1"}).origins
    assert origins["bus", "port"] == f"{file}:8"
    assert origins["http", "port"] == "METRICA_HUB_HTTP_PORT"
    assert ("git", "branch") not in origins


def test_mirrors_and_where_netdata_is() -> None:
    more = {"METRICA_HUB_GIT_URL": "https://a.example/f.git", "METRICA_HUB_GIT_MIRRORS": '["https://b.example/f.git"]'}
    base = {"METRICA_HUB_FLEET": "home", "METRICA_HUB_DATABASE_URL": URL}
    parts = settings.load(None, base | more | {"METRICA_HUB_METRICS_NETDATA_ADDRESS": "{device}.fleet.ts.net:19999"})
    assert parts.settings.git is not None
    assert parts.settings.git.mirrors == ("https://b.example/f.git",)
    assert parts.settings.metrics.netdata_address == "{device}.fleet.ts.net:19999"


@pytest.mark.parametrize("address", ["{device}", "{name}:19999", "http://{device}:19999", "{device}:19999/metrics"])
def test_an_address_that_prometheus_could_not_use_is_refused(address: str) -> None:
    base = {"METRICA_HUB_FLEET": "home", "METRICA_HUB_DATABASE_URL": URL}
    with pytest.raises(Misconfigured, match="METRICA_HUB_METRICS_NETDATA_ADDRESS"):
        settings.load(None, base | {"METRICA_HUB_METRICS_NETDATA_ADDRESS": address})


@pytest.mark.parametrize(
    "url", ["http://prometheus:9090", "https://fleet.example.org/prometheus/", "http://[::1]:9090"]
)
def test_where_prometheus_is(tmp_path: Path, url: str) -> None:
    parts = load(tmp_path, WHOLE, METRICA_HUB_PROMETHEUS_URL=url)
    assert parts.prometheus is not None
    assert (parts.prometheus.url, parts.prometheus.poll_s) == (url, 20.0)
    assert load(tmp_path, WHOLE).prometheus is None


@pytest.mark.parametrize(
    "url",
    ["prometheus:9090", "http://me:secret@prometheus:9090", "http://p:9090/?a=b", "file:///etc", "http://p:9090\n"],
)
def test_prometheus_address_has_no_password_and_no_question(tmp_path: Path, url: str) -> None:
    with pytest.raises(Misconfigured, match=r"METRICA_HUB_PROMETHEUS_URL: prometheus\.url must"):
        load(tmp_path, WHOLE, METRICA_HUB_PROMETHEUS_URL=url)
