from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from metrica_agent.decisions import strain as straining
from metrica_agent.decisions.strain import UNKNOWN_S, ReserveOrder, StrainLimits, felt, need, rebased, reserve_order
from metrica_agent.decisions.world import Cause, Felt, Strain
from metrica_fleet.identity import BootId
from metrica_fleet.records import EVENT_KINDS, Vitals

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 1024**3
MIB = 1024**2
LIMITS = StrainLimits()
WELL = Vitals(
    disk_path="/var/lib/metrica",
    disk_total_bytes=32 * GIB,
    disk_free_bytes=20 * GIB,
    inodes_total=2_000_000,
    inodes_free=1_000_000,
    temperature_celsius=50,
    under_voltage=False,
    memory_pressure_some_ratio=0,
    memory_pressure_full_ratio=0,
)
STEP_S = 15.0


def heat(celsius: float | None) -> Vitals:
    return Vitals(temperature_celsius=celsius)


def disk(free_bytes: int, *, total_bytes: int = 32 * GIB, inodes_free: int = 1_000_000) -> Vitals:
    return Vitals(
        disk_path="/d",
        disk_total_bytes=total_bytes,
        disk_free_bytes=free_bytes,
        inodes_total=2_000_000,
        inodes_free=inodes_free,
    )


def run(looks: Sequence[Vitals], *, step_s: float = STEP_S, limits: StrainLimits = LIMITS) -> list[Strain]:
    """Return the strain after each look."""
    strain, felt_then = Strain(), list[Strain]()
    for number, vitals in enumerate(looks):
        strain = felt(strain, vitals, limits, number * step_s)
        felt_then.append(strain)
    return felt_then


def levels(looks: Sequence[Vitals], cause: Cause, *, step_s: float = STEP_S) -> list[int]:
    return [strain.of(cause).level for strain in run(looks, step_s=step_s)]


# --- thresholds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("celsius", "level"), [(74.9, 0), (75, 1), (79.9, 1), (80, 2), (84.9, 2), (85, 3), (110, 3), (None, 0)]
)
def test_a_stage_of_heat_is_entered_at_its_threshold_and_at_once(celsius: float | None, level: int) -> None:
    assert levels([heat(celsius)], Cause.HEAT) == [level]


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "level"),
    [
        (GIB, 32 * GIB, 0),  # 1 GiB is less than 10 % of 32
        (GIB - 1, 32 * GIB, 1),
        (199 * MIB, 2000 * MIB, 1),  # 10 % of a small one is less than 1 GiB
        (200 * MIB, 2000 * MIB, 0),
        (16 * MIB, 2000 * MIB, 1),
        (16 * MIB - 1, 2000 * MIB, 2),
        (4 * MIB, 40 * MIB, 0),
        (3 * MIB, 40 * MIB, 1),  # half of what is low is critical, on a tiny disk
        (2 * MIB - 1, 40 * MIB, 2),
    ],
)
def test_a_disk_is_low_by_share_or_by_bytes_whichever_is_less(free_bytes: int, total_bytes: int, level: int) -> None:
    assert levels([disk(free_bytes, total_bytes=total_bytes)], Cause.DISK) == [level]


@pytest.mark.parametrize(("inodes_free", "level"), [(100_000, 0), (99_999, 1), (63, 2)])
def test_a_disk_is_low_by_its_inodes_as_well(inodes_free: int, level: int) -> None:
    assert levels([disk(20 * GIB, inodes_free=inodes_free)], Cause.DISK) == [level]


@pytest.mark.parametrize(("some", "full", "level"), [(0.39, 0, 0), (0.4, 0, 1), (0.9, 0.19, 1), (0.5, 0.2, 2)])
def test_memory_is_pressed_and_then_short(some: float, full: float, level: int) -> None:
    vitals = Vitals(memory_pressure_some_ratio=some, memory_pressure_full_ratio=full)
    assert levels([vitals], Cause.MEMORY) == [level]


@pytest.mark.parametrize(("available", "level"), [(51, 0), (49, 1), (24, 2)])
def test_where_pressure_is_not_measured_what_is_available_counts(available: int, level: int) -> None:
    vitals = Vitals(memory_total_bytes=1000, memory_available_bytes=available)
    assert levels([vitals], Cause.MEMORY) == [level]


HELD: Final = Vitals(throttled=True, frequency_capped=True)


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [
        (
            Vitals(throttled=True, under_voltage=False, temperature_celsius=61),
            ("heat-warm", "the machine is warm: 61.0 °C, throttled by the firmware"),
        ),
        (
            Vitals(throttled=False, frequency_capped=True, under_voltage=False, temperature_celsius=61),
            ("heat-warm", "the machine is warm: 61.0 °C, capped by the firmware"),
        ),
        (
            replace(HELD, temperature_celsius=81),
            ("heat-hot", "the machine is hot: 81.0 °C, throttled and capped by the firmware"),
        ),
        (Vitals(throttled=True), ("heat-warm", "the machine is warm: throttled by the firmware")),
        (replace(HELD, under_voltage=True), ("supply-weak", "the power supply is weak: under-voltage")),
        (Vitals(throttled=False, frequency_capped=False, under_voltage=False, temperature_celsius=61), None),
        (Vitals(), None),
    ],
)
def test_a_machine_that_its_firmware_holds_back_is_warm_unless_its_supply_is_the_reason(
    vitals: Vitals, reason: tuple[str, str] | None
) -> None:
    assert straining.all_in_words(run([vitals])[0]) == (() if reason is None else (reason,))


