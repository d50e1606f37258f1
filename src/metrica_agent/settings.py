"""What the agent is told about its device: ``agent.toml``, with single values overridden by the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from metrica_agent.decisions.contact import LOST_S
from metrica_agent.decisions.guarding import BLOCKED_S, SLACK_S
from metrica_agent.decisions.render import SECRETS_ROOT
from metrica_agent.decisions.starting import STEADY_S
from metrica_agent.decisions.strain import StrainLimits
from metrica_agent.decisions.upgrading import TRIAL_S
from metrica_fleet.configuration import configured
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceName, Name

DEFAULT_FILE = Path("/etc/metrica/agent.toml")
PREFIX = "METRICA_AGENT_"
IDENTITY_DIR = "/etc/metrica/identity"
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class GitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the fleet repository is; the remotes are asked in order."""

    remotes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Addresses of the fleet repository, https or ssh, the one to be asked first in front."""
    branch: str = "main"
    """Which branch the device follows."""
    poll_s: Seconds = 60.0
    """How often it asks, with a little chance in it; a nudge of the hub comes on top."""
    ssh_key_file: str | None = None
    """The private key for ssh remotes."""
    known_hosts_file: str = "/etc/metrica/known_hosts"
    """The host keys of ssh remotes; a host that is not in it is not spoken to."""
    answer_s: Seconds = 20.0
    """How long a remote may take to say what its branch points at."""
    fetch_s: Seconds = 60.0
    """How long a fetch may take at first; doubled, up to an hour, while no remote is quick enough."""
    fetch_mb: Annotated[int, msgspec.Meta(ge=1, le=256)] = 64
    """MiB that one fetch may bring."""
    require_signatures: bool = False
    """Whether a commit must be signed (SSH) by somebody in ``allowed_signers``."""
    allowed_signers_file: str = "/etc/metrica/allowed_signers"
    """Whom the device trusts first; from then on the fleet repository's own file counts, changed by signed commits."""

    def __repr__(self) -> str:
        return "GitSettings(***)"


class BusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is. Without one the device works on and keeps what it has to say."""

    host: str
    """Its name or address."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1883
    """Its port for MQTT."""
    username: str | None = None
    """The device's id, by the access rules that come with the product."""
    password_file: str | None = None
    """A file that holds the password, readable for root alone."""
    tls: bool = False
    """Whether the broker is spoken to by TLS; the system's authorities are trusted where ``ca_file`` names no other."""
    ca_file: str | None = None
    """The authority that signed the broker's certificate; with it TLS is meant."""
    certificate_file: str | None = None
    """The device's own certificate, in the place of user and password: TLS 1.3. ``metrica-agent enrol`` gets one."""
    key_file: str | None = None
    """Its key."""


class ComposeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the container engine is used."""

    project: Name = "metrica"
    """The name of the Compose project, the same for every release."""
    docker_host: str | None = None
    """As ``DOCKER_HOST``; the environment's, or Docker's own default, when unset."""


class SafeModeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stack that always works."""

    folder: str | None = None
    """With a ``compose.yaml`` whose images are on the device; the one that ships with the agent runs nothing."""


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent looks after itself."""

    steady_s: Seconds = STEADY_S
    """An agent that has lived so long is steady; three starts in three minutes without that are a crash loop."""
    blocked_s: Seconds = BLOCKED_S
    """An event loop that comes to nothing for so long ends the process."""
    slack_s: Seconds = SLACK_S
    """How much later than it promised a task may be before that ends the process."""
    network_lost_s: Seconds = LOST_S
    """When neither Git nor the bus could be reached for so long, that is told."""


class AgentUpdateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent changes its own version, where the fleet repository names one."""

    trial_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = TRIAL_S
    """How long another version may take to prove itself; at least twice ``guard.steady_s``, whatever is said here."""
    install_s: Annotated[float, msgspec.Meta(ge=10, le=86_400)] = 1800.0
    """How long the wheels may take to come and to be installed; then it is tried again."""
    ca_file: str | None = None
    """The authority of the address where wheels are got (``[agent] source``); the system's, when unset."""


class DriftSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the device looks whether it still is what it is to be."""

    check_s: Seconds = 300.0
    """Between looks at the files of the release that runs."""


class CleaningSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be cleaned on a low disk, beyond what the agent and the container engine made."""

    log_folders: tuple[str, ...] = ("/var/log",)
    """Rotated logs (``*.gz``, ``*.1`` ...) below these."""
    journal_folder: str = "/var/log/journal"
    """Where systemd's journal is."""
    journal_kept_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**50)] = 64 * 1024 * 1024
    """So much of it stays."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the machine's sensors are: for unusual boards, and for tests."""

    look_s: Seconds = 15.0
    """Between looks at disk, heat, supply and memory."""
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 32 * 1024 * 1024
    """Set aside on disk, so that the agent can always write its own state; at most 2 % of the disk."""
    thermal_zones: str = "/sys/class/thermal"
    """The folder of the thermal zones; the hottest counts."""
    throttled_file: str = "/sys/devices/platform/soc/soc:firmware/get_throttled"
    """What the firmware says of supply and throttling; where it is not there, ``vcgencmd`` is asked."""
    memory_pressure_file: str = "/proc/pressure/memory"
    """The kernel's measure of memory pressure."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``agent.toml``."""

    fleet: Name
    """The fleet's name."""
    device: DeviceName
    """Which device this is: the name of its file in the fleet repository, ``devices/pi-01.toml``."""
    git: GitSettings
    bus: BusSettings
    compose: ComposeSettings = ComposeSettings()
    safe_mode: SafeModeSettings = SafeModeSettings()
    guard: GuardSettings = GuardSettings()
    strain: StrainLimits = StrainLimits()
    cleaning: CleaningSettings = CleaningSettings()
    host: HostSettings = HostSettings()
    drift: DriftSettings = DriftSettings()
    agent_update: AgentUpdateSettings = AgentUpdateSettings()
    state_dir: str = "/var/lib/metrica"
    """Ledger, releases, mirror, and the data of workloads."""
    identity_dir: str = IDENTITY_DIR
    """The device's key and certificate, by ``metrica-agent enrol``; what opens its secrets is ``device.age``."""
    secrets_dir: str = SECRETS_ROOT
    """Where secrets are while the machine is on: it must be in memory."""
    heartbeat_s: Seconds = 60.0
    """Between heartbeats; five times as long on a machine that is strained."""
    sample_s: Seconds = 2.0
    """Between looks at the containers while something is going on."""


def read_settings(path: Path, environment: Mapping[str, str]) -> Settings:
    """Return the settings in ``path``, overridden by variables such as ``METRICA_AGENT_GIT_POLL_S``.

    Raises:
        Unusable: ``settings-missing``, or ``file:line: what is wrong; what to do``.
    """
    content = _read(path, "write the settings there, or say --config FILE")
    read = configured(
        str(path),
        content,
        Settings,
        environment,
        prefix=PREFIX,
        read_file=_read_text,
    )
    _require_rising(str(path), read.settings.strain)
    _require_both(str(path), read.settings.bus)
    return read.settings


def _require_rising(file: str, limits: StrainLimits) -> None:
    if not limits.warm_celsius < limits.hot_celsius < limits.critical_celsius:
        message = (
            f"{file}: strain: warm_celsius, hot_celsius and critical_celsius must rise in this order; correct them"
        )
        raise Unusable(message, reason="wrong-type")


def _require_both(file: str, bus: BusSettings) -> None:
    if (bus.certificate_file is None) != (bus.key_file is None):
        message = f"{file}: bus: certificate_file and key_file go together; write both, or neither"
        raise Unusable(message, reason="wrong-type")


def _read_text(name: str) -> str:
    try:
        return _read(Path(name), "a variable that ends in _FILE names it").decode()
    except UnicodeDecodeError as error:
        message = f"{name}: it is no UTF-8 text; a variable that ends in _FILE names it"
        raise Unusable(message, reason="settings-missing") from error


def _read(path: Path, way_out: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}; {way_out}", reason="settings-missing") from error
