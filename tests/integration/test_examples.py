from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from metrica_agent.decisions.manifest import FileEntry
from metrica_agent.decisions.render import Places, interpolation, render
from metrica_agent.decisions.world import Desired
from metrica_fleet.definition import CommandCheck, Fleet, whole_fleet
from metrica_fleet.identity import CommitId, DeviceId

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fleet"
FILES = {path.relative_to(EXAMPLE).as_posix(): path for path in EXAMPLE.rglob("*") if path.is_file()}


def fleet() -> Fleet:
    return whole_fleet({name: path.read_bytes() for name, path in FILES.items()})


@pytest.mark.parametrize("role", sorted(fleet().roles))
def test_an_operator_can_start_a_role_of_the_example_with_plain_compose(role: str) -> None:
    done = _compose(role, {"METRICA_DATA": "/data", "METRICA_LOCKS": "/data/locks"}, "config", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("device", sorted(fleet().devices))
def test_what_a_device_of_the_example_runs_is_what_the_agent_takes(device: str) -> None:
    defined = fleet().devices[DeviceId(device)]
    desired = Desired(
        commit=CommitId("0" * 40),
        fleet=defined.fleet,
        device=DeviceId(device),
        role=defined.role,
        tags=defined.tags,
        variables=defined.variables,
        health=defined.health,
        limits=defined.limits,
        checks=defined.checks,
    )
    folder = EXAMPLE / "roles" / defined.role
    variables = interpolation(desired, f"/state/data/{defined.role}", f"/state/data/{defined.role}/locks")
    done = _compose(defined.role, variables, "config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    rendered = render(
        json.loads(done.stdout),
        project="metrica",
        places=Places(folder=str(folder), state="/state", content="/state/content", data=f"/state/data/{defined.role}"),
        entries=[_entry(path, folder) for path in FILES.values() if path.is_relative_to(folder)],
        variables=variables,
    )
    services = {plan.name for plan in rendered.services}
    assert services
    assert {check.service for check in defined.checks if isinstance(check, CommandCheck)} <= services


def _entry(path: Path, folder: Path) -> FileEntry:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(path=path.relative_to(folder).as_posix(), mode="100644", sha256=digest, bytes=len(content))


def _compose(role: str, variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "compose", "--file", str(EXAMPLE / "roles" / role / "compose.yaml"), *words],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
