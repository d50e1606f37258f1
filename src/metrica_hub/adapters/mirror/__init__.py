"""The Git repository that the fleet follows.

branch    which commit the branch is at: one round trip, in a thread
contents  what is in a commit, read by a child process
child     that child: fetches, parses, answers, ends
address   a client for an address, and what of it may be told
"""

from __future__ import annotations

from metrica_hub.adapters.mirror.address import redacted
from metrica_hub.adapters.mirror.branch import Mirror
from metrica_hub.adapters.mirror.contents import Contents

__all__ = ["Contents", "Mirror", "redacted"]
