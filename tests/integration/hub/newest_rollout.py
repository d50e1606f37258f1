"""The newest rollout, as the hub's API tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fixtures.hub import Hub


def newest(hub: Hub) -> Any:
    """Return it; None where there is none."""
    rollouts = hub.get("/api/v1/rollouts?limit=1").json["items"]
    return hub.get(f"/api/v1/rollouts/{rollouts[0]['id']}").json if rollouts else None


def newest_of(hub: Hub, commit: str) -> Any:
    """Return the rollout of ``commit`` once it is the newest."""
    found = newest(hub)
    return found if found is not None and found["commit"] == commit else None


def is_in(hub: Hub, commit: str, state: str) -> Any:
    """Return the rollout of ``commit`` once it is the newest, and in ``state``."""
    found = newest_of(hub, commit)
    return found if found is not None and found["state"] == state else None
