from __future__ import annotations

from pathlib import Path

import pytest

from metrica_cli.main import main
from metrica_fleet.definition import whole_fleet

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "fleet"


def test_the_example_fleet_passes_lint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out == "12 devices, 3 roles: no problem\n"


def test_the_example_fleet_shows_every_kind_of_check() -> None:
    files = {str(path.relative_to(EXAMPLE)): path.read_bytes() for path in EXAMPLE.rglob("*") if path.is_file()}
    fleet = whole_fleet(files)
    kinds = {type(check).__name__ for role in fleet.roles.values() for check in role.checks}
    assert kinds == {"HttpCheck", "TcpCheck", "CommandCheck"}
