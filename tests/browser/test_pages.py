"""Every page for reading, as a person meets it: at a desk, with a phone, by keyboard, without JavaScript."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import DESKTOP, DEVICES, PHONE, Axe, House, Visit, meanwhile
from tests.faults.failures import say
from tests.integration.hub.device import Device, event, new_stream, service, services, status

from metrica_fleet.records import Vitals

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page, ViewportSize

    from metrica_fleet.messages import Service

__all__ = ["say"]

FLEET_PAGES = ("/?q=pi-000", "/?view=tiles&q=pi-000", "/?view=table&q=pi-000")
DEVICE_PAGES = ("/devices/pi-0001", "/devices/pi-0004?span=7d")
STEERING = ("/rollouts", "/rollouts/2?state=refused", "/stop?level=halt&scope=fleet&reason=smoke")
OTHERS = ("/login", "/devices/nobody", "/rollouts/999")
"""That are there once, and have nothing that lives: the form, and what is not there."""
READING = (*FLEET_PAGES, *DEVICE_PAGES, *STEERING, "/events?device=pi-0002", "/audit")
TARGETS = ".top a, button, .views a, .tile, .brief, .counter, select, input, .bottom a"
BUDGET_BYTES = 150_000
PATIENCE_MS = 4000
"""Four times what a page may take by itself, for whatever else is tested on this machine; the figures are printed."""
Scheme = Literal["light", "dark"]


async def say_more(house: House, name: str, **more: Any) -> None:
    async with Device(name, house.broker.port) as device:
        await device.is_present("online", 9)
        await device.has_status(status(name, uptime_s=1000.0, **more))


async def runs(house: House, name: str, *them: Service) -> None:
    async with Device(name, house.broker.port) as device:
        await device.runs(services(name, *them))


async def tell(house: House, name: str, message: str) -> None:
    async with Device(name, house.broker.port) as device:
        await device.tell(event(new_stream(), 1, kind="release.refused", message=message))


# The frame


def test_who_is_nobody_is_asked_for_a_token_and_led_back(house: House, chromium: Browser) -> None:
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{house.url}/devices/pi-0001?span=24h")
        page.get_by_label("Token").fill("mtr_" + "x" * 43)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known")
        page.get_by_label("Token").fill(house.tokens["viewer"])
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{house.url}/devices/pi-0001?span=24h")
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{house.url}/login")
        page.goto(house.url)
        expect(page.get_by_label("Token")).to_be_visible()


def test_keys_lead_to_the_search_the_pages_and_the_list_of_keys(visit: Visit) -> None:
    page = visit.to("/events")
    page.keyboard.press("g")
    page.keyboard.press("f")
    expect(page).to_have_url(f"{visit.url}/")
    page.wait_for_selector('#link[data-state="live"]')
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("tag:site-1 is:trial")
    expect(page).to_have_url(re.compile(r"\?q=tag%3Asite-1\+is%3Atrial"))
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("e")
    expect(page).to_have_url(f"{visit.url}/events")


def test_a_theme_that_was_chosen_stays_chosen(visit: Visit) -> None:
    page = visit.to("/")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Theme: auto").click()
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(paper) != light
    visit.to("/events")
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate(paper) != light


def test_the_title_and_the_icon_count_the_problems_and_a_lost_hub_is_said(visit: Visit, house: House) -> None:
    page = visit.to("/")
    expect(page).to_have_title(f"({DEVICES // 100 * 4}) test · Metrica Fleet")
    icon = page.locator("#icon").get_attribute("href") or ""
    assert icon == f"/badge/{DEVICES // 100 * 4}.svg"
    assert f">{DEVICES // 100 * 4}<" in house.hub.get(icon).text
    house.hub.kill()
    expect(page.locator("#link")).to_contain_text("reconnecting, ", timeout=20_000)
    house.hub.start()
    house.hub.wait_until_ready()
    expect(page.locator("#link")).to_have_text("live", timeout=20_000)
    visit.faults.clear()  # that it could not connect


# The fleet


def test_counters_are_filters_that_a_link_keeps(visit: Visit, house: House) -> None:
    page = visit.to("/")
    share = DEVICES // 100
    for name, count in (("problems", 4 * share), ("offline", share), ("trial", share), ("refused", share)):
        expect(page.locator(f'[data-count="{name}"] b')).to_have_text(str(count))
    page.locator('[data-count="refused"]').click()
    expect(page).to_have_url(f"{visit.url}/?show=refused")
    expect(page.locator(".device")).to_have_count(share)
    page.locator(".views").get_by_text("table").click()
    expect(page.locator("tbody tr")).to_have_count(share)
    page.get_by_role("link", name="Role", exact=True).click()
    expect(page).to_have_url(f"{visit.url}/?show=refused&view=table&sort=role")
    roles = page.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert roles == sorted(roles)
    visit.to("/?show=refused&view=table&sort=role")
    assert page.locator("tbody tr td:nth-child(2)").all_inner_texts() == roles
    visit.to("/?view=table&q=pi-0001")
    expect(page.get_by_role("img", name=re.compile(r"heard in 2\d of 24 hours; trouble in 1"))).to_be_visible()
    hours = house.hub.get("/api/v1/devices/pi-0001/day", token=house.tokens["viewer"]).json["hours"]
    assert (len(hours), hours.count("troubled"), hours.count("heard") >= 19) == (24, 1, True)


def test_five_hundred_devices_are_on_one_screen(visit: Visit) -> None:
    page = visit.to("/?view=tiles&q=-is:problems")
    seen = page.evaluate(
        "[...document.querySelectorAll('.tile')]"
        ".filter(one => one.getBoundingClientRect().bottom <= innerHeight).length"
    )
    assert seen >= 500
    expect(page.get_by_role("link", name="pi-0003 trial")).to_be_visible()


def test_words_filter_while_they_are_typed_and_a_slip_is_said(visit: Visit) -> None:
    page = visit.to("/")
    search = page.get_by_role("searchbox")
    search.fill("role:camera mode:refused")
    expect(page.locator(".device").first).to_contain_text("camera")
    expect(page.locator(".shown")).to_contain_text("of 1000 devices meet role:camera mode:refused")
    expect(search).to_be_focused()
    search.fill("rol:camera")
    expect(page.locator(".note")).to_have_text("“rol:” is no filter; did you mean role:?.")


def test_a_device_moves_to_where_it_belongs_as_it_changes(visit: Visit, house: House) -> None:
    page = visit.to("/?view=tiles&q=pi-001")
    ours = page.locator("#device-pi-0010")
    expect(ours).to_have_class(re.compile("tile"))
    refusal = {"phase": "refused", "message": "no room <b>at all</b>", "role": "sensor"}
    meanwhile(say_more(house, "pi-0010", **refusal))
    expect(page.locator('[data-group="!"] #device-pi-0010')).to_contain_text("no room <b>at all</b>")
    meanwhile(say_more(house, "pi-0010", role="sensor", vitals=Vitals(temperature_celsius=71.0)))
    expect(page.locator('[data-group="sensor"] #device-pi-0010')).to_be_visible()
    page = visit.to("/?show=problems&view=table&q=pi-001")
    expect(page.locator("tbody tr")).to_have_count(0)
    meanwhile(say_more(house, "pi-0010", **refusal))
    expect(page.locator("tbody tr")).to_have_count(1)
    meanwhile(say_more(house, "pi-0010", role="sensor"))
    expect(page.locator("tbody tr")).to_have_count(0)


# A device, events


def test_a_device_tells_its_releases_with_reasons_and_durations(visit: Visit) -> None:
    page = visit.to("/devices/pi-0001")
    grafana = page.get_by_role("link", name="Open in Grafana")
    expect(grafana).to_have_attribute("href", "/grafana/d/metrica-device?var-device=pi-0001")
    back, refused, confirmed = page.locator(".entry").all()
    expect(back).to_contain_text("way back to aaaaaaaa")
    expect(refused.locator(".reason")).to_have_text('service "web" is unhealthy by its own health check')
    expect(confirmed).to_contain_text("took 30 s")
    refused.locator("summary").get_by_text("trial").click()
    expect(refused).to_contain_text("release.trial_started")
    expect(page.locator("time").first).to_have_attribute("title", re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$"))


def test_the_head_of_a_device_has_a_lamp_for_the_bus_and_one_for_prometheus(visit: Visit, house: House) -> None:
    page = visit.to("/devices/pi-0001")
    bus, second = page.locator("#lamp-bus"), page.locator("#lamp-prometheus")
    expect(bus).to_contain_text(re.compile(r"^Bus\s+●online"))
    expect(second).to_contain_text(re.compile(r"^Prometheus\s+◌not known\s+Prometheus has not answered yet$"))
    utc = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$")
    assert house.prometheus is not None
    with house.prometheus:
        expect(second).to_contain_text(re.compile(r"^Prometheus\s+●reached\s+(now|\d+ s ago)$"))
        expect(second.locator(".word")).to_have_class(re.compile("tone-good"))
        expect(second.locator("time")).to_have_attribute("title", utc)
        other = visit.to("/devices/pi-0002").locator("#lamp-prometheus")
        expect(other).to_contain_text(re.compile(r"^Prometheus\s+○not reached\s+not since this hub asks$"))
        expect(visit.to("/devices/pi-0003").locator("#lamp-prometheus")).to_contain_text("·no target of it")
        visit.to("/devices/pi-0001")
        expect(second).to_contain_text("reached")
    expect(second).to_contain_text(re.compile(r"^Prometheus\s+◌not known\s+Prometheus last answered \d+ s ago$"))
    expect(second.locator("time")).to_have_attribute("title", utc)


def test_what_runs_on_a_device_is_a_table_that_goes_on_by_itself(visit: Visit, house: House) -> None:
    page = visit.to("/devices/pi-0009")
    table = page.get_by_role("region", name="Services of the device").get_by_role("table")
    recorder = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="recorder (2)"))
    expect(recorder.get_by_role("cell")).to_have_text(
        [
            re.compile("restarting, exit code 3$"),
            re.compile(r"\d"),
            "41",
            re.compile(r"^registry\.example\.org/camera/recorder:1\.4\.0@sha256:(5f){32} (5f){6}$"),
        ]
    )
    expect(table.get_by_role("row").filter(has_text="web")).to_contain_text("healthy")
    right = "one => one.getBoundingClientRect().right"
    edge = page.locator("#device-head").evaluate(right)
    assert page.locator("#device-services").evaluate(right) <= edge + 1, "a wide table moves in its own frame"
    meanwhile(runs(house, "pi-0009", service("web", state="exited", exit_code=137)))
    expect(table.get_by_role("rowheader")).to_have_text(["web"])
    expect(table).to_contain_text("stopped, exit code 137")
    expect(visit.to("/devices/pi-0010").locator("#device-services .note")).to_contain_text("does not answer")
    expect(visit.to("/devices/pi-0011").locator("#device-services")).to_contain_text("has not said what runs on it")


def test_vitals_have_three_spans_and_one_cursor(visit: Visit, house: House) -> None:
    page = visit.to("/devices/pi-0001")
    for span, least in (("1h", 55), ("24h", 200), ("7d", 150)):
        page.locator(f"#span-{span}").click()
        expect(page.locator(f"#span-{span}")).to_have_attribute("aria-current", "true")
        expect(page.locator(".plot")).to_have_count(4)
        values = page.locator(".plot").first.get_attribute("data-values") or ""
        assert len(values.split()) >= least
        answer = house.hub.get(f"/api/v1/devices/pi-0001/vitals?span={span}", token=house.tokens["viewer"])
        assert abs(len(answer.json["points"]) - len(values.split())) <= 1
    assert page.locator(".plot .line").first.get_attribute("d").count("M") == 2, "the gap is shown"  # pyright: ignore[reportOptionalMemberAccess]
    page.locator(".plot svg").first.hover()
    for cursor in page.locator(".plot .cursor").all():
        expect(cursor).to_have_attribute("d", re.compile("^M[23]"))
    assert house.hub.get("/api/v1/devices/pi-0001/vitals?span=2h", token=house.tokens["viewer"]).status == 400


def test_what_happens_shows_on_the_page_of_the_device_and_of_events(visit: Visit, house: House) -> None:
    page = visit.to("/devices/pi-0020")
    meanwhile(tell(house, "pi-0020", "the lens is gone"))
    expect(page.locator("#device-events")).to_contain_text("the lens is gone")
    page = visit.to("/events?kind=release.refused&device=pi-0021")
    expect(page.locator("#events li")).to_have_count(1)
    meanwhile(tell(house, "pi-0022", "of another device"))
    meanwhile(tell(house, "pi-0021", "and the mount"))
    expect(page.locator("#events li").first).to_contain_text("and the mount")
    expect(page.locator("#events li")).to_have_count(2)


def test_events_are_chosen_and_turned_over(visit: Visit) -> None:
    page = visit.to("/events")
    page.get_by_label("Kind").select_option("rollback")
    expect(page).to_have_url(re.compile("kind=rollback"))
    expect(page.locator("#events li")).to_have_count(80)
    page = visit.to("/events")
    expect(page.locator("#events li")).to_have_count(100)
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#events li")).to_have_count(100)
    page.get_by_role("link", name="Newest").click()
    expect(page).to_have_url(f"{visit.url}/events")


def test_an_operator_reads_who_did_what_and_a_viewer_is_not_shown_the_way(operated: Visit, visit: Visit) -> None:
    page = operated.to("/")
    page.get_by_role("link", name="Audit").click()
    row = page.locator("tbody tr", has_text="session.begin").first
    expect(row).to_contain_text("session")
    row.locator("summary").click()
    expect(row).to_contain_text("seal")
    page.get_by_label("Actor").fill("viewer")
    expect(page).to_have_url(re.compile("actor=viewer"))
    expect(page.locator("tbody tr th").first).to_contain_text("viewer")
    expect(visit.to("/").get_by_role("link", name="Audit")).to_have_count(0)


# For everybody


def test_pages_can_be_read_without_javascript(house: House, chromium: Browser) -> None:
    with chromium.new_context(java_script_enabled=False, viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(f"{house.url}/login")
        page.get_by_label("Token").fill(house.tokens["viewer"])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("searchbox").fill("pi-0004")
        page.keyboard.press("Enter")
        expect(page.locator(".device")).to_have_count(1)
        page.locator(".device a").click()
        expect(page.locator(".reason").first).to_contain_text("unhealthy")
        expect(page.locator(".plot, #device-vitals .soft").first).to_be_visible()
        page.goto(f"{house.url}/devices/nobody")
        expect(page.locator("main")).to_contain_text('No device "nobody" was ever heard of.')


def test_on_a_phone_nothing_is_cut_off_and_everything_can_be_touched(phone: Visit) -> None:
    for path in READING:
        page = phone.to(path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        small = page.evaluate(
            """targets => [...document.querySelectorAll(targets)]
            .map(one => [one.outerHTML.slice(0, 90), one.getBoundingClientRect().height])
            .filter(([, height]) => height > 0 && height < 44)""",
            TARGETS,
        )
        assert small == [], path


@pytest.mark.parametrize(("scheme", "rules"), [("light", None), ("dark", "color-contrast")])
def test_axe_finds_nothing_serious(scheme: Scheme, rules: str | None, operated: Visit, axe: Axe) -> None:
    operated.page.emulate_media(color_scheme=scheme)
    for path in READING:  # in the dark only colours can differ
        assert axe(operated.to(path), rules) == [], path


def test_axe_finds_nothing_serious_on_a_phone(phone: Visit, axe: Axe) -> None:
    for path in READING:
        assert axe(phone.to(path), None) == [], path


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious_in_the_form_in_what_is_not_there_and_in_what_opens(
    viewport: ViewportSize, house: House, chromium: Browser, axe: Axe
) -> None:
    with chromium.new_context(viewport=viewport, storage_state=house.signed_in["operator"]) as context:
        page = context.new_page()
        for path in OTHERS:
            page.goto(f"{house.url}{path}")
            assert axe(page, None) == [], path
        page.goto(f"{house.url}/devices/pi-0001")
        page.wait_for_selector('#link[data-state="live"]')
        for action in page.locator(".action").all():
            action.locator("summary").click()
            expect(action.locator("form")).to_be_visible()
            assert axe(page, None) == [], action.get_attribute("id")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert axe(page, None) == [], "the list of keys"


def test_every_page_is_there_within_a_second_at_a_thousand_devices(
    house: House, chromium: Browser, say: Callable[[str], None]
) -> None:
    for viewport, size in ((DESKTOP, "1280 x 880"), (PHONE, "390 x 844")):
        with chromium.new_context(viewport=viewport, storage_state=house.signed_in["viewer"]) as context:
            page = context.new_page()
            page.route("**/*", lambda route: route.continue_())  # nothing comes from the browser's cache then
            for path in ("/", "/?view=table", "/devices/pi-0001?span=7d", "/rollouts/2", "/events"):
                took_ms, sent = loaded(page, f"{house.url}{path}")
                say(f"{path:26} {size:10} {DEVICES} devices: {took_ms:5.0f} ms, {sent / 1000:5.1f} kB with its files")
                assert sent <= BUDGET_BYTES, path
                assert took_ms < PATIENCE_MS, path


def loaded(page: Page, url: str) -> tuple[float, int]:
    """Load a page; return how long it took, and how much was sent for it."""
    page.goto(url)
    took_ms, sent = page.evaluate(
        """() => { const [page] = performance.getEntriesByType("navigation");
        const files = performance.getEntriesByType("resource").filter(one => /static/.test(one.name));
        return [page.loadEventEnd, [page, ...files].reduce((sum, one) => sum + one.encodedBodySize, 0)] }"""
    )
    return took_ms, sent
