"""Real Chromium, before a real hub with a fleet behind it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import expect, sync_playwright
from tests.fixtures.broker import HOST, Broker, free_port
from tests.fixtures.database import Cluster
from tests.fixtures.hub import Hub
from tests.fixtures.scraping import Prometheus

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterator

    from playwright.sync_api import Browser, Page, StorageState, ViewportSize

DEVICES: Final = 1000
PATIENCE_MS: Final = 20_000
CLOSED: Final = {"METRICA_HUB_HTTP_ANONYMOUS": "none", "METRICA_HUB_LINKS_GRAFANA": "/grafana/"}
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 880}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
PHONE_WITH: Final[dict[str, Any]] = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
_STORY: Final = Path(__file__).with_name("story.sql").read_text(encoding="utf-8")
_CHROMIUM: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


Axe = Callable[["Page", str | None], list[str]]
"""What axe-core finds in a page that is serious, by all of its rules or one."""


@dataclass(frozen=True, slots=True)
class House:
    """A hub, its broker, and a token of each role."""

    hub: Hub
    broker: Broker
    tokens: dict[str, str]
    signed_in: dict[str, StorageState] = field(default_factory=dict[str, "StorageState"])
    """What a browser keeps of it, by role."""
    prometheus: Prometheus | None = None
    """Whom the hub asks: who reaches the first device, and not the second; not running, until a test needs it."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.hub.port}"


@dataclass
class Visit:
    """One tab, and what went wrong in it."""

    page: Page
    url: str
    faults: list[str]

    def to(self, path: str) -> Page:
        """Go to a page of the hub; return when it is live."""
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_selector('#link[data-state="live"]')
        return self.page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The machine's own browser."""
    program = shutil.which("chromium")
    assert program, "no chromium: run ./scripts/test"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_CHROMIUM))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def house(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A hub that has known a thousand devices for a week."""
    with housed(chromium, tmp_path_factory.mktemp("browser"), DEVICES) as house:
        yield house


@pytest.fixture
def visit(house: House, chromium: Browser) -> Iterator[Visit]:
    """A viewer at a desk; nothing may go wrong in the page."""
    with visiting(chromium, house, "viewer", viewport=DESKTOP) as visit:
        yield visit


@pytest.fixture
def operated(house: House, chromium: Browser) -> Iterator[Visit]:
    """An operator at a desk."""
    with visiting(chromium, house, "operator", viewport=DESKTOP) as visit:
        yield visit


@pytest.fixture
def phone(house: House, chromium: Browser) -> Iterator[Visit]:
    """An operator with a phone."""
    with visiting(chromium, house, "operator", **PHONE_WITH) as visit:
        yield visit


@contextmanager
def housed(chromium: Browser, folder: Path, devices: int, **more: str) -> Generator[House]:
    """Run a hub that has known so many devices for a week, with ``more`` of its settings."""
    with (
        Cluster(Path("/var/tmp")) as cluster,  # noqa: S108 - Postgres' user must be able to enter it
        Broker(folder) as broker,
        cluster.database() as database,
    ):
        hub = Hub(database.url, broker.port, settings=CLOSED | more)
        prometheus = _prometheus(folder / "prometheus", hub)
        hub.environment["METRICA_HUB_PROMETHEUS_URL"] = f"http://{HOST}:{prometheus.port}"
        hub.environment["METRICA_HUB_PROMETHEUS_POLL_S"] = "0.5"
        subprocess.run([sys.executable, "-m", "metrica_hub", "migrate"], env=hub.environment, check=True)
        cluster.execute(_STORY.replace(":devices", str(devices)), database.name)
        with hub:
            hub.wait_until_ready()
            tokens = {role: hub.token(role) for role in ("viewer", "operator")}
            house = House(hub, broker, tokens, prometheus=prometheus)
            house.signed_in.update((role, state_of(chromium, house, role)) for role in house.tokens)
            yield house


def _prometheus(folder: Path, hub: Hub) -> Prometheus:
    there = {"targets": [f"{HOST}:{hub.port}"], "labels": {"device": "pi-0001"}}
    nowhere = {"targets": [f"{HOST}:{free_port()}"], "labels": {"device": "pi-0002"}}
    return Prometheus(folder, {}, more=[{"job_name": "netdata", "static_configs": [there, nowhere]}])


@contextmanager
def visiting(chromium: Browser, house: House, role: str, **how: Any) -> Generator[Visit]:
    """Open a tab of somebody who is signed in; afterwards nothing may have gone wrong in it."""
    with chromium.new_context(storage_state=house.signed_in[role], **how) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type in {"error", "warning"} else None)
        yield Visit(page, house.url, faults)
        assert faults == []


def state_of(chromium: Browser, house: House, role: str) -> StorageState:
    """Show a token of ``role`` in the form; return what the browser keeps."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{house.url}/login")
        page.get_by_label("Token").fill(house.tokens[role])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector('#link[data-state="live"]')
        return context.storage_state()


def meanwhile(work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` in a loop of its own: the browser's is not ours."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def axe() -> Axe:
    """Ask axe-core."""
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

    def found(page: Page, rules: str | None) -> list[str]:
        page.evaluate(source)
        options = {"resultTypes": ["violations"]} | ({"runOnly": [rules]} if rules else {})
        report = page.evaluate("options => axe.run(options)", options)
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:160]}: {one['nodes'][0]['failureSummary']}"
            for one in report["violations"]
            if one["impact"] in {"serious", "critical"}
        ]

    return found
