"""Is anything wrong, where, and is the fleet as it should be?"""

from __future__ import annotations

from typing import Final

from scripts.generators.dashboards.board import Mark, Row, board, choice
from scripts.generators.dashboards.panels import (
    GOOD,
    LIMITLESS,
    About,
    Column,
    Limits,
    Placed,
    bad_below,
    bad_from,
    bars,
    columns,
    counted_rows,
    figure,
    lines,
    link_out,
    link_to,
    rows,
)
from scripts.generators.dashboards.queries import now, now_in_rows, over_time, sql_over_time, sql_rows

ONLINE: Final = 'max by (device) (metrica_device_online{role=~"$role"})'
"""Of each device, whatever the number of hubs that tell of it."""
OF_ROLE: Final = 'and on (device) metrica_device_online{role=~"$role"}'
"""For what has no role among its labels."""
TO_DEVICE: Final = link_to("This device", "metrica-device?var-device=${__field.labels.device}")
TO_DEVICE_OF_ROW: Final = link_to("This device", "metrica-device?var-device=${__value.text}")

NEEDS_A_LOOK: Final = """\
SELECT device, role, connection, mode, phase,
       coalesce(refused_reason, reason) AS reason, coalesce(nullif(message, ''), refused_message) AS message,
       extract(epoch FROM now() - last_seen_at) AS silent_s
FROM dashboards.devices
WHERE (connection <> 'online' OR phase = 'refused' OR mode IN ('safe', 'held', 'degraded', 'halted', 'rolling-back')
       OR claimants > 0)
  AND coalesce(role, '') ~ '^(${role:regex})$'
ORDER BY (phase = 'refused' OR mode IN ('safe', 'halted')) DESC NULLS LAST, connection = 'online' DESC, device
LIMIT 200"""
HAPPENED: Final = """\
SELECT $__timeGroupAlias(received_at, $__interval), kind AS metric, count(*) AS events
FROM dashboards.events
WHERE $__timeFilter(received_at) AND kind NOT LIKE 'command.%'
GROUP BY 1, 2 ORDER BY 1"""
REFUSED_WHY: Final = """\
SELECT refused_reason AS reason, left(refused_commit, 8) AS commit, count(*) AS devices, min(refused_message) AS example
FROM dashboards.devices WHERE phase = 'refused' GROUP BY 1, 2 ORDER BY devices DESC, 1, 2"""

ROLLOUTS: Final = Mark(
    "Rollouts",
    "blue",
    """\
SELECT begun_at AS time, coalesce(ended_at, now()) AS timeend,
       'rollout ' || id || ' of ' || left(commit, 8) || ': ' || coalesce(state, 'open') AS text, 'rollout' AS tags
FROM dashboards.rollouts
WHERE $__timeFilter(begun_at) OR (begun_at < $__timeTo() AND coalesce(ended_at, now()) > $__timeFrom())""",
)
STOPS: Final = Mark(
    "Stops",
    "red",
    """\
SELECT received_at AS time, 'stop order ' || number || ': ' || what AS text, 'stop' AS tags
FROM dashboards.stop_orders WHERE $__timeFilter(received_at)""",
)


def _count(title: str, says: str, of: str, limits: Limits, *, alert: str | None = None, leads: str) -> Placed:
    about = About(
        title=title,
        says=says,
        unit="short",
        limits=limits,
        runbook=alert,
        link=link_out("In the hub", leads),
        decimals=0,
    )
    return figure(about, now(of))


