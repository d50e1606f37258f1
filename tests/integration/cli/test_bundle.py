"""What ``metrica bundle`` refuses before it asks an engine for anything; nothing is left where it was to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.fixtures.git_servers import Repository, git, repository

from metrica_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "fleet.toml": 'name = "test"\n',
    "devices/pi-01.toml": 'role = "web"\n',
    "roles/web/compose.yaml": "services: {web: {image: 'busybox:1'}}\n",
}


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit(FILES)
    return made


def test_what_can_not_be_bundled_is_said(fleet: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fleet.head()
    second = fleet.commit({"notes": "2"})
    git("branch", "old", first, folder=fleet.work)
    git("branch", "broken", folder=fleet.work)
    git("clone", "--quiet", "--depth", "1", f"file://{fleet.bare}", str(tmp_path / "shallow"), folder=tmp_path)
    (tmp_path / "there").mkdir()
    here = ("-C", str(fleet.work))
    for arguments, code, told in [
        (["out", *here], 2, "for which devices?"),
        (["out", "--all", "--role", "web", *here], 2, "for which devices?"),
        (["there", "--all", *here], 2, "is there already"),
        (["out", "--device", "pi-99", *here], 5, 'the repository has no device "pi-99"'),
        (["out", "--role", "camera", *here], 5, 'no device has the role "camera"'),
        (["out", "--all", "--branch", "next", *here], 5, 'there is no commit "refs/heads/next"'),
        (["out", "--all", "--since", "v41", *here], 5, 'there is no commit "v41"'),
        (["out", "--all", "--since", second, *here], 1, "there is nothing to bring"),
        (["out", "--all", "--branch", "old", "--since", second, *here], 1, "does not come after"),
        (["out", "--all", "-C", str(tmp_path / "shallow")], 2, "this checkout is shallow"),
        (["out", "--all", "-C", str(fleet.work / "roles")], 2, "a folder of a larger one"),
        (["out", "--all", "-C", str(tmp_path / "nowhere")], 2, "is no folder"),
    ]:
        out = str(tmp_path / arguments[0])
        assert main(["bundle", out, *arguments[1:]]) == code, arguments
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.new"))


def test_a_commit_that_a_device_would_refuse_is_not_bundled(
    fleet: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.commit({"devices/pi-01.toml": 'rol = "web"\n'})
    assert main(["bundle", str(tmp_path / "out"), "--all", "-C", str(fleet.work)]) == 1
    said = capsys.readouterr().err
    assert "a device would refuse commit" in said
    assert 'unknown key "rol"' in said
