"""Which devices are listed: Postgres says what the rule says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from tests.integration.hub.test_http import follow

from metrica_hub.decisions.fleet_state import DeviceState, Selection, selects

if TYPE_CHECKING:
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

FILTERS: list[tuple[str, Selection]] = [
    ("", Selection()),
    ("role=camera", Selection(role="camera")),
    ("tag=roof", Selection(tag="roof")),
    ("mode=safe", Selection(mode="safe")),
    ("release=bbbb", Selection(release="bbbb")),
    ("release=aaaaaaaa", Selection(release="aaaaaaaa")),
    ("offline=true", Selection(offline=True)),
    ("offline=false", Selection(offline=False)),
    ("q=i-0", Selection(text="i-0")),
    ("q=oo", Selection(text="oo")),
    ("q=%25", Selection(text="%")),
    ("role=camera&tag=roof&offline=false&q=7", Selection(role="camera", tag="roof", offline=False, text="7")),
    ("role=gate&mode=steady", Selection(role="gate", mode="steady")),
]


def test_devices_are_chosen_by_the_database_as_the_rule_says(hub: Hub, database: Database, cluster: Cluster) -> None:
    cluster.execute(VARIED, database.name)
    everybody = [
        msgspec.convert({key: value for key, value in one.items() if key != "last_heard_ago_s"}, DeviceState)
        for one in hub.get("/api/v1/devices").json["items"]
    ]
    chosen: set[tuple[str, ...]] = set()
    for query, wanted in FILTERS:
        found = [one["device"] for page in follow(hub, f"/api/v1/devices?limit=2&{query}") for one in page]
        assert found == [one.device for one in everybody if selects(wanted, one)], query
        chosen.add(tuple(found))
    assert len(chosen) > 7, "the filters are not all alike"
    for query in (
        "offline=1",
        "offline=",
        "mode=happy",
        "release=XYZ",
        "role=A",
        "tag=%00",
        "q=",
        f"q={'x' * 64}",
        "q=a&q=b",
    ):
        answer = hub.get(f"/api/v1/devices?{query}")
        assert (answer.status, answer.json["errors"][0]["parameter"]) == (400, query.partition("=")[0]), query


VARIED = """
INSERT INTO devices (device, role, tags, mode, release, commit, presence, hearing, flapping_since, last_seen_at) VALUES
    ('pi-01', 'camera', '{}', 'steady', repeat('b', 64), repeat('a', 40), 'online', NULL, NULL, now()),
    ('pi-70', 'camera', '{roof}', 'steady', repeat('b', 64), repeat('a', 40), 'online', NULL, NULL, now()),
    ('pi-71', 'gate', '{roof,old}', 'steady', repeat('c', 64), repeat('b', 40), 'online', NULL, NULL, now()),
    ('pi-72', 'camera', '{roof}', 'safe', NULL, NULL, 'online', 'silent', NULL, now()),
    ('pi-73', 'camera', '{roof}', 'steady', repeat('b', 64), NULL, 'offline', 'heard', NULL, now()),
    ('pi-74', 'camera', '{}', 'steady', NULL, repeat('b', 40), 'offline', NULL, now(), now()),
    ('door', NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""
