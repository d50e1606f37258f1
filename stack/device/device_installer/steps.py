"""What a device needs, one step each. A step looks first; what is as it should be is not touched.

Each function is one step: it returns a Change, which says what would be done and does it, or nothing where all is well.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from device_installer.answers import Answers, Refused, answered, enrolled, loki_password
from device_installer.edits import (
    Unreadable,
    filled_in,
    shipper_environment,
    told,
    with_log_limits,
    with_memory_cgroup,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from device_installer.machine import Machine

CONFIGURATION: Final = Path("/etc/metrica")
SETTINGS: Final = CONFIGURATION / "agent.toml"
IDENTITY: Final = CONFIGURATION / "identity"
AGENT: Final = Path("/opt/metrica/agent")
"""A link to one of VERSIONS, switched by one rename; the package metrica-agent has a folder there."""
VERSIONS: Final = Path("/opt/metrica/versions")
LAUNCHER: Final = Path("/opt/metrica/launcher.py")
"""What the unit starts. It is from the checkout, and no update of the agent touches it."""
CHOICE: Final = VERSIONS / "choice.json"
"""Where the launcher remembers what the fleet repository has had installed; without it AGENT is started."""
UNIT: Final = Path("/etc/systemd/system/metrica-agent.service")
SECRETS_UNIT: Final = UNIT.with_name("metrica-secrets.service")
"""What opens secrets before the container engine starts."""
OS_RELEASE: Final = Path("/etc/os-release")
SYSTEMD: Final = Path("/etc/systemd")
DOCKER_SETTINGS: Final = Path("/etc/docker/daemon.json")
KERNEL_COMMAND_LINE: Final = Path("/boot/firmware/cmdline.txt")
OLDEST_DEBIAN: Final = 12
ENOUGH_FREE_BYTES: Final = 1024**3
ALLOY_FROM_KIB: Final = 1_700_000
"""A Pi with 2 GB has 1.85 million KiB that Linux may use, one with 1 GB 0.93."""


@dataclass(frozen=True)
class Change:
    """What is not yet as it should be."""

    says: str
    make: Callable[[], object]
    then: str = ""
    """What the operator has to do afterwards."""


@dataclass
class Work:
    """What the steps share."""

    machine: Machine
    flags: Namespace
    house: Path
    """This checkout, or what the package has of it."""
    may_ask: bool
    notes: list[str] = field(default_factory=list[str])
    """What could not be done here, and the way out."""
    _answers: Answers | None = None

    @property
    def ours(self) -> Path:
        """Return where the files for a device are."""
        return self.house / "stack/device"

    @property
    def answers(self) -> Answers:
        """Return what the operator says, asked for once and only when needed."""
        if self._answers is None:
            known = enrolled(self.flags, IDENTITY, may_ask=self.may_ask)
            self._answers = known or answered(self.flags, may_ask=self.may_ask)
        return self._answers

    def put(self, name: str, path: Path) -> Change | None:
        """Return the change that puts our file ``name`` at ``path``."""
        wanted = (self.ours / name).read_text(encoding="utf-8")
        if self.machine.text(path) == wanted:
            return None
        return Change(str(path), partial(self.machine.write, path, wanted))


# --- before anything is touched ---------------------------------------------------------------------------------


def require_a_device(work: Work) -> None:
    """Make sure that this is a machine that the rest is made for.

    Raises:
        Refused: it is not.
    """
    system = told(work.machine.text(OS_RELEASE) or "")
    version = system.get("VERSION_ID", "")  # Debian's testing has none
    if system.get("ID") not in {"debian", "raspbian"} or not version.isdigit() or int(version) < OLDEST_DEBIAN:
        name = system.get("PRETTY_NAME") or "no Debian"
        raise Refused(f"This is {name}: Raspberry Pi OS Bookworm, Debian 12, or a newer release is needed.")
    if (bits := (work.machine.says("dpkg", "--print-architecture") or "").strip()) not in {"arm64", "amd64"}:
        raise Refused(
            f"This is a system for {bits or 'an unknown processor'}: write the 64-bit Raspberry Pi OS to the card."
        )
    if shutil.disk_usage("/").free < ENOUGH_FREE_BYTES:
        raise Refused("Less than 1 GiB is free on /: free some, for images and updates need room.")
    if (work.flags.enrol is None) != (work.flags.token is None):
        raise Refused("--enrol and --token go together: paste the whole line of metrica device add.")
    if not SETTINGS.exists() and work.flags.enrol is None:
        _ = work.answers  # asked at the beginning, so that one may walk away


def agent_is_packaged(work: Work) -> bool:
    """Whether the agent came as the Debian package metrica-agent."""
    return not work.machine.lacks("metrica-agent")


# --- Debian and Docker --------------------------------------------------------------------------------------------


def packages(work: Work) -> Change | None:
    """Return what is missing of Debian's packages that agent and installer call."""
    missing = work.machine.lacks("python3-venv", "ca-certificates", "openssh-client", "openssl", "iproute2")
    if not missing:
        return None
    return Change(f"Debian packages: {' '.join(missing)}", partial(work.machine.install, *missing))


