"""What ``metrica secret`` seals is opened by the real age, and the other way round."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from tests.fixtures.sealed_fleet import ROOF, Key, SealedFleet, says, sealed_fleet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["says", "sealed_fleet"]


def test_the_real_age_reads_what_was_set_and_writes_what_lint_and_rekey_read(fleet: SealedFleet, says: Any) -> None:
    age = shutil.which("age")
    assert age is not None, "install age; ./scripts/test does"
    says(b"hunter2")
    fleet.run("set", "wifi", "--tag", "roof")
    file = fleet.root / ROOF
    opened = subprocess.run([age, "-d", "-i", fleet.operator_file, file], capture_output=True, check=True)
    assert opened.stdout == b"hunter2"
    to = file.with_suffix(".recipients")
    subprocess.run([age, "-a", "-R", to, "-o", file], input=b"by hand", check=True)
    assert fleet.lint() == 0
    assert fleet.rekey("--all") == 0
    assert fleet.opens(fleet.keys["pi-01"], ROOF) == b"by hand"


def test_a_leaked_repository_and_one_stolen_card_open_that_device_s_secrets_and_no_other(
    fleet: SealedFleet, says: Any, tmp_path: Path
) -> None:
    """All of the history leaks; the card holds its key. Opened by the real age, as a thief would."""
    age = shutil.which("age")
    assert age is not None, "install age; ./scripts/test does"
    git = ["git", "-C", fleet.root, "-c", "user.name=x", "-c", "user.email=x@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    places = ["--tag roof", "--role camera", "--role sensor", *(f"--device pi-0{number}" for number in (1, 2, 3))]
    for place in places:
        says(f"value for {place}".encode())
        assert fleet.run("set", "wifi", *place.split()) == 0
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    fleet.enrol("pi-04", "sensor", ["roof"])
    assert fleet.rekey() == 0
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "two"], check=True)
    log = subprocess.run([*git, "rev-list", "--objects", "--all"], capture_output=True, text=True, check=True).stdout
    blobs = [line.split(" ", 1) for line in log.splitlines() if line.endswith(".age")]
    assert len(blobs) == len(places) + 2  # two of them were sealed anew

    def opened(card: Key) -> set[str]:
        key = tmp_path / "card.age"
        key.write_text(f"{card}\n")
        found: set[str] = set()
        for blob, path in blobs:
            content = subprocess.run([*git, "cat-file", "blob", blob], capture_output=True, check=True).stdout
            done = subprocess.run([age, "-d", "-i", key], input=content, capture_output=True, check=False)
            found |= {path} if done.returncode == 0 else set()
        return found

    mine = {"secrets/devices/pi-01/wifi.age", ROOF, "secrets/roles/camera/wifi.age"}
    assert opened(fleet.keys["pi-01"]) == mine
    assert opened(fleet.keys["pi-04"]) == {ROOF, "secrets/roles/sensor/wifi.age"}
    assert opened(Key.generate()) == set()
