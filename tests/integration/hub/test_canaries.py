"""Secrets that are planted wherever the hub is told one, and looked for in all that it says."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from tests.fixtures.broker import HOST, Broker, free_port
from tests.fixtures.git_servers import http_server, repository
from tests.fixtures.hub import Hub
from tests.fixtures.signing import Person
from tests.integration.hub.device import Device, event, new_stream, status
from tests.integration.hub.waiting import until

from metrica_agent.enrolling import Address, enrolled
from metrica_fleet.errors import Unusable
from metrica_hub import settings

if TYPE_CHECKING:
    from tests.fixtures.database import Database

SECRET: Final = re.compile(r"password|secret|token|(^|[._])key(_|$)|mirrors|url|credential")
"""Keys of hub.toml that may be a secret, have one in them, or name a file with one."""
PLANTED: Final = {"database.url", "git.url", "git.mirrors", "bus.password_file", "hub.key_file", "stop.key_file"}


def texts(kind: type[msgspec.Struct], before: str = "") -> set[str]:
    """Return the keys of a settings file whose value is text of any kind."""
    found: set[str] = set()
    for field in msgspec.structs.fields(kind):
        parts = [field.type, *getattr(field.type, "__args__", ())]
        section = next((one for one in parts if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)
        if section is not None:
            found |= texts(section, f"{before}{field.name}.")
        elif "str" in re.findall(r"\w+", str(field.type)):
            found.add(f"{before}{field.name}")
    return found


def test_every_key_that_may_hold_a_secret_is_planted() -> None:
    may = {key for key in texts(settings.Settings) if SECRET.search(key)}
    # A key of certificates is read by a library alone. (Grafana's address is on every page, for every browser.)
    # Prometheus' address can hold no name and password (test_settings.py).
    assert may - {"authority.key_file", "bus.certificate_key_file", "prometheus.url"} == PLANTED


def canary(where: str) -> str:
    return f"canary-{where}-{secrets.token_hex(8)}"


async def test_no_secret_is_in_logs_answers_metrics_pages_or_errors(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    planted = {where: canary(where) for where in ("database", "git", "mirror", "bus", "webhook")}
    password = tmp_path / "bus_password"
    password.write_text(planted["bus"])
    for_orders = Person.made(tmp_path, "hub-stop").key
    planted["key for orders"] = line_of(str(for_orders))
    fleet = repository(tmp_path)
    fleet.commit({"fleet.toml": "name = 'a'"})
    authority = {one: str(tmp_path / f"authority.{one}") for one in ("certificate", "key", "crl")}
    question = "&" if "?" in database.url else "?"
    with http_server(fleet.root) as server:
        own = {
            "METRICA_HUB_LOG_LEVEL": "debug",
            "METRICA_HUB_BUS_USERNAME": "hub",
            "METRICA_HUB_BUS_PASSWORD_FILE": str(password),
            "METRICA_HUB_GIT_URL": server.url(fleet).replace("://", f"://hub:{planted['git']}@"),
            "METRICA_HUB_GIT_POLL_S": "0.2",
            "METRICA_HUB_GIT_MIRRORS": f'["http://hub:{planted["mirror"]}@{HOST}:{free_port()}/fleet.git"]',
            "METRICA_HUB_HTTP_ANONYMOUS": "none",
            "METRICA_HUB_WEBHOOKS_PRIVATE": "true",
            "METRICA_HUB_STOP_KEY_FILE": str(for_orders),
            **{f"METRICA_HUB_AUTHORITY_{one.upper()}_FILE": file for one, file in authority.items()},
        }
        hub = Hub(f"{database.url}{question}password={planted['database']}", broker.port, settings=own)
        said = {"authority": ran(hub, "authority")}
        with hub:
            hub.wait_until_ready()
            hub.shown = planted["token"] = hub.token("admin")
            hook = {"url": f"https://{HOST}:1/{planted['webhook']}", "kinds": ["release.confirmed"]}
            made = posted(hub, "/api/v1/webhooks", hook)
            planted["webhook's secret"] = made["secret"]
            planted["other token"] = posted(hub, "/api/v1/tokens", {"name": "other", "role": "viewer"})["token"]
            planted["used enrolment token"] = used = posted(hub, "/api/v1/devices/pi-01/enrolment", {})["token"]
            at = Address.of(f"http://{HOST}:{hub.port}", pin=None, plain=False)
            assert enrolled(tmp_path / "pi-01", at, used).device == "pi-01"
            with pytest.raises(Unusable, match="another key"):
                enrolled(tmp_path / "thief", at, used)
            planted["enrolment token"] = posted(hub, "/api/v1/devices/pi-01/enrolment", {})["token"]
            assert planted["enrolment token"].startswith("mte_")
            async with Device("pi-01", broker.port) as device:
                await device.is_present("online", 1)
                await device.has_status(status("pi-01"))
                await device.tell(event(new_stream(), 1, kind="release.confirmed"))
                await until(lambda: len(hub.get("/api/v1/events").json["items"]) == 1)
                posted(hub, "/api/v1/devices/pi-01/commands", {"verb": "restart", "arguments": {"service": "web"}}, 202)
            await until(lambda: "webhook" in hub.log and "mirror" in hub.log)
            await until(lambda: hub.get("/api/v1/head").json.get("commit"))
            posted(hub, "/api/v1/stop/sign", {"level": "freeze", "after": 0}, 202)
            planted["key"] = line_of(hub.environment["METRICA_HUB_HUB_KEY_FILE"])
            planted["authority's key"] = line_of(authority["key"])
            said |= {path: hub.get(path).text for path in asked(hub)}
            said["check"], said["key"] = ran(hub, "check"), ran(hub, "key", "--stop")
            hub.stop()
            said["log"] = hub.log
        hub.environment["METRICA_HUB_DATABASE_URL"] = f"postgresql://hub:{planted['database']}@{HOST}:{free_port()}/x"
        said["error"] = ran(hub, "run")
    assert "http.proxies" in said["check"]
    assert "can't be used" in said["error"]
    # Whom a webhook tells is shown to admins, who wrote it: the rest of the address is no secret of the hub's.
    shown = {(path, "webhook") for path in ("/api/v1/webhooks", "/api/v1/webhooks/1", "/api/v1/audit")}
    leaks = {(where, what) for where, text in said.items() for what, secret in planted.items() if secret in text}
    assert leaks - shown == set()


def ran(hub: Hub, *command: str) -> str:
    """Return what ``metrica-hub COMMAND`` says to its end."""
    done = hub.ran(*command)
    return done.stdout + done.stderr


def posted(hub: Hub, path: str, body: Any, status: int = 201) -> Any:
    answer = hub.get(path, {"Content-Type": "application/json"}, "POST", json.dumps(body))
    assert answer.status == status, answer.text
    return answer.json


def line_of(key: str) -> str:
    """Return a line from the middle of a private key."""
    return Path(key).read_text(encoding="ascii").splitlines()[2]


def asked(hub: Hub) -> list[str]:
    """Return every address that can be looked at, with things that are there."""
    paths: dict[str, Any] = hub.get("/api/v1/openapi.json").json["paths"]
    api = [path for path, methods in paths.items() if "get" in methods and not path.endswith("/stream")]
    filled = [path.replace("{device}", "pi-01").replace("{id}", "1") for path in api]
    return [*filled, "/", "/events", "/rollouts", "/stop", "/devices/pi-01", "/login", "/api/v1/nothing"]
