"""What ``role.toml`` says about consent: ``[update]``, when a release may begin, and ``[services.NAME]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from metrica_fleet.policies import Service, ServicePolicy, UpdatePolicy
from metrica_fleet.problems import shown, suggestion
from metrica_fleet.toml_lines import dotted

if TYPE_CHECKING:
    from metrica_fleet.toml_lines import Table
    from metrica_fleet.toml_reading import Reader

MAX_SERVICES: Final = 256


def update_policy(reader: Reader) -> UpdatePolicy:
    """Return ``[update]``."""
    update = reader.overlaid("update", UpdatePolicy())
    for at, window in enumerate(update.windows):
        begin, _, end = window.partition("-")
        if begin == end:
            text = f'update.windows[{at}] begins when it ends; for the whole day write "00:00-24:00"'
            reader.complain(("update", "windows", at), text, "wrong-type")
    advice = _zone_advice(update.zone)
    if advice is not None:
        text = f"there is no time zone {shown(update.zone)}{advice}"
        reader.complain(("update", "zone"), text, "unknown-zone")
    return update


def _zone_advice(zone: str) -> str | None:
    """Return what to write instead of a zone that is none; ``None``: it is one, or this machine knows none at all."""
    if zone == "UTC":
        return None
    import zoneinfo  # noqa: PLC0415 - few roles name a zone, and an agent has little room

    known = zoneinfo.available_timezones()
    if not known or zone in known:
        return None
    return suggestion(zone, known)


def service_policies(reader: Reader) -> dict[str, ServicePolicy]:
    """Return ``[services.NAME]``; which services there are, only Compose knows: a device refuses unknown ones."""
    policies: dict[str, ServicePolicy] = {}
    section = reader.section("services")
    if len(section) > MAX_SERVICES:
        reader.complain(("services",), f"a role has at most {MAX_SERVICES} services", "wrong-type")
        return policies
    for name, table in section.items():
        path = ("services", name)
        if not isinstance(table, dict):
            reader.complain(path, f"{dotted(path)} must be a table, [{dotted(path)}]", "wrong-type")
        elif reader.value(path, name, Service) is not None:
            policy = reader.complete(path, cast("Table", table), ServicePolicy)
            policies |= {name: policy} if policy is not None else {}
    return policies
