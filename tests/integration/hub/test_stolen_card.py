"""A whole stolen card, and a leaked clone of the fleet repository beside it: what the two open, and for how long.

The hub, its authority, Postgres, the broker with its access file, and the agent that filled the card are real.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyrage
import pytest
from tests.fixtures.agent import Agent, Wiring, until
from tests.fixtures.git_servers import Repository, git, repository
from tests.fixtures.hub import FLEET
from tests.fixtures.papers import PaperFleet
from tests.fixtures.raw_client import RawClient, Refused
from tests.fixtures.signing import Person, allowed, signed
from tests.integration.hub.device import heartbeat, new_stream, topic

from metrica_agent.adapters.git import GitMirror
from metrica_agent.adapters.papers import AGE, CERTIFICATE, KEY
from metrica_agent.decisions.world import Memory
from metrica_agent.enrolling import renewed
from metrica_agent.tasks.notary import Notary
from metrica_agent.wiring import verified
from metrica_cli.main import main
from metrica_fleet.codec import encode
from metrica_fleet.enrolment import ENROLMENTS, RENEWALS, renewal_text
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.signed import COMMANDS, GATES, HEADS, ORDERS, Signed
from metrica_fleet.topics import CHANNELS, RECORDS, STORED, Address, topic_of
from metrica_hub.adapters.store.pool import open_connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fixtures.database import Cluster

STOLEN, OTHER = "pi-01", "pi-02"
SECRETS: Final = {
    ("wifi", "--device", STOLEN): "of the stolen one",
    ("vpn", "--tag", "roof"): "of those on the roof",
    ("mail", "--role", "camera"): "of all cameras",
    ("wifi", "--device", OTHER): "of the other one",
    ("vpn", "--tag", "yard"): "of those in the yard",
}
OPENED: Final = {"of the stolen one", "of those on the roof", "of all cameras"}
FORGED: Final = b"forged by a thief"


async def test_a_stolen_card_and_a_leaked_repository_are_that_device_alone_and_nothing_once_it_is_revoked(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.database() as database, PaperFleet(tmp_path, database.url, shipped=True) as fleet:
        for name in (STOLEN, OTHER):
            fleet.enrolled(name, tmp_path / name / "identity")
        alice, leaked = Person.made(tmp_path, "alice"), tmp_path / "leaked"
        bare = the_repository(fleet, tmp_path, alice)
        card = the_card(fleet, tmp_path, bare, alice)
        git("clone", "--quiet", str(bare), str(leaked), folder=tmp_path)

        opens_its_own_secrets(card, leaked)
        await signs_nothing_that_is_believed(card, leaked, alice)
        await enrols_nobody(fleet, card, tmp_path)
        await is_itself_on_the_bus_until_it_is_revoked(fleet, card, tmp_path)
        gets_no_certificate(fleet, card)


# --- what there is to steal ---------------------------------------------------------------------------------------


def the_repository(fleet: PaperFleet, folder: Path, alice: Person) -> Path:
    """Return a fleet repository with secrets of both devices, signed by alice."""
    made, operator = repository(folder), pyrage.x25519.Identity.generate()
    service = {"image": "busybox:1", "secrets": ["wifi", "vpn", "mail"]}
    files = {name: {"file": f"${{METRICA_SECRETS}}/{name}"} for name in service["secrets"]}
    layout = {
        "fleet.toml": f'name = "{FLEET}"\n[secrets]\noperators = ["{operator.to_public()}"]\n',
        "roles/camera/compose.yaml": json.dumps({"services": {"web": service}, "secrets": files}),
        "allowed_signers": allowed(alice) + fleet.hub.key_line() + "\n",
    }
    for name, tag in ((STOLEN, "roof"), (OTHER, "yard")):
        recipient = fleet.hub.get(f"/api/v1/devices/{name}/identity").json["recipient"]
        layout[f"devices/{name}.toml"] = f'role = "camera"\nage = "{recipient}"\ntags = ["{tag}"]\n'
    signed(made, layout, by=alice)
    for (name, *whose), value in SECRETS.items():
        (folder / "value").write_text(value)
        assert main(["secret", "set", name, *whose, "--file", str(folder / "value"), "-C", str(made.work)]) == 0
    signed(made, {}, by=alice)
    return made.bare


def the_card(fleet: PaperFleet, folder: Path, bare: Path, alice: Person) -> Path:
    """Return a copy of all that a device has on its disk once its agent has run: its memory is gone with the power."""
    own, memory = folder / STOLEN, Path(tempfile.mkdtemp(prefix="metrica-", dir="/dev/shm"))
    (own / "signers").write_text(allowed(alice))
    papers = own / "identity"
    bus = {"port": fleet.tls_port, "ca_file": f"{papers}/ca.crt"}
    bus |= {"certificate_file": f"{papers}/{CERTIFICATE}", "key_file": f"{papers}/{KEY}"}
    settings: Mapping[str, Mapping[str, object]] = {
        "": {"identity_dir": str(papers), "secrets_dir": str(memory / "secrets")},
        "git": {"require_signatures": True, "allowed_signers_file": str(own / "signers")},
        "bus": bus,
    }
    wiring = Wiring(device=STOLEN, project="none", remotes=(str(bare),), broker_port=0, fleet=FLEET, settings=settings)
    agent = Agent(own, wiring, environment={**os.environ, "DOCKER_HOST": "unix:///nowhere"})
    try:
        with agent:
            until(lambda: agent.memory().accepted, what=lambda: agent.log)
            until(lambda: "bus_connected" in agent.log, what=lambda: agent.log)
            agent.terminate()
    finally:
        shutil.rmtree(memory)
    return Path(shutil.copytree(own, folder / "card", symlinks=True))


# --- what it opens ------------------------------------------------------------------------------------------------


def opens_its_own_secrets(card: Path, leaked: Path) -> None:
    """With every key on the card, of every age file in the whole history."""
    files = {path: path.read_bytes() for path in card.rglob("*") if path.is_file() and not path.is_symlink()}
    keys = {key for content in files.values() for key in re.findall(rb"AGE-SECRET-KEY-1[0-9A-Z]+", content)}
    assert len(keys) == 1
    objects = git("rev-list", "--objects", "--all", folder=leaked).splitlines()
    sealed = [one.split(" ", 1)[0] for one in objects if one.endswith(".age")]
    assert len(sealed) == len(SECRETS)
    opened = {found for blob in sealed if (found := decrypted(leaked, blob, keys)) is not None}
    assert opened == OPENED
    # Nothing else is there that would open something: one private key, no token, and no secret in the clear.
    private = [path for path, content in files.items() if b"PRIVATE KEY" in content]
    assert [path.name for path in private] == [KEY]
    words = (rb"mte_", rb"mtr_", *(value.encode() for value in SECRETS.values()))
    assert [str(path) for path, content in files.items() if any(word in content for word in words)] == []


def decrypted(leaked: Path, blob: str, keys: set[bytes]) -> str | None:
    content = subprocess.run(["git", "cat-file", "blob", blob], cwd=leaked, capture_output=True, check=True).stdout
    try:
        return pyrage.decrypt(content, [pyrage.x25519.Identity.from_str(key.decode()) for key in keys]).decode()
    except pyrage.DecryptError:
        return None


# --- what it signs ------------------------------------------------------------------------------------------------


async def signs_nothing_that_is_believed(card: Path, leaked: Path, alice: Person) -> None:
    """No stop, no gate, no head, no command, and no commit."""
    thief = by_ssh(card / "identity" / KEY, card / "thief")
    signers = (leaked / "allowed_signers").read_text()
    notary, memory = Notary(verify=verified), Memory(signers=signers)
    text = '{"issued_at": "2026-11-29T09:20:00+01:00", "number": 7}\n'
    good = Signed(text, alice.sign(text.encode(), ORDERS).decode())
    assert (await notary.opened(good, ORDERS, memory))[1] == "alice@example.org"
    for namespace in (ORDERS, GATES, HEADS, COMMANDS):
        forged = Signed(text, thief.sign(text.encode(), namespace).decode())
        with pytest.raises(Unusable) as refused:
            await notary.opened(forged, namespace, memory)
        assert refused.value.reason == "signer-unknown"

    have = Repository(leaked, leaked.with_name("evil.git")).head()
    git("clone", "--quiet", "--bare", str(leaked), str(leaked.with_name("evil.git")), folder=leaked.parent)
    evil = Repository(leaked, leaked.with_name("evil.git"))
    async with aclosing(GitMirror(leaked.with_name("mirror.git"), isolation="thread")) as mirror:
        await mirror.fetch(str(evil.bare), have, None, signers=signers)
        for by, reason in ((thief, "signer-unknown"), (None, "signature-missing")):
            git("reset", "--quiet", "--hard", have, folder=leaked)
            commit = signed(evil, {"roles/camera/compose.yaml": "services: {}\n"}, by=by)
            with pytest.raises(Unusable) as refused:
                await mirror.fetch(str(evil.bare), commit, have, signers=signers)
            assert refused.value.reason == reason


def by_ssh(key: Path, copy: Path) -> Person:
    """Return whoever signs with the device's key, as ssh-keygen wants to have it."""
    shutil.copy(key, copy)
    for words in (("-p", "-P", "", "-N", ""), ("-y",)):
        done = subprocess.run(["ssh-keygen", *words, "-f", str(copy)], check=True, capture_output=True, timeout=60)
        copy.with_suffix(".pub").write_bytes(done.stdout)
    return Person("thief", copy)


