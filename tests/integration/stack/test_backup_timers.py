"""When backups are made and verified, by systemd's own reading of the timers; ``status`` and alerts allow for it."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest
from tests.integration.stack.conftest import HOUSE
from tests.integration.stack.rules import ALERTS

if TYPE_CHECKING:
    from pathlib import Path

BACKUP: Final = HOUSE / "stack" / "vps" / "backup"
NAMES: Final = ("metrica-backup", "metrica-backup-verify")
TAKES_AT_MOST: Final = timedelta(hours=1)


def analyzed(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False, env={"TZ": "UTC"}
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def setting(name: str, key: str) -> str:
    found = re.search(rf"(?m)^{key}=(.*)$", (BACKUP / f"{name}.timer").read_text(encoding="utf-8"))
    assert found, key
    return found[1]


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_every_line_of_timer_and_service(name: str, tmp_path: Path) -> None:
    for ending in ("timer", "service"):
        text = (BACKUP / f"{name}.{ending}").read_text(encoding="utf-8")
        (tmp_path / f"{name}.{ending}").write_text(text.replace("@house@", str(HOUSE)), encoding="utf-8")
    assert analyzed("verify", str(tmp_path / f"{name}.timer"), str(tmp_path / f"{name}.service")) == ""


@pytest.mark.parametrize(
    ("name", "figure", "most", "most_s"),
    [
        ("metrica-backup", "last_success", "26 * 3600", 26 * 3600),
        ("metrica-backup-verify", "last_verified", "8 * 86400", 8 * 86400),
    ],
)
def test_it_comes_again_before_anybody_calls_it_too_old(name: str, figure: str, most: str, most_s: int) -> None:
    shown = analyzed("calendar", "--iterations=4", setting(name, "OnCalendar"))
    at = [
        datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        for text in re.findall(r"(?:Next elapse|Iter\. #\d): \w+ (\S+ \S+) UTC", shown)
    ]
    assert len(at) == 4, shown
    seldom = max(later - earlier for earlier, later in pairwise(at))
    late = re.fullmatch(r"(\d+)min", setting(name, "RandomizedDelaySec"))
    assert late
    assert seldom + timedelta(minutes=int(late[1])) + TAKES_AT_MOST < timedelta(seconds=most_s)
    assert setting(name, "Persistent") == "yes"  # a machine that was off makes up for it
    # By the alert, and by the command that an operator asks.
    assert any(f"metrica_backup_{figure}_timestamp_seconds > {most}" in alert.expr for alert in ALERTS)
    assert f"allowed=$(({most}))" in (BACKUP / "metrica-backup").read_text(encoding="utf-8")
