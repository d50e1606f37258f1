"""The API against its own document, and every route against every role."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.hub import FLEET, Hub
from tests.integration.hub.device import topic
from tests.integration.hub.test_commands import Commanded
from tests.integration.hub.test_http import DEVICES, tell
from tests.integration.hub.waiting import until

from metrica_fleet.topics import COMMANDS
from metrica_hub import settings
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.assembling import assembled
from metrica_hub.decisions.access import ROLES, reaches
from metrica_hub.settings import Settings
from metrica_hub.web.bodies import FORM
from metrica_hub.web.openapi import is_for_programs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.fixtures.database import Cluster

    from metrica_hub.decisions.access import Role
    from metrica_hub.web.routing import Route

CLOSED = {"METRICA_HUB_HTTP_ANONYMOUS": "none"}
BUDGET_S = 40
PAPERS_BUDGET_S = 15
LINKS_BUDGET_S = 12
ERRORS_ALONE = {"streamDevices", "streamEvents", "testWebhook"}
"""What is asked well of these never ends (test_http.py reads streams), or goes to wherever a made-up address leads."""
SPARED = r"/openapi\.json$"
"""The document itself, which schemathesis reads and does not try."""

ALLOWED: dict[str, Role | None] = {
    "getHealth": None,
    "getReadiness": None,
    "getMetrics": None,
    "getAsset": None,
    "getAgentWheel": None,
    "getOpenApi": None,
    "signIn": None,
    "signOut": "viewer",
    "getFleetPage": "viewer",
    "streamFleetPage": "viewer",
    "getBadge": None,
    "getSignInPage": None,
    "getDevicePage": "viewer",
    "streamDevicePage": "viewer",
    "getEventsPage": "viewer",
    "streamEventsPage": "viewer",
    "streamSummary": "viewer",
    "getRolloutsPage": "viewer",
    "streamRolloutsPage": "viewer",
    "getRolloutPage": "viewer",
    "streamRolloutPage": "viewer",
    "getStopPage": "viewer",
    "streamStopPage": "viewer",
    "getAuditPage": "operator",
    "whoAmI": "viewer",
    "listDevices": "viewer",
    "getDevice": "viewer",
    "getDeviceDay": "viewer",
    "streamDevices": "viewer",
    "getDeviceVitals": "viewer",
    "getNetdataTargets": "viewer",
    "listEvents": "viewer",
    "listDeviceEvents": "viewer",
    "streamEvents": "viewer",
    "listRollouts": "viewer",
    "getRollout": "viewer",
    "listRolloutDevices": "viewer",
    "pauseRollout": "operator",
    "resumeRollout": "operator",
    "abortRollout": "operator",
    "getHead": "viewer",
    "getKey": "viewer",
    "getStop": "viewer",
    "prepareStop": "operator",
    "giveOrder": "operator",
    "signStop": "operator",
    "createEnrolment": "operator",
    "enrolDevice": None,
    "renewCertificate": None,
    "getIdentity": "viewer",
    "listIdentities": "viewer",
    "revokeDevice": "operator",
    "createCommand": "operator",
    "listCommands": "operator",
    "getCommand": "operator",
    "cancelCommand": "operator",
    "streamCommand": "operator",
    "getCommandFile": "operator",
    "listAudit": "operator",
    "verifyAudit": "operator",
    "listTokens": "admin",
    "createToken": "admin",
    "getToken": "admin",
    "revokeToken": "admin",
    "listWebhooks": "admin",
    "createWebhook": "admin",
    "getWebhook": "admin",
    "testWebhook": "admin",
    "removeWebhook": "admin",
}
"""Who may what, as it is meant: a route that is not here fails."""

PAPERS = "/(enrolments|renewals)$"
BY_PAPERS = {"enrolDevice", "renewCertificate"}
"""These ask for no role: what is in the body says who asks."""

RULED = {"createWebhook", "giveOrder", "prepareStop", "signStop", *BY_PAPERS}
"""What these take has rules that no schema can tell: they may find a body invalid that is of the right kind. Of papers
this hub says that it has no authority (409); one that has counts those made up, and answers 429 (test_enrolment.py).
Of stops that it is to sign it says that it has no key (409; with one: test_stop_by_hub_key.py)."""


@pytest.fixture(scope="module")
def closed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that has heard of seven devices, has a command's answer, and shows nothing to whoever has no token."""
    with (
        Broker(tmp_path_factory.mktemp("api")) as broker,
        cluster.database() as database,
        Hub(database.url, broker.port, settings=CLOSED) as hub,
    ):
        hub.wait_until_ready()
        hub.shown = hub.token("viewer", "teller")
        asyncio.run(tell(broker, hub))
        hub.shown = hub.token("operator", "commander")
        asyncio.run(command(broker, hub))
        hub.shown = None
        yield hub