def test_a_soft_limit_is_where_some_machines_work_and_no_strain() -> None:
    assert not any(run([Vitals(soft_temperature_limit=True, temperature_celsius=61)])[0].levels)


# --- hysteresis and dwell --------------------------------------------------------------------------------------


def test_a_stage_is_left_past_its_second_threshold_only() -> None:
    assert levels([heat(80), *[heat(75.1)] * 9], Cause.HEAT)[-1] == 2
    assert levels([heat(80), *[heat(75)] * 9], Cause.HEAT)[-1] == 1
    assert levels([heat(80), *[heat(69)] * 9], Cause.HEAT)[-1] == 0


def test_one_good_reading_ends_nothing() -> None:
    looks = [Vitals(under_voltage=weak) for weak in (True, False, True, False, True, False, True, False)]
    assert levels(looks, Cause.SUPPLY) == [1] * 8


THROTTLED: Final = Vitals(throttled=True, under_voltage=False, temperature_celsius=61)
FREE: Final = Vitals(throttled=False, under_voltage=False, temperature_celsius=61)


def test_a_firmware_that_throttles_now_and_then_makes_nothing_flap() -> None:
    assert levels([THROTTLED, FREE] * 6, Cause.HEAT) == [1] * 12
    assert levels([THROTTLED, FREE, FREE, FREE], Cause.HEAT) == [1, 1, 0, 0]


def test_while_the_supply_is_weak_throttling_is_told_of_it_and_of_heat_only_when_it_stays() -> None:
    felt_then = run([*[replace(THROTTLED, under_voltage=True)] * 2, *[THROTTLED] * 6])
    assert [strain.supply.level for strain in felt_then] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert [strain.heat.level for strain in felt_then] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_thermometer_that_falls_silent_while_the_firmware_throttles_eases_to_warm_and_no_further() -> None:
    silent = int(UNKNOWN_S / STEP_S) + 4
    felt_then = levels([heat(90), *[replace(THROTTLED, temperature_celsius=None)] * silent], Cause.HEAT)
    assert set(felt_then) == {3, 1}
    assert felt_then[int(UNKNOWN_S / STEP_S) - 1] == 3
    assert felt_then[-1] == 1


def test_a_sensor_that_falls_silent_keeps_its_stage_for_a_while_and_not_for_ever() -> None:
    silent = int(UNKNOWN_S / STEP_S) + 4
    felt_then = levels([heat(90), *[heat(None)] * silent], Cause.HEAT)
    assert felt_then[int(UNKNOWN_S / STEP_S) - 1] == 3
    assert felt_then[-1] == 0


def test_after_a_reboot_a_stage_is_kept_until_it_was_looked_at_and_may_rise_at_once() -> None:
    hot = felt(Strain(boot_id=BootId("one")), heat(81), LIMITS, 90_000)
    after = rebased(hot, BootId("two"), 12)
    assert rebased(hot, BootId("one"), 90_010) == hot
    assert felt(after, heat(50), LIMITS, 13).heat.level == 2
    assert felt(after, heat(86), LIMITS, 13).heat.level == 3
    assert felt(after, heat(50), LIMITS, 12 + LIMITS.dwell_s).heat.level == 0


READINGS = st.builds(
    Vitals,
    disk_path=st.just("/d"),
    disk_total_bytes=st.just(2000 * MIB),
    disk_free_bytes=st.none() | st.integers(0, 500 * MIB),
    inodes_total=st.just(10_000),
    inodes_free=st.none() | st.integers(0, 2_000),
    temperature_celsius=st.none() | st.floats(60, 95),
    under_voltage=st.none() | st.booleans(),
    frequency_capped=st.none() | st.booleans(),
    throttled=st.none() | st.booleans(),
    memory_pressure_some_ratio=st.none() | st.floats(0, 1),
    memory_pressure_full_ratio=st.none() | st.floats(0, 1),
    memory_total_bytes=st.just(1000),
    memory_available_bytes=st.none() | st.integers(0, 200),
)
PAUSES = st.floats(0.1, 60)
STORIES = st.lists(st.tuples(PAUSES, READINGS), max_size=60)


def told(story: list[tuple[float, Vitals]]) -> list[tuple[float, Strain]]:
    now_s, strain, seen = 100.0, Strain(), list[tuple[float, Strain]]()
    for pause_s, vitals in story:
        now_s += pause_s
        strain = felt(strain, vitals, LIMITS, now_s)
        seen.append((now_s, strain))
    return seen


