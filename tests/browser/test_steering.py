"""Pages that steer: a rollout goes on or ends, the fleet is stopped and goes on, devices are told what to do."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import DEVICES, House, Visit, meanwhile
from tests.fixtures.hub import FLEET
from tests.integration.hub.device import Device, status, topic

from metrica_fleet.codec import decode, encode
from metrica_fleet.commands import Command, understood
from metrica_fleet.messages import Answer, StopStanding
from metrica_fleet.signed import Signed, joined
from metrica_fleet.stop import Level, Stop, StopOrder, written
from metrica_fleet.topics import ANSWERS, COMMANDS

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from playwright.sync_api import Page


def say_why(page: Page, verb: str, reason: str) -> None:
    action = page.locator(f"#action-{verb}")
    action.locator("summary").click()
    action.get_by_label("Reason").fill(reason)
    action.get_by_role("button").click()


# A rollout


@pytest.mark.long
def test_a_rollout_tells_its_stages_failures_and_waits_and_is_steered(operated: Visit) -> None:
    page = operated.to("/rollouts")
    row = page.locator("tbody tr").first
    expect(row).to_contain_text("halted")
    row.get_by_role("link").click()
    page.wait_for_selector('#link[data-state="live"]')
    canary, tenth, rest = page.locator(".stage").all()
    expect(canary).to_contain_text("1 refused")
    expect(tenth).to_contain_text("then waits for a person")
    expect(rest).to_contain_text(f"{DEVICES - 120} waiting")
    expect(page.get_by_text("such as pi-0104")).to_be_visible()
    tenth.get_by_role("link", name="refused").click()
    expect(page).to_have_url(re.compile(r"\?stage=tenth&state=refused"))
    expect(page.locator("#rollout-devices tbody tr")).to_have_count(1)

    expect(page.locator("#action-pause")).to_be_hidden()
    expect(page.locator("#rollout-effects")).to_contain_text("What has failed by now (2) is forgiven")
    say_why(page, "resume", "the web was slow, no more")
    expect(page.locator("#rollout-now .head")).to_contain_text("under way")
    expect(page.locator("#action-resume")).to_be_hidden()
    say_why(page, "pause", "lunch")
    expect(page.locator("#rollout-now .head")).to_contain_text("operator: lunch")
    page.locator("#action-abort summary").click()
    page.get_by_label("Devices on it").select_option("go back")
    page.locator("#action-abort").get_by_label("Reason").fill("another one comes")
    page.get_by_role("button", name="Abort rollout 2").click()
    expect(page.locator("#rollout-now .head")).to_contain_text("aborted")
    expect(page.locator("#rollout-effects")).to_contain_text("there is nothing to steer")
    expect(page.locator(".action:visible")).to_have_count(0)


def test_who_only_looks_is_offered_nothing_to_do(visit: Visit) -> None:
    for path in ("/rollouts/1", "/stop", "/devices/pi-0001"):
        page = visit.to(path)
        expect(page.locator("main form")).to_have_count(0)


# The emergency stop


BEGAN: Final = int(time.time())
"""Orders are numbered by the time at which they are given: the later one's device has been up for longer."""
UP_S: Final = 2000.0


def signature(text: str, folder: Path) -> str:
    """What ssh-keygen makes of an order."""
    key, order = folder / "key", folder / "order.json"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    order.write_text(text, encoding="utf-8")
    order.with_suffix(".json.sig").unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "metrica-order", "-f", str(key), str(order)]
    subprocess.run(command, check=True, capture_output=True)
    return order.with_suffix(".json.sig").read_text(encoding="utf-8")


async def obey(house: House, names: tuple[str, ...], number: int, level: Level | None) -> None:
    """Have devices say that they have an order, all at once."""
    async with AsyncExitStack() as stack:
        for name in names:
            device = await stack.enter_async_context(Device(name, house.broker.port))
            await device.is_present("online", 20)
            standing = StopStanding(number=number, level=level, source="order" if level else None, done=True)
            await device.has_status(status(name, uptime_s=UP_S + number - BEGAN, stop=standing))
        await asyncio.sleep(0)


def give(page: Page, folder: Path) -> int:
    """Sign what the page shows, and give it; return its number."""
    expect(page.locator("#order-text")).to_contain_text("number")
    text = page.locator("#order-text").text_content() or ""
    page.get_by_label("What the last line printed").fill(signature(text, folder))
    page.get_by_role("button", name="Give the order").click()
    expect(page.locator("#give output")).to_contain_text("is on its way")
    return int(re.findall(r'"number":(\d+)', text)[0])