async def command(broker: Broker, hub: Hub) -> None:
    """Give a device a command; it answers in two parts."""
    name = DEVICES[0]
    async with Commanded(name, broker.port) as device:
        await device.client.subscribe(topic(name, COMMANDS), qos=1)
        await device.is_present("online", 2)
        await until(lambda: hub.get(f"/api/v1/devices/{name}").json["connection"] == "online")
        body = json.dumps({"verb": "logs", "arguments": {"service": "web"}})
        made = hub.get(f"/api/v1/devices/{name}/commands", {"Content-Type": "application/json"}, "POST", body)
        assert made.status == 202, made.text
        number = made.json["id"]
        await device.next_command()
        await device.answer(number, "running", part=0, lines=("one", "two"))
        await device.answer(number, "running", part=1, lines=("three",))
        await device.answer(number, "done", part=2, message="3 lines")
        await until(lambda: answered(hub))


def answered(hub: Hub, token: str | None = None) -> list[int]:
    """Return the commands that a device has done: their streams end. Those of others go on, or are 404."""
    return [one["id"] for one in hub.get("/api/v1/commands?state=done", token=token).json["items"]]


@pytest.fixture(scope="module")
def tokens(closed: Hub) -> dict[Role, str]:
    """One of each role."""
    return {role: closed.token(role) for role in ROLES}


@pytest.fixture
async def routes(closed: Hub) -> AsyncIterator[tuple[Route, ...]]:
    """The whole route table."""
    url = closed.environment["METRICA_HUB_DATABASE_URL"]
    pool = await open_pool(url, name="test", size=1)
    yield assembled(Settings(fleet=FLEET, database=settings.Database(url=url)), pool, pool).routes
    await close_pool(pool, within_s=1)


def status_of(hub: Hub, route: Route, token: str | None) -> int:
    """What ``route`` answers: nothing is there that it names, nothing in its body is right."""
    path = (
        route.path.replace("{device}", "pi-99")
        .replace("{id}", "999999")
        .replace("{rollout}", "999999")
        .replace("{file}", "none")
        .replace("{version}", "1.0.0")
        .replace("{wheel}", "none")
    )
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if route.changes:
        headers["Content-Type"] = route.takes_as
    connection = http.client.HTTPConnection(HOST, hub.port, timeout=10)
    try:
        connection.request(route.method, path, b"{}" if route.changes else None, headers)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_every_route_lets_in_whom_it_should_and_nobody_else(
    routes: tuple[Route, ...], closed: Hub, tokens: dict[Role, str]
) -> None:
    assert {route.name: route.role for route in routes} == ALLOWED
    for route in routes:
        wanted = ALLOWED[route.name]
        nobody = status_of(closed, route, None)
        assert (nobody == 401) == (wanted is not None), route.name
        for role, token in tokens.items():
            status = status_of(closed, route, token)
            may = wanted is None or reaches(role, wanted)
            assert (status not in {401, 403}) == may, (route.name, role, status)
            assert (status == 403) == (not may), (route.name, role, status)


async def test_every_route_has_a_name_of_its_own_and_says_what_it_answers(routes: tuple[Route, ...]) -> None:
    assert len({route.name for route in routes}) == len(routes)
    assert len({(route.method, route.path) for route in routes}) == len(routes)
    for route in routes:
        assert route.about.endswith("."), route.name
        if is_for_programs(route):
            says = route.answers is not None, bool(route.sends)
            assert says.count(True) == (0 if route.status == 204 else 1), route.name
            assert route.takes is None or route.changes, route.name
            by_itself = route.name in BY_PAPERS
            assert by_itself or not route.changes or route.role not in {None, "viewer"}, route.name


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/api/v1/devices/stream?after=0", ["device"]),
        ("/api/v1/events/stream?after=0", ["release.staged"]),
        ("/api/v1/commands/{id}/stream", ["part", "part", "state"]),
    ],
)
def test_the_events_of_a_stream_keep_to_the_document(
    path: str, names: list[str], closed: Hub, tokens: dict[Role, str]
) -> None:
    document = closed.get("/api/v1/openapi.json").json
    described = document["paths"][path.partition("?")[0]]["get"]["responses"]["200"]
    schema = described["content"]["text/event-stream"]["schema"]
    kinds = schema.get("oneOf", [schema])
    (number,) = answered(closed, tokens["operator"])
    found = list(islice(_events(closed, path.replace("{id}", str(number)), tokens["operator"]), len(names)))
    assert [event["event"] for event in found] == names
    for event in found:
        (kind,) = [one for one in kinds if one["properties"]["event"].get("const") in {None, event["event"]}]
        jsonschema_rs.validate(kind, event)
        data = kind["properties"]["data"]["contentSchema"]
        jsonschema_rs.validate({**data, "components": document["components"]}, json.loads(event["data"]))


def _events(hub: Hub, path: str, token: str) -> Iterator[dict[str, str]]:
    """Yield the events of a stream, each by its fields."""
    connection = http.client.HTTPConnection(HOST, hub.port, timeout=20)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        event: dict[str, str] = {}
        while line := answer.readline().decode():
            name, _, value = line.rstrip("\r\n").partition(": ")
            if name:
                event[name] = value
            elif "data" in event:
                yield event
                event = {}
            else:
                event = {}  # how soon to come back
    finally:
        connection.close()