def docker(work: Work) -> Change | None:
    """Return how Docker comes here, if no engine is installed."""
    if shutil.which("dockerd") and shutil.which("docker"):
        return None
    if work.machine.offered("docker-ce"):  # the operator has added Docker's own packages, and prefers them
        wanted = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin")
    else:
        wanted = ("docker.io",) if _is_bookworm(work) else ("docker.io", "docker-cli")
    return Change(f"Docker: {' '.join(wanted)}", partial(work.machine.install, *wanted))


def compose(work: Work) -> Change | None:
    """Return how Compose, version 2, comes here.

    Debian 12 has none; Docker's own packages do. Else it is Debian 13's: one program that wants no more than Debian 12
    has, fetched and its signature checked by apt, from the mirror that this machine uses, and put beside.
    """
    if work.machine.says("docker", "compose", "version"):
        return None
    if work.machine.offered("docker-compose-plugin"):
        return Change("Docker Compose: docker-compose-plugin", partial(work.machine.install, "docker-compose-plugin"))
    if not _is_bookworm(work):
        return Change("Docker Compose: docker-compose", partial(work.machine.install, "docker-compose"))
    folder = "/var/cache/metrica-install"
    fetch = ("bash", "-euc", '. "$1/scripts/machine.sh"; cache_ready; compose_install', "-", str(work.house))

    def make() -> None:
        try:
            work.machine.run(*fetch, environment={"METRICA_CACHE": folder})
        finally:
            work.machine.remove(Path(folder))

    return Change("Docker Compose: Debian 13's plug-in, for Debian 12 has none", make)


def _is_bookworm(work: Work) -> bool:
    return told(work.machine.text(OS_RELEASE) or "").get("VERSION_CODENAME") == "bookworm"


def docker_limits(work: Work) -> Change | None:
    """Return what is to be added to Docker's settings; what the operator has set stays."""
    present = work.machine.text(DOCKER_SETTINGS)
    try:
        wanted, kept = with_log_limits(present, (work.ours / "docker-daemon.json").read_text(encoding="utf-8"))
    except Unreadable as error:
        raise Refused(
            f"{DOCKER_SETTINGS}: {error}; Docker does not read it either: mend it, then try again."
        ) from error
    if kept:
        work.notes.append(
            f"{DOCKER_SETTINGS}: {', '.join(kept)} is there already and stays; docs/how-to/device.md tells ours."
        )
    if wanted == present:
        return None

    def make() -> None:
        work.machine.write(DOCKER_SETTINGS, wanted)
        if not work.machine.is_active("docker.service") or not work.machine.booted:
            return
        # What can be changed in flight is, live-restore with it, so that the start anew leaves the containers running.
        work.machine.run("systemctl", "reload", "docker.service")
        try:
            work.machine.restart("docker.service")
        except Refused:
            _put_back(work, present)
            raise

    return Change(f"{DOCKER_SETTINGS}: log limits, live-restore", make)


def _put_back(work: Work, present: str | None) -> None:
    if present is None:
        work.machine.remove(DOCKER_SETTINGS)
    else:
        work.machine.write(DOCKER_SETTINGS, present)
    work.machine.restart("docker.service")


