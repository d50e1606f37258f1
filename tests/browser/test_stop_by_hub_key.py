"""The page of the emergency stop, of a hub that was given a key for orders: by a phone, with no key at hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import Axe, House, Visit, housed, meanwhile
from tests.browser.test_steering import obey
from tests.fixtures.hub import FLEET
from tests.fixtures.signing import Person

from metrica_fleet.stop import Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

DEVICES: Final = 100
BUTTON: Final = "Sign with the hub's key, and give the order"


@pytest.fixture(scope="module")
def house(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A hub that was given a key; it follows no repository."""
    folder = tmp_path_factory.mktemp("browser")
    given = Person.made(folder, "hub-stop")
    with housed(chromium, folder, DEVICES, METRICA_HUB_STOP_KEY_FILE=str(given.key)) as house:
        yield house


def number_of(page: Page) -> int:
    said = page.locator("#hub-sign output")
    unjudged = "Whether its signer may was not found out here: this hub has read no commit of the fleet repository."
    expect(said).to_have_text(re.compile(rf"^Order \d+ is on its way\. {unjudged}$"))
    return int(re.findall(r"\d+", said.text_content() or "")[0])


def test_a_fleet_is_stopped_from_a_phone_and_goes_on_by_the_hubs_key(phone: Visit, house: House, axe: Axe) -> None:
    page = phone.to("/stop?level=halt&scope=device:pi-0011&reason=smoke")
    page.get_by_role("button", name="Prepare the order").tap()
    expect(page.locator("#order-text")).to_contain_text('"scope":"device:pi-0011","reason":"smoke"')
    sign = page.locator("#sign")
    expect(sign).to_contain_text(
        "The hub signs, not you, with the key that it was given for orders; the trail names you."
    )
    expect(sign).to_contain_text('hub-stop namespaces="metrica-order" ssh-ed25519 ')
    expect(sign.get_by_label("What the last line printed")).to_be_visible()  # one's own key may sign as ever
    assert axe(page, None) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    button, name = sign.get_by_role("button", name=BUTTON), sign.get_by_label("Type the fleet's name")
    for one in (button, name):
        box = one.bounding_box()
        assert box is not None
        assert box["height"] >= 44

    for wrong in ("", "tset"):
        name.fill(wrong)
        button.tap()
        assert page.evaluate("document.getElementById('hub-guard').validity.valid") is False
    now = page.locator("#stop-now")
    expect(now).to_contain_text("Nothing is stopped by order")
    name.fill(FLEET)
    button.tap()
    number = number_of(page)
    expect(now).to_contain_text("halt device:pi-0011: smoke")
    expect(now).to_contain_text("1 to come")
    expect(name).to_have_value("")
    meanwhile(obey(house, ("pi-0011",), number, Level.HALT))
    expect(now).to_contain_text("0 to come")
    expect(now).to_contain_text("It stops 1; 1 of them are at rest.")

    # What was prepared before is upon an order that is in force no more.
    name.fill(FLEET)
    button.tap()
    expect(page.locator("#hub-sign output")).to_contain_text(f"order {number} is in force, and not 0")
    phone.faults.clear()  # that the hub refused it

    page = phone.to("/stop")
    page.get_by_role("button", name="Prepare: resume device:pi-0011").tap()
    page.get_by_label("Type the fleet's name").fill(FLEET)
    page.get_by_role("button", name=BUTTON).tap()
    meanwhile(obey(house, ("pi-0011",), number_of(page), None))
    expect(page.locator("#stop-now")).to_contain_text("Nothing is stopped by order")
    expect(page.locator("#stop-now")).to_contain_text("0 to come")
    page.goto(f"{phone.url}/audit?action=stop.order")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_who_only_looks_has_no_button(visit: Visit) -> None:
    expect(visit.to("/stop?level=halt&scope=fleet&reason=smoke").locator("#hub-sign")).to_have_count(0)