# --- whom it lets in ----------------------------------------------------------------------------------------------


def asked(fleet: PaperFleet, path: str, body: Mapping[str, object]) -> tuple[int, Any]:
    """Ask the hub as anybody may who has no token."""
    answer = fleet.hub.get(path, {"Content-Type": "application/json"}, "POST", json.dumps(body))
    return answer.status, answer.json


async def enrols_nobody(fleet: PaperFleet, card: Path, folder: Path) -> None:
    """Not by the hub's own way in, and not by a renewal; what follows its certificate has its own name."""
    request = csr_for(OTHER, folder)
    assert asked(fleet, f"/api/v1/devices/{OTHER}/enrolment", {})[0] == 403
    guess = {"token": f"mte_{'A' * 43}", "csr": request, "recipient": f"age1{'q' * 58}"}
    assert asked(fleet, ENROLMENTS, guess)[0] == 403
    key = str(card / "identity" / KEY)
    signature = openssl("dgst", "-sha256", "-sign", key, said=renewal_text(request))

    def renewal(certificate: Path) -> tuple[int, Any]:
        shown = {"certificate": certificate.read_text(), "signature": base64.b64encode(signature).decode()}
        return asked(fleet, RENEWALS, {**shown, "csr": request})

    status, said = renewal(folder / OTHER / "identity" / CERTIFICATE)  # which is no secret
    assert (status, said["type"].rpartition("/")[2]) == (403, "certificate-unknown")
    await ripened(fleet)
    status, said = renewal(card / "identity" / CERTIFICATE)
    assert status == 200
    (card / "renewed.crt").write_text(said["certificate"])
    subject = openssl("x509", "-in", str(card / "renewed.crt"), "-noout", "-subject").decode()
    assert subject == f"subject=O = {FLEET}, CN = {STOLEN}\n"