def _row_of_answers() -> Row:
    refused = 'metrica_device_phase{phase="refused",role=~"$role"}'
    apart = 'metrica_device_mode{mode=~"safe|held|degraded|halted|rolling-back",role=~"$role"}'
    firing = About(
        title="Alerts firing",
        says="Alerts that fire now, but for the one that always does. The table below names them.",
        unit="short",
        limits=bad_from(1),
        decimals=0,
    )
    return Row(
        "Is anything wrong?",
        (
            _count("Online", "Devices that are connected to the bus.", f"sum({ONLINE})", Limits(GOOD), leads=""),
            _count(
                "Not online",
                "Devices that are not connected: they run on by themselves, and tell later what they had to say.",
                f"count({ONLINE} == 0) or vector(0)",
                bad_from(1, 5),
                alert="MetricaDeviceOffline",
                leads="?q=is:offline",
            ),
            _count(
                "Refused",
                "Devices that refused the commit they should run, and run the last one that they confirmed.",
                f"count(max by (device) ({refused})) or vector(0)",
                bad_from(1, 5),
                leads="?q=is:refused",
            ),
            _count(
                "In another mode",
                "Devices in safe mode, held, degraded, halted, or on the way back to the release before.",
                f"count(max by (device) ({apart})) or vector(0)",
                bad_from(1, 5),
                leads="?q=is:problems",
            ),
            _count(
                "Stopped",
                "Devices on which an emergency stop is in force.",
                "sum(max by (level) (metrica_stop_in_force)) or vector(0)",
                bad_from(1),
                alert="MetricaStopInForce",
                leads="stop",
            ),
            figure(firing, now('count(ALERTS{alertstate="firing",alertname!="MetricaWatchdog"}) or vector(0)')),
        ),
    )


def _where() -> Row:
    alerts = About(
        title="Alerts that fire",
        says="Each leads to its runbook: what it means, what to look at first, how to mend it.",
        unit="none",
        limits=LIMITLESS,
        empty="none",
    )
    needs = About(
        title="Devices that need a look",
        says="What is wrong with which device, and since when nothing was heard of it. The worst first; at most 200.",
        unit="none",
        limits=LIMITLESS,
        empty="none",
    )
    why = About(
        title="Refused, and why",
        says="Devices by the reason for which they refused a commit: one reason on many devices is the commit's fault.",
        unit="none",
        limits=LIMITLESS,
        empty="none",
    )
    firing = 'sum by (alertname, severity, device) (ALERTS{alertstate="firing",alertname!="MetricaWatchdog"})'
    book = link_out("Runbook", "docs/runbooks/${__value.text}/")
    return Row(
        "Where?",
        (
            rows(
                needs,
                sql_rows(NEEDS_A_LOOK),
                Column("device", link=TO_DEVICE_OF_ROW),
                Column("silent_s", unit="s", limits=bad_from(90, 300)),
                width=16,
                height=10,
            ),
            counted_rows(
                alerts,
                now_in_rows(firing),
                Column("alertname", link=book),
                Column("Value", hidden=True),
                width=8,
                height=10,
            ),
            rows(why, sql_rows(REFUSED_WHY), Column("devices", unit="short", limits=bad_from(1, 5)), height=5),
        ),
    )


def _over_time() -> Row:
    connection = About(
        title="Devices by connection",
        says=(
            "How many are online, offline, flapping, or were never seen. "
            "A step down of many at once is the network or the broker."
        ),
        unit="short",
        limits=LIMITLESS,
    )
    mode = About(
        title="Devices by mode",
        says="What they are doing as a whole. Steady is where they rest.",
        unit="short",
        limits=LIMITLESS,
    )
    commit = About(
        title="Devices by confirmed commit",
        says="How a commit spreads: the old one's share becomes the new one's.",
        unit="short",
        limits=LIMITLESS,
    )
    happened = About(
        title="Events",
        says="What all devices told, by kind and by the time when it was stored.",
        unit="short",
        limits=LIMITLESS,
        empty="nothing was told",
    )
    share = About(
        title="Time online",
        says=(
            "The share of the range that is shown in which devices were online, over all of them. "
            "0.999 is promised of a healthy site."
        ),
        unit="percentunit",
        limits=bad_below(0.999, 0.99),
        high=1,
        decimals=2,
    )
    versions = About(
        title="Agent versions",
        says="Devices by the version of their agent: an update is done when one is left.",
        unit="short",
        limits=LIMITLESS,
    )
    agents = 'count by (agent_version) (max by (device, agent_version) (metrica_device_info{role=~"$role"}))'
    return Row(
        "Over time",
        (
            lines(
                connection,
                over_time("max by (connection) (sum by (instance, connection) (metrica_devices))", "{{connection}}"),
                stacked=True,
            ),
            lines(
                mode,
                over_time("max by (mode) (sum by (instance, mode) (metrica_devices)) > 0", "{{mode}}"),
                stacked=True,
            ),
            lines(
                commit,
                over_time("topk(10, max by (commit) (metrica_devices_of_commit))", "{{commit}}"),
                stacked=True,
            ),
            columns(happened, sql_over_time(HAPPENED)),
            figure(share, now('avg(avg_over_time(metrica_device_online{role=~"$role"}[$__range]))'), width=6, height=6),
            bars(versions, now(agents, "{{agent_version}}"), width=18, height=6),
        ),
    )


