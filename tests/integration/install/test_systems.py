"""On which systems the installers go to work, by what those say of themselves in ``/etc/os-release``.

Ubuntu can't be had here: what of it is known beforehand, its name and which packages it has, is put in the place of
this machine's, in a namespace of mounts.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from tests.integration.stack.conftest import answers, checkout_in

HOUSE: Final = Path(__file__).parents[3]
DEVICE_FLAGS: Final = (
    "--fleet",
    "farm",
    "--device",
    "pi",
    "--git",
    "u",
    "--bus-host",
    "b",
    "--no-netdata",
    "--logs",
    "none",
)


def release(identity: str, version: str | None, pretty: str, codename: str) -> str:
    """Return such a file as base-files writes it."""
    lines = [f'PRETTY_NAME="{pretty}"', f"ID={identity}", f"VERSION_CODENAME={codename}"]
    return "\n".join([*lines, *([] if version is None else [f'VERSION_ID="{version}"'])]) + "\n"


RELEASES: Final = {
    "Debian 11": release("debian", "11", "Debian GNU/Linux 11 (bullseye)", "bullseye"),
    "Debian 12": release("debian", "12", "Debian GNU/Linux 12 (bookworm)", "bookworm"),
    "Debian 13": release("debian", "13", "Debian GNU/Linux 13 (trixie)", "trixie"),
    "Debian testing": release("debian", None, "Debian GNU/Linux forky/sid", "forky"),
    "Raspberry Pi OS, 32 bits": release("raspbian", "12", "Raspbian GNU/Linux 12 (bookworm)", "bookworm"),
    "Ubuntu 20.04": release("ubuntu", "20.04", "Ubuntu 20.04.6 LTS", "focal"),
    "Ubuntu 22.04": release("ubuntu", "22.04", "Ubuntu 22.04.5 LTS", "jammy"),
    "Ubuntu 24.04": release("ubuntu", "24.04", "Ubuntu 24.04.3 LTS", "noble"),
    "Ubuntu 26.04": release("ubuntu", "26.04", "Ubuntu 26.04 LTS", "resolute"),
    "Fedora 43": release("fedora", "43", "Fedora Linux 43 (Server Edition)", ""),
}


@dataclass(frozen=True, kw_only=True)
class Pretended:
    """This machine with another name; what is ``hidden`` can't be run; programs of ``folder`` come first."""

    folder: Path
    release: str
    hidden: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict[str, str])
    """Programs by name, as lines for a shell."""

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it there."""
        if os.geteuid() != 0:
            pytest.fail("the installers, and a namespace of mounts, need root: run this as root")
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        for name, text in self.files.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        (self.folder / "os-release").write_text(self.release)
        hidden = {one: Path("/dev/null") for one in self.hidden if Path(one).exists()}
        places = {"/etc/os-release": self.folder / "os-release", **hidden}
        mounts = "".join(f"mount --bind {there} $(readlink -f {here})\n" for here, there in places.items())
        return subprocess.run(
            ["unshare", "--mount", "bash", "-euc", f"{mounts}exec {shlex.join(map(str, command))}"],
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.mark.parametrize(
    ("name", "refused_as"),
    [
        ("Debian 11", "Debian GNU/Linux 11 (bullseye)"),
        ("Debian 12", None),
        ("Debian 13", None),
        ("Debian testing", "Debian GNU/Linux forky/sid"),
        ("Ubuntu 24.04", "Ubuntu 24.04.3 LTS"),
        ("Fedora 43", "Fedora Linux 43 (Server Edition)"),
    ],
)
def test_a_device_is_a_released_debian(name: str, refused_as: str | None, tmp_path: Path) -> None:
    machine = Pretended(folder=tmp_path, release=RELEASES[name])
    password = tmp_path / "password"
    password.write_text("p")
    done = machine.run(HOUSE / "scripts/install-agent", "--check", *DEVICE_FLAGS, "--bus-password-file", password)
    if refused_as is None:
        assert done.returncode == 0, done.stderr
        assert "would be done: /etc/metrica/agent.toml: device pi of fleet farm" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (1, "")
        needed = "Raspberry Pi OS Bookworm, Debian 12, or a newer release is needed."
        assert done.stderr == f"✘ This is {refused_as}: {needed}\n"


def test_a_system_of_32_bits_is_no_device(tmp_path: Path) -> None:
    said = RELEASES["Raspberry Pi OS, 32 bits"]
    machine = Pretended(folder=tmp_path, release=said, files={"dpkg": "echo armhf"})
    done = machine.run(HOUSE / "scripts/install-agent", "--check", *DEVICE_FLAGS)
    assert done.returncode == 1
    assert done.stderr == "✘ This is a system for armhf: write the 64-bit Raspberry Pi OS to the card.\n"


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("Debian 11", False),
        ("Debian 12", True),
        ("Debian 13", True),
        ("Debian testing", False),
        ("Raspberry Pi OS, 32 bits", False),
        ("Ubuntu 20.04", False),
        ("Ubuntu 22.04", True),
        ("Ubuntu 24.04", True),
        ("Ubuntu 26.04", True),
        ("Fedora 43", False),
    ],
)
def test_a_hub_is_a_released_debian_or_ubuntu(name: str, is_good: bool, tmp_path: Path) -> None:  # noqa: FBT001 - of a table
    checkout = checkout_in(tmp_path / "house")
    machine = Pretended(folder=tmp_path, release=RELEASES[name])
    installer = checkout.house / "scripts/install-hub"
    done = machine.run(installer, "--no-start", "--no-packages", "--no-firewall")
    assert done.returncode == 1
    # Where it may go to work it asks next.
    refused = "This is made for Debian 12 or 13 and Ubuntu 22.04 or newer;"
    assert done.stderr.startswith(f"✘ {'These answers are missing' if is_good else refused}")


def offering(**packages: str) -> str:
    """Return an ``apt-cache policy`` for which there are these packages alone."""
    known = "".join(
        f"{name.replace('_', '-')}) echo '  Candidate: {version}' ;;\n" for name, version in packages.items()
    )
    return f"case $2 in\n{known}*) echo '  Candidate: (none)' ;;\nesac"


@pytest.mark.parametrize(
    ("name", "packages", "said"),
    [
        (
            "Debian 12",
            offering(docker_io="20.10.24+dfsg1-1+deb12u1", docker_compose="1.29.2-3"),
            "is Debian 13's, and fetched without --no-packages\n  apt-get install docker.io\n",
        ),
        (
            "Debian 13",
            offering(docker_io="26.1.5+dfsg1-9+b7", docker_cli="26.1.5+dfsg1-9+b7", docker_compose="2.26.1-4"),
            "apt-get install docker.io docker-cli docker-compose\n",
        ),
        (
            "Ubuntu 22.04",
            offering(docker_io="28.2.2-0ubuntu1~22.04.1", docker_compose="1.29.2-1", docker_compose_v2="2.37.1"),
            "apt-get install docker.io docker-compose-v2\n",
        ),
        (
            "Ubuntu 24.04",
            offering(docker_io="28.2.2-0ubuntu1~24.04.1", docker_compose="1.29.2-6", docker_compose_v2="2.37.1"),
            "apt-get install docker.io docker-compose-v2\n",
        ),
        # Without its universe, where Docker is.
        ("Ubuntu 24.04", offering(), "This machine's packages have no Compose 2 to go with Docker."),
    ],
)
def test_docker_and_compose_are_the_distribution_s(name: str, packages: str, said: str, tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path / "house")
    machine = Pretended(
        folder=tmp_path,
        release=RELEASES[name],
        hidden=tuple(f"{folder}/{name}" for folder in os.environ["PATH"].split(":") for name in ("docker", "dockerd")),
        files={"apt-cache": packages},
    )
    installer = checkout.house / "scripts/install-hub"
    done = machine.run(installer, "--no-start", "--no-packages", "--no-firewall", *answers(checkout.stack))
    assert done.returncode == 1
    assert said in done.stderr
