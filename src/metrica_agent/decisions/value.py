"""What every frozen value of the agent is made of. Apart from them, so that a Git child need not know the world."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen value that the ledger can write down and read back."""
