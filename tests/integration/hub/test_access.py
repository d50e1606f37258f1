"""Who gets in: tokens, sessions of browsers, wrong ones, and what is written down of it."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.hub import Answer, Hub

from metrica_hub.decisions.access import csrf_of, token_of
from metrica_hub.decisions.failures import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.database import Cluster, Database

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PROXY = {"METRICA_HUB_HTTP_PROXIES": '["127.0.0.1"]'}
CLOSED = {"METRICA_HUB_HTTP_ANONYMOUS": "none", **PROXY}
UNKNOWN = token_of(bytes(32))


@pytest.fixture(scope="module")
def closed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that shows nothing to whoever has no token; it believes its proxy about addresses."""
    with (
        Broker(tmp_path_factory.mktemp("access")) as broker,
        cluster.database() as database,
        Hub(database.url, broker.port, settings=CLOSED) as hub,
    ):
        hub.wait_until_ready()
        yield hub


@pytest.fixture(scope="module")
def viewer(closed: Hub) -> str:
    return closed.token("viewer", "anna", "--days", "2")


@pytest.fixture(scope="module")
def boss(closed: Hub) -> str:
    return closed.token("admin", "writer")


def at(address: str) -> dict[str, str]:
    """Headers of a request that a proxy passes on."""
    return {"X-Forwarded-For": address}


def sign_in(hub: Hub, token: str, **more: str) -> Answer:
    return hub.get("/login", FORM, "POST", urlencode({"token": token, **more}))


def cookie_of(answer: Answer) -> str:
    return answer.headers["Set-Cookie"].partition(";")[0]


def test_without_a_token_nothing_is_shown_but_life_metrics_and_files(closed: Hub) -> None:
    for path in ("/api/v1/devices", "/api/v1/events/stream", "/", "/live"):
        answer = closed.get(path)
        assert (answer.status, answer.json["type"]) == (401, "/problems/unauthenticated"), path
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="metrica"'
    for path in ("/healthz", "/readyz", "/metrics", "/static/fleet.css"):
        assert closed.get(path).status == 200, path


def test_a_person_is_led_to_the_form_and_back(closed: Hub) -> None:
    answer = closed.get("/?show=online", {"Accept": "text/html,*/*"})
    assert (answer.status, answer.headers["Location"]) == (303, "/login?next=/?show%3Donline")


def test_a_token_of_a_viewer_looks(closed: Hub, viewer: str) -> None:
    assert closed.get("/api/v1/devices", token=viewer).status == 200
    assert closed.get("/api/v1/devices", token=viewer, method="HEAD").status == 200
    assert closed.get("/api/v1/devices", {"authorization": f"bearer {viewer}"}).status == 200


@pytest.mark.parametrize(
    "said", [f"Bearer {UNKNOWN}", "Bearer", "Bearer mtr_", "Basic YTpi", "Bearer mtr_ä", "", f"Bearer {'x' * 4000}"]
)
def test_what_is_no_token_is_refused_even_where_nothing_is_asked_for(said: str, closed: Hub) -> None:
    answer = closed.get(
        "/api/v1/devices", {"Authorization": said.encode().decode("latin-1"), **at(f"10.9.0.{len(said) % 250}")}
    )
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_token_that_was_revoked_or_has_expired_is_no_token(closed: Hub, cluster: Cluster) -> None:
    name = closed.environment["METRICA_HUB_DATABASE_URL"].rpartition("/")[2]
    for ended in ("revoked_at", "expires_at"):
        token = closed.token("admin", f"leaver.{ended}")
        session = cookie_of(sign_in(closed, token))
        assert closed.get("/api/v1/devices", token=token).status == 200
        assert closed.get("/api/v1/devices", {"Cookie": session}).status == 200
        cluster.execute(f"UPDATE tokens SET {ended} = now() WHERE name = 'leaver.{ended}'", name)  # noqa: S608
        answer = closed.get("/api/v1/devices", at("10.9.1.1"), token=token)
        assert (answer.status, answer.json["type"]) == (401, "/problems/token-ended")
        assert closed.get("/api/v1/devices", {"Cookie": session}).json["type"] == "/problems/unauthenticated"


