"""The installers on a bare Debian, the one that this machine has and the next: everything is installed, twice.

./scripts/rehearse agent and ./scripts/rehearse hub install have a systemd run, too, and what is installed work.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.bare_debian import CHECKOUT, BareDebian, made

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUSE: Final = Path(__file__).parents[3]
PYTHONS: Final = {"bookworm": "3.11", "trixie": "3.13"}
KERNEL_LINE: Final = (
    "console=serial0,115200 console=tty1 root=PARTUUID=4f0e-02 rootfstype=ext4 fsck.repair=yes rootwait\n"
)
DEVICE: Final = (
    *("--fleet", "farm", "--device", "pi-01", "--git", "https://git.example.org/farm.git"),
    *("--bus-host", "fleet.example.org", "--bus-password-file", "/srv/password"),
    *("--wheels", "/srv/wheels", "--no-netdata", "--logs", "none", "--no-start"),
)


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("codename", PYTHONS)
def test_a_bare_debian_becomes_a_device_and_the_second_time_changes_nothing(codename: str) -> None:
    made(HOUSE, "wheels_for", PYTHONS[codename], "agent")
    with BareDebian(codename, HOUSE) as machine:
        installer = f"{CHECKOUT}/scripts/install-agent"
        wheels = Path(os.environ["METRICA_CACHE"]) / f"wheels-agent-{PYTHONS[codename]}"
        shutil.copytree(wheels, machine.root / "srv/wheels")
        (machine.root / "srv/password").write_text("a secret\n")
        (machine.root / "boot/firmware").mkdir(parents=True)
        (machine.root / "boot/firmware/cmdline.txt").write_text(KERNEL_LINE)

        before = machine.seen()
        assert "→ Docker: would be done" in machine.run(installer, "--check", *DEVICE)
        assert changed(before, machine.seen()) == set()

        said = machine.run(installer, *DEVICE)
        packages = {"bookworm": "docker.io", "trixie": "docker.io docker-cli"}
        assert f"✔ Docker: {packages[codename]} (" in said
        compose = {"bookworm": "Debian 13's plug-in, for Debian 12 has none", "trixie": "docker-compose"}
        assert f"✔ Docker Compose: {compose[codename]} (" in said
        assert machine.run("docker", "compose", "version", "--short").startswith("2.")
        assert machine.run("/opt/metrica/agent/bin/python", "-V") == machine.run("python3", "-V")
        assert machine.run("python3", "-V").startswith(f"Python {PYTHONS[codename]}.")
        assert machine.run("/opt/metrica/launcher.py", "--version").startswith("metrica-agent ")
        for unit in ("metrica-agent.service", "metrica-secrets.service", "docker.service"):
            assert machine.run("systemctl", "is-enabled", unit) == "enabled\n"
        machine.run("systemd-analyze", "verify", "/etc/systemd/system/metrica-agent.service")
        line = (machine.root / "boot/firmware/cmdline.txt").read_text()
        assert line == f"{KERNEL_LINE.strip()} cgroup_enable=memory cgroup_memory=1\n"
        assert json.loads((machine.root / "etc/docker/daemon.json").read_text())["live-restore"] is True

        before = machine.seen()
        assert "\nNothing had to be changed." in machine.run(installer, *DEVICE)
        assert changed(before, machine.seen()) == set()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("codename", PYTHONS)
def test_a_bare_debian_becomes_a_hub_s_machine_and_the_second_time_changes_nothing(codename: str) -> None:
    with BareDebian(codename, HOUSE) as machine:
        installer = f"{CHECKOUT}/scripts/install-hub"
        said = machine.run(installer, "--no-start", "--answers", f"{CHECKOUT}/stack/vps/.env.example")
        packages = {"bookworm": "docker.io", "trixie": "docker.io docker-cli docker-compose"}
        assert f"✔ Debian packages: {packages[codename]}\n" in said
        assert machine.run("docker", "compose", "version", "--short").startswith("2.")
        assert "policy drop" in (machine.root / "etc/metrica/firewall.nft").read_text()
        assert machine.run("systemctl", "is-enabled", "metrica-firewall.service") == "enabled\n"
        machine.run("systemd-analyze", "verify", "/etc/systemd/system/metrica-firewall.service")
        stack = machine.root / CHECKOUT.removeprefix("/") / "stack/vps"
        assert (stack / "secrets").stat().st_mode & 0o777 == 0o700

        before = machine.seen()
        assert "✔ everything is made, nothing is started" in machine.run(installer, "--no-start")
        assert changed(before, machine.seen()) == set()

        machine.run(f"{CHECKOUT}/scripts/backup", "schedule")
        for timer in ("metrica-backup.timer", "metrica-backup-verify.timer"):
            assert machine.run("systemctl", "is-enabled", timer) == "enabled\n"
            machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{timer}")