def csr_for(name: str, folder: Path) -> str:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(folder / "thief.key"))
    return openssl("req", "-new", *key, "-subj", f"/CN={name}").decode()


def openssl(*words: str, said: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=said, capture_output=True, check=True, timeout=60).stdout


async def ripened(fleet: PaperFleet) -> None:
    """Let all certificates be old to the hub, so that another may follow."""
    connection = await open_connection(fleet.url, name="test")
    await connection.execute("UPDATE certificates SET not_before = now() - interval '120 days'")
    connection.terminate()


# --- where it gets ------------------------------------------------------------------------------------------------


def context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority))
    made.load_cert_chain(certificate, key)
    return made


async def is_itself_on_the_bus_until_it_is_revoked(fleet: PaperFleet, card: Path, folder: Path) -> None:
    papers, theirs = card / "identity", folder / OTHER / "identity"
    operator, third = (fleet.issued(name) for name in ("operator", "pi-03"))
    stolen = context(fleet.file, papers / CERTIFICATE, papers / KEY)
    followed = context(fleet.file, card / "renewed.crt", folder / "thief.key")

    async def entering(who: ssl.SSLContext, asked_name: str) -> RawClient:
        return await RawClient.connected(fleet.tls_port, asked_name, tls=who, username="hub")

    async with (
        await entering(context(fleet.file, operator.file, operator.key), "watches") as watching,
        await entering(context(fleet.file, theirs / CERTIFICATE, theirs / KEY), "other") as other,
    ):
        await watching.subscribed("metrica/#")
        await other.subscribed(topic(OTHER, STORED))
        thief = await entering(stolen, OTHER)
        await thief.subscribed("#", "metrica/#", topic(OTHER, STORED))

        names = [
            topic_of(Address(FleetId(FLEET), channel, DeviceId(name) if channel.per_device else None))
            for channel in CHANNELS
            for name in (STOLEN, OTHER)
        ]
        for name in names:
            await thief.published(name, FORGED, retain=True)
        await watching.caught_up()
        heard = {packet.topic for packet in watching.received if bytes(packet.payload) == FORGED}
        assert heard == {topic(STOLEN, channel) for channel in CHANNELS if channel.writer == "device"}

        # The hub answers both of them: each hears what concerns it, and nobody else.
        await says(other, OTHER)
        await says(thief, STOLEN)
        await hears(other, topic(OTHER, STORED))
        await hears(thief, topic(STOLEN, STORED))
        foreign = {packet.topic for packet in thief.received if f"/devices/{STOLEN}/" not in packet.topic}
        assert foreign <= {topic_of(Address(FleetId(FLEET), one)) for one in CHANNELS if not one.per_device}

        await asyncio.to_thread(revoked, fleet, folder)
        await asyncio.wait_for(thief.ended, 30)
        got = len(thief.received)
        async with asyncio.timeout(20):
            while await comes_in(fleet, stolen):  # the broker reads the list in its time
                pass
        assert await comes_in(fleet, context(fleet.file, third.file, third.key))
        assert [await comes_in(fleet, who) for who in (stolen, followed)] == [False, False]
        await other.caught_up()
        assert len(thief.received) == got


