"""What does this device run, why not what it should, and how is the machine?"""

from __future__ import annotations

from typing import Final

from scripts.generators.dashboards.board import Mark, Row, board, choice
from scripts.generators.dashboards.panels import (
    BAD,
    GOOD,
    LIMITLESS,
    NEUTRAL,
    NO_YES,
    WARN,
    YES_NO,
    About,
    Column,
    Limits,
    Words,
    bad_below,
    bad_from,
    counted_rows,
    figure,
    lines,
    link_beside,
    link_out,
    link_to,
    log,
    rows,
    states,
)
from scripts.generators.dashboards.queries import log_lines, now, now_in_rows, over_time, sql_over_time, sql_rows

OF: Final = '{device="$device"}'
NO_NETDATA: Final = "its Netdata is not scraped"
HUB_PAGE: Final = link_out("In the hub", "devices/${device}")

RUNS: Final = """\
SELECT left(commit, 8) AS confirmed, left(wanted_commit, 8) AS wanted, left(release, 8) AS release, phase,
       reason, message, left(refused_commit, 8) AS refused, refused_reason, refused_message, agent_version,
       array_to_string(tags, ' ') AS tags, records_to_come
FROM dashboards.devices WHERE device = '$device'"""
TOLD: Final = """\
SELECT received_at AS stored, at AS happened, kind, reason, message, left(commit, 8) AS commit
FROM dashboards.events WHERE device = '$device' AND $__timeFilter(received_at)
ORDER BY cursor DESC LIMIT 500"""
COMMANDS: Final = """\
SELECT created_at AS given, verb, state, reason, message, created_by AS by, ended_at AS ended
FROM dashboards.commands WHERE device = '$device' AND $__timeFilter(created_at)
ORDER BY id DESC LIMIT 100"""
LONG: Final = """\
SELECT begins AS time, temperature_celsius_max AS "hottest", temperature_celsius AS "mean"
FROM dashboards.heartbeats_1h WHERE device = '$device' AND $__timeFilter(begins) ORDER BY begins"""
ROOM: Final = """\
SELECT begins AS time, disk_free_bytes_min AS "least free disk", memory_available_bytes_min AS "least memory available"
FROM dashboards.heartbeats_1h WHERE device = '$device' AND $__timeFilter(begins) ORDER BY begins"""

DECISIONS: Final = Mark(
    "Decisions",
    "purple",
    """\
SELECT received_at AS time, concat_ws(' ', kind, reason, left(commit, 8)) AS text, kind AS tags
FROM dashboards.events
WHERE device = '$device' AND $__timeFilter(received_at)
  AND kind IN ('release.trial_started', 'release.confirmed', 'release.refused', 'rollback.finished',
               'safe_mode.entered', 'safe_mode.left', 'stop.obeyed', 'stop.lifted', 'agent.started')""",
)


def _now() -> Row:
    def told(
        title: str,
        says: str,
        limits: Limits,
        *,
        unit: str = "none",
        words: Words | None = None,
        alert: str | None = None,
    ) -> About:
        return About(title=title, says=says, unit=unit, limits=limits, words=words, runbook=alert, link=HUB_PAGE)

    online = told(
        "Online",
        "Whether it is connected to the bus.",
        bad_below(1),
        words=YES_NO,
        alert="MetricaDeviceOffline",
    )
    heard = told("Last heard", "How long ago anything of it was heard.", bad_from(90, 300), unit="s")
    mode = told("Mode", "What it is doing as a whole: steady is where it rests.", LIMITLESS)
    phase = told("Phase", "How far the commit that it wants has come: confirmed is the end.", LIMITLESS)
    uptime = told(
        "Up for",
        "Since its last boot, as it said last. Short again and again: power, or its watchdog.",
        LIMITLESS,
        unit="s",
    )
    version = told("Release", "The confirmed release, by its digest: the same digest is the same content.", LIMITLESS)
    return Row(
        "Now",
        (
            figure(online, now(f"max(metrica_device_online{OF})")),
            figure(heard, now(f"time() - max(metrica_device_last_seen_timestamp_seconds{OF})")),
            figure(mode, now(f"max by (mode) (metrica_device_mode{OF})", "{{mode}}"), named=True),
            figure(phase, now(f"max by (phase) (metrica_device_phase{OF})", "{{phase}}"), named=True),
            figure(uptime, now(f"max(metrica_device_uptime_seconds{OF})")),
            figure(version, now(f"max by (release) (metrica_device_release_info{OF})", "{{release}}"), named=True),
            rows(
                About(
                    title="What it runs, what it should run, and why not yet",
                    says=(
                        "Commits by their first eight digits. records_to_come: "
                        "what it had still to say when it was heard last."
                    ),
                    unit="none",
                    limits=LIMITLESS,
                    empty="never heard of",
                ),
                sql_rows(RUNS),
                Column("records_to_come", unit="short", limits=bad_from(100, 1000)),
                height=4,
            ),
        ),
    )