def test_what_is_kept_of_a_token_does_not_let_anybody_in(closed: Hub, cluster: Cluster, viewer: str) -> None:
    name = closed.environment["METRICA_HUB_DATABASE_URL"].rpartition("/")[2]
    rows = cluster.execute(
        "SELECT name, role, encode(digest, 'hex'), last_used_at FROM tokens WHERE name = 'anna'", name
    )
    assert re.fullmatch(r"anna\|viewer\|[0-9a-f]{64}\|[-0-9]+ \d\d:00:00\+00", rows), "used, to the hour"
    assert viewer not in cluster.execute("SELECT row_to_json(t) FROM tokens t", name)
    assert viewer not in closed.log


def test_wrong_tokens_are_answered_later_and_later_by_address(closed: Hub, viewer: str) -> None:
    here, there = at("192.0.2.1"), at("192.0.2.2")
    tries = [closed.get("/api/v1/devices", here, token=token_of(bytes([number] * 32))) for number in range(AT_ONCE + 2)]
    assert [answer.status for answer in tries] == [401] * AT_ONCE + [429] * 2
    assert tries[-1].json["type"] == "/problems/too-many-failures"
    assert 1 <= int(tries[-1].headers["Retry-After"]) <= 6
    assert closed.get("/api/v1/devices", there, token=UNKNOWN).status == 401, "another address"
    assert closed.get("/api/v1/devices", here, token=viewer).status == 200, "it was good before"
    assert closed.get("/api/v1/devices", here).status == 401, "who shows nothing guesses nothing"
    signed = closed.get("/login", {**FORM, **here}, "POST", urlencode({"token": UNKNOWN}))
    assert signed.headers["Location"].startswith("/login?why=too-many-failures")


def test_a_browser_signs_in_looks_and_signs_out(closed: Hub, viewer: str) -> None:
    signed = sign_in(closed, f" {viewer} ", next="/?show=online")
    assert (signed.status, signed.headers["Location"]) == (303, "/?show=online")
    cookie = signed.headers["Set-Cookie"]
    assert re.fullmatch(r"metrica=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=Strict", cookie)
    session = {"Cookie": cookie_of(signed)}
    assert closed.get("/", session).status == 200
    assert closed.get("/logout", {**session, **FORM}, "POST", "").json["type"] == "/problems/csrf"
    csrf = csrf_of(cookie_of(signed).partition("=")[2])
    for elsewhere in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://example.org"}, {"Origin": "null"}):
        refused = closed.get("/logout", {**session, **FORM, **elsewhere}, "POST", urlencode({"csrf": csrf}))
        assert (refused.status, refused.json["type"]) == (403, "/problems/other-origin")
    assert closed.get("/", session).status == 200
    out = closed.get("/logout", {**session, **FORM, "Sec-Fetch-Site": "same-origin"}, "POST", urlencode({"csrf": csrf}))
    assert (out.status, out.headers["Location"]) == (303, "/login")
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert closed.get("/", session).status == 401


def test_a_browser_elsewhere_keeps_its_session_for_https_alone(closed: Hub, viewer: str) -> None:
    signed = closed.get("/login", {**FORM, "Host": "hub.example.org"}, "POST", urlencode({"token": viewer}))
    pattern = r"__Host-metrica=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=Strict; Secure"
    assert re.fullmatch(pattern, signed.headers["Set-Cookie"])
    session = cookie_of(signed)
    assert closed.get("/api/v1/devices", {"Cookie": session, "Host": "hub.example.org"}).status == 200
    as_plain = session.replace("__Host-", "")
    assert closed.get("/api/v1/devices", {"Cookie": as_plain, "Host": "hub.example.org"}).status == 401