# --- the system -----------------------------------------------------------------------------------------------------


def journal(work: Work) -> Change | None:
    """Return the journal's limits, if they are not there."""
    name = "50-metrica-journal.conf"
    change = work.put(name, SYSTEMD / "journald.conf.d" / name)
    return change and Change(
        f"{change.says}: journal on disk, 200 MB at most", partial(_then, work, change, "restart", "systemd-journald")
    )


def watchdog(work: Work) -> Change | None:
    """Return the hardware watchdog's settings, if they are not there."""
    name = "50-metrica-watchdog.conf"
    change = work.put(name, SYSTEMD / "system.conf.d" / name)
    return change and Change(f"{change.says}: hardware watchdog", partial(_then, work, change, "daemon-reexec"))


def _then(work: Work, change: Change, *systemctl: str) -> None:
    change.make()
    if work.machine.booted:
        work.machine.run("systemctl", *systemctl)


def memory_cgroup(work: Work) -> Change | None:
    """Return what turns the memory cgroup on: off, Compose's memory limits and systemd's are silently ignored."""
    present = work.machine.text(KERNEL_COMMAND_LINE)
    if present is None:
        if not _limits_memory():
            work.notes.append(
                "The memory cgroup is off and there is no /boot/firmware/cmdline.txt: add cgroup_enable=memory to the"
                " kernel's command line in your boot loader, or no memory limit counts."
            )
        return None
    try:
        wanted = with_memory_cgroup(present)
    except Unreadable as error:
        raise Refused(f"{KERNEL_COMMAND_LINE}: {error}: mend it, then try again.") from error
    if wanted == present:
        if not _limits_memory():
            work.notes.append(
                "Reboot: the memory cgroup comes on with the next start, and no memory limit counts before."
            )
        return None

    def make() -> None:
        if (keep := KERNEL_COMMAND_LINE.with_name("cmdline.before-metrica.txt")).exists() is False:
            work.machine.write(keep, present)
        work.machine.write(KERNEL_COMMAND_LINE, wanted)

    then = "Reboot: the memory cgroup comes on with the next start, and no memory limit counts before."
    return Change(f"{KERNEL_COMMAND_LINE}: memory cgroup on", make, then)


def _limits_memory() -> bool:
    """Whether the kernel can limit memory; as metrica_agent.adapters.cgroups, which may not be installed yet."""
    root = Path("/sys/fs/cgroup")
    controllers = root / "cgroup.controllers"
    if controllers.exists():
        return "memory" in controllers.read_text(encoding="ascii").split()
    return (root / "memory").is_dir()


# --- the agent --------------------------------------------------------------------------------------------------------


def agent(work: Work) -> Change | None:
    """Return the agent in a venv of its own, if this version of it is not the one that is there."""
    if agent_is_packaged(work):
        return None
    if AGENT.exists() and not AGENT.is_symlink():
        raise Refused(f"{AGENT} is a folder that scripts/install-agent did not make: move it away, then try again.")
    if not (work.house / "pyproject.toml").exists():
        raise Refused("The package metrica-agent is gone, and with it the agent: install it again.")
    wheels = None if work.flags.wheels is None else Path(work.flags.wheels).resolve()
    if wheels is not None and not wheels.is_dir():
        raise Refused(f"--wheels {wheels} is no folder: name the one with the wheels.")
    folder = VERSIONS / _digest(work.house)
    if AGENT.is_symlink() and AGENT.resolve() == folder and (folder / "complete").exists():
        return None
    return Change(f"agent {folder.name} in {folder}", partial(_build, work, folder, wheels))


def _digest(house: Path) -> str:
    """Return the name of what would be installed: its version, and a digest of all that it is made of."""
    version = re.search(
        r'__version__ = "([^"]+)"', (house / "src/metrica_fleet/__init__.py").read_text(encoding="utf-8")
    )
    if version is None:
        raise Refused(f"{house}/src/metrica_fleet has no version: is this a whole checkout?")
    made = hashlib.sha256(platform.python_version().encode())
    files = [house / "pyproject.toml", house / "requirements/agent.txt"]
    sources = sorted(one for one in (house / "src").rglob("*") if one.is_file() and "__pycache__" not in one.parts)
    for file in [*files, *sources]:
        made.update(f"{file.relative_to(house)}\0".encode())
        made.update(hashlib.sha256(file.read_bytes()).digest())
    return f"{version[1]}-{made.hexdigest()[:12]}"


