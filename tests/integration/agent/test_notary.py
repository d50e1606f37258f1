"""Signed texts, made by ssh-keygen: whose are taken, for what, and by which signers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from tests.fixtures.signing import Person, allowed

from metrica_agent.decisions import trust
from metrica_agent.decisions.world import Memory
from metrica_agent.tasks.notary import Notary
from metrica_agent.wiring import verified
from metrica_fleet.errors import Unusable
from metrica_fleet.signed import COMMANDS, GATES, ORDERS, Signed

if TYPE_CHECKING:
    from pathlib import Path

TEXT = '{"issued_at": "2026-11-29T09:20:00+01:00", "number": 7}\n'


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Person, Person]:
    folder: Path = tmp_path_factory.mktemp("people")
    return Person.made(folder, "alice"), Person.made(folder, "hub")


def signed(by: Person, namespace: str = ORDERS, text: str = TEXT) -> Signed:
    return Signed(text, by.sign(text.encode(), namespace).decode())


async def refusal(notary: Notary, what: Signed, memory: Memory, namespace: str = ORDERS) -> str:
    with pytest.raises(Unusable) as caught:
        await notary.opened(what, namespace, memory)
    return caught.value.reason


async def test_what_somebody_signed_who_may_is_opened_with_the_name(people: tuple[Person, Person]) -> None:
    alice, _ = people
    notary = Notary(verify=verified, own=allowed(alice))
    assert await notary.opened(signed(alice), ORDERS, Memory()) == (TEXT.encode(), "alice@example.org")


async def test_the_hubs_key_signs_gates_and_commands_and_no_orders(people: tuple[Person, Person]) -> None:
    alice, hub = people
    notary = Notary(verify=verified)
    memory = Memory(signers=allowed(alice) + hub.line(f'namespaces="{GATES},{COMMANDS}"'))
    assert (await notary.opened(signed(hub, GATES), GATES, memory))[1] == "hub@example.org"
    assert await refusal(notary, signed(hub, ORDERS), memory) == "signer-unknown"
    assert await refusal(notary, signed(hub, GATES), memory) == "signature-bad", "signed for something else"


async def test_a_text_that_was_changed_or_has_no_time_or_no_signers_is_refused(people: tuple[Person, Person]) -> None:
    alice, hub = people
    notary = Notary(verify=verified, own=allowed(alice))
    good = signed(alice)
    assert await refusal(notary, Signed(good.text.replace("7", "8"), good.signature), Memory()) == "signature-bad"
    assert await refusal(notary, Signed(good.text, "no signature at all"), Memory()) == "signature-bad"
    assert await refusal(notary, signed(hub), Memory()) == "signer-unknown"
    assert await refusal(notary, signed(alice, text='{"number": 7}'), Memory()) == "not-dated"
    assert await refusal(Notary(verify=verified), good, Memory()) == "signers-none"


async def test_the_keys_time_is_judged_by_the_time_in_the_text(people: tuple[Person, Person]) -> None:
    alice, _ = people
    notary = Notary(verify=verified, own=alice.line('valid-before="20261129082000Z"'))
    assert (await notary.opened(signed(alice), ORDERS, Memory()))[1] == "alice@example.org"
    late = TEXT.replace("09:20:00", "09:20:01")
    assert await refusal(notary, signed(alice, text=late), Memory()) == "signer-unknown"


async def test_signers_that_signed_commits_handed_on_outrank_all_others(people: tuple[Person, Person]) -> None:
    alice, hub = people
    trusting = trust.founded(Memory(), allowed(alice)).memory
    notary = Notary(verify=verified, own=allowed(hub))
    memory = replace(trusting, signers=allowed(hub))
    assert (await notary.opened(signed(alice), ORDERS, memory))[1] == "alice@example.org"
    assert await refusal(notary, signed(hub), memory) == "signer-unknown"
