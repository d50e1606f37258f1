from __future__ import annotations

from hypothesis import settings

# Whether an example is slow depends on who else uses the machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
