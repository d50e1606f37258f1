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

    def __repr__(self) -> str:
        return "Database(***)"


class Bus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[bus]``: the MQTT broker."""

    host: Text = "127.0.0.1"
    port: Port = 1883
    username: Text | None = None
    password_file: Text | None = None


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[http]``: where the API and the page are served."""

    host: Text = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080


class Git(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[git]``: the fleet repository, to nudge the devices when its branch moves. Without it they only poll."""

    url: Text
    branch: Text = "main"
    poll_s: Annotated[float, msgspec.Meta(ge=0.2, le=86400)] = 30.0


Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
LongDays = Annotated[int, msgspec.Meta(ge=62, le=36_500)]


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[retention]``: for how many days what devices said is kept."""

    heartbeats_days: Days = 90
    events_days: Days = 365
    dead_letters_days: Days = 90
    heartbeats_5m_days: LongDays = 365
    """Means of 5 minutes."""
    heartbeats_1h_days: LongDays = 1825
    """Means of an hour."""


class Metrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``: what ``/metrics`` tells."""

    devices: bool = True
    """Up to 23 series of each device; ``false``: only counts, for a fleet that is too large for its Prometheus."""


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[log]``: how much is told."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. ``main`` hands each part to whom it concerns."""

    fleet: Name
    database: Database
    bus: Bus = Bus()
    http: Http = Http()
    git: Git | None = None
    retention: Retention = Retention()
    metrics: Metrics = Metrics()
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
