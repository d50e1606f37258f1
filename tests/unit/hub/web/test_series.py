"""Per-device lines of /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.hub.values import START, device_state

from metrica_fleet.records import Vitals
from metrica_hub.decisions.fleet_state import Claimant
from metrica_hub.decisions.tidings import Tiding
from metrica_hub.web.series import families, names, told

if TYPE_CHECKING:
    from metrica_hub.decisions.fleet_state import DeviceState


def lines(*devices: DeviceState) -> list[str]:
    return [line for line in b"".join(families(devices)).decode().splitlines() if not line.startswith("#")]


def test_a_family_stands_together_under_its_help_and_a_device_has_one_line_in_it() -> None:
    devices = [device_state(device=name) for name in ("pi-02", "pi-01")]
    assert b"".join(families(devices)).decode().count("# TYPE metrica_device_online gauge") == 1
    assert lines(*devices)[:2] == [
        'metrica_device_online{device="pi-02",role="camera"} 1',
        'metrica_device_online{device="pi-01",role="camera"} 1',
    ]


def test_a_value_that_is_not_known_is_not_told() -> None:
    assert 'metrica_device_temperature_celsius{device="pi-01"} 60.5' in lines(
        device_state(vitals=Vitals(temperature_celsius=60.5))
    )
    unknown = device_state(vitals=Vitals())
    assert not any("temperature" in line for line in lines(unknown))
    assert b"temperature" not in b"".join(families([unknown]))


def test_what_a_device_says_of_itself_can_not_break_the_format_or_grow_the_number_of_series() -> None:
    told = lines(device_state(agent_version='a"b\\c\nd' + "x" * 500, mode="made-up"))
    (info,) = [line for line in told if line.startswith("metrica_device_info")]
    assert 'agent_version="a\\"b\\\\c\\nd' in info
    assert len(info) < 160
    assert 'metrica_device_mode{device="pi-01",role="camera",mode="other"} 1' in told


def test_a_made_up_phase_is_other() -> None:
    for phase, shown in (("made-up", "other"), ("trial", "trial")):
        assert f'metrica_device_phase{{device="pi-01",role="camera",phase="{shown}"}} 1' in lines(
            device_state(phase=phase)
        )


def test_what_is_wrong_with_a_connection_has_a_series_only_while_it_is() -> None:
    claimant = Claimant(boot_id="b", connection=1, agent_version="1", last_heard_at=START)
    told = lines(device_state(connection="flapping", flapping_since=START, claimants=(claimant, claimant)))
    assert 'metrica_device_online{device="pi-01",role="camera"} 0' in told
    assert 'metrica_device_flapping{device="pi-01",role="camera"} 1' in told
    assert 'metrica_device_claimed{device="pi-01",role="camera"} 2' in told
    assert not any("flapping" in line or "claimed" in line for line in lines(device_state()))


def test_why_a_device_is_not_where_it_should_be_is_told_in_known_words_while_it_is_not() -> None:
    for reason, shown in (("crash-loop", "crash-loop"), ("made-up", "other")):
        assert f'metrica_device_reason{{device="pi-01",role="camera",reason="{shown}"}} 1' in lines(
            device_state(reason=reason)
        )
    assert not any("metrica_device_reason" in line for line in lines(device_state(reason=None)))


def test_what_was_told_of_late_is_told_by_when_it_was() -> None:
    assert told([]) == b""
    text = told([Tiding("pi-01", "drift.found", START)]).decode()
    assert text.splitlines()[-1] == (
        f'metrica_device_event_timestamp_seconds{{device="pi-01",kind="drift.found"}} {START.timestamp()}'
    )
    assert text.splitlines()[0].split()[2] in names()