async def says(client: RawClient, name: str) -> None:
    """Say a record, as the device does that one is."""
    await client.published(topic(name, RECORDS), encode(heartbeat(new_stream(), 1)))


async def hears(client: RawClient, name: str) -> None:
    async with asyncio.timeout(30):
        while not any(packet.topic == name for packet in client.received):
            await client.caught_up()


def revoked(fleet: PaperFleet, folder: Path) -> None:
    """Revoke it as an operator does; the broker reads the list, as ``mosquitto-revoked.path`` has it."""
    serial = fleet.hub.get(f"/api/v1/devices/{STOLEN}/identity").json["serial"]
    (folder / "token").write_text(fleet.operator)
    where = ("--hub", fleet.hub_at.url, "--token-file", str(folder / "token"))
    words = ("device", "revoke", STOLEN, "--reason", "its card was stolen", "--yes", *where)
    subprocess.run([sys.executable, "-m", "metrica_cli", *words], check=True, capture_output=True, timeout=60)
    fleet.listed(serial)
    fleet.read_again()


async def comes_in(fleet: PaperFleet, who: ssl.SSLContext) -> bool:
    try:
        async with await RawClient.connected(fleet.tls_port, "any", tls=who):
            return True
    except Refused:
        return False


def gets_no_certificate(fleet: PaperFleet, card: Path) -> None:
    with pytest.raises(Unusable) as refused:
        renewed(card / "identity")
    assert refused.value.reason == "certificate-revoked"
    assert fleet.hub.get(f"/api/v1/devices/{STOLEN}/identity").json["revoked"] is True
    assert (card / "identity" / AGE).is_file(), "what it has read stays read: its secrets want new values"
