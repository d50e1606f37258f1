from __future__ import annotations

from pathlib import Path

import pytest

from metrica_agent import main
from metrica_agent.command_line import understood
from metrica_agent.settings import DEFAULT_FILE, Settings, read_settings

AGENT = 'fleet = "f"\ndevice = "pi-01"\ngit.remotes = ["https://a/b"]\nbus.host = "h"\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "agent.toml"
    file.write_text(AGENT)
    return read_settings(file, {})


def run(settings: Settings) -> int:
    return 40 + len(settings.fleet)


@pytest.mark.parametrize(
    ("call", "file"),
    [
        (["run"], DEFAULT_FILE),
        (["run", "--config", "a/b.toml"], Path("a/b.toml")),
        (["run", "--config=a/b.toml"], Path("a/b.toml")),
    ],
)
def test_the_service_is_understood_without_the_parser_as_with_it(
    call: list[str], file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "_run", run)
    for where, command in (main.command_of(call), understood(call, run=run)):
        assert where == file
        assert command(settings) == 41


@pytest.mark.parametrize("call", [[], ["walk"], ["run", "now"], ["run", "--config"], ["hold", "on"]])
def test_a_mistake_in_the_call_ends_with_2(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(call)
    assert ended.value.code == 2
    assert "usage: metrica-agent" in capsys.readouterr().err
