"""``hub.toml`` and the environment -> frozen values. What is wrong is said with file, line, key, and the way out.

Every key may also come from the environment: ``[database] url`` from ``METRICA_HUB_DATABASE_URL``, or from the file
that ``METRICA_HUB_DATABASE_URL_FILE`` names, which is how secrets should come.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from metrica_fleet.configuration import Configured, configured
from metrica_fleet.identity import Name
from metrica_fleet.problems import DefinitionError
from metrica_hub.decisions.flapping import HALF_LIFE_S
from metrica_hub.decisions.silence import GRACE_S, USUAL_HEARTBEAT_S
from metrica_hub.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FILE: Final = Path("/etc/metrica/hub.toml")
PREFIX: Final = "METRICA_HUB_"
_MAX_FILE_BYTES: Final = 256 * 1024

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Database(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[database]``: Postgres."""

    url: Text
    """As ``postgresql://metrica@127.0.0.1/metrica``, or with ``?host=`` the folder of its socket."""

    def __repr__(self) -> str:
        return "Database(***)"


class Own(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[hub]``: what is the hub's own."""

    key_file: Text = "/var/lib/metrica-hub/key"
    """The private key that signs what the hub says by itself; made when it is first needed. Hubs of a pair share it."""


class EmergencyStop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[stop]``: the emergency stop."""

    key_file: Text | None = None
    """A private key, without a passphrase, with which operators may have this hub sign stop orders, at your own
    risk: whoever breaks the hub then stops the fleet, and lets it go on. None: orders are signed by operators' own
    keys alone. Never made by the hub, and never the key of ``[hub]``. Each hub of a pair needs it."""


class Bus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[bus]``: the MQTT broker."""

    host: Text = "127.0.0.1"
    """Its name or address."""
    port: Port = 1883
    """Its port for MQTT without TLS."""
    username: Text | None = None
    """``hub``, by the access rules that come with the product; none: without a name and password."""
    password_file: Text | None = None
    """A file that holds the password, readable for the hub alone."""
    certificate_file: Text | None = None
    """The hub's own certificate, for a broker on another machine, by TLS 1.3; its name is ``hub``. A hub that
    holds the authority which signed it renews it by itself, for the same key."""
    certificate_key_file: Text | None = None
    """The key of that certificate."""
    ca_file: Text | None = None
    """The authority that signed the broker's certificate; with it TLS is meant."""
    share: bool = False
    """Share the records with the other hubs, past what one of them can take; of them all, or of none."""


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[http]``: where the API and the page are served."""

    host: Text = "127.0.0.1"
    """The address to listen on. It is plain http: put a proxy with TLS before it."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    """The port; 0: any free one, the log says which."""
    anonymous: Literal["none", "viewer"] = "none"
    """What one may do who shows no token."""
    proxies: tuple[Text, ...] = ()
    """Addresses of ours whose ``X-Forwarded-For`` is believed."""


class Git(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[git]``: the fleet repository, to nudge the devices when its branch moves. Without it they only poll."""

    url: Text
    """Where it is, for reading."""
    branch: Text = "main"
    """Which branch the devices follow."""
    poll_s: Annotated[float, msgspec.Meta(ge=0.2, le=86400)] = 30.0
    """How often the hub asks for the branch's commit."""
    mirrors: Annotated[tuple[Text, ...], msgspec.Meta(max_length=8)] = ()
    """Where the devices find the branch when ``url`` is gone; ``/metrics`` says how far each is behind."""

    def __repr__(self) -> str:
        return "Git(***)"


class Webhooks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[webhooks]``: where events are told to."""

    private: bool = False
    """Receivers on this machine, by plain http too, and in private networks."""


Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
LongDays = Annotated[int, msgspec.Meta(ge=62, le=36_500)]


class Authority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[authority]``: who signs what devices are to the broker. Without it devices have passwords."""

    certificate_file: Text
    """Its certificate; ``metrica-hub authority`` makes it and its key where neither is there."""
    key_file: Text
    """Its key, readable for the hub alone. Hubs of a pair share all three files."""
    crl_file: Text
    """The list of certificates that were taken back, for the broker to read; written by the hub."""
    broker_host: Text | None = None
    """Where the hub finds the broker's TLS listener, to end connections; none: ``[bus] host``."""
    broker_port: Port = 8883
    """Its port."""


Hours = Annotated[float, msgspec.Meta(gt=0, le=24 * 365)]
LifeDays = Annotated[float, msgspec.Meta(gt=0, le=3650)]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[enrolment]``: what a device is told that is let in, and for how long its papers are good."""

    bus_host: Text | None = None
    """Where devices find the broker; none: as the hub does."""
    bus_port: Port = 8883
    """Its port for TLS."""
    remotes: tuple[Text, ...] = ()
    """Addresses of the fleet repository for devices; none: whoever installs a device says them."""
    token_hours: Hours = 24.0
    """Until a token that was not used is good for nothing."""
    certificate_days: LifeDays = 90.0
    """Of a certificate. A device renews it by itself when two thirds of them are over."""


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[retention]``: for how many days what devices said is kept."""

    heartbeats_days: Days = 90
    """Heartbeats as they came."""
    events_days: Days = 365
    """Events."""
    dead_letters_days: Days = 90
    """Messages that could not be used."""
    heartbeats_5m_days: LongDays = 365
    """Means of 5 minutes."""
    heartbeats_1h_days: LongDays = 1825
    """Means of an hour."""


Seconds = Annotated[float, msgspec.Meta(ge=1, le=86_400)]


class Presence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[presence]``: when a device that says nothing is gone, and when one comes and goes too often."""

    heartbeat_s: Seconds = USUAL_HEARTBEAT_S
    """Of a device whose agent does not say how often it is heard."""
    grace_s: Seconds = GRACE_S
    """For devices to be heard again after the broker or the hub was away."""
    half_life_s: Seconds = HALF_LIFE_S
    """After which a new connection counts for half, towards flapping."""


Host = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9.:\[\]_-]|\{device\})+:[0-9]{1,5}$(?!\n)", max_length=200)]


class Metrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``: what ``/metrics`` tells."""

    devices: bool = True
    """Up to 26 series of each device; ``false``: only counts, for a fleet that is too large for its Prometheus."""
    netdata_address: Host = "{device}:19999"
    """Where Prometheus finds a device's Netdata: its name in the VPN's DNS, and what has to stand around it."""


class Prometheus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[prometheus]``: who scrapes the devices, to show which it reaches. Without it that is not shown."""

    url: Annotated[
        str, msgspec.Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?$(?!\n)", max_length=200)
    ]
    """Where its HTTP API is, without name and password. Its job for devices is ``netdata``, as in stack/vps."""
    poll_s: Annotated[float, msgspec.Meta(ge=0.2, le=3600)] = 20.0
    """How often the hub asks it, once for the whole fleet."""


class Links(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[links]``: what the dashboard leads to."""

    grafana: Annotated[str, msgspec.Meta(pattern=r"^(https?://[!-~]+|/[!-~]*)$")] | None = None
    """Where Grafana is, with this repository's dashboards: an address, or a path on the hub's own host."""


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[log]``: how much is told."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is told; one JSON object a line, on standard output."""


class AgentWheels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[agent_wheels]``: wheels of the agent that this hub gives to devices."""

    folder: Text | None = None
    """A folder with `<version>/<name>.whl`, served as `/agent/<version>/<name>.whl`; unset: none are."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. ``main`` hands each part to whom it concerns."""

    fleet: Name
    """The fleet's name, as in the topics."""
    database: Database
    hub: Own = Own()
    stop: EmergencyStop = EmergencyStop()
    bus: Bus = Bus()
    http: Http = Http()
    git: Git | None = None
    authority: Authority | None = None
    enrolment: Enrolment = Enrolment()
    retention: Retention = Retention()
    presence: Presence = Presence()
    webhooks: Webhooks = Webhooks()
    metrics: Metrics = Metrics()
    prometheus: Prometheus | None = None
    links: Links = Links()
    agent_wheels: AgentWheels = AgentWheels()
    log: Log = Log()


def load(file: Path | None, environment: Mapping[str, str]) -> Configured[Settings]:
    """Return the settings of ``file`` (``None``: the default one, if it is there) and ``environment``.

    Raises:
        Misconfigured: ``file:line: what is wrong; what to do``.
    """
    path = file if file is not None else DEFAULT_FILE
    content = _read(path) if file is not None or path.exists() else b""
    try:
        return configured(
            str(path),
            content,
            Settings,
            environment,
            prefix=PREFIX,
            read_file=lambda name: _read(Path(name)).decode(errors="replace"),
        )
    except DefinitionError as error:
        raise Misconfigured(error.message) from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise Misconfigured(f"{path}: larger than {_MAX_FILE_BYTES} bytes; this can't be the configuration")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Misconfigured(f"{path}: there is no such file; write it, or name another by --config") from error
    except OSError as error:
        raise Misconfigured(f"{path}: can't be read ({error.strerror}); mend its permissions") from error