def test_a_fleet_is_stopped_and_goes_on_by_an_operators_own_key(operated: Visit, house: House, tmp_path: Path) -> None:
    page = operated.to("/stop")
    page.get_by_label("freeze").check()
    expect(page.locator("#stop-effect")).to_contain_text(f"That is {DEVICES} devices")
    expect(page.get_by_role("button", name="Prepare the order")).to_be_disabled()
    page.get_by_label("Why").fill("it's smoking")
    expect(page.get_by_role("button", name="Prepare the order")).to_be_enabled()
    page.get_by_role("button", name="Prepare the order").click()
    expect(page.locator("#sign")).to_be_hidden()  # the fleet's name was not typed
    page.get_by_label("Where").fill("device:pi-0011")
    expect(page.locator("#stop-effect")).to_contain_text("That is 1 device: 1 connected")
    page.get_by_role("button", name="Prepare the order").click()
    expect(page.locator("#order-text")).to_contain_text('"scope":"device:pi-0011","reason":"it\'s smoking"')
    expect(page.locator("#order-keygen")).to_contain_text("ssh-keygen -Y sign -n metrica-order")
    expect(page.locator("#order-metrica")).to_contain_text(
        "metrica stop freeze device:pi-0011 --reason 'it'\\''s smoking'"
    )
    expect(page.locator("#sign")).to_contain_text("No key for orders is on the hub.")
    expect(page.locator("#hub-sign")).to_have_count(0)
    number = give(page, tmp_path)

    now = page.locator("#stop-now")
    expect(now).to_contain_text("freeze device:pi-0011: it's smoking")
    expect(now).to_contain_text("1 to come")
    expect(now.locator(".to-come")).to_contain_text("pi-0011")
    meanwhile(obey(house, ("pi-0011",), number, Level.FREEZE))
    expect(now).to_contain_text("0 to come")
    expect(now).to_contain_text("It stops 1; 1 of them are at rest.")
    expect(page.get_by_role("link", name="Stop 1 stopped")).to_be_visible()

    page = operated.to("/stop")
    page.get_by_role("button", name="Prepare: resume device:pi-0011").click()
    number = give(page, tmp_path)
    expect(page.locator("#stop-now")).to_contain_text("Nothing is stopped by order")
    expect(page.locator("#stop-now")).to_contain_text("1 to come")
    meanwhile(obey(house, ("pi-0011",), number, None))
    expect(page.locator("#stop-now")).to_contain_text("0 to come")
    page.get_by_label("What the last line printed").fill("nonsense")
    page.get_by_role("button", name="Give the order").click()
    expect(page.locator("#give output")).to_contain_text("no SSH signature ends it")
    operated.faults.clear()  # that the hub refused it


def test_an_order_of_this_page_lifts_nothing_that_somebody_else_stopped_since_it_was_prepared(
    operated: Visit, house: House, tmp_path: Path
) -> None:
    page = operated.to("/stop?level=freeze&scope=device:pi-0013&reason=smoke")
    page.get_by_role("button", name="Prepare the order").click()
    expect(page.locator("#order-text")).to_contain_text("pi-0013")
    text = page.locator("#order-text").text_content() or ""
    stop = Stop(level=Level.FREEZE, scope="device:pi-0012")
    before = house.hub.get("/api/v1/stop", token=house.tokens["viewer"]).json["order"]
    number = 1 if before is None else before["number"] + 1
    theirs = written(StopOrder(fleet=FLEET, number=number, issued_at=datetime.now(UTC), stops=(stop,)))
    payload = joined(Signed(theirs, signature(theirs, tmp_path)))
    kind = {"Content-Type": "text/plain"}
    given = house.hub.get("/api/v1/orders", kind, "POST", payload, token=house.tokens["operator"])
    assert given.status == 202, given.text

    page.get_by_label("What the last line printed").fill(signature(text, tmp_path))
    page.get_by_role("button", name="Give the order").click()
    expect(page.locator("#give output")).to_contain_text(f"order {number} is in force, and not")
    operated.faults.clear()  # that the hub refused it
    expect(page.locator("#stop-now")).to_contain_text("freeze device:pi-0012")
    page = operated.to("/stop")
    page.get_by_role("button", name="Prepare: resume device:pi-0012").click()
    give(page, tmp_path)
    expect(page.locator("#stop-now")).to_contain_text("Nothing is stopped by order")


# Commands

