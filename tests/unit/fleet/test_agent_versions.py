from __future__ import annotations

import pytest
from tests.unit.fleet.repositories import GOOD

from metrica_fleet.agent_versions import AgentVersion, Wheel, listing_of, read_listing, version_of
from metrica_fleet.definition import DefinitionError, Problem, agent_named_by, for_device, whole_fleet
from metrica_fleet.identity import DeviceId

PI_01, PI_02 = DeviceId("pi-01"), DeviceId("pi-02")
OWN = f"{'a' * 64}  metrica_fleet-1.4.0-py3-none-any.whl\n"
OTHER = f"{'b' * 64}  msgspec-0.22.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl\n"


def fleet(table: str, *, pi_01: str = "", listed: dict[str, str] | None = None) -> dict[str, bytes]:
    """Return the good fleet with ``[agent]``, and the listings of versions."""
    files = {**GOOD, "fleet.toml": GOOD["fleet.toml"] + f"\n{table}".encode()}
    files["devices/pi-01.toml"] = pi_01.encode() + GOOD["devices/pi-01.toml"]
    versions = {"1.4.0": OWN + OTHER} if listed is None else listed
    return files | {listing_of(version): text.encode() for version, text in versions.items()}


def problem_of(files: dict[str, bytes]) -> str:
    with pytest.raises(DefinitionError) as caught:
        for_device(files, PI_01)
    with pytest.raises(DefinitionError):
        whole_fleet(files)
    (problem,) = caught.value.problems
    return str(problem)


def test_a_fleet_without_agent_wants_none() -> None:
    assert for_device(GOOD, PI_01).agent is None
    assert agent_named_by(GOOD, PI_01) is None


def test_a_version_is_its_number_and_its_wheels() -> None:
    files = fleet('[agent]\nversion = "1.4.0"\nsource = "https://hub.example.org/agent"\n')
    agent = for_device(files, PI_01).agent
    assert agent == AgentVersion(
        version="1.4.0",
        wheels=(
            Wheel("metrica_fleet-1.4.0-py3-none-any.whl", "a" * 64),
            Wheel("msgspec-0.22.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "b" * 64),
        ),
        source="https://hub.example.org/agent",
    )
    assert whole_fleet(files).devices[PI_02].agent == agent
    assert agent is not None
    assert version_of(agent.name) == "1.4.0"
    other = for_device(fleet('[agent]\nversion = "1.4.0"\n', listed={"1.4.0": OWN}), PI_01).agent
    assert other is not None
    assert other.name != agent.name


@pytest.mark.parametrize(
    ("table", "pi_01", "version"),
    [
        ('[agent]\nversion = "1.3.0"\n', "", "1.3.0"),
        ('[agent]\nversion = "1.3.0"\n[agent.tags]\ncanary = "1.4.0"\n', "", "1.4.0"),
        ('[agent]\nversion = "1.3.0"\n[agent.tags]\nsouth = "1.4.0"\n', "", "1.3.0"),
        ('[agent.tags]\nnorth = "1.4.0"\ncanary = "1.3.0"\n', "", "1.4.0"),
        ('[agent]\nversion = "1.3.0"\n[agent.tags]\ncanary = "1.3.0"\n', 'agent = "1.4.0"\n', "1.4.0"),
        ("", 'agent = "1.4.0"\n', "1.4.0"),
    ],
)
def test_a_device_goes_before_its_tags_and_they_before_the_fleet(table: str, pi_01: str, version: str) -> None:
    files = fleet(table, pi_01=pi_01, listed={"1.3.0": OWN.replace("1.4.0", "1.3.0"), "1.4.0": OWN})
    agent = for_device(files, PI_01).agent
    assert agent is not None
    assert (agent.version, agent_named_by(files, PI_01)) == (version, version)


@pytest.mark.parametrize(
    ("table", "listed", "said"),
    [
        ('[agent]\nversion = "1.5.0"\n', None, "agent/1.5.0/SHA256SUMS: the file is missing"),
        ('[agent]\nversion = "../x"\n', None, 'agent.version must be a version like "1.4.0"'),
        ('[agent]\nversoin = "1.4.0"\n', None, 'unknown key "versoin"; did you mean "version"?'),
        ('[agent]\nsource = "http://x/y"\n', None, 'agent.source must be an address like "https://'),
        ("[agent.tags]\ncanary = 1\n", None, "agent.tags.canary must be a version"),
        ("[agent]\ntags = 1\n", None, "agent.tags must be a table"),
        ('[agent]\nversion = "1.4.0"\n', {"1.4.0": OTHER}, "no wheel of metrica_fleet 1.4.0 is in it"),
        ('[agent]\nversion = "1.4.0"\n', {"1.4.0": ""}, "no wheel of metrica_fleet 1.4.0 is in it"),
        ('[agent]\nversion = "1.4.0"\n', {"1.4.0": OWN + OWN}, "SHA256SUMS:2: metrica_fleet-1.4.0-py3-none-any.whl is"),
        ('[agent]\nversion = "1.4.0"\n', {"1.4.0": OWN + "what\n"}, 'SHA256SUMS:2: "what" is no line of sha256sum'),
    ],
)
def test_what_is_wrong_names_file_and_line(table: str, listed: dict[str, str] | None, said: str) -> None:
    assert said in problem_of(fleet(table, listed=listed))


@pytest.mark.parametrize(
    "name", ["../x-1.0-py3-none-any.whl", "a/b-1.0-py3-none-any.whl", "-x-1.0-py3-none-any.whl", "x.tar.gz", "x.whl"]
)
def test_only_names_of_wheels_without_a_folder_are_listed(name: str) -> None:
    problems: list[Problem] = []
    assert read_listing("1.4.0", f"{'a' * 64}  {name}\n".encode(), problems) == ()
    assert [problem.reason for problem in problems] == ["bad-listing"]
