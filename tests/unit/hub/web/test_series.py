"""Per-device lines of /metrics."""

from __future__ import annotations

from tests.unit.hub.values import device_state

from metrica_fleet.records import Vitals
from metrica_hub.web.series import DeviceSeries


def lines(series: DeviceSeries) -> list[str]:
    return [line for line in series.render().decode().splitlines() if not line.startswith("#")]


def test_a_family_stands_together_under_its_help_and_a_device_has_one_line_in_it() -> None:
    series = DeviceSeries()
    for name in ("pi-02", "pi-01", "pi-02"):
        series.update(device_state(device=name))
    text = series.render().decode()
    assert text.count("# TYPE metrica_device_online gauge") == 1
    assert [line for line in lines(series) if line.startswith("metrica_device_online")] == [
        'metrica_device_online{device="pi-02",role="camera"} 1',
        'metrica_device_online{device="pi-01",role="camera"} 1',
    ]


def test_a_value_that_is_no_longer_known_is_no_longer_told() -> None:
    series = DeviceSeries()
    series.update(device_state(vitals=Vitals(temperature_celsius=60.5)))
    assert 'metrica_device_temperature_celsius{device="pi-01"} 60.5' in lines(series)
    series.update(device_state(vitals=Vitals()))
    assert not any("temperature" in line for line in lines(series))


def test_what_a_device_says_of_itself_can_not_break_the_format_or_grow_the_number_of_series() -> None:
    series = DeviceSeries()
    series.update(device_state(agent_version='a"b\\c\nd' + "x" * 500, mode="made-up"))
    (info,) = [line for line in lines(series) if line.startswith("metrica_device_info")]
    assert 'agent_version="a\\"b\\\\c\\nd' in info
    assert len(info) < 160
    assert 'metrica_device_mode{device="pi-01",role="camera",mode="other"} 1' in lines(series)


def test_a_made_up_phase_is_other() -> None:
    series = DeviceSeries()
    series.update(device_state(phase="made-up"))
    assert 'metrica_device_phase{device="pi-01",role="camera",phase="other"} 1' in lines(series)
    series.update(device_state(phase="trial"))
    assert 'metrica_device_phase{device="pi-01",role="camera",phase="trial"} 1' in lines(series)