@given(STORIES)
def test_no_cause_changes_its_stage_more_than_once_in_a_dwell(story: list[tuple[float, Vitals]]) -> None:
    for cause in Cause:
        changed_s, level = None, 0
        for now_s, strain in told(story):
            if strain.of(cause).level != level:
                assert changed_s is None or now_s >= changed_s + LIMITS.dwell_s
                changed_s, level = now_s, strain.of(cause).level


@given(STORIES)
def test_a_machine_that_is_well_comes_back_to_it(story: list[tuple[float, Vitals]]) -> None:
    well = [(LIMITS.dwell_s, WELL)] * 4
    assert not any(told([*story, *well])[-1][1].levels)


@given(st.lists(st.floats(60, 95), max_size=40), PAUSES)
def test_what_only_worsens_is_never_eased_and_what_only_betters_never_raised(
    temperatures: list[float], pause_s: float
) -> None:
    rising = [strain.heat.level for _, strain in told([(pause_s, heat(one)) for one in sorted(temperatures)])]
    assert rising == sorted(rising)
    falling = [(pause_s, heat(one)) for one in sorted(temperatures, reverse=True)]
    hot = (0.1, heat(95))
    after = [strain.heat.level for _, strain in told([hot, *falling])]
    assert after == sorted(after, reverse=True)


@given(READINGS, READINGS)
def test_a_worse_reading_is_no_lower_stage(one: Vitals, other: Vitals) -> None:
    if one.temperature_celsius is not None and other.temperature_celsius is not None:
        low, high = sorted((one.temperature_celsius, other.temperature_celsius))
        assert levels([heat(low)], Cause.HEAT) <= levels([heat(high)], Cause.HEAT)
    if one.disk_free_bytes is not None and other.disk_free_bytes is not None:
        tight, roomy = sorted((one.disk_free_bytes, other.disk_free_bytes))
        assert levels([disk(roomy)], Cause.DISK) <= levels([disk(tight)], Cause.DISK)


# --- what follows ----------------------------------------------------------------------------------------------


@given(STORIES)
def test_every_change_is_a_saying_with_reason_and_figures(story: list[tuple[float, Vitals]]) -> None:
    before = Strain()
    for _, strain in told(story):
        sayings = straining.changes(before, strain)
        assert len(sayings) == sum(old != new for old, new in zip(before.levels, strain.levels, strict=True))
        for saying in sayings:
            assert saying.kind in EVENT_KINDS
            assert saying.reason in {
                straining.stage_of(c, n + 1) for c in Cause for n in range(len(straining.STAGES[c]))
            }
            assert saying.detail["figures"]
        before = strain


def test_what_makes_services_rest_weighs_more_than_what_makes_updates_wait() -> None:
    strain = Strain(disk=Felt(level=2, figures="f"), heat=Felt(level=2, figures="81.0 °C"))
    assert straining.in_words(strain) == ("heat-hot", "the machine is hot: 81.0 °C")
    assert straining.in_words(Strain()) is None


def test_cleaning_ends_when_half_as_much_again_as_is_low_is_free() -> None:
    low = felt(Strain(), disk(GIB - 1), LIMITS, 0)
    assert need(Strain(), disk(GIB - 1), LIMITS) is None
    wanted = need(low, disk(GIB - 1), LIMITS)
    assert wanted is not None
    assert (wanted.path, wanted.free_bytes) == ("/d", GIB * 3 // 2)
    assert need(low, disk(GIB * 3 // 2), LIMITS) is None
    assert need(low, disk(GIB * 3 // 2, inodes_free=140_000), LIMITS) is not None


def test_the_reserve_is_given_up_on_a_critical_disk_and_made_on_a_well_one() -> None:
    low, tight, roomy = Strain(disk=Felt(level=2)), disk(15 * MIB), disk(20 * MIB, inodes_free=0)
    for whole in (True, False):
        assert reserve_order(low, tight, LIMITS, there=True, whole=whole) is ReserveOrder.GIVE_UP
        assert reserve_order(low, roomy, LIMITS, there=True, whole=whole) is None  # its inodes are the ledger's
    assert reserve_order(low, tight, LIMITS, there=False, whole=False) is None
    assert reserve_order(low, roomy, LIMITS, there=False, whole=False) is None
    assert reserve_order(Strain(), WELL, LIMITS, there=False, whole=False) is ReserveOrder.MAKE
    assert reserve_order(Strain(), WELL, LIMITS, there=True, whole=False) is ReserveOrder.MAKE
    assert reserve_order(Strain(), WELL, LIMITS, there=True, whole=True) is None
    assert straining.reserve_bytes(32 * MIB, 100 * MIB) == 2 * MIB


def test_a_stage_that_came_and_went_while_nothing_could_be_written_is_told_all_the_same() -> None:
    well, low, critical = Strain(), Strain(disk=Felt(level=1)), Strain(disk=Felt(level=2))
    worst = straining.worst_untold(None, low, well)
    worst = straining.worst_untold(worst, critical, well)
    worst = straining.worst_untold(worst, low, well)
    worst = straining.worst_untold(worst, well, well)
    assert worst == critical
    assert straining.worst_untold(worst, well, critical) is None  # told
    assert straining.worst_untold(None, low, critical) is None  # what eases needs no help
