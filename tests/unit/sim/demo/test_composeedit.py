from __future__ import annotations

from pathlib import Path

import pytest

from metrica_sim.composefile import resolved
from metrica_sim.containers import Fault, labels_of, script_of
from metrica_sim.demo.composeedit import broken, main_service, released, with_entry
from metrica_sim.demo.trouble import Trouble

ROLES = sorted((Path(__file__).parents[4] / "examples" / "fleet" / "roles").iterdir())


def model(folder: Path, text: str) -> dict[str, dict[str, object]]:
    (folder / "compose.yaml").write_text(text, encoding="utf-8")
    return resolved(folder, {"METRICA_DATA": "/data", "METRICA_LOCKS": "/data/locks"}, "metrica")["services"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_release_changes_one_variable_of_one_service(role: Path, tmp_path: Path) -> None:
    text = (role / "compose.yaml").read_text(encoding="utf-8")
    before, after = model(tmp_path, released(text, 1)), model(tmp_path, released(text, 2))
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [main_service(text)]
    assert released(released(text, 1), 2) == released(text, 2)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_bad_release_is_bad_for_the_simulated_and_the_real_engine(role: Path, tmp_path: Path) -> None:
    text = (role / "compose.yaml").read_text(encoding="utf-8")
    service = model(tmp_path, broken(released(text, 3)))[main_service(text)]
    assert service["healthcheck"] == {
        "test": ["CMD", "false"], "interval": "1s", "timeout": "1s", "retries": 2, "start_period": "0s",
    }  # fmt: skip
    fault = Fault.parse(labels_of(service)["fleet.metrica.sim"])
    assert script_of(service, fault).unhealthy_s == 2
    assert script_of(service, None).healthy_s == float("inf")


def test_comments_and_lists_stay_as_they_are() -> None:
    text = "services:\n  a:\n    environment:\n      - X=1 # why\n      - R=1\n    image: b\n"
    assert with_entry(text, "a", "environment", "R", "2") == (
        "services:\n  a:\n    environment:\n      - X=1 # why\n      - R=2\n    image: b\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "services: {a: {image: b}}\n",
        "services:\n  a: {image: b}\n",
        "services:\n  a:\n    environment: {X: 1}\n",
        "x: 1\n",
    ],
)
def test_what_can_not_be_edited_by_lines_is_said(text: str) -> None:
    with pytest.raises(Trouble):
        released(text, 1)
