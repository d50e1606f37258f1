"""``python -m metrica_cli``."""

from __future__ import annotations

import sys

from metrica_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
