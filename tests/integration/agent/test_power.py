"""How a machine is started anew: what is asked of systemd, and where that is not tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metrica_agent.adapters.power import reboot
from metrica_fleet.errors import NotNow, Unusable

if TYPE_CHECKING:
    from pathlib import Path


def program(folder: Path, script: str) -> str:
    path = folder / "systemctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_systemd_is_asked_to_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)
    await reboot(program(tmp_path, f'echo "$@" > {tmp_path}/asked'), systemd=tmp_path, marks=())
    assert (tmp_path / "asked").read_text() == "--no-ask-password --no-wall reboot\n"


async def test_what_systemd_says_against_it_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)
    refusing = program(tmp_path, "echo 'Interactive authentication required.' >&2; exit 1")
    with pytest.raises(NotNow, match="Interactive authentication required") as caught:
        await reboot(refusing, systemd=tmp_path, marks=())
    assert caught.value.reason == "reboot-refused"


@pytest.mark.parametrize(
    "where", ["in a container", "in a container of systemd's", "without systemd", "without systemctl"]
)
async def test_it_is_not_tried_where_it_can_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.delenv("container", raising=False)
    systemctl, systemd, marks = str(tmp_path / "none"), tmp_path, (tmp_path / "mark",)
    match where:
        case "in a container":
            marks[0].touch()
        case "in a container of systemd's":
            monkeypatch.setenv("container", "systemd-nspawn")
        case "without systemd":
            systemd = tmp_path / "run"
        case _:
            pass
    with pytest.raises(Unusable) as caught:
        await reboot(systemctl, systemd=systemd, marks=marks)
    assert caught.value.reason == "reboot-impossible"