def _machines() -> Row:
    def worst(metric: str, pick: str, over: str) -> str:
        return f"{pick}(10, {over} by (device) ({metric} {OF_ROLE}))"

    heat = About(
        title="The hottest",
        says="Temperature of the processor. A Pi slows itself from 80 °C; the agent lets updates wait before.",
        unit="celsius",
        limits=bad_from(70, 80),
        link=TO_DEVICE,
        low=20,
        high=90,
    )
    disk = About(
        title="The fullest disks",
        says="Free share of the tightest filesystem. Below the fleet's limit updates wait and the agent cleans.",
        unit="percentunit",
        limits=bad_below(0.2, 0.1),
        link=TO_DEVICE,
        low=0,
        high=1,
    )
    memory = About(
        title="The least memory available",
        says="Share of memory that is available.",
        unit="percentunit",
        limits=bad_below(0.2, 0.1),
        link=TO_DEVICE,
        low=0,
        high=1,
    )
    signs = About(
        title="Devices that are throttled, warm, short of volts, or without a clock",
        says=(
            "Of all roles. Under-voltage is a bad supply or cable; throttled by heat wants air. "
            "Without a clock no decision rests on wall time."
        ),
        unit="short",
        limits=LIMITLESS,
        decimals=0,
    )

    # Of all roles, and each hub's count: to join by device at each point in time takes longer than all else here.
    def showing(metric: str, value: int = 1) -> str:
        return f"max(count by (instance) (metrica_device_{metric} == {value})) or vector(0)"

    free = "metrica_device_memory_available_bytes / metrica_device_memory_total_bytes"
    return Row(
        "The machines",
        (
            bars(
                heat, now(worst("metrica_device_temperature_celsius", "topk", "max"), "{{device}}"), width=8, height=9
            ),
            bars(disk, now(worst("metrica_device_disk_free_ratio", "bottomk", "min"), "{{device}}"), width=8, height=9),
            bars(memory, now(worst(f"({free})", "bottomk", "min"), "{{device}}"), width=8, height=9),
            lines(
                signs,
                over_time(showing("throttled"), "throttled"),
                over_time(showing("soft_temperature_limit"), "slowed because it is warm"),
                over_time(showing("under_voltage"), "under-voltage"),
                over_time(showing("clock_synchronised", 0), "clock not synchronised"),
                width=24,
            ),
        ),
    )


def fleet() -> str:
    """Return the dashboard's file."""
    role = choice(
        "role", "Role", "label_values(metrica_device_online, role)", says="Devices of these roles.", several=True
    )
    return board(
        uid="metrica-fleet",
        title="Fleet",
        says="Is anything wrong, where, and is the fleet as it should be?",
        variables=(role,),
        marks=(ROLLOUTS, STOPS),
        rows=(_row_of_answers(), _where(), _over_time(), _machines()),
    )
