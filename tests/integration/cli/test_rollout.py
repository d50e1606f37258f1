"""A rollout watched, halted, and ended by the real command, through a real hub, Git, broker and database."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from tests.fixtures.git_servers import repository
from tests.integration.hub.test_rollouts import fleet_of, rolling_out, state_of
from tests.integration.hub.waiting import until

from metrica_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Database


async def typed(*arguments: str) -> tuple[int, str, str]:
    """Run ``metrica``; return its exit code and what it wrote."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = await asyncio.to_thread(main, arguments)
    return code, stdout.getvalue(), stderr.getvalue()


async def test_a_rollout_is_watched_until_it_halts_and_then_aborted(
    broker: Broker, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, files = repository(tmp_path), fleet_of(10, "deadline_s = 600\nabort = 'revert'")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    async with rolling_out(fleet, files, broker, database, tmp_path) as (hub, herd, _):
        token = tmp_path / "token"
        token.write_text(hub.token("operator"))
        monkeypatch.setenv("METRICA_HUB_URL", f"http://127.0.0.1:{hub.port}")
        monkeypatch.setenv("METRICA_TOKEN_FILE", str(token))
        assert (await typed("key"))[1].strip() == hub.key_line().strip()
        first = fleet.head()
        await until(lambda: state_of(hub, first) == "done")
        code, shown, _ = await typed("rollout", "status")
        assert code == 0
        assert "done" in shown
        assert f"{first[:8]}; devices heed the hub" in (await typed("check"))[1]

        herd.bad = frozenset(device for device in herd.devices if device == "pi-001")
        broken = fleet.commit({"note": "breaks some"})
        await until(lambda: state_of(hub, broken) is not None)
        code, shown, _ = await typed("rollout", "status", "-w", "--within", "60s")
        assert code == 1
        assert f"of {broken[:8]}" in shown
        assert "halted" in shown
        code, listed, _ = await typed("rollout", "devices", "--state", "refused", "-o", "name")
        assert (code, listed) == (0, "pi-001\n")
        assert (await typed("rollout", "abort", "it breaks cameras"))[0] == 2
        code, said, _ = await typed("rollout", "abort", "it breaks cameras", "--yes")
        assert (code, said.split()[-1]) == (0, "aborted")
        assert (await typed("rollout", "resume", "no", "--yes"))[0] == 1
        _, listed, _ = await typed("rollout", "history", "-o", "json")
        assert [one["state"] for one in json.loads(listed)["items"]] == ["aborted", "done"]
