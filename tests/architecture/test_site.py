"""The documents as a site: built strictly by the tool that ./scripts/docs uses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts.docs import GIVEN, HOUSE, write_configuration
from scripts.generators.contents import DOCS, Entry, navigation


def built(configuration: Path) -> subprocess.CompletedProcess[str]:
    zensical = Path(sys.executable).with_name("zensical")
    command = [zensical, "build", "--strict", "--config-file", configuration]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=configuration.parent, timeout=100)


def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    write_configuration(tmp_path / "zensical.toml")
    done = built(tmp_path / "zensical.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "tutorial/index.html", "reference/rest/index.html", "runbooks/index.html"):
        text = (tmp_path / "site" / page).read_text(encoding="utf-8")
        assert "<h1" in text
        assert 'src="http' not in text
        assert 'rel="stylesheet" href="http' not in text


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](there.md)\n", encoding="utf-8")
    text = GIVEN.read_text(encoding="utf-8")
    (tmp_path / "zensical.toml").write_text(text.replace("nav = []\n", ""), encoding="utf-8")
    assert built(tmp_path / "zensical.toml").returncode != 0


def test_every_page_is_in_the_navigation_once() -> None:
    listed = sorted(paths(navigation()))
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert listed == sorted(path for path in there if path != "decisions/template.md")
    assert HOUSE / "docs" == DOCS


def paths(entries: list[Entry]) -> list[str]:
    found: list[str] = []
    for entry in entries:
        for value in entry.values():
            found += [value] if isinstance(value, str) else paths(value)
    return found
