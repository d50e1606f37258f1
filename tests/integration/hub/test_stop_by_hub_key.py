"""Stop orders that the hub signs, with a key for orders that it was given: obeyed as others are, and no others."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.git_servers import repository
from tests.fixtures.hub import FLEET, Answer, Hub
from tests.fixtures.signing import Person
from tests.integration.hub.test_stop import JSON, retained, standing
from tests.integration.hub.waiting import until

from metrica_agent.decisions.world import Memory
from metrica_agent.tasks.notary import Notary
from metrica_agent.wiring import verified
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import FleetId
from metrica_fleet.signed import ORDERS, parted
from metrica_fleet.stop import understood

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Database

KEY_FILE = "METRICA_HUB_STOP_KEY_FILE"
FOR_ORDERS = 'namespaces="metrica-order"'


@pytest.fixture
def given(tmp_path: Path) -> Person:
    """A key that is made for a hub, by ssh-keygen as the how-to says."""
    return Person.made(tmp_path, "hub-stop")


@pytest.fixture
def keyed(broker: Broker, database: Database, given: Person) -> Iterator[Hub]:
    """A hub that was given it."""
    with Hub(database.url, broker.port, settings={KEY_FILE: str(given.key)}) as hub:
        hub.wait_until_ready()
        yield hub


def line_of(given: Person) -> str:
    return given.line(FOR_ORDERS).replace("hub-stop@example.org", "hub-stop").strip()


def sign(hub: Hub, token: str, after: int, **wanted: str) -> Answer:
    body = json.dumps({**wanted, "after": after})
    return hub.get("/api/v1/stop/sign", JSON, "POST", body, token=token)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["type"].rpartition("/")[2]


async def test_an_order_that_the_hub_signs_is_obeyed_as_an_order_and_on_the_trail(
    keyed: Hub, broker: Broker, given: Person
) -> None:
    token = keyed.token("operator", "ada")
    assert standing(keyed)["hub_key"] == line_of(given)
    answer = sign(keyed, token, 0, level="halt", scope="role:camera", reason="smoke")
    assert answer.status == 202, answer.text
    number = answer.json["number"]

    # As each device does: its signer by allowed_signers, then what it says.
    signed = parted(await retained(broker, number))
    devices = Notary(verify=verified)
    trusted = Memory(signers=f"{line_of(given)}\n")
    text, who = await devices.opened(signed, ORDERS, trusted)
    assert who == "hub-stop"
    order = understood(text, FleetId(FLEET))
    assert [(str(one.level), one.scope, one.reason) for one in order.stops] == [("halt", "role:camera", "smoke")]
    with pytest.raises(Unusable) as caught:
        await devices.opened(signed, ORDERS, Memory(signers=f"{keyed.key_line()}\n"))
    assert caught.value.reason == "signer-unknown", "the hub's own key is none for orders"

    lifted = sign(keyed, token, number, resume="all", reason="toast")
    assert lifted.status == 202
    assert understood(parted(await retained(broker, lifted.json["number"])).text, FleetId(FLEET)).stops == ()
    trail = keyed.get("/api/v1/audit?action=stop.order", token=token).json["items"]
    assert [(one["actor"], one["subject"], one["detail"]) for one in trail] == [
        (
            "ada",
            f"order/{lifted.json['number']}",
            {"by_hub_key": True, "number": lifted.json["number"], "reason": "toast", "signed_by": None, "stops": []},
        ),
        (
            "ada",
            f"order/{number}",
            {
                "by_hub_key": True,
                "number": number,
                "reason": "smoke",
                "signed_by": None,
                "stops": ["halt role:camera"],
            },
        ),
    ]


def test_nothing_is_signed_upon_an_order_that_came_meanwhile_nor_for_who_only_looks(keyed: Hub) -> None:
    token, viewer = keyed.token("operator"), keyed.token("viewer")
    prepared = keyed.get("/api/v1/stop/prepare", JSON, "POST", '{"level": "freeze"}', token=token).json
    assert prepared["after"] == 0
    first = sign(keyed, token, prepared["after"], level="freeze", scope="role:door", reason="a")
    assert first.status == 202
    late = sign(keyed, token, prepared["after"], level="freeze", scope="role:camera", reason="b")
    assert refusal(late) == (409, "order-outdated")
    assert f"order {first.json['number']} is in force, and not 0" in late.json["detail"]
    assert refusal(sign(keyed, viewer, first.json["number"], resume="all")) == (403, "forbidden")
    assert sign(keyed, token, first.json["number"]).status == 422, "neither stop nor resume"
    assert keyed.get("/api/v1/stop/sign", JSON, "POST", '{"resume": "all"}', token=token).status == 422
    assert [one["scope"] for one in standing(keyed)["order"]["stops"]] == ["role:door"]

    # All at once, upon the same one: of those that would lift each other's stops one is given.
    def at_once(role: str) -> int:
        return sign(keyed, token, first.json["number"], level="halt", scope=f"role:{role}").status

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(at_once, "abcdef")) == [202, *[409] * 5]
    assert len(standing(keyed)["order"]["stops"]) == 2


def test_a_hub_that_was_given_no_key_says_so(hub: Hub) -> None:
    answer = sign(hub, hub.token("operator"), 0, level="freeze")
    assert refusal(answer) == (409, "hub-key-none")
    assert "[stop] key_file in hub.toml" in answer.json["detail"]
    assert standing(hub)["hub_key"] is None
    assert standing(hub)["order"] is None


async def test_a_key_that_allowed_signers_has_not_or_has_for_more_than_orders_is_refused_with_its_line(
    broker: Broker, database: Database, given: Person, tmp_path: Path
) -> None:
    alice = Person.made(tmp_path, "alice")
    files = {
        "fleet.toml": f'name = "{FLEET}"\n',
        "devices/pi-01.toml": 'role = "camera"\n',
        "roles/camera/compose.yaml": "",
    }
    fleet = repository(tmp_path)
    own = {"METRICA_HUB_GIT_URL": str(fleet.bare), "METRICA_HUB_GIT_POLL_S": "0.2", KEY_FILE: str(given.key)}
    with Hub(database.url, broker.port, settings=own) as hub:
        hub.wait_until_ready()
        token = hub.token("operator")

        async def reads(*lines: str) -> None:
            commit = fleet.commit({**files, "allowed_signers": "".join(lines)})
            await until(lambda: hub.get("/api/v1/head").json.get("read_commit") == commit)

        await reads(alice.line())
        answer = sign(hub, token, 0, level="freeze")
        assert refusal(answer) == (422, "signer-unknown")
        assert answer.json["detail"].endswith(f"put this line into it, and push: {line_of(given)}")
        for lines in ((given.line(),), (line_of(given), "\n", given.line('namespaces="git"'))):
            await reads(alice.line(), *lines)
            answer = sign(hub, token, 0, level="freeze")
            assert refusal(answer) == (422, "signer-unbounded")
            assert answer.json["detail"].endswith(f"have no line for it but this: {line_of(given)}")
        assert standing(hub)["order"] is None
        assert hub.get("/api/v1/audit?action=stop.order", token=token).json["items"] == []

        await reads(alice.line(), hub.get("/api/v1/stop").json["hub_key"], "\n")
        answer = sign(hub, token, 0, level="freeze")
        assert (answer.status, answer.json["signed_by"], answer.json["unjudged"]) == (202, "hub-stop", None)

        # It is taken back by a commit, and by nothing at the hub.
        await reads(alice.line())
        assert refusal(sign(hub, token, answer.json["number"], resume="all")) == (422, "signer-unknown")
        given.key.unlink()
        assert refusal(sign(hub, token, answer.json["number"], resume="all")) == (503, "key-unusable")


def said(hub: Hub, *command: str) -> tuple[int, str]:
    done = hub.ran(*command)
    return done.returncode, done.stdout + done.stderr


def test_a_key_that_can_not_be_is_one_sentence_at_start(hub: Hub, given: Person, tmp_path: Path) -> None:
    hub.key_line()
    broken, locked, opened = tmp_path / "broken", Person.made(tmp_path, "locked").key, Person.made(tmp_path, "open").key
    broken.write_text("no key", encoding="ascii")
    broken.chmod(0o600)
    change = ["ssh-keygen", "-q", "-p", "-N", "passphrase", "-f", str(locked)]
    subprocess.run(change, check=True, capture_output=True)
    opened.chmod(0o640)
    own = hub.environment["METRICA_HUB_HUB_KEY_FILE"]
    wrong: dict[str, str] = {
        str(tmp_path / "nowhere"): "can't be read (No such file or directory); mend its path",
        str(tmp_path): "is no file; name the private key itself",
        str(broken): "a key that ssh-keygen made, without a passphrase, is wanted",
        str(locked): "a key that ssh-keygen made, without a passphrase, is wanted",
        str(opened): f"has mode 0640, so that others get at it; chmod 600 {opened}",
        own: "is the key of [hub] key_file, which signs no orders; make another",
    }
    for file, sentence in wrong.items():
        hub.environment[KEY_FILE] = file
        code, text = said(hub, "run")
        assert code == 2, (file, text)
        assert text.startswith(f"metrica-hub: [stop] key_file {file}"), text
        assert sentence in text
        assert text.count("\n") == 1
    hub.environment[KEY_FILE] = own
    code, text = said(hub, "key", "--stop")
    assert (code, wrong[own] in text) == (2, True)
    code, checked = said(hub, "check")
    assert code == 1
    assert f"NOT OK: {text.removeprefix('metrica-hub: ')}" in checked

    hub.environment[KEY_FILE] = str(given.key)
    assert said(hub, "key", "--stop") == (0, f"{line_of(given)}\n")
    assert said(hub, "check")[0] == 0
    del hub.environment[KEY_FILE]
    code, text = said(hub, "key", "--stop")
    assert (code, text) == (2, "metrica-hub: this hub has no key for orders; name one as [stop] key_file\n")
