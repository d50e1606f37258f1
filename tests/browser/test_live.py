"""The pages with a fleet behind them that lives: real agents, Git, hub, broker, database, and a person with a key."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import CLOSED, DESKTOP, PHONE_WITH, House, state_of, visiting
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster
from tests.fixtures.git_servers import Repository, http_server, repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.machines import Machines
from tests.fixtures.signing import Person

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

DEVICES: Final = 6
PATIENCE_MS: Final = 60_000
"""For what agents do: fetch, try, soak."""
FLEET_FILE: Final = f"""
name = "{FLEET}"
[health]
soak_s = 0.4
start_deadline_s = 3
[limits]
apply_deadline_s = 10
"""
ROLLOUT: Final = """
[rollout]
deadline_s = 60
prefetch_s = 0
[[rollout.stages]]
name = "canary"
devices = ["pi-01"]
soak_s = 0.5
[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""


@dataclass
class Lively:
    """A fleet that lives, and who looks after it."""

    house: House
    repository: Repository
    person: Person
    version: int = 1

    def push(self, *, ill: bool = False) -> str:
        """Push another version, or one whose service ends at once; return the commit's short name."""
        self.version += 1
        files = {"fleet.toml": FLEET_FILE + ROLLOUT, "roles/camera/compose.yaml": compose(self.version, ill=ill)}
        return self.repository.commit(files)[:8]


def compose(version: int, *, ill: bool = False) -> str:
    label = '    labels: {fleet.metrica.sim: "exits"}\n' if ill else ""
    return f"services:\n  web:\n    image: example.org/web:{version}\n    restart: unless-stopped\n{label}"


@pytest.fixture(scope="module")
def lively(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lively]:
    """Six real agents on simulated machines that run a first commit."""
    folder = tmp_path_factory.mktemp("lively")
    fleet, alice = repository(folder), Person.made(folder, "alice")
    with (
        Cluster(Path("/var/tmp")) as cluster,  # noqa: S108 - Postgres' user must be able to enter it
        Broker(folder) as broker,
        cluster.database() as database,
        http_server(fleet.root) as server,
        Hub(
            database.url,
            broker.port,
            settings={**CLOSED, "METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.3"},
        ) as hub,
    ):
        hub.wait_until_ready()
        names = [f"pi-{number:02d}" for number in range(1, DEVICES + 1)]
        fleet.commit(
            {
                "fleet.toml": FLEET_FILE,
                "roles/camera/compose.yaml": compose(1),
                "allowed_signers": f"{hub.key_line()}\n{alice.line()}",
                **{f"devices/{name}.toml": 'role = "camera"\n' for name in names},
            }
        )
        house = House(hub, broker, {"operator": hub.token("operator")})
        house.signed_in["operator"] = state_of(chromium, house, "operator")
        with Machines.running(server.url(fleet), broker.port, folder, devices=DEVICES):
            yield Lively(house, fleet, alice)


def order_given(page: Page, person: Person, home: Path) -> None:
    """Do at one's own machine what the page says, with one's own key, and give what comes of it."""
    key = home / ".ssh" / "id_ed25519"
    if not key.exists():
        key.parent.mkdir(mode=0o700)
        shutil.copy(person.key, key)
    expect(page.locator("#order-text")).to_contain_text("number")
    script = page.locator("#order-keygen").inner_text()
    (home / "order.json.sig").unlink(missing_ok=True)
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(["sh", "-euc", script], cwd=home, env=environment, capture_output=True, text=True, check=True)
    page.get_by_label("What the last line printed").fill(done.stdout)
    page.get_by_role("button", name="Give the order").click()
    expect(page.locator("#give output")).to_have_text(re.compile(r"^Order \d+ is on its way\.$"))  # and its signer may


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [{"viewport": DESKTOP}, PHONE_WITH], ids=["desktop", "phone"])
def test_a_living_fleet_is_watched_steered_asked_stopped_and_let_go_on(
    how: dict[str, Any], lively: Lively, chromium: Browser, tmp_path: Path
) -> None:
    with visiting(chromium, lively.house, "operator", **how) as visit:
        # A rollout is watched to its end, as it goes; the next one halts by itself, and is aborted.
        page = visit.to("/rollouts")
        good = lively.push()
        row = page.locator("tbody tr", has_text=good)
        expect(row).to_contain_text("done", timeout=PATIENCE_MS)
        expect(visit.to("/").locator('[data-count="confirmed"] b')).to_have_text(str(DEVICES))
        page = visit.to("/rollouts")
        bad = lively.push(ill=True)
        row = page.locator("tbody tr", has_text=bad)
        expect(row).to_contain_text("halted", timeout=PATIENCE_MS)
        row.get_by_role("link").click()
        page.wait_for_selector('#link[data-state="live"]')
        canary, rest = page.locator(".stage").all()
        expect(canary).to_contain_text("1 refused")
        expect(rest).to_contain_text(f"{DEVICES - 1} waiting")
        page.locator("#action-abort summary").click()
        page.locator("#action-abort").get_by_label("Reason").fill("its service ends at once")
        page.locator("#action-abort").get_by_role("button").click()
        expect(page.locator("#rollout-now .head")).to_contain_text("aborted")

        # The device that refused it says why, gives its log, and does as it is told.
        page = visit.to("/devices/pi-01")
        expect(page.locator(".entry", has_text=bad).locator(".reason").first).to_contain_text('service "web" ')
        expect(page.locator("#device-head")).to_contain_text(good)
        for verb, fields in (("logs", {"Last lines": "5"}), ("restart", {"Service": "web"})):
            action = page.locator(f"#action-{verb}")
            action.locator("summary").click()
            for label, value in fields.items():
                action.get_by_label(label).fill(value)
            action.get_by_role("button").click()
            expect(page.locator("#answer-title")).to_contain_text(f"{verb}: done")
            if verb == "logs":
                expect(page.locator("#answer-lines span").last).to_have_text("web wrote line 5\n")

        # All are stopped by one's own key, and go on.
        page = visit.to("/stop?level=freeze&scope=fleet&reason=smoke")
        page.get_by_label("Type the fleet's name").fill(FLEET)
        page.get_by_role("button", name="Prepare the order").click()
        order_given(page, lively.person, tmp_path)
        now = page.locator("#stop-now")
        expect(now).to_contain_text(f"It stops {DEVICES}; {DEVICES} of them are at rest.")
        expect(now).to_contain_text("0 to come")
        page = visit.to("/stop")
        page.get_by_role("button", name="Prepare: resume fleet").click()
        order_given(page, lively.person, tmp_path)
        expect(page.locator("#stop-now")).to_contain_text("Nothing is stopped by order")
        expect(page.locator("#stop-now")).to_contain_text("0 to come")

        page = visit.to("/events?device=pi-01")
        expect(page.locator("#events")).to_contain_text("stop.lifted")
        page = visit.to("/audit")
        for action_name in ("rollout.abort", "command.send", "stop.order"):
            expect(page.locator("tbody")).to_contain_text(action_name)
