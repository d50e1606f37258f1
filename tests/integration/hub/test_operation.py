"""Starting, migrating, misconfiguring, braking."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.broker import HOST, Broker, free_port
from tests.fixtures.hub import FLEET, Hub
from tests.integration.hub.device import Device, heartbeat, new_stream
from tests.integration.hub.waiting import until

from metrica_hub import settings
from metrica_hub.adapters.store.migrate import Step, migrate, own_steps
from metrica_hub.adapters.store.pool import COMMIT_LOCK, close_pool, open_pool, transaction
from metrica_hub.decisions.flow import Marks
from metrica_hub.errors import Misconfigured, StoreAway
from metrica_hub.main import serve
from metrica_hub.settings import Settings
from metrica_hub.tasks.consume import BATCH
from metrica_hub.tasks.watch import Watcher

if TYPE_CHECKING:
    from tests.fixtures.database import Cluster, Database


def command(verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``metrica-hub`` as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "metrica_hub", verb, *arguments],
        env={**os.environ, "METRICA_HUB_FLEET": FLEET, **environment},
        text=True,
        capture_output=True,
        timeout=40,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"metrica-hub: [^\n]+\n", done.stderr), done.stderr
    for part in parts:
        assert part in done.stderr


def test_an_address_in_use_is_one_sentence(database: Database) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command("run", METRICA_HUB_DATABASE_URL=database.url, METRICA_HUB_HTTP_PORT=port)
    assert_one_sentence(done, f"{HOST}:{port} can't be listened on (address already in use)", "[http] port")


@pytest.mark.parametrize("verb", ["run", "migrate"])
def test_an_unreachable_database_is_one_sentence_without_the_password(verb: str) -> None:
    url = f"postgresql://hub:s3cret@{HOST}:{free_port()}/metrica"
    done = command(verb, METRICA_HUB_DATABASE_URL=url)
    assert_one_sentence(done, "can't be used", "METRICA_HUB_DATABASE_URL")
    assert "s3cret" not in done.stderr


def test_a_database_that_does_not_exist_is_one_sentence(cluster: Cluster) -> None:
    done = command("run", METRICA_HUB_DATABASE_URL=cluster.url("nothing_here"))
    assert_one_sentence(done, 'database "nothing_here" does not exist')


def test_a_url_that_is_none_is_one_sentence() -> None:
    assert_one_sentence(command("run", METRICA_HUB_DATABASE_URL="metrica"), "can't be used")


def test_check_of_a_url_that_is_none_is_no_traceback(broker: Broker) -> None:
    done = command("check", METRICA_HUB_DATABASE_URL="postgresql://[::1/x", METRICA_HUB_BUS_PORT=str(broker.port))
    assert done.returncode == 1, done.stderr
    assert "NOT OK: the database *** can't be used" in done.stdout
    assert done.stderr == ""


def test_check_hides_a_password_in_the_query(database: Database, broker: Broker) -> None:
    url = f"{database.url}{'&' if '?' in database.url else '?'}password=s3cret"
    done = command("check", METRICA_HUB_DATABASE_URL=url, METRICA_HUB_BUS_PORT=str(broker.port))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "the broker answers on TCP; user and password not tried" in done.stdout


async def test_a_database_that_goes_away_before_the_first_look_is_one_sentence(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(_: Watcher) -> None:
        raise StoreAway("it went away")

    monkeypatch.setattr(Watcher, "look", look)
    parts = Settings(fleet=FLEET, database=settings.Database(url=database.url), http=settings.Http(port=free_port()))
    with pytest.raises(Misconfigured, match=r"can't be used \(it went away\)"):
        await serve(parts)


def test_an_unknown_key_is_one_sentence_with_the_line_and_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('fleet = "home"\n\n[database]\nulr = "postgresql:///x"\n', encoding="utf-8")
    assert_one_sentence(command("run", "--config", str(file)), f'{file}:4: unknown key "ulr"; did you mean "url"?')


def test_check_tells_what_is_in_force_and_where_it_came_from(
    database: Database, broker: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(f'fleet = "home"\n[bus]\nport = {broker.port}\n[http]\nport = 9090\n', encoding="utf-8")
    done = command("check", "--config", str(file), METRICA_HUB_DATABASE_URL=database.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^http\.port +9090 +{re.escape(str(file))}:5$", done.stdout, re.MULTILINE)
    assert re.search(r"^database\.url .* METRICA_HUB_DATABASE_URL$", done.stdout, re.MULTILINE)
    gone = command("check", METRICA_HUB_DATABASE_URL=database.url, METRICA_HUB_BUS_PORT=str(free_port()))
    assert gone.returncode == 1
    assert "NOT OK: no broker answers" in gone.stdout


async def test_without_a_broker_the_api_serves_and_says_that_it_is_not_ready(
    database: Database, tmp_path: Path
) -> None:
    late = Broker(tmp_path)
    with Hub(database.url, late.port) as hub:
        await until(lambda: answers(hub))
        assert hub.get("/readyz").status == 503
        assert hub.get("/api/v1/devices").status == 200
        assert "metrica_bus_connected 0.0" in hub.get("/metrics").text
        with late:
            await until(lambda: hub.get("/readyz").status == 200, what="it finds the broker by itself")


def answers(hub: Hub) -> bool:
    try:
        return hub.get("/healthz").status == 200
    except OSError:
        return False


async def test_hubs_that_start_at_once_migrate_once(database: Database, cluster: Cluster) -> None:
    done = await asyncio.gather(
        *(asyncio.to_thread(command, "migrate", METRICA_HUB_DATABASE_URL=database.url) for _ in range(4))
    )
    assert [one.returncode for one in done] == [0] * 4, [one.stderr for one in done]
    assert sum(one.stdout.count("applied 0001_spine\n") for one in done) == 1
    assert cluster.execute("SELECT count(*) FROM migrations", database.name) == str(len(own_steps()))


async def test_history_that_was_edited_and_a_newer_database_are_refused(database: Database) -> None:
    one, two = Step(1, "one", "CREATE TABLE a ()"), Step(2, "two", "CREATE TABLE b ()")
    assert await migrate(database.url, [one]) == (one,)
    assert await migrate(database.url, [one, two]) == (two,)
    assert await migrate(database.url, [one, two]) == ()
    with pytest.raises(Misconfigured, match=r"0001_one\.sql differs"):
        await migrate(database.url, [Step(1, "one", "CREATE TABLE c ()"), two])
    with pytest.raises(Misconfigured, match="has migration 0002, this hub knows up to 0001"):
        await migrate(database.url, [one])


async def test_a_step_that_fails_leaves_nothing_behind_and_one_outside_a_transaction_works(
    database: Database, cluster: Cluster
) -> None:
    half = Step(1, "half", "CREATE TABLE a (x int); SELECT 1/0")
    with pytest.raises(Exception, match="division by zero"):
        await migrate(database.url, [half])
    assert cluster.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'a'", database.name) == "0"
    whole = Step(1, "whole", "CREATE TABLE a (x int)")
    index = Step(2, "index", "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_x ON a (x)")
    assert await migrate(database.url, [whole, index]) == (whole, index)


UNACKNOWLEDGED = "metrica_hub_unacknowledged_messages"
ONE_READ = 2000
"""Messages, of the size that these have."""


def sample(hub: Hub, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", hub.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


@pytest.mark.long
async def test_a_database_that_stalls_slows_the_broker_and_not_the_hubs_memory(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    count, stream = 30_000, new_stream()
    async with Device("pi-01", broker.port) as device:
        await device.tell(heartbeat(stream, 1))
        await until(lambda: cluster.execute("SELECT count(*) FROM heartbeats", database.name) == "1")
        before = resident_mb(hub.pid)
        cluster.freeze()
        try:
            for first in range(2, count + 1, 500):
                last = min(first + 500, count + 1)
                await asyncio.gather(*(device.tell(heartbeat(stream, seq)) for seq in range(first, last)))
            await until(lambda: sample(hub, UNACKNOWLEDGED) >= Marks().messages, what="all that it takes")
            held = sample(hub, UNACKNOWLEDGED)
        finally:
            cluster.thaw()
        assert held < Marks().messages + ONE_READ
        assert resident_mb(hub.pid) - before < 30
        await until(
            lambda: cluster.execute("SELECT count(*) FROM heartbeats", database.name) == str(count), within_s=60
        )
        await until(lambda: sample(hub, UNACKNOWLEDGED) == 0)
    assert cluster.execute("SELECT stored_seq FROM streams", database.name) == str(count)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_database_that_is_slow_makes_the_hub_slower_and_not_larger(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    count, stream, held = 20_000, new_stream(), [0.0]
    async with Device("pi-01", broker.port) as device, asyncio.TaskGroup() as group:
        await device.tell(heartbeat(stream, 1))
        await until(lambda: cluster.execute("SELECT count(*) FROM heartbeats", database.name) == "1")
        before = resident_mb(hub.pid)
        hindering = group.create_task(hinder(database.url))
        for first in range(2, count + 1, 500):
            last = min(first + 500, count + 1)
            await asyncio.gather(*(device.tell(heartbeat(stream, seq)) for seq in range(first, last)))
            held.append(sample(hub, UNACKNOWLEDGED))
        largest = resident_mb(hub.pid)
        await until(
            lambda: cluster.execute("SELECT stored_seq FROM streams", database.name) == str(count), within_s=200
        )
        hindering.cancel()
    assert max(held) > 1.5 * BATCH, "it was slow enough to matter"
    assert max(held) < Marks().messages + ONE_READ
    assert largest - before < 30
    numbers = "SELECT count(*), count(DISTINCT seq), max(seq) FROM heartbeats"
    assert cluster.execute(numbers, database.name) == f"{count}|{count}|{count}"
    assert "metrica_hub_commit_failures_total 0.0" in hub.get("/metrics").text


async def hinder(url: str) -> None:
    """Hold the lock of every commit for a second, again and again."""
    pool = await open_pool(url, name="hinders", size=1)
    try:
        while True:
            async with transaction(pool, lock=COMMIT_LOCK) as connection:
                await connection.execute("SELECT pg_sleep(1)")
    finally:
        await close_pool(pool, within_s=1)


async def test_a_hub_whose_database_stalls_in_the_middle_of_a_commit_still_stops_within_five_seconds(
    hub: Hub, broker: Broker, cluster: Cluster
) -> None:
    async with Device("pi-01", broker.port) as device:
        cluster.freeze()
        try:
            await device.tell(heartbeat(new_stream(), 1))
            await until(lambda: sample(hub, UNACKNOWLEDGED) == 1)
            async with asyncio.timeout(5):
                assert await asyncio.to_thread(hub.stop) == 0
        finally:
            cluster.thaw()