BUNDLE: Final = bytes(range(256)) * 4
LINES: Final = tuple(f"frame {number}" for number in range(1200))


async def obeys(house: House, name: str, count: int) -> None:
    """Be a device that does ``count`` commands and is off then."""
    async with Device(name, house.broker.port) as device, asyncio.timeout(60):
        await device.client.subscribe(topic(name, COMMANDS), qos=1)
        await device.is_present("online", 30)
        numbers: set[int] = set()
        async for message in device.client.messages:
            signed = decode(COMMANDS, message.payload)  # pyright: ignore[reportArgumentType]
            assert isinstance(signed, Signed)
            command = understood(signed.text)
            for answer in answers(command):
                await device.say(ANSWERS, encode(answer))
            numbers.add(command.number)
            if len(numbers) == count:
                return


def answers(command: Command) -> list[Answer]:
    """What it says to a command."""
    number = command.number
    match command.verb:
        case "logs":
            parts = [LINES[:600], (*LINES[600:], "the <b>last</b> word")]
            return [
                *(Answer(number=number, state="running", part=at, lines=lines) for at, lines in enumerate(parts)),
                Answer(number=number, state="done", part=len(parts)),
            ]
        case "collect":
            parts = [BUNDLE[:600], BUNDLE[600:]]
            return [
                *(Answer(number=number, state="running", part=at, data=data) for at, data in enumerate(parts)),
                Answer(number=number, state="done", part=len(parts), message="all of it"),
            ]
        case "restart":
            return [Answer(number=number, state="failed", reason="no-such-service", message="there is no tuba")]
        case _:
            return [Answer(number=number, state="running"), Answer(number=number, state="done")]


@contextmanager
def obeying(house: House, *counts: tuple[str, int]) -> Generator[None]:
    """Have devices obey beside what is done inside, until each has done so many commands."""
    with ThreadPoolExecutor(len(counts)) as pool:
        working = [pool.submit(asyncio.run, obeys(house, name, count)) for name, count in counts]
        yield
        for one in working:
            one.result(timeout=60)


