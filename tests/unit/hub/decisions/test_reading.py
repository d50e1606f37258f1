"""What of a commit concerns the hub."""

from __future__ import annotations

import pytest

from metrica_hub.decisions.reading import MOST_PROBLEMS, Reading, is_read, of_another_fleet, reading_of

STAGE = '[[rollout.stages]]\nname = "all"\nshare = 1.0\n'


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("fleet.toml", True),
        ("devices/pi-01.toml", True),
        ("allowed_signers", True),
        ("roles/camera/compose.yaml", False),
        ("roles/camera/allowed_signers", False),
        ("devices/notes/pi-01.toml", False),
        ("weights.bin", False),
    ],
)
def test_only_what_matters_is_looked_into(path: str, read: bool) -> None:  # noqa: FBT001
    assert is_read(path) is read


def test_devices_their_tags_the_policy_and_the_signers_are_read() -> None:
    files = {
        "fleet.toml": f'name = "home"\n[rollout]\n{STAGE}'.encode(),
        "devices/pi-01.toml": b'role = "camera"\ntags = ["canary"]',
        "devices/pi-02.toml": b"this is no TOML",
        "allowed_signers": b"hub ssh-ed25519 AAAA\0\xff\n",
    }
    reading = reading_of(files)
    assert (reading.fleet, reading.problems) == ("home", ())
    assert reading.devices == {"pi-01": ("canary",), "pi-02": ()}  # it refuses the commit by itself
    assert reading.policy is not None
    assert [stage.name for stage in reading.policy.stages] == ["all"]
    assert reading.signers == "hub ssh-ed25519 AAAA\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\n"


def test_a_fleet_without_stages_has_no_policy() -> None:
    assert reading_of({"fleet.toml": b'name = "home"'}) == Reading(fleet="home")


def test_a_fleet_file_that_is_wrong_can_not_be_used_and_its_problems_are_bounded() -> None:
    wrong = "\n".join(f"key{number} = 1" for number in range(MOST_PROBLEMS + 5))
    reading = reading_of({"fleet.toml": f'name = "home"\n{wrong}'.encode()})
    assert (reading.fleet, len(reading.problems)) == (None, MOST_PROBLEMS)
    assert reading.problems[0].startswith('fleet.toml:2: unknown key "key0"')


def test_the_repository_of_another_fleet_can_not_be_used() -> None:
    reading = of_another_fleet(Reading(fleet="office", signers="x"), "home")
    assert (reading.fleet, reading.policy, reading.signers) == (None, None, "x")
    assert '"office"' in reading.problems[0]