def _happened() -> Row:
    events = About(
        title="Events",
        says="What it decided and found, with the reason, the newest first; up to 500 of the range that is shown.",
        unit="none",
        limits=LIMITLESS,
        empty="it told nothing in this time",
    )
    alerts = About(
        title="Its alerts", says="Alerts that fire for this device now.", unit="none", limits=LIMITLESS, empty="none"
    )
    commands = About(
        title="Commands",
        says="What operators told it to do, and what came of it.",
        unit="none",
        limits=LIMITLESS,
        empty="none",
    )
    book = link_out("Runbook", "docs/runbooks/${__value.text}/")
    return Row(
        "What happened",
        (
            rows(events, sql_rows(TOLD), Column("kind", width=190), Column("reason", width=150), width=16, height=12),
            counted_rows(
                alerts,
                now_in_rows('sum by (alertname, severity) (ALERTS{alertstate="firing",device="$device"})'),
                Column("alertname", link=book),
                Column("Value", hidden=True),
                width=8,
                height=6,
            ),
            rows(commands, sql_rows(COMMANDS), width=8, height=6),
        ),
    )


def _lanes() -> Row:
    connection = About(
        title="When it was online",
        says="When it was connected. What it had to say meanwhile came later.",
        unit="none",
        limits=bad_below(1),
        words=YES_NO,
    )
    mode = About(
        title="Modes", says="A lane for each mode it was in.", unit="none", limits=Limits(NEUTRAL, ((1, GOOD),))
    )
    strain = About(
        title="Strain",
        says=(
            "Throttled: slowed by heat or supply. Under-voltage: look at the supply and its cable. Warm: "
            "slowed before it must be."
        ),
        unit="none",
        limits=bad_from(1),
        words=NO_YES,
    )
    return Row(
        "States over time",
        (
            states(connection, over_time(f"max(metrica_device_online{OF})", "online"), height=4),
            states(mode, over_time(f"max by (mode) (metrica_device_mode{OF})", "{{mode}}"), height=4),
            states(
                strain,
                over_time(f"max(metrica_device_throttled{OF})", "throttled"),
                over_time(f"max(metrica_device_under_voltage{OF})", "under-voltage"),
                over_time(f"max(metrica_device_frequency_capped{OF})", "frequency capped"),
                over_time(f"max(metrica_device_soft_temperature_limit{OF})", "warm"),
                over_time(f"1 - min(metrica_device_clock_synchronised{OF})", "clock not synchronised"),
                width=24,
                height=6,
            ),
        ),
    )


def _vitals() -> Row:
    heat = About(
        title="Temperature",
        says="Of the processor. It slows itself from 80 °C; updates wait before.",
        unit="celsius",
        limits=bad_from(70, 80),
    )
    load = About(
        title="Load",
        says="Tasks that run or wait to, over a minute. A Pi has four cores: lasting above 4, work waits.",
        unit="short",
        limits=Limits(GOOD, ((4, WARN), (8, BAD))),
        low=0,
    )
    memory = About(
        title="Memory",
        says="Share that is available, and share of the last 10 s in which some or all tasks waited for memory.",
        unit="percentunit",
        limits=LIMITLESS,
        low=0,
        high=1,
    )
    disk = About(
        title="Room on disk",
        says="Free share of the tightest filesystem, in bytes and in inodes: either at zero is a full disk.",
        unit="percentunit",
        limits=bad_below(0.2, 0.1),
        low=0,
        high=1,
    )
    return Row(
        "The machine",
        (
            lines(heat, over_time(f"max(metrica_device_temperature_celsius{OF})", "processor")),
            lines(load, over_time(f"max(metrica_device_load_1m{OF})", "load")),
            lines(
                memory,
                over_time(
                    f"min(metrica_device_memory_available_bytes{OF} / metrica_device_memory_total_bytes{OF})",
                    "available",
                ),
                over_time(f"max(metrica_device_memory_pressure_some_ratio{OF})", "some tasks waited"),
                over_time(f"max(metrica_device_memory_pressure_full_ratio{OF})", "all tasks waited"),
            ),
            lines(
                disk,
                over_time(f"min(metrica_device_disk_free_ratio{OF})", "bytes"),
                over_time(f"min(metrica_device_inodes_free{OF} / metrica_device_inodes_total{OF})", "inodes"),
            ),
        ),
    )