def test_a_log_is_read_searched_and_kept(operated: Visit, house: House) -> None:
    page = operated.to("/devices/pi-0012")
    action = page.locator("#action-logs")
    action.locator("summary").click()
    action.get_by_label("Service").fill("web")
    action.get_by_label("Last lines").fill("2000")
    with obeying(house, ("pi-0012", 1)):
        action.get_by_role("button").click()
        expect(page.locator("#answer-title")).to_have_text("logs: done")
    lines = page.locator("#answer-lines span")
    expect(lines).to_have_count(1000)
    expect(lines.last).to_have_text("the <b>last</b> word\n")
    assert page.evaluate(
        "(({scrollTop, scrollHeight, clientHeight}) => scrollTop + clientHeight >= scrollHeight - 8)"
        "(document.getElementById('answer-lines'))"
    )
    page.get_by_label("Find").fill("frame 777")
    expect(page.locator("#answer-lines span:visible")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.startswith("pi-0012-logs-")
    page.goto(f"{operated.url}/audit?action=command.send")
    expect(page.locator("tbody tr").first).to_contain_text("device/pi-0012")


def test_what_went_wrong_is_said_and_a_dangerous_thing_wants_the_name(operated: Visit, house: House) -> None:
    page = operated.to("/devices/pi-0013")
    restart, reboot = page.locator("#action-restart"), page.locator("#action-reboot")
    with obeying(house, ("pi-0013", 2)):
        restart.locator("summary").click()
        restart.get_by_label("Service").fill("tuba")
        restart.get_by_role("button").click()
        expect(page.locator("#answer-title")).to_have_text("restart: failed, no such service: there is no tuba")
        expect(page.locator("#device-commands li").first).to_contain_text("there is no tuba")
        reboot.locator("summary").click()
        reboot.get_by_role("button").click()
        expect(page.locator("#answer-title")).to_contain_text("restart")  # the name was not typed
        reboot.get_by_label("Type its name").fill("pi-0013")
        reboot.get_by_role("button").click()
        expect(page.locator("#answer-title")).to_have_text("reboot: done")


def test_every_other_action_is_given_and_its_answer_shown(operated: Visit, house: House) -> None:
    page = operated.to("/devices/pi-0014")
    switched: tuple[tuple[str, str | None], ...] = (
        ("sync", None),
        ("redeploy", None),
        ("hold", "hold"),
        ("hold", "go on"),
        ("safe-mode", "safe mode"),
        ("safe-mode", "the confirmed release"),
    )
    with obeying(house, ("pi-0014", len(switched) + 1)):
        for verb, to in switched:
            action = page.locator(f"#action-{verb}")
            if not action.locator("form").is_visible():
                action.locator("summary").click()
            if to is not None:
                action.get_by_label("To").select_option(to)
                action.get_by_label("Why").fill("a look at it")
            given = page.locator("#device-commands li").count()
            action.get_by_role("button").click()
            expect(page.locator("#device-commands li").first).to_contain_text(verb)
            expect(page.locator("#device-commands li")).to_have_count(given + 1)
            expect(page.locator("#answer-title")).to_have_text(f"{verb}: done")
        page.locator("#action-collect summary").click()
        page.locator("#action-collect").get_by_role("button").click()
        expect(page.locator("#answer-title")).to_have_text("collect: done, all of it")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.path().read_bytes() == BUNDLE
    page.goto(f"{operated.url}/audit?action=command.send&subject=device/pi-0014")
    expect(page.locator("tbody tr")).to_have_count(len(switched) + 1)


async def follows(house: House, name: str, scrolled: Event) -> None:
    """Be a device whose log is followed: it writes more once somebody has ``scrolled`` up, until it is told to end."""
    async with Device(name, house.broker.port) as device, asyncio.timeout(60):
        await device.client.subscribe(topic(name, COMMANDS), qos=1)
        await device.is_present("online", 30)
        followed = 0
        async for message in device.client.messages:
            signed = decode(COMMANDS, message.payload)  # pyright: ignore[reportArgumentType]
            assert isinstance(signed, Signed)
            command = understood(signed.text)
            if command.verb == "logs":
                assert command.arguments["follow"] is True
                followed = command.number
                await device.say(ANSWERS, encode(Answer(number=followed, state="running", lines=LINES[:200])))
                await asyncio.to_thread(scrolled.wait, 30)
                await device.say(
                    ANSWERS, encode(Answer(number=followed, state="running", part=1, lines=LINES[200:230]))
                )
            elif command.verb == "cancel":
                assert command.arguments["command"] == followed
                await device.say(ANSWERS, encode(Answer(number=command.number, state="done")))
                end = Answer(number=followed, state="done", reason="cancelled", message="it was followed", part=2)
                await device.say(ANSWERS, encode(end))
                return


def test_a_log_that_is_followed_stands_still_for_who_scrolls_up_and_is_ended(operated: Visit, house: House) -> None:
    page, scrolled = operated.to("/devices/pi-0015"), Event()
    action, lines = page.locator("#action-logs"), page.locator("#answer-lines")
    action.locator("summary").click()
    action.get_by_label("and what it writes from now on").check()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(asyncio.run, follows(house, "pi-0015", scrolled))
        action.get_by_role("button").click()
        expect(lines.locator("span")).to_have_count(200)
        expect(page.locator("#answer-title")).to_have_text("logs: running")
        lines.evaluate("box => { box.scrollTop = 0 }")
        scrolled.set()
        more = page.locator("#answer-more")
        expect(more).to_have_text("30 new lines")
        assert lines.evaluate("box => box.scrollTop") == 0
        more.click()
        expect(more).to_be_hidden()
        page.get_by_label("wrap").check()
        expect(lines).to_have_class("is-wrapped")
        page.get_by_role("button", name="End it").click()
        expect(page.locator("#answer-title")).to_have_text("logs: done, cancelled: it was followed")
        expect(page.get_by_role("button", name="End it")).to_be_hidden()
        following.result(timeout=60)


def test_devices_that_are_ticked_are_told_all_at_once(operated: Visit, house: House) -> None:
    page = operated.to("/?view=table&q=pi-003")
    for name in ("pi-0031", "pi-0033"):
        page.get_by_label(f"Choose {name}").check()
    expect(page.locator("#chosen-count")).to_have_text("2 devices chosen")
    page.get_by_label("Do").select_option("hold")
    page.locator("#chosen").get_by_label("Why").fill("a fair")
    with obeying(house, ("pi-0031", 1), ("pi-0033", 1)):
        page.get_by_role("button", name="Hold: 2 devices").click()
        expect(page.locator("#chosen output")).to_have_text("Given to 2.")
    page.goto(f"{operated.url}/audit?action=command.send&subject=device/pi-0033")
    page.locator("tbody summary").first.click()
    expect(page.locator("tbody tr").first).to_contain_text(re.compile("a fair"))