def _build(work: Work, folder: Path, wheels: Path | None) -> None:
    machine = work.machine
    machine.remove(folder)  # half made
    folder.parent.mkdir(parents=True, exist_ok=True)
    offline = {} if wheels is None else {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    pip = (
        str(folder / "bin/python"),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
        "--no-cache-dir",
    )
    machine.run("python3", "-m", "venv", str(folder))
    requirements = str(work.house / "requirements/agent.txt")
    machine.run(*pip, "--require-hashes", "-r", requirements, environment=offline)
    # Not isolated: what builds it is pinned like all else. From a copy: a build leaves files beside its sources.
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(work.house / name, copy / name)
    shutil.copytree(work.house / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    machine.run(*pip, "--no-deps", "--no-build-isolation", str(copy), environment=offline)
    machine.remove(copy)
    machine.run(str(folder / "bin/metrica-agent"), "--version")
    (folder / "complete").touch()
    os.sync()  # all of it is on the card before anything leads to it
    machine.remove(CHOICE)  # who installs by hand wants this one; what the fleet repository names comes again after it
    before = AGENT.resolve() if AGENT.is_symlink() else None
    runs = (VERSIONS / "current").resolve()  # until it is started anew
    new = AGENT.with_name(".agent.new")
    machine.remove(new)
    new.symlink_to(folder)
    new.replace(AGENT)
    for old in VERSIONS.iterdir():  # the one before stays, to go back to
        if old not in {folder, before, runs, VERSIONS / "current"}:
            machine.remove(old)


def launcher(work: Work) -> Change | None:
    """Return the launcher, and the folder for versions that come by themselves, if they are not there."""
    if agent_is_packaged(work):
        return None
    wanted = (work.house / "src/metrica_agent/launcher.py").read_text(encoding="utf-8")
    if work.machine.text(LAUNCHER) == wanted and VERSIONS.is_dir():
        return None

    def make() -> None:
        VERSIONS.mkdir(parents=True, exist_ok=True)
        work.machine.write(LAUNCHER, wanted, 0o755)

    return Change(f"{LAUNCHER}: starts the agent", make)


def identity(work: Work) -> Change | None:
    """Return the device's key and certificate, by the token of the pasted line."""
    flags = work.flags
    if flags.enrol is None or work.machine.text(IDENTITY / ".token") == _mark(flags.token):
        return None

    def make() -> None:
        arguments = [*(["--pin", flags.pin] if flags.pin else []), *(["--plain"] if flags.plain else [])]
        # The token not among the arguments: those are in the log, and everybody on the machine reads them.
        secret = {"METRICA_ENROLMENT_TOKEN": flags.token}
        program = str(AGENT / "bin/metrica-agent")
        work.machine.run(program, "enrol", flags.enrol, *arguments, "--identity-dir", str(IDENTITY), environment=secret)
        work.machine.write(IDENTITY / ".token", _mark(flags.token), 0o600)
        _ = work.answers  # now that the hub has said them
        if SETTINGS.exists() and str(IDENTITY) not in (work.machine.text(SETTINGS) or ""):
            work.notes.append(
                f"{SETTINGS} was there before: write {IDENTITY}/device.crt and device.key into its [bus], as"
                " certificate_file and key_file, ca.crt as ca_file, take username and password_file out, and restart."
            )

    return Change(f"{IDENTITY}: key and certificate, by {flags.enrol}", make)


def _mark(token: str) -> str:
    """Return by what a token is known again that was used."""
    return hashlib.sha256(token.encode()).hexdigest()


def settings(work: Work) -> Change | None:
    """Return the agent's settings and secrets, if they are not there: what is there is never written over."""
    if SETTINGS.exists():
        return None
    if work.flags.check and work.flags.enrol is not None and not (IDENTITY / "hub.json").exists():
        return Change(f"{SETTINGS}: as the hub says", lambda: None)
    template = (work.ours / "agent.toml").read_text(encoding="utf-8")
    answers = work.answers
    files = {
        CONFIGURATION / "bus_password": None if answers.identity else f"{answers.bus_password}\n",
        CONFIGURATION / "bus_ca.crt": answers.bus_ca,
        SETTINGS: filled_in(template, answers.settings()),
    }

    def make() -> None:
        for path, text in files.items():  # the settings last: with them all is there
            if text is not None:
                work.machine.write(path, text, 0o600)

    return Change(f"{SETTINGS}: device {answers.device} of fleet {answers.fleet}", make)


def service(work: Work) -> Change | None:
    """Return the agent as a service: installed, enabled, and running what is on disk."""
    name = UNIT.name
    put = None if agent_is_packaged(work) else work.put(name, UNIT)
    starts = not work.flags.no_start
    old = starts and work.machine.is_older(name, AGENT, LAUNCHER, UNIT, SETTINGS)
    if put is None and work.machine.is_enabled(name) and not (starts and (old or not work.machine.is_active(name))):
        return None

    def make() -> None:
        if put is not None:
            put.make()
        if work.machine.booted:
            work.machine.run("systemctl", "daemon-reload")
        work.machine.enable(name)
        if starts:
            work.machine.restart(name)

    return Change(f"{name}: {'enabled and started' if starts and work.machine.booted else 'enabled'}", make)


def secrets(work: Work) -> Change | None:
    """Return what opens the releases' secrets at each boot: installed and enabled; there is nothing to start now."""
    if agent_is_packaged(work):
        return None  # Docker wants it by the package itself
    name = SECRETS_UNIT.name
    put = work.put(name, SECRETS_UNIT)
    if put is None and work.machine.is_enabled(name):
        return None

    def make() -> None:
        if put is not None:
            put.make()
        if work.machine.booted:
            work.machine.run("systemctl", "daemon-reload")
        work.machine.enable(name)

    return Change(f"{name}: enabled", make)


# --- metrics and logs ---------------------------------------------------------------------------------------------


def netdata(work: Work) -> Change | None:
    """Return Netdata, light, on loopback and the VPN's address."""
    if work.flags.no_netdata:
        return None
    if shutil.which("netdata") is None:
        package = next((one for one in ("netdata-core", "netdata") if work.machine.offered(one)), None)
        if package is None:
            work.notes.append(
                "Netdata: no package here has it (Debian 13 took it out). Add Netdata's own (learn.netdata.cloud,"
                ' "Native DEB/RPM packages") and run this again, or say --no-netdata.'
            )
            return None
    else:
        package = None
    addresses = _metrics_addresses(work)
    text = (work.ours / "netdata/netdata.conf").read_text(encoding="utf-8")
    text = text.replace("bind to = 127.0.0.1", f"bind to = {' '.join(('127.0.0.1', *addresses))}")
    files = {
        CONFIGURATION / "netdata.conf": text,
        CONFIGURATION / "metrics.env": f'METRICA_METRICS_ADDRESSES="{" ".join(addresses)}"\n',
        SYSTEMD / "system/netdata.service.d/50-metrica.conf": (work.ours / "netdata/50-metrica.conf").read_text(
            "utf-8"
        ),
    }
    where = " and ".join(("loopback", *addresses))
    return _configured(work, "netdata", package, files, f"Netdata, light, on {where}")


def _metrics_addresses(work: Work) -> tuple[str, ...]:
    """Return where Prometheus may ask: what was said; else the VPN's address; else what was said before."""
    if work.flags.metrics_address:
        return tuple(work.flags.metrics_address)
    for interface in ("tailscale0", "wg0"):
        shown = work.machine.says("ip", "-oneline", "-4", "address", "show", "dev", interface) or ""
        if found := re.search(r"inet ([0-9.]+)", shown):
            return (found[1],)
    before = re.search(r'ADDRESSES="([^"]*)"', work.machine.text(CONFIGURATION / "metrics.env") or "")
    if before is not None and before[1]:
        return tuple(before[1].split())
    work.notes.append(
        "Netdata answers on loopback only, for there is no VPN (tailscale0, wg0) yet: set it up and run this again,"
        " or say --metrics-address ADDRESS."
    )
    return ()


def logs(work: Work) -> Change | None:
    """Return the log shipper: Alloy, or Fluent Bit where memory is short."""
    environment = CONFIGURATION / "logs.env"
    if work.flags.logs == "none" or (work.flags.loki is None and not environment.exists()):
        if work.flags.logs != "none":
            work.notes.append(
                "Logs stay on this device: say --loki https://HOST/loki/api/v1/push to send them to the VPS."
            )
        return None
    shipper = work.flags.logs or ("alloy" if _memory_kib() >= ALLOY_FROM_KIB else "fluent-bit")
    package = None if work.machine.says("systemctl", "cat", f"{shipper}.service") else shipper
    if package is not None and work.machine.offered(package) is None:
        whose = {
            "alloy": 'Grafana\'s (grafana.com/docs/alloy, "Install on Linux")',
            "fluent-bit": 'its own (docs.fluentbit.io, "Debian")',
        }
        work.notes.append(
            f"Logs: apt knows no package {shipper}, for Debian has none. Add {whose[shipper]}, and run this again with"
            " the same flags, or say --logs none."
        )
        return None
    files = {
        CONFIGURATION / shipper / one.name: one.read_text(encoding="utf-8")
        for one in sorted((work.ours / shipper).iterdir())
        if one.name != "50-metrica.conf"
    }
    drop_in = SYSTEMD / f"system/{shipper}.service.d/50-metrica.conf"
    files[drop_in] = (work.ours / shipper / "50-metrica.conf").read_text(encoding="utf-8")
    if work.flags.loki is not None:
        files[environment] = _shipper_environment(work)
    return _configured(work, shipper, package, files, f"{shipper}: logs to Loki", secret=environment)


def _shipper_environment(work: Work) -> str:
    text = work.machine.text(SETTINGS) or filled_in(
        (work.ours / "agent.toml").read_text("utf-8"), work.answers.settings()
    )
    own = dict(re.findall(r'(?m)^(fleet|device) *= *"([^"]+)"', text))
    if set(own) != {"fleet", "device"}:
        raise Refused(f"{SETTINGS} does not say fleet and device in lines of their own: correct it, then try again.")
    known = work.machine.text(CONFIGURATION / "logs.env") or ""
    if work.flags.loki_password_file is None and (before := re.search(r'(?m)^LOKI_PASSWORD="(.*)"$', known)):
        password = before[1]
    else:
        password = loki_password(work.flags, may_ask=work.may_ask)
    try:
        return shipper_environment(
            fleet=own["fleet"],
            device=own["device"],
            role=work.flags.role,
            loki=work.flags.loki,
            user=work.flags.loki_user,
            password=password,
        )
    except Unreadable as error:
        raise Refused(f"The log shipper can't be configured: {error}.") from error


def _memory_kib() -> int:
    found = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return int(found[1]) if found else 0


def _configured(
    work: Work, unit: str, package: str | None, files: dict[Path, str], says: str, *, secret: Path | None = None
) -> Change | None:
    """Return the change that brings ``package``, ``files`` and the unit to where they should be."""
    name = f"{unit}.service"
    stale = {path: text for path, text in files.items() if work.machine.text(path) != text}
    runs = work.machine.is_enabled(name) and (work.flags.no_start or work.machine.is_active(name))
    old = not work.flags.no_start and work.machine.is_older(name, *files)
    if package is None and not stale and runs and not old:
        return None

    def make() -> None:
        for path, text in stale.items():  # before the package, which starts its service at once
            work.machine.write(path, text, 0o600 if path == secret else 0o644)
        if package is not None:
            work.machine.install(package)
        if work.machine.booted:
            work.machine.run("systemctl", "daemon-reload")
        work.machine.enable(name)
        # A package starts its service at once, and finds our files. Not waited for: the VPN's address may come later.
        if not work.flags.no_start and (work.machine.is_older(name, *files) or not work.machine.is_active(name)):
            work.machine.restart(name, wait=False)

    return Change(says, make)
