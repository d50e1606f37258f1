"""``python -m metrica_hub`` is ``metrica-hub``."""

from __future__ import annotations

import sys

from metrica_hub.main import main

sys.exit(main())
