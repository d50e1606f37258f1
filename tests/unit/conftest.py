"""How many examples the generated tests of decisions try: all in a whole run, a sixth when somebody waits."""

from __future__ import annotations

import os

from hypothesis import settings

# Whether an example is slow depends on who else uses the machine.
settings.register_profile("whole", deadline=None, max_examples=100)
settings.register_profile("quick", deadline=None, max_examples=15)
settings.load_profile("quick" if os.environ.get("METRICA_QUICK") else "whole")
