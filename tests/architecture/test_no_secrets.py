"""No secret is in this repository's history: what is committed once is told for ever."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

HOUSE: Final = Path(__file__).resolve().parents[2]
SHAPES: Final = ("AWS", "Azure", "Discord", "GitHub", "Jwt", "PrivateKey", "SendGrid", "Slack", "Square", "Stripe")
"""Detectors that go by a shape which nothing else has; those that go by words find our documents about them."""
OURS: Final = (r"AGE-SECRET-KEY-1[0-9A-Z]{58}", r"\bmt[re]_[A-Za-z0-9_-]{40,}")
MADE_UP: Final = ("hunter2", "EXAMPLE")
"""A test that needs something of such a shape writes one of these words in it."""


def found_in(repository: Path) -> list[str]:
    """Return where something of such a shape is in all that was ever committed, messages and merges among it."""
    log = subprocess.run(
        ["git", "log", "--all", "-p", "-m", "-a", "-U0", "--no-color", "--no-ext-diff", "--no-textconv"],
        cwd=repository,
        capture_output=True,
        check=True,
    )
    history = log.stdout.decode("utf-8", "replace")
    classes = get_mapping_from_secret_type_to_class().values()
    shapes: list[re.Pattern[str]] = [
        shape for one in classes if one.__name__.startswith(SHAPES) for shape in getattr(one, "denylist", ())
    ]
    assert len(shapes) > len(SHAPES)
    hits = [hit for shape in (*shapes, *map(re.compile, OURS)) for hit in shape.finditer(history)]
    return [
        f"{history.count(chr(10), 0, hit.start())}: {hit[0][:12]}…"
        for hit in hits
        if not any(word in hit[0] for word in MADE_UP)
    ]


def test_the_history_holds_no_private_key_and_no_token() -> None:
    assert found_in(HOUSE) == []


def test_what_was_committed_once_is_found_wherever_it_was(tmp_path: Path) -> None:
    """In a file that was removed, a message, bytes, what a merge alone brought, and on another branch."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.invalid")
        subprocess.run(("git", *who, *words), cwd=tmp_path, check=True, capture_output=True)

    def committed(text: str, message: str = "x") -> None:
        (tmp_path / "file").write_text(text)
        git("add", "--all")
        git("commit", "-q", "-m", message)

    git("init", "-q", "-b", "main")
    committed("nothing")
    assert found_in(tmp_path) == []
    committed(made_up("-----BEGIN PRIVATE KEY-----\n", "A"))
    committed("and gone")
    assert len(found_in(tmp_path)) == 1
    committed("more", made_up("mte_"))
    assert len(found_in(tmp_path)) == 2
    committed("\0" + made_up("mtr_"))
    assert len(found_in(tmp_path)) == 3
    git("checkout", "-q", "-b", "side", "HEAD~1")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("checkout", "-q", "main")
    git("merge", "-q", "--no-commit", "--no-ff", "side")
    (tmp_path / "evil").write_text(made_up("AGE-SECRET-KEY-1", "A"))
    git("add", "--all")
    git("commit", "-q", "-m", "merged")
    before = found_in(tmp_path)
    assert any("AGE-SECRET" in one for one in before)
    git("checkout", "-q", "side")
    committed(made_up("mte_", "b"))
    git("checkout", "-q", "main")
    assert len(found_in(tmp_path)) > len(before)


def made_up(beginning: str, letter: str = "a") -> str:
    """Return something of such a shape, put together here, so that this file holds none."""
    return beginning + letter * 58
