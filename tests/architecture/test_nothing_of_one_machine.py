from __future__ import annotations

import re
import subprocess
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
REGISTRIES = re.compile(
    r"--(?:extra-)?index-url|--find-links\b.*https?:|--trusted-host|https?://[^\s\"']*/simple\b|artifactory|files\.pythonhosted\.org",
    re.IGNORECASE,
)
MACHINE_PATHS = re.compile(r"(?<![\w/])/(?:work|root|home/\w+|Users/\w+)/")


def tracked() -> list[Path]:
    """Return the files that Git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=HOUSE,
        capture_output=True,
        check=True,
    )
    paths = [HOUSE / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_package_registry() -> None:
    assert _found(REGISTRIES) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert _found(MACHINE_PATHS) == []


def _found(pattern: re.Pattern[str]) -> list[str]:
    """Return where ``pattern`` stands in the text that Git keeps, but for this file."""
    hits: list[str] = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line) and path != Path(__file__).resolve():
                hits.append(f"{path.relative_to(HOUSE)}:{number}: {line.strip()[:120]}")
    return hits
