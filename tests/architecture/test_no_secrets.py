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
OURS: Final = (r"AGE-SECRET-KEY-1[0-9A-Z]{58}", r"\bmtr_[A-Za-z0-9_-]{40,}")
MADE_UP: Final = ("hunter2", "EXAMPLE")
"""A test that needs something of such a shape writes one of these words in it."""


def test_the_history_holds_no_private_key_and_no_token() -> None:
    log = subprocess.run(
        ["git", "log", "-p", "-U0", "--no-color", "--no-ext-diff", "--no-textconv", "--format=commit %H"],
        cwd=HOUSE,
        capture_output=True,
        check=True,
    )
    history = log.stdout.decode("utf-8", "replace")
    assert len(history) > 100_000
    classes = get_mapping_from_secret_type_to_class().values()
    shapes: list[re.Pattern[str]] = [
        shape for one in classes if one.__name__.startswith(SHAPES) for shape in getattr(one, "denylist", ())
    ]
    assert len(shapes) > len(SHAPES)
    hits = [hit for shape in (*shapes, *map(re.compile, OURS)) for hit in shape.finditer(history)]
    assert [
        f"{history.count(chr(10), 0, hit.start())}: {hit[0][:12]}…"
        for hit in hits
        if not any(word in hit[0] for word in MADE_UP)
    ] == []