def test_the_api_keeps_to_its_document(closed: Hub, tokens: dict[Role, str], tmp_path: Path) -> None:
    document = closed.get("/api/v1/openapi.json").json
    config = tmp_path / "schemathesis.toml"
    config.write_text("\n".join(_exceptions(closed, document, tokens["admin"])), encoding="utf-8")
    # Papers first: who shows made-up tokens, as schemathesis does, is not asked for papers any more.
    included = f"--include-path-regex={PAPERS}"
    papers = _tested(closed, config, tokens["admin"], "coverage,fuzzing", PAPERS_BUDGET_S, included)
    done = _tested(
        closed, config, tokens["admin"], "coverage,fuzzing", BUDGET_S, f"--exclude-path-regex={PAPERS}|{SPARED}"
    )
    # By itself, or nothing of its time would be left for it on a slow machine, and nobody would know.
    others = "--exclude-path-regex=/(stream|test|enrolments|renewals)$"
    linked = _tested(closed, config, tokens["admin"], "stateful", LINKS_BUDGET_S, others)
    assert re.search(r"✅ +Stateful", linked), linked
    assert closed.get("/api/v1/whoami", token=tokens["admin"]).status == 200, "it was let in until the end"
    assert "trail.written" in closed.log
    assert "request.unnoted" not in closed.log, "whatever was changed is on the trail"
    tested = sum(int(found) for report in (papers, done) for found in re.findall(r"Tested: (\d+)", report))
    operations = [path for path, methods in document["paths"].items() for _ in methods]
    assert tested == len([path for path in operations if not re.search(SPARED, path)])


def _tested(hub: Hub, config: Path, token: str, phases: str, budget_s: int, *more: str) -> str:
    """Run some of schemathesis' phases, within a time; return what it says."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={config}",
            "run",
            f"http://{HOST}:{hub.port}/api/v1/openapi.json",
            f"--header=Authorization: Bearer {token}",
            f"--phases={phases}",
            "--checks=all",
            *more,
            "--max-examples=4",
            "--generation-with-security-parameters=false",  # made-up tokens are answered 429, which tests nothing else
            f"--max-time={budget_s}",
            "--generation-deterministic",
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=BUDGET_S * 4,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Rate limited" not in done.stdout, done.stdout
    return done.stdout


def _exceptions(hub: Hub, document: dict[str, Any], token: str) -> Iterator[str]:
    """Lists are asked with a cursor that they gave out; of those made up, the document can't tell which will do."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if operation["operationId"] in ERRORS_ALONE:
                yield f'[[operations]]\ninclude-operation-id = "{operation["operationId"]}"'
                yield 'generation.mode = "negative"'
            if operation["operationId"] in RULED:
                yield f'[[operations]]\ninclude-operation-id = "{operation["operationId"]}"'
                yield 'checks.positive_data_acceptance.expected-statuses = ["2xx", "409", "422", "429"]'
            if operation["operationId"] == "streamCommand":
                (number,) = answered(hub, token)
                yield f'[[operations]]\ninclude-operation-id = "streamCommand"\nparameters = {{ id = {number} }}'
            if not any(one["name"] == "after" for one in operation.get("parameters", [])) or path.endswith("/stream"):
                continue
            following = hub.get(f"{path.replace('{device}', DEVICES[0])}?limit=1", token=token).json.get("next")
            yield f'[[operations]]\ninclude-operation-id = "{operation["operationId"]}"'
            if following is not None:
                yield f'parameters = {{ after = "{following}" }}'
            else:
                yield 'checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "429"]'


def test_no_token_is_ever_in_the_log(hub: Hub) -> None:
    hub.stop()
    hub.environment["METRICA_HUB_LOG_LEVEL"] = "debug"
    hub.start()
    hub.wait_until_ready()
    admin = hub.token("admin")
    made = hub.get(
        "/api/v1/tokens",
        {"Content-Type": "application/json"},
        "POST",
        json.dumps({"name": "other", "role": "viewer"}),
        token=admin,
    )
    assert made.status == 201, made.text
    other = made.json["token"]
    signed = hub.get("/login", {"Content-Type": FORM}, "POST", f"token={other}")
    session = signed.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    for secret in (admin, other, session, "mtr_wrong"):
        for headers in (
            {"Authorization": f"Bearer {secret}"},
            {"Authorization": secret},
            {"Cookie": f"metrica={secret}"},
            {"Cookie": f"metrica={session}", "X-CSRF-Token": secret},
        ):
            for method, path in (
                ("GET", "/"),
                ("GET", f"/api/v1/devices?token={secret}"),
                ("POST", "/api/v1/tokens"),
                ("POST", "/logout"),
                ("DELETE", "/api/v1/tokens/1000"),
            ):
                hub.get(path, headers, method, f"token={secret}")
    assert "trail.written" in hub.log
    for secret in (admin, other, session, "mtr_"):
        assert secret not in hub.log
