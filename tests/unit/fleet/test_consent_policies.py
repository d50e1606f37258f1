"""``[update]`` and ``[services.NAME]`` of role.toml: what may be written, and what is said of the rest."""

from __future__ import annotations

import pytest
from tests.unit.fleet.repositories import changed

from metrica_fleet.definition import DefinitionError, ServicePolicy, UpdatePolicy, for_device
from metrica_fleet.identity import DeviceId
from metrica_fleet.policies import Day

PI_01 = DeviceId("pi-01")


def test_without_a_word_any_time_is_right_and_locks_hold_for_an_hour() -> None:
    defined = for_device(changed(), PI_01)
    assert (defined.update, defined.services) == (UpdatePolicy(), {})
    assert (UpdatePolicy().windows, UpdatePolicy().patience_s) == ((), 604_800)
    assert ServicePolicy().lock_patience_s == 3600


def test_all_of_it() -> None:
    text = """\
[update]
windows = ["22:00-04:30", "12:00-24:00"]
days = ["mon", "sun"]
zone = "Europe/Berlin"
patience_s = 0
[services.recorder]
lock_patience_s = 90.5
[services."Odd.name"]
"""
    defined = for_device(changed(camera=text), PI_01)
    assert defined.update == UpdatePolicy(
        windows=("22:00-04:30", "12:00-24:00"), days=(Day.MON, Day.SUN), zone="Europe/Berlin", patience_s=0
    )
    assert defined.services == {"recorder": ServicePolicy(lock_patience_s=90.5), "Odd.name": ServicePolicy()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[update]\nwindow = ["22:00-23:00"]', ':2: unknown key "window"; did you mean "windows"?'),
        ('[update]\nwindows = "22:00-23:00"', ':2: update.windows must be a list of texts, ["...", "..."], not "22:'),
        ('[update]\nwindows = ["22:00-4:30"]', ':2: update.windows[0] must be a time of day like "22:00-04:30", not'),
        ('[update]\nwindows = ["24:00-04:30"]', ":2: update.windows[0] must be a time of day"),
        ('[update]\nwindows = ["22:00-22:00"]', ':2: update.windows[0] begins when it ends; for the whole day write "'),
        ('[update]\ndays = ["monday"]', ':2: update.days[0] must be one of "mon", "tue", "wed"'),
        ('[update]\nzone = "Europe/Berln"', ':2: there is no time zone "Europe/Berln"; did you mean "Europe/Berlin"?'),
        ('[update]\nzone = "../etc/passwd"', ":2: update.zone must be a time zone of the IANA database"),
        ("[update]\npatience_s = -1", ":2: update.patience_s must be a number of seconds from 0 to 2592000, not -1"),
        ("[services.web]\nlock_patience = 3", ':2: unknown key "lock_patience"; did you mean "lock_patience_s"?'),
        ("[services]\nweb = 3", ":2: services.web must be a table, [services.web]"),
        ('[services."a b"]', ':1: services.a b must be the name of a service of compose.yaml, not "a b"'),
        ("services = 5", ":1: services must be a table, [services], not 5"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(text: str, said: str) -> None:
    with pytest.raises(DefinitionError) as error:
        for_device(changed(camera=text), PI_01)
    assert f"roles/camera/role.toml{said}" in str(error.value.problems[0])
