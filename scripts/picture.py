"""Plays the demo and photographs its pages. Called by ``scripts/picture``."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import sync_playwright

HOUSE: Final = Path(__file__).parent.parent
PORT: Final = 18_080
PAGE: Final = f"http://127.0.0.1:{PORT}/"
PATIENCE_S: Final = 120.0
CHROMIUM: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
Scheme = Literal["dark", "light"]
PICTURES: Final[tuple[tuple[str, str, Scheme, int, int], ...]] = (
    ("fleet-dark", "", "dark", 1280, 880),
    ("fleet-light", "", "light", 1280, 880),
    ("device", "devices/pi-01", "light", 1120, 760),
    ("phone", "?show=problems", "dark", 390, 700),
)
"""Name, path, theme, and how large."""


def main() -> None:
    """Write the pictures of docs/images."""
    command = [str(HOUSE / "scripts" / "demo"), "--exit-after", "100", "--no-browser", "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as demo:
        try:
            _wait_for_a_refusal()
            _photograph()
        finally:
            demo.terminate()


def _wait_for_a_refusal() -> None:
    """Wait until the page has something to show: some devices going back, others there already."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        if {"rolling-back", "steady"} <= {device.get("mode") for device in _devices()}:
            return
        time.sleep(0.2)
    raise SystemExit(f"no device went back within {PATIENCE_S:g} s; look at .demo/logs/")


def _devices() -> list[dict[str, object]]:
    try:
        with urllib.request.urlopen(f"{PAGE}api/v1/devices", timeout=5) as answer:
            return json.load(answer)["items"]
    except OSError:
        return []  # not up yet


def _photograph() -> None:
    folder = HOUSE / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        for name, path, scheme, width, height in PICTURES:
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
            page.goto(f"{PAGE}{path}")
            page.wait_for_selector('#link[data-state="live"]')
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
