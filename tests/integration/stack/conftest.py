"""The stack of the VPS as far as it runs without its images: the real parts, with the files that are shipped.

What install-hub makes is made once, in a copy of the checkout, and used by all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.database import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOUSE = Path(__file__).resolve().parents[3]
HOST = "fleet.example.org"


class Checkout:
    """A copy of this checkout, in which install-hub may work."""

    def __init__(self, house: Path) -> None:
        self.house = house
        self.stack = house / "stack" / "vps"
        self.secrets = self.stack / "secrets"

    def install(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run install-hub, but for what changes the machine: packages, firewall, containers."""
        if os.geteuid() != 0:
            pytest.fail("install-hub gives files to the users of containers, for which it needs root: run this as root")
        arguments = ["scripts/install-hub", "--no-start", "--no-packages", "--no-firewall", *words]
        return subprocess.run(
            arguments,
            cwd=self.house,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def secret(self, name: str) -> str:
        """Return what is in a secret's file."""
        return (self.secrets / name).read_text(encoding="utf-8")

    def seen(self) -> dict[str, tuple[int, int, int, int, bytes]]:
        """Return every file with its mode, owner, group, time of change, content."""
        found: dict[str, tuple[int, int, int, int, bytes]] = {}
        for path in sorted(self.house.rglob("*")):
            if path.is_file() and path.name != ".lock":
                about = path.stat()
                found[str(path.relative_to(self.house))] = (
                    about.st_mode,
                    about.st_uid,
                    about.st_gid,
                    about.st_mtime_ns,
                    path.read_bytes(),
                )
        return found


def checkout_in(folder: Path) -> Checkout:
    """Copy what install-hub needs of this checkout."""
    for part in ("scripts", "stack", "mosquitto", "requirements"):
        shutil.copytree(HOUSE / part, folder / part, ignore=shutil.ignore_patterns("secrets", ".env", "__pycache__"))
    return Checkout(folder)


def answers(stack: Path) -> Sequence[str]:
    """Return the words that give the example's answers."""
    return "--answers", str(stack / ".env.example")


@pytest.fixture(scope="package")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which install-hub was run."""
    checkout = checkout_in(tmp_path_factory.mktemp("vps"))
    done = checkout.install(*answers(checkout.stack))
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One Postgres for all tests."""
    with Cluster(Path("/var/tmp")) as running:  # noqa: S108 - Postgres' user must be able to enter it
        yield running
