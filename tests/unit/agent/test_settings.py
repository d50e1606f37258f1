from __future__ import annotations

import re
from pathlib import Path

import pytest

from metrica_agent.decisions.strain import StrainLimits
from metrica_agent.settings import CleaningSettings, HostSettings, read_settings
from metrica_fleet.errors import Unusable

SHIPPED = Path(__file__).resolve().parents[3] / "stack" / "device" / "agent.toml"
NEEDED = 'fleet = "f"\ndevice = "d"\n[git]\nremotes = ["https://g/x.git"]\n[bus]\nhost = "b"\n'


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_the_shipped_settings_show_as_default_is_the_default(tmp_path: Path) -> None:
    before, start, after = SHIPPED.read_text(encoding="utf-8").partition("# [strain]")
    shown = re.sub(r"(?m)^# (\[\w+\]|\w+ = )", r"\1", start + after)
    settings = read_settings(written(tmp_path, before + shown), {})
    assert (settings.strain, settings.cleaning, settings.host) == (StrainLimits(), CleaningSettings(), HostSettings())
    for section in (StrainLimits, CleaningSettings, HostSettings):
        for key in section.__struct_fields__:
            assert re.search(rf"(?m)^{key} = ", shown), key


def test_heat_must_rise(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="must rise in this order"):
        read_settings(written(tmp_path, f"{NEEDED}[strain]\nwarm_celsius = 82.0\n"), {})


def test_a_limit_may_come_from_the_environment(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, NEEDED), {"METRICA_AGENT_STRAIN_DWELL_S": "5"})
    assert settings.strain.dwell_s == 5


def test_a_wrong_limit_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r":8: strain.disk_low_ratio must be a number from 0 to 1, not 10"):
        read_settings(written(tmp_path, f"{NEEDED}[strain]\ndisk_low_ratio = 10\n"), {})