def _by_netdata() -> Row:
    wired = 'device="$device",family!~"lo|veth.*|br-.*|docker.*"'
    traffic = f"netdata_net_net_kilobits_persec_average{{{wired}}}"
    return Row(
        "The machine, by its Netdata",
        (
            lines(
                About(
                    title="Processor",
                    says="Share of all cores, by what they do. Netdata tells it from the device itself.",
                    unit="percent",
                    limits=LIMITLESS,
                    low=0,
                    empty=NO_NETDATA,
                ),
                over_time(
                    f'sum by (dimension) (netdata_system_cpu_percentage_average{{{OF[1:-1]},dimension!="idle"}})',
                    "{{dimension}}",
                ),
                width=8,
                stacked=True,
            ),
            lines(
                About(
                    title="Network",
                    says="Of each interface, workloads and downloads included.",
                    unit="Kbits",
                    limits=LIMITLESS,
                    low=0,
                    empty=NO_NETDATA,
                ),
                over_time(f"abs(max by (family, dimension) ({traffic}))", "{{family}} {{dimension}}"),
                width=8,
            ),
            figure(
                About(
                    title="Traffic in a day",
                    says="Both ways, in the last 24 hours, all of it. Watching it may cost 100 MB of that.",
                    unit="decbytes",
                    limits=Limits(GOOD, ((100e6, WARN), (1e9, BAD))),
                    empty=NO_NETDATA,
                ),
                now(f"sum(abs(avg_over_time({traffic}[1d]))) * 1000 / 8 * 86400"),
                height=8,
            ),
            lines(
                About(
                    title="Disks busy",
                    says=(
                        "Share of time in which a disk worked. "
                        "A card that is always busy wears out, and slows all else."
                    ),
                    unit="percent",
                    limits=bad_from(70, 95),
                    low=0,
                    empty=NO_NETDATA,
                ),
                over_time(f"max by (family) (netdata_disk_util___of_time_working_average{OF})", "{{family}}"),
                width=4,
            ),
        ),
    )


def _long() -> Row:
    heat = About(
        title="Temperature by the hour, for years",
        says="From Postgres, which keeps the hours for five years; Prometheus forgets after 90 days.",
        unit="celsius",
        limits=bad_from(70, 80),
        empty="no whole hour yet",
    )
    room = About(
        title="The least room by the hour, for years",
        says="A disk that fills by the month is seen here first.",
        unit="bytes",
        limits=LIMITLESS,
        empty="no whole hour yet",
    )
    return Row("For long", (lines(heat, sql_over_time(LONG)), lines(room, sql_over_time(ROOM))))


def _logs() -> Row:
    said = About(
        title="Its logs",
        says="What its agent and its workloads wrote, shipped to Loki; kept for 30 days.",
        unit="none",
        limits=LIMITLESS,
        empty="no line in this time: is its log shipper installed?",
        link=link_to("More logs", "metrica-logs?var-device=${device}"),
    )
    return Row("Logs", (log(said, log_lines('{device="$device"}'), height=14),))


def device() -> str:
    """Return the dashboard's file."""
    which = choice(
        "device", "Device", "label_values(metrica_device_online, device)", says="Which device.", several=False
    )
    return board(
        uid="metrica-device",
        title="Device",
        says="What does this device run, why not what it should, and how is the machine?",
        variables=(which,),
        marks=(DECISIONS,),
        links=(HUB_PAGE, link_beside("Logs", "metrica-logs?var-device=${device}")),
        rows=(_now(), _happened(), _lanes(), _vitals(), _by_netdata(), _long(), _logs()),
    )
