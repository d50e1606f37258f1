"""``[rollout]`` of fleet.toml: what may be written, and what is said of the rest."""

from __future__ import annotations

import pytest
from tests.unit.fleet.repositories import GOOD, changed

from metrica_fleet.definition import DefinitionError, for_device, rollout_in, whole_fleet
from metrica_fleet.identity import DeviceId
from metrica_fleet.policies import RolloutPolicy, RolloutStage

PI_01 = DeviceId("pi-01")
ALL = '[[rollout.stages]]\nname = "all"\nshare = 1.0\n'


def with_rollout(text: str) -> dict[str, bytes]:
    return changed(fleet=f'name = "harbour"\n{text}')


def first_problem(text: str) -> str:
    with pytest.raises(DefinitionError) as error:
        whole_fleet(with_rollout(text))
    return str(error.value.problems[0])


def test_without_a_word_nobody_waits_for_anybody() -> None:
    assert (for_device(GOOD, PI_01).rollout, whole_fleet(GOOD).rollout, rollout_in(GOOD).policy) == (None, None, None)


def test_one_stage_for_all_is_enough_and_the_rest_has_defaults() -> None:
    expected = RolloutPolicy(stages=(RolloutStage(name="all", share=1.0),))
    files = with_rollout(ALL)
    assert for_device(files, PI_01).rollout == expected
    assert whole_fleet(files).rollout == expected
    assert (expected.failure_share, expected.hub_silent, expected.abort) == (0.05, "hold", "keep")


def test_all_of_it() -> None:
    text = f"""\
[rollout]
failure_share = 0
minimum_healthy = 2
deadline_s = 3600
waiting_s = 0
hub_silent = "go-on"
hub_silent_s = 900
abort = "revert"
prefetch_s = 0
[[rollout.stages]]
name = "canary"
devices = ["pi-02"]
tags = ["canary"]
soak_s = 30
pause = true
[[rollout.stages]]
name = "tenth"
share = 0.1
{ALL}"""
    assert for_device(with_rollout(text), PI_01).rollout == RolloutPolicy(
        failure_share=0.0,
        minimum_healthy=2,
        deadline_s=3600.0,
        waiting_s=0.0,
        hub_silent="go-on",
        hub_silent_s=900.0,
        abort="revert",
        prefetch_s=0.0,
        stages=(
            RolloutStage(name="canary", devices=(DeviceId("pi-02"),), tags=("canary",), soak_s=30.0, pause=True),
            RolloutStage(name="tenth", share=0.1),
            RolloutStage(name="all", share=1.0),
        ),
    )


def test_the_hub_reads_who_is_there_and_is_not_stopped_by_one_devices_mistake() -> None:
    files = with_rollout(ALL) | {"devices/pi-02.toml": b"nonsense", "roles/sensor/role.toml": b"nonsense"}
    found = rollout_in(files)
    assert found.fleet == "harbour"
    assert found.devices == {"pi-01": ("north", "canary"), "pi-02": ()}
    with pytest.raises(DefinitionError):
        rollout_in(with_rollout("[rollout]"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rollout]", ':2: rollout has no stages; add [[rollout.stages]] with name = "..." and share = 1.0'),
        ("rollout = 3", ":2: rollout must be a table, [rollout], not 3"),
        ("[rollout]\nstages = 3", ":3: rollout.stages must be a list of tables, [[rollout.stages]]"),
        (f"[rollout]\nfailureshare = 0.1\n{ALL}", ':3: unknown key "failureshare"; did you mean "failure_share"?'),
        (f"[rollout]\nfailure_share = 5\n{ALL}", ":3: rollout.failure_share must be a number from 0 to 1, not 5"),
        (f'[rollout]\nhub_silent = "goon"\n{ALL}', ':3: rollout.hub_silent must be "go-on" or "hold", not "goon"; did'),
        (f"[rollout]\nhub_silent_s = 60\n{ALL}", ":3: rollout.hub_silent_s must be a number of seconds from 900 to"),
        ("[[rollout.stages]]\nshare = 1.0", ':2: rollout.stages[0] lacks "name"; add it'),
        ('[[rollout.stages]]\nname = "a"\nshares = 1.0', ':4: unknown key "shares"; did you mean "share"?'),
        ('[[rollout.stages]]\nname = "a"', ':2: stage "a" opens to nobody; add devices, tags or a share'),
        ('[[rollout.stages]]\nname = "a"\nshare = 0.5', ":2: no stage opens to everybody; add [[rollout.stages]] with"),
        (f'[[rollout.stages]]\nname = "all"\nshare = 0.5\n{ALL}', ':6: there are two stages "all"; rename one'),
        (f'{ALL}[[rollout.stages]]\nname = "b"\nshare = 0.5', ":7: rollout.stages[1].share is 0.5; shares must grow"),
        (
            f'[[rollout.stages]]\nname = "a"\ntags = ["north"]\nshare = 0.5\n{ALL}',
            ':5: stage "a" has names and a share; make two stages of it',
        ),
        (f"{ALL}pause = true", ':5: stage "all" is the last one: there is nothing to pause before'),
        (
            f'[[rollout.stages]]\nname = "a"\ndevices = ["pi-03"]\n{ALL}',
            ':4: there is no device "pi-03"; did you mean "pi-0',
        ),
        (
            f'[[rollout.stages]]\nname = "a"\ntags = ["nord"]\n{ALL}',
            ':4: no device has the tag "nord"; did you mean "north"?',
        ),
        (
            f"[rollout]\ndeadline_s = 300\n{ALL}",
            ":3: rollout.deadline_s is 300, and a device may take 500.5 s for its verdict",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(text: str, said: str) -> None:
    assert f"fleet.toml{said}" in first_problem(text)


def test_a_device_does_not_know_the_others_and_refuses_no_stage_for_naming_them() -> None:
    files = with_rollout(f'[[rollout.stages]]\nname = "a"\ndevices = ["pi-99"]\n{ALL}')
    assert for_device(files, PI_01).rollout is not None
