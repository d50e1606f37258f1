"""How far the machine is strained: by its disk, heat, supply or memory; and what follows.

Each cause has stages. One is entered at its threshold and left only past a second, easier one, after the reading was
that good for ``dwell_s``; and no cause changes its stage more than once in ``dwell_s``. So nothing flaps, a reading
that worsens never eases a stage, and a machine that is well comes back to it.

What cannot be read says nothing: the stage stays, for ``UNKNOWN_S`` at most.

A processor that the firmware holds back is warm, whatever the thermometer says, unless the supply is the reason: then
the supply is told, and updates wait for that.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Cause, Felt, Memory, Release, Saying, Strain
from metrica_fleet.identity import BootId
from metrica_fleet.policies import Priority
from metrica_fleet.records import Vitals

UNKNOWN_S: Final = 600.0
"""How long a stage outlives its sensor."""
SLOWER: Final = 5
"""Heartbeats of a strained machine are so many times rarer."""
RESERVE_SHARE: Final = 0.02
"""Of a tiny disk, the reserve takes no more than this."""
_CRITICAL_INODES: Final = 64
_MIB: Final = 1024 * 1024

STAGES: Final[dict[Cause, tuple[str, ...]]] = {
    Cause.DISK: ("low", "critical"),
    Cause.HEAT: ("warm", "hot", "critical"),
    Cause.SUPPLY: ("weak",),
    Cause.MEMORY: ("pressed", "short"),
}
"""The names of each cause's stages, from level 1 up; level 0 is well."""
_RESTS: Final[dict[tuple[Cause, int], tuple[Priority, ...]]] = {
    (Cause.HEAT, 2): ("low",),
    (Cause.HEAT, 3): ("low", "normal"),
    (Cause.MEMORY, 2): ("low",),
}
"""Stage -> services of which priorities rest in it. In every stage updates wait."""

Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Celsius = Annotated[float, msgspec.Meta(ge=-50, le=150)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class StrainLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the stages begin, and how they end: ``[strain]`` of ``agent.toml``."""

    disk_low_ratio: Ratio = 0.10
    """A disk is low with less than this share free, or less than ``disk_low_bytes``, whichever is less."""
    disk_low_bytes: Bytes = 1024 * _MIB
    """See above."""
    disk_critical_bytes: Bytes = 16 * _MIB
    """Less, and the reserve is given up; at most half of what is low."""
    inodes_low_ratio: Ratio = 0.05
    """It is low, too, with less than this share of its inodes free."""
    recovered_factor: Annotated[float, msgspec.Meta(gt=1, le=100)] = 1.5
    """So many times what is low must be free again."""
    warm_celsius: Celsius = 75.0
    """Updates wait."""
    hot_celsius: Celsius = 80.0
    """Services of low priority rest."""
    critical_celsius: Celsius = 85.0
    """All rest but those of high priority."""
    cooler_celsius: Annotated[float, msgspec.Meta(gt=0, le=100)] = 5.0
    """So far below its threshold a stage of heat is left."""
    memory_pressed_ratio: Ratio = 0.4
    """Share of the last 10 s in which some task waited for memory: updates wait."""
    memory_short_ratio: Ratio = 0.2
    """Share of the last 10 s in which all tasks waited for memory: services of low priority rest."""
    memory_low_ratio: Ratio = 0.05
    """Memory is pressed with less than this share available, where the kernel does not measure pressure."""
    dwell_s: Seconds = 30.0
    """No cause changes its stage more often."""


# --- what the machine's condition means ------------------------------------------------------------------------


class _Reading(Value, frozen=True, kw_only=True):
    """One cause, as one look at the machine shows it."""

    enter: int
    """The highest stage whose threshold is passed."""
    stay: int
    """The highest stage that is not left yet; never below ``enter``."""
    figures: str
    is_blind: bool = False
    """What it is judged by can't be read: a higher stage is not left for ``UNKNOWN_S``."""


_NOT_READ: Final = _Reading(enter=0, stay=0, figures="it can't be measured any more", is_blind=True)


def felt(strain: Strain, vitals: Vitals, limits: StrainLimits, now_s: float) -> Strain:
    """Return ``strain`` with one more look at the machine taken into account.

    Args:
        strain: what came of the looks before.
        vitals: what the machine is like.
        limits: where the stages begin and end.
        now_s: the boot clock.
    """
    supply = _supply(vitals)
    is_weak = strain.supply.level > 0 or supply.enter > 0
    readings = {
        Cause.DISK: _disk(vitals, limits),
        Cause.HEAT: _heat(vitals, limits, is_weak=is_weak),
        Cause.SUPPLY: supply,
        Cause.MEMORY: _memory(vitals, limits),
    }
    after = {cause: _after(strain.of(cause), reading, limits, now_s) for cause, reading in readings.items()}
    return replace(strain, **{cause.value: stage for cause, stage in after.items()})


def _after(stage: Felt, reading: _Reading, limits: StrainLimits, now_s: float) -> Felt:
    if reading.is_blind and reading.stay < stage.level and now_s < stage.last_s + UNKNOWN_S:
        return stage
    changeable = stage.since_s is None or now_s >= stage.since_s + limits.dwell_s
    if reading.enter > stage.level and changeable:
        return Felt(level=reading.enter, since_s=now_s, last_s=now_s, figures=reading.figures)
    if reading.stay >= stage.level:
        return replace(stage, last_s=now_s)
    if changeable and now_s >= stage.last_s + limits.dwell_s:
        return Felt(level=reading.stay, since_s=now_s, last_s=now_s, figures=reading.figures)
    return stage


def rebased(strain: Strain, boot_id: BootId, now_s: float) -> Strain:
    """Return ``strain`` as an agent that starts takes it up: the times of another boot mean nothing in this one.

    A stage is kept until it was looked at for ``dwell_s``, and may rise at once.
    """
    if strain.boot_id == boot_id:
        return strain
    stages = {cause.value: replace(strain.of(cause), since_s=None, last_s=now_s) for cause in Cause}
    return replace(strain, boot_id=boot_id, **stages)


def worst_untold(before: Strain | None, now: Strain, told: Strain) -> Strain | None:
    """Return the worst strain that is not told yet, ``None`` when all is: what passed while nobody could write it down.

    Args:
        before: the answer of the last look.
        now: what is felt.
        told: what is remembered.
    """
    if before is not None and before.levels == told.levels:
        before = None
    risen = any(level > known for level, known in zip(now.levels, told.levels, strict=True))
    return now if risen and sum(now.levels) > sum(before.levels if before is not None else ()) else before


def changes(before: Strain, after: Strain) -> tuple[Saying, ...]:
    """Return one saying for each cause whose stage is another one."""
    told = ((cause, before.of(cause), after.of(cause)) for cause in Cause)
    return tuple(_told(cause, old, new) for cause, old, new in told if old.level != new.level)


def _told(cause: Cause, old: Felt, new: Felt) -> Saying:
    entered = new.level > old.level
    stage = stage_of(cause, new.level if entered else old.level)
    become = f"now {_words(cause, new.level)}" if new.level else "it is well again"
    message = f"{_words(cause, new.level)}: {new.figures}" if entered else f"{become}: {new.figures}"
    return Saying(
        kind="strain.entered" if entered else "strain.left",
        reason=stage,
        message=message,
        detail={"cause": cause.value, "stage": new.level, "before": old.level, "figures": new.figures},
    )


def stage_of(cause: Cause, level: int) -> str:
    """Return the slug of a stage: ``disk-low``."""
    return f"{cause.value}-{STAGES[cause][level - 1]}"


def _words(cause: Cause, level: int) -> str:
    what = {
        Cause.DISK: "the disk is",
        Cause.HEAT: "the machine is",
        Cause.SUPPLY: "the power supply is",
        Cause.MEMORY: "memory is",
    }
    name = STAGES[cause][level - 1]
    qualifier = {Cause.DISK: "critically low", Cause.HEAT: "critically hot"}
    return f"{what[cause]} {qualifier[cause] if name == 'critical' else name}"


# --- what follows ----------------------------------------------------------------------------------------------


def worst(strain: Strain) -> tuple[Cause, int] | None:
    """Return the cause that weighs most and its level, or ``None`` for a machine that is well."""
    strained = [(cause, strain.of(cause).level) for cause in Cause if strain.of(cause).level]
    return max(strained, key=lambda one: (len(_RESTS.get(one, ())), one[1] / len(STAGES[one[0]])), default=None)


def all_in_words(strain: Strain) -> tuple[tuple[str, str], ...]:
    """Return the reason and the words of every stage that the machine is in."""
    strained = ((cause, strain.of(cause)) for cause in Cause)
    return tuple(
        (stage_of(cause, felt.level), f"{_words(cause, felt.level)}: {felt.figures}")
        for cause, felt in strained
        if felt.level
    )


def in_words(strain: Strain) -> tuple[str, str] | None:
    """Return the reason and the words of what weighs most, or ``None`` for a machine that is well."""
    found = worst(strain)
    if found is None:
        return None
    cause, level = found
    return stage_of(cause, level), f"{_words(cause, level)}: {strain.of(cause).figures}"


def resting(memory: Memory, release: Release) -> tuple[str, ...]:
    """Return the services of ``release`` that are to rest. The safe-mode stack never does."""
    if memory.safe is not None:
        return ()
    stages = ((cause, memory.strain.of(cause).level) for cause in Cause)
    priorities = {priority for stage in stages for priority in _RESTS.get(stage, ())}
    return tuple(sorted(service.name for service in release.services if service.priority in priorities))


class Need(Value, frozen=True, kw_only=True):
    """What is to be freed, and where: until so much is free there."""

    path: str
    free_bytes: int
    free_inodes: int


def need(strain: Strain, vitals: Vitals, limits: StrainLimits) -> Need | None:
    """Return what cleaning must come to, or ``None`` while the disk is not low or enough is free already."""
    low = lows(vitals, limits)
    if low is None or strain.disk.level == 0 or vitals.disk_path is None:
        return None
    wanted = Need(
        path=vitals.disk_path,
        free_bytes=round(low.bytes * limits.recovered_factor),
        free_inodes=round(low.inodes * limits.recovered_factor),
    )
    enough_inodes = vitals.inodes_free is None or vitals.inodes_free >= wanted.free_inodes
    return None if (vitals.disk_free_bytes or 0) >= wanted.free_bytes and enough_inodes else wanted


class ReserveOrder(StrEnum):
    """What is to become of the reserve."""

    GIVE_UP = "give-up"
    MAKE = "make"


def reserve_order(
    strain: Strain, vitals: Vitals, limits: StrainLimits, *, there: bool, whole: bool
) -> ReserveOrder | None:
    """Return what is to become of the reserve: given up on a critically low disk, made on one that is well.

    Its inodes are kept for the ledger, which takes them when it is opened: by itself. ``there``: whether there is
    anything of it; ``whole``: whether there is all of it.
    """
    low, free_bytes = lows(vitals, limits), vitals.disk_free_bytes
    if there and low is not None and free_bytes is not None and free_bytes < critical_bytes(low, limits):
        return ReserveOrder.GIVE_UP
    return ReserveOrder.MAKE if not whole and strain.disk.level == 0 else None


def reserve_bytes(wanted_bytes: int, disk_total_bytes: int) -> int:
    """Return how large the reserve may be on a disk of that size."""
    return min(wanted_bytes, int(disk_total_bytes * RESERVE_SHARE))


# --- one cause each --------------------------------------------------------------------------------------------


class Lows(Value, frozen=True, kw_only=True):
    """How much of one filesystem is little."""

    bytes: float
    inodes: float


def lows(vitals: Vitals, limits: StrainLimits) -> Lows | None:
    """Return below what the disk is low, or ``None`` where its size is not known."""
    if vitals.disk_total_bytes is None:
        return None
    return low_of(vitals.disk_total_bytes, vitals.inodes_total, limits)


def low_of(total_bytes: int, inodes_total: int | None, limits: StrainLimits) -> Lows:
    """Return below what a filesystem of that size is low."""
    return Lows(
        bytes=min(limits.disk_low_ratio * total_bytes, limits.disk_low_bytes),
        inodes=limits.inodes_low_ratio * (inodes_total or 0),
    )


def critical_bytes(low: Lows, limits: StrainLimits) -> float:
    """Return below how many free bytes a disk is critical."""
    return min(limits.disk_critical_bytes, low.bytes / 2)


def room(
    total_bytes: int, free_bytes: int, inodes_total: int | None, inodes_free: int | None, limits: StrainLimits
) -> float:
    """Return how many times what is low a filesystem has free: the smallest is the tightest."""
    low = low_of(total_bytes, inodes_total, limits)
    of_bytes = free_bytes / low.bytes if low.bytes else float("inf")
    of_inodes = inodes_free / low.inodes if low.inodes and inodes_free is not None else float("inf")
    return min(of_bytes, of_inodes)


def _disk(vitals: Vitals, limits: StrainLimits) -> _Reading:
    low, free_bytes = lows(vitals, limits), vitals.disk_free_bytes
    if low is None or free_bytes is None:
        return _NOT_READ
    critical = critical_bytes(low, limits)
    levels = [_levels(-free_bytes, (-low.bytes, -critical), limits.recovered_factor)]
    figures = f"{free_bytes // _MIB} MiB free"
    if vitals.inodes_free is not None and low.inodes:
        critical_inodes = min(_CRITICAL_INODES, low.inodes / 2)
        levels.append(_levels(-vitals.inodes_free, (-low.inodes, -critical_inodes), limits.recovered_factor))
        figures += f" and {vitals.inodes_free} inodes"
    where = f" at {vitals.disk_path}" if vitals.disk_path else ""
    return _Reading(
        enter=max(enter for enter, _ in levels), stay=max(stay for _, stay in levels), figures=f"{figures}{where}"
    )


def _levels(badness: float, thresholds: tuple[float, ...], factor: float) -> tuple[int, int]:
    """Return which stage is entered and which is stayed in; ``badness`` is what is free, negative."""
    enter = sum(badness > threshold for threshold in thresholds)
    return enter, sum(badness > threshold * factor for threshold in thresholds)


def _heat(vitals: Vitals, limits: StrainLimits, *, is_weak: bool) -> _Reading:
    """Judge by the temperature, and by the firmware: throttled or capped it is warm at least.

    The firmware does so for heat, past 80 °C, and for a weak supply, and does not say which. Its soft limit (60 °C on a
    Pi 3B+) is no strain: that is where such a machine works.
    """
    held = _held_back(vitals) if not is_weak else ()
    by_firmware = int(bool(held))
    celsius = vitals.temperature_celsius
    if celsius is None:
        figures = f"{' and '.join(held)} by the firmware" if held else _NOT_READ.figures
        return _Reading(enter=by_firmware, stay=by_firmware, figures=figures, is_blind=True)
    thresholds = (limits.warm_celsius, limits.hot_celsius, limits.critical_celsius)
    firmware = f", {' and '.join(held)} by the firmware" if held else ""
    return _Reading(
        enter=max(by_firmware, sum(celsius >= threshold for threshold in thresholds)),
        stay=max(by_firmware, sum(celsius > threshold - limits.cooler_celsius for threshold in thresholds)),
        figures=f"{celsius:.1f} °C{firmware}",
    )


def _held_back(vitals: Vitals) -> tuple[str, ...]:
    """Return how the firmware holds the processor back now."""
    ways = (("throttled", vitals.throttled), ("capped", vitals.frequency_capped))
    return tuple(name for name, is_so in ways if is_so)


def _supply(vitals: Vitals) -> _Reading:
    if vitals.under_voltage is None:
        return _NOT_READ
    weak = int(vitals.under_voltage)
    return _Reading(enter=weak, stay=weak, figures="under-voltage" if weak else "the voltage is as it should be")


def _memory(vitals: Vitals, limits: StrainLimits) -> _Reading:
    some, full = vitals.memory_pressure_some_ratio, vitals.memory_pressure_full_ratio
    if some is None or full is None:
        return _available(vitals, limits)
    pressed, short = limits.memory_pressed_ratio, limits.memory_short_ratio
    return _Reading(
        enter=2 if full >= short else int(some >= pressed),
        stay=2 if full > short / 2 else int(some > pressed / 2),
        figures=f"tasks wait for memory {some:.0%} of the time, all at once {full:.0%}",
    )


def _available(vitals: Vitals, limits: StrainLimits) -> _Reading:
    if vitals.memory_available_bytes is None or not vitals.memory_total_bytes:
        return _NOT_READ
    ratio, low = vitals.memory_available_bytes / vitals.memory_total_bytes, limits.memory_low_ratio
    enters = sum(ratio < threshold for threshold in (low, low / 2))
    stays = sum(ratio < threshold * limits.recovered_factor for threshold in (low, low / 2))
    return _Reading(enter=enters, stay=stays, figures=f"{ratio:.0%} of memory available")