def test_whoever_does_not_get_in_is_led_back_to_the_form_that_says_why(closed: Hub) -> None:
    for token, why in ((UNKNOWN, "token-unknown"), ("", "token-unknown")):
        answer = closed.get("/login", {**FORM, **at("10.9.2.1")}, "POST", urlencode({"token": token, "next": "/live"}))
        assert (answer.status, answer.headers["Location"]) == (303, f"/login?why={why}&next=/live")
        assert "Set-Cookie" not in answer.headers
    assert closed.get("/login", {"Content-Type": "text/plain"}, "POST", "token=x").status == 415
    other = closed.get("/login", {**FORM, "Sec-Fetch-Site": "cross-site"}, "POST", f"token={UNKNOWN}")
    assert other.json["type"] == "/problems/other-origin"


def test_where_anybody_may_look_a_wrong_token_is_still_wrong(hub: Hub) -> None:
    assert hub.get("/api/v1/devices").status == 200
    assert hub.get("/", {"Cookie": "metrica=nothing"}).status == 200
    assert hub.get("/api/v1/devices", token=UNKNOWN).status == 401


def test_who_was_known_may_look_on_while_the_database_is_away(
    broker: Broker, database: Database, cluster: Cluster
) -> None:
    with Hub(database.url, broker.port, settings=CLOSED) as hub:
        hub.wait_until_ready()
        token, unused = hub.token("admin"), hub.token("admin", "unused")
        session = {"Cookie": cookie_of(sign_in(hub, token))}
        assert hub.get("/", session).status == 200
        cluster.stop(immediate=True)
        try:
            assert hub.get("/", session).status == 200
            assert hub.get("/", token=unused).status == 503
            assert hub.get("/api/v1/devices", token=token).status == 503
            assert hub.get("/logout", {**session, **FORM}, "POST", "").status == 503
        finally:
            cluster.start()


def test_the_command_makes_no_second_token_of_a_name(closed: Hub, viewer: str) -> None:
    assert viewer
    with pytest.raises(subprocess.CalledProcessError) as failed:
        closed.token("admin", "anna")
    assert (failed.value.returncode, failed.value.stdout) == (1, "")
    assert failed.value.stderr.startswith('metrica-hub: there is a token "anna"; ')


def test_an_admin_lets_in_and_out(closed: Hub) -> None:
    admin = closed.token("admin", "boss")
    made = make_token(closed, admin, name="grafana", role="viewer", days=30)
    assert made.status == 201
    assert made.headers["Location"] == f"/api/v1/tokens/{made.json['known']['id']}"
    text, where = made.json["token"], made.headers["Location"]
    assert closed.get("/api/v1/whoami", token=text).json["principal"]["name"] == "grafana"
    assert closed.get(where, token=admin).json == {
        **made.json["known"],
        "last_used_at": last_hour(closed, where, admin),
    }
    assert "grafana" in {one["name"] for one in closed.get("/api/v1/tokens", token=admin).json["items"]}
    assert make_token(closed, admin, name="grafana", role="viewer").json["type"] == "/problems/conflict"
    assert closed.get(where, method="DELETE", token=admin).status == 204
    assert closed.get(where, token=admin).status == 404
    assert closed.get(where, method="DELETE", token=admin).status == 404
    assert closed.get("/api/v1/whoami", at("10.9.3.1"), token=text).json["type"] == "/problems/token-ended"
    assert make_token(closed, admin, name="grafana", role="viewer").status == 201, "the name is free again"
    own = closed.get("/api/v1/whoami", token=admin).json["principal"]["token"]
    assert closed.get(f"/api/v1/tokens/{own}", method="DELETE", token=admin).status == 409
    entries = closed.get("/api/v1/audit?actor=boss&action=token.revoke", token=admin).json["items"]
    assert [(entry["subject"].partition("/")[0], entry["detail"]) for entry in entries] == [
        ("token", {"name": "grafana"})
    ]


def make_token(hub: Hub, admin: str, **new: object) -> Answer:
    return hub.get("/api/v1/tokens", {"Content-Type": "application/json"}, "POST", json.dumps(new), token=admin)


def last_hour(hub: Hub, where: str, admin: str) -> str:
    found = hub.get(where, token=admin).json["last_used_at"]
    assert re.fullmatch(r"[-0-9]{10}T\d\d:00:00Z", found)
    return found


