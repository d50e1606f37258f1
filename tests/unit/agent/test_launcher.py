"""What is started: decided by what is remembered, and whatever that is, by something that can be started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent import launcher
from metrica_agent.launcher import BASE, chosen, read_choice, write_choice

HERE = "boot-1"
ALL = frozenset({BASE, "1-a", "2-b"})
SOURCE = Path(launcher.__file__)


def on_trial(**facts: object) -> dict[str, object]:
    return {"steady": "1-a", "trial": {"name": "2-b", "within_s": 600, "starts": 0, **facts}}


def started(choice: dict[str, Any], *, boot_id: str = HERE, now_s: float = 100.0) -> tuple[dict[str, Any], str]:
    after, names = chosen(choice, ALL, boot_id, now_s)
    return after, names[0]


def reason(choice: dict[str, Any]) -> str | None:
    refused = launcher.tables(choice.get("refused"))
    return refused[0]["reason"] if refused else None


def test_what_was_installed_by_hand_is_started_where_nothing_else_is_remembered() -> None:
    assert started({})[1] == BASE


def test_a_version_on_trial_is_started_twice_in_a_boot_and_then_given_up() -> None:
    choice = on_trial()
    for number in (1, 2):
        choice, name = started(choice)
        assert (name, choice["trial"]["starts"], choice["trial"]["boot_starts"]) == ("2-b", number, number)
    choice, name = started(choice)
    assert (name, choice["trial"], reason(choice)) == ("1-a", None, "not-steady")
    assert started(choice)[1] == "1-a"


def test_power_may_go_in_a_trial_and_each_boot_has_a_time_of_its_own() -> None:
    choice = on_trial()
    for number in range(1, launcher.STARTS + 1):
        choice, name = started(choice, boot_id=f"boot-{number}", now_s=10.0 * number)
        assert (name, choice["trial"]["began_s"]) == ("2-b", 10.0 * number)
    choice, name = started(choice, boot_id="boot-9")
    assert (name, reason(choice)) == ("1-a", "not-steady")


def test_a_version_that_has_run_out_of_its_time_is_given_up() -> None:
    choice, _ = started(on_trial(), now_s=50.0)
    late_s = 50.0 + 600 + launcher.GRACE_S + 1
    choice, name = started(choice, now_s=late_s)
    assert (name, reason(choice)) == ("1-a", "overdue")


def test_a_version_that_is_not_on_the_disk_is_given_up() -> None:
    choice, name = started(on_trial(name="9-z"))
    assert (name, reason(choice)) == ("1-a", "version-lost")


def test_a_version_that_had_proven_itself_gives_way_when_it_does_not_live_any_more() -> None:
    choice: dict[str, Any] = {"steady": "2-b", "before": "1-a"}
    for _ in range(launcher.UNSTEADY_STARTS):
        choice, name = started(choice)
        assert name == "2-b"
    choice, name = started(choice)
    assert (name, choice["before"], reason(choice)) == ("1-a", "2-b", "not-steady")


def test_starts_of_other_boots_do_not_count_against_a_version_that_had_proven_itself() -> None:
    choice: dict[str, Any] = {"steady": "2-b", "before": "1-a"}
    for number in range(20):
        choice, name = started(choice, boot_id=f"boot-{number}")
        assert name == "2-b"


def test_keys_that_a_later_agent_wrote_live_on() -> None:
    choice, _ = started({"steady": "1-a", "of-a-later-agent": [1, 2]})
    assert choice["of-a-later-agent"] == [1, 2]


names = st.sampled_from(["", "1-a", "2-b", "9-z"])
anything = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3)
choices = st.fixed_dictionaries(
    {},
    optional={
        "steady": names,
        "before": st.none() | names,
        "trial": st.none()
        | st.fixed_dictionaries(
            {"name": names},
            optional={
                "starts": st.integers(0, 9),
                "boot_id": st.sampled_from([HERE, "other"]),
                "boot_starts": st.integers(0, 5),
                "began_s": st.floats(0, 2000),
                "within_s": st.floats(1, 1000),
            },
        ),
        "starts": st.none() | st.fixed_dictionaries({"boot_id": st.just(HERE), "count": st.integers(0, 9)}),
        "refused": st.lists(st.fixed_dictionaries({"name": names}), max_size=3),
        "later": anything,
    },
)


@given(choice=choices, there=st.frozensets(st.sampled_from(["", "1-a", "2-b"]), min_size=1), now_s=st.floats(0, 5000))
def test_something_that_is_there_is_always_started_and_trials_end(
    choice: dict[str, object], there: frozenset[str], now_s: float
) -> None:
    for _ in range(launcher.STARTS + 1):
        choice, found = chosen(choice, there, HERE, now_s)
        assert found
        assert set(found) <= there
        assert set(found) == there
    assert choice.get("trial") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'"x"', b"null"])
def test_a_file_that_can_not_be_read_is_no_choice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "choice.json").write_bytes(content)
    assert read_choice(tmp_path) == {}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_choice(tmp_path, {"steady": "1-a"})
    assert read_choice(tmp_path) == {"steady": "1-a"}


# --- the file itself, as systemd starts it --------------------------------------------------------------------

AGENT = """#!/bin/sh
echo "$METRICA_VERSION {name} $*"
{then}
"""


def put(root: Path, name: str, then: str = "exit 0") -> None:
    """Put something there that the launcher takes for a version."""
    folder = launcher.folder_of(root / "versions", name)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(sys.executable)
    program = folder / "bin/metrica-agent"
    program.write_text(AGENT.format(name=name, then=then))
    program.chmod(0o755)
    (folder / "complete").touch()


def launch(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root.joinpath("launcher.py").write_bytes(SOURCE.read_bytes())
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-I", str(root / "launcher.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )


def test_the_launcher_becomes_the_agent_and_counts_only_the_service(tmp_path: Path) -> None:
    put(tmp_path, BASE)
    assert launch(tmp_path, "status", "--config", "x").stdout == "  status --config x\n"
    assert not (tmp_path / "versions/choice.json").exists()
    assert launch(tmp_path, "run").stdout == "  run\n"
    assert read_choice(tmp_path / "versions")["starts"]["count"] == 1


def test_a_version_whose_program_can_not_be_executed_is_given_up_at_once(tmp_path: Path) -> None:
    put(tmp_path, BASE)
    put(tmp_path, "2-b")
    (tmp_path / "versions/2-b/bin/metrica-agent").write_text("#!/nonexistent\n")
    write_choice(tmp_path / "versions", on_trial(name="2-b"))
    done = launch(tmp_path, "run")
    assert done.stdout == "  run\n", done.stderr
    choice = read_choice(tmp_path / "versions")
    assert (choice["trial"], reason(choice)) == (None, "not-startable")


@pytest.mark.parametrize(
    "content", ["{", '{"trial": 3}', '{"trial": {"name": "2-b", "starts": "many"}}', '{"starts": 7}']
)
def test_whatever_is_in_the_file_something_is_started(tmp_path: Path, content: str) -> None:
    put(tmp_path, BASE)
    put(tmp_path, "2-b")
    (tmp_path / "versions/choice.json").write_text(content)
    done = launch(tmp_path, "run")
    assert done.stdout.endswith(" run\n"), done.stderr


def test_where_nothing_can_be_started_it_says_so(tmp_path: Path) -> None:
    done = launch(tmp_path, "run")
    assert done.returncode == 1
    assert "install one again" in done.stderr


def test_who_watches_ends_an_agent_that_has_not_proven_itself_in_time(tmp_path: Path) -> None:
    put(tmp_path, BASE)
    put(tmp_path, "2-b", "exec sleep 60")
    write_choice(tmp_path / "versions", on_trial(within_s=1 - launcher.GRACE_S))
    assert launch(tmp_path, "run").returncode == -9
    assert json.loads((tmp_path / "versions/choice.json").read_bytes())["trial"]["starts"] == 1


def test_who_watches_leaves_an_agent_alone_that_has_proven_itself(tmp_path: Path) -> None:
    put(tmp_path, BASE)
    confirmed = f"echo '{{}}' >{tmp_path}/versions/choice.json; exec sleep 3"
    put(tmp_path, "2-b", confirmed)
    write_choice(tmp_path / "versions", on_trial(within_s=1 - launcher.GRACE_S))
    assert launch(tmp_path, "run").returncode == 0