def test_what_comes_again_with_its_key_is_not_done_again(closed: Hub, boss: str) -> None:
    def make(name: str, key: str, token: str = boss) -> Answer:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return closed.get("/api/v1/tokens", headers, "POST", json.dumps({"name": name, "role": "admin"}), token=token)

    first = make("again", "k-1")
    assert first.status == 201
    again = make("again", "k-1")
    assert (again.status, "shown once" in again.text, first.json["token"] in again.text) == (409, True, False)
    assert make("other", "k-1").json["type"] == "/problems/key-used", "the key was used for something else"
    assert make("again", "k-2").json["detail"].startswith('there is a token "again"')
    assert make("other", "k-2").status == 201, "what failed may be tried again, and be mended"
    assert make("third", "k-1", first.json["token"]).status == 201, "a key is its sender's own"
    assert make("fourth", "no good").json["errors"][0]["parameter"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ('{"name": "x"}', 422, ""),
        ('{"name": "X!", "role": "viewer"}', 422, "/name"),
        ('{"name": "x", "role": "root"}', 422, "/role"),
        ('{"name": "x", "role": "viewer", "days": 1.5}', 422, "/days"),
        ('{"name": "x", "role": "viewer", "dyas": 1}', 422, ""),
        ("[]", 422, ""),
        ('{"name": ', 400, None),
        ("[" * 9000, 400, None),
        ("\xff", 400, None),
        ("x" * 70_000, 413, None),
    ],
)
def test_a_body_that_will_not_do_is_told_with_the_place(
    body: str, status: int, pointer: str | None, closed: Hub, boss: str
) -> None:
    as_json = {"Content-Type": "application/json"}
    answer = closed.get("/api/v1/tokens", as_json, "POST", body.encode("latin-1"), token=boss)
    assert answer.status == status, answer.text
    if pointer is not None:
        assert answer.json["errors"][0]["pointer"] == pointer
    assert closed.get("/api/v1/tokens", {"Content-Type": "text/plain"}, "POST", body[:50], token=boss).status == 415


def test_the_trail_is_verified_and_what_a_superuser_does_to_it_is_found(
    hub: Hub, database: Database, cluster: Cluster
) -> None:
    admin = hub.token("admin", "anna", "--days", "30")
    sign_in(hub, admin)
    for name in ("one", "two"):
        assert make_token(hub, admin, name=name, role="viewer").status == 201

    def verify(seal: str = "") -> dict[str, Any]:
        return hub.get(f"/api/v1/audit/verify{seal and f'?seal={seal}'}", token=admin).json

    entries = hub.get("/api/v1/audit?limit=3", token=admin)
    assert [entry["action"] for entry in entries.json["items"]] == ["token.create", "token.create", "session.begin"]
    older = hub.get(f"/api/v1/audit?after={entries.json['next']}", token=admin).json
    first = older["items"][0]
    assert (first["action"], first["subject"], first["via"]) == ("token.create", "token/anna", "command-line")
    assert first["detail"] == {"days": 30, "role": "admin"}
    whole = verify()
    last = entries.json["items"][0]
    assert whole == {"holds": True, "entries": 4, "seal": last["seal"], "broken_at": None, "why": None}
    assert last["seal"] in hub.log
    assert verify(whole["seal"])["holds"]
    assert not verify(f"4:{'0' * 64}")["holds"]
    for statement in ("UPDATE trail SET actor = 'bert'", "DELETE FROM trail", "TRUNCATE trail"):
        with pytest.raises(RuntimeError, match="the trail is written once"):
            cluster.execute(statement, database.name)
    cluster.execute("ALTER TABLE trail DISABLE TRIGGER ALL; DELETE FROM trail WHERE number = 4", database.name)
    assert verify()["holds"], "the end alone can be cut off unseen"
    assert verify(whole["seal"])["broken_at"] == 4, "but not from who noted a seal"
    cluster.execute("UPDATE trail SET actor = 'bert' WHERE number = 2", database.name)
    assert verify()["broken_at"] == 2
    cluster.execute("DELETE FROM trail WHERE number = 1", database.name)
    assert verify()["broken_at"] == 1
