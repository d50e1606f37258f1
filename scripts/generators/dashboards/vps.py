"""Is the machine that the stack runs on well, and would it come back?"""

from __future__ import annotations

from typing import Final

from scripts.generators.dashboards.board import Row, board
from scripts.generators.dashboards.panels import (
    BAD,
    GOOD,
    LIMITLESS,
    WARN,
    YES_NO,
    About,
    Column,
    Limits,
    bad_below,
    bad_from,
    bars,
    figure,
    lines,
    link_beside,
    rows,
    states,
)
from scripts.generators.dashboards.queries import now, over_time, sql_over_time, sql_rows

OF_THE_STACK: Final = 'job!~"netdata|devices"'
"""All that Prometheus scrapes but the devices."""
DISKS: Final = 'fstype!~"tmpfs|ramfs|overlay|squashfs|fuse.*"'
FREE_BYTES: Final = f"node_filesystem_avail_bytes{{{DISKS}}} / node_filesystem_size_bytes{{{DISKS}}}"
FREE_INODES: Final = f"node_filesystem_files_free{{{DISKS}}} / (node_filesystem_files{{{DISKS}}} > 0)"
NICS: Final = 'device!~"lo|veth.*|br-.*|docker.*"'

TABLES: Final = """\
SELECT relname AS "table", pg_total_relation_size(relid) AS bytes, n_live_tup AS rows, n_dead_tup AS dead_rows,
       last_autovacuum AS vacuumed
FROM pg_stat_user_tables ORDER BY bytes DESC LIMIT 15"""
CHECKSUMS: Final = "SELECT now() AS time, coalesce(sum(checksum_failures), 0) AS failures FROM pg_stat_database"


def _now() -> Row:
    failed = f"count(up{{{OF_THE_STACK}}} == 0) or vector(0)"
    return Row(
        "Is the machine well?",
        (
            figure(
                About(
                    title="Parts that don't answer",
                    says="Of all that Prometheus asks but the devices. The lanes below name them.",
                    unit="short",
                    limits=bad_from(1),
                    decimals=0,
                ),
                now(failed),
            ),
            figure(
                About(
                    title="Processor busy",
                    says="Share of all cores that is busy.",
                    unit="percentunit",
                    limits=bad_from(0.8, 0.95),
                ),
                now('1 - avg(rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))'),
            ),
            figure(
                About(
                    title="Memory available",
                    says="Share of the machine's memory.",
                    unit="percentunit",
                    limits=bad_below(0.2, 0.1),
                ),
                now("min(node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)"),
            ),
            figure(
                About(
                    title="The fullest disk",
                    says="Free share of the fullest filesystem.",
                    unit="percentunit",
                    limits=bad_below(0.2, 0.1),
                ),
                now(f"min({FREE_BYTES})"),
            ),
            figure(
                About(
                    title="Certificate ends in",
                    says="Of the web's and of the broker's, whichever ends first. Alerts begin 14 days ahead.",
                    unit="s",
                    limits=bad_below(21 * 86_400, 14 * 86_400),
                    empty="not probed",
                ),
                now("min(probe_ssl_earliest_cert_expiry) - time()"),
            ),
            figure(
                About(
                    title="Oldest backup",
                    says="How long ago the kind of backup that is behind most was last made.",
                    unit="s",
                    limits=bad_from(26 * 3600, 50 * 3600),
                    empty="no backup is set up",
                ),
                now("time() - min(metrica_backup_last_success_timestamp_seconds)"),
            ),
            states(
                About(
                    title="Who answered Prometheus",
                    says=(
                        "A lane for each part. A red piece of one is a restart or a crash; "
                        "of all at once, Prometheus' own."
                    ),
                    unit="none",
                    limits=bad_below(1),
                    words=YES_NO,
                ),
                over_time(f"min by (job) (up{{{OF_THE_STACK}}})", "{{job}}"),
                width=24,
                height=8,
            ),
        ),
    )


def _machine() -> Row:
    return Row(
        "The machine",
        (
            lines(
                About(
                    title="Processor",
                    says="By what it does. Steal is time that the host gave to other guests; iowait is the disk.",
                    unit="percentunit",
                    limits=LIMITLESS,
                    low=0,
                ),
                over_time(
                    'sum by (mode) (rate(node_cpu_seconds_total{mode!="idle"}[$__rate_interval]))'
                    ' / on () group_left count(node_cpu_seconds_total{mode="idle"})',
                    "{{mode}}",
                ),
                stacked=True,
            ),
            lines(
                About(
                    title="What waits",
                    says=(
                        "Share of time in which some task waited for processor, memory or disk: "
                        "the kernel's own word for overload."
                    ),
                    unit="percentunit",
                    limits=Limits(GOOD, ((0.3, WARN), (0.7, BAD))),
                    empty="this kernel does not say (CONFIG_PSI)",
                ),
                over_time("max(rate(node_pressure_cpu_waiting_seconds_total[$__rate_interval]))", "processor"),
                over_time("max(rate(node_pressure_memory_waiting_seconds_total[$__rate_interval]))", "memory"),
                over_time("max(rate(node_pressure_io_waiting_seconds_total[$__rate_interval]))", "disk"),
            ),
            lines(
                About(
                    title="Free on disk",
                    says="Free share of each filesystem: bytes, and inodes.",
                    unit="percentunit",
                    limits=bad_below(0.2, 0.1),
                    low=0,
                    high=1,
                ),
                over_time(
                    f"min by (mountpoint) ({FREE_BYTES})",
                    "{{mountpoint}}",
                ),
                over_time(
                    f"min by (mountpoint) ({FREE_INODES})",
                    "{{mountpoint}} inodes",
                ),
            ),
            lines(
                About(title="Disk", says="Bytes read and written a second.", unit="Bps", limits=LIMITLESS),
                over_time("sum(rate(node_disk_read_bytes_total[$__rate_interval]))", "read"),
                over_time("sum(rate(node_disk_written_bytes_total[$__rate_interval]))", "written"),
            ),
            lines(
                About(
                    title="Network",
                    says="Bytes a second. What a device costs a day is in docs/reference/performance.md.",
                    unit="Bps",
                    limits=LIMITLESS,
                ),
                over_time(
                    f"sum by (device) (rate(node_network_receive_bytes_total{{{NICS}}}[$__rate_interval]))",
                    "{{device}} in",
                ),
                over_time(
                    f"sum by (device) (rate(node_network_transmit_bytes_total{{{NICS}}}[$__rate_interval]))",
                    "{{device}} out",
                ),
            ),
            lines(
                About(
                    title="Memory of the stack's processes",
                    says="Resident, of each part that says so. Compose ends one that passes its limit.",
                    unit="bytes",
                    limits=LIMITLESS,
                ),
                over_time(f"sum by (job) (process_resident_memory_bytes{{{OF_THE_STACK}}})", "{{job}}"),
            ),
            lines(
                About(
                    title="Processor of the stack's processes",
                    says="Cores, of each part that says so.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time(
                    f"sum by (job) (rate(process_cpu_seconds_total{{{OF_THE_STACK}}}[$__rate_interval]))", "{{job}}"
                ),
            ),
            lines(
                About(
                    title="How long parts take to answer",
                    says="Of Prometheus' scrapes. The hub's grows with the fleet.",
                    unit="s",
                    limits=Limits(GOOD, ((1, WARN), (10, BAD))),
                ),
                over_time(f"max by (job) (scrape_duration_seconds{{{OF_THE_STACK}}})", "{{job}}"),
            ),
        ),
    )


def _postgres() -> Row:
    return Row(
        "Postgres",
        (
            lines(
                About(title="Size of databases", says="Of each database.", unit="bytes", limits=LIMITLESS),
                over_time('max by (datname) (pg_database_size_bytes{datname!~"template.*"})', "{{datname}}"),
            ),
            lines(
                About(
                    title="Transactions a second",
                    says="Committed and rolled back, over all databases.",
                    unit="ops",
                    limits=LIMITLESS,
                ),
                over_time("sum(rate(pg_stat_database_xact_commit[$__rate_interval]))", "committed"),
                over_time("sum(rate(pg_stat_database_xact_rollback[$__rate_interval]))", "rolled back"),
            ),
            lines(
                About(
                    title="Connections",
                    says="By what they do, and how many may be.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time("sum by (state) (pg_stat_activity_count) > 0", "{{state}}"),
                over_time("max(pg_settings_max_connections)", "allowed"),
            ),
            lines(
                About(
                    title="Read from memory",
                    says="Share of block reads that needed no disk. Well below 0.9 for long, it wants more memory.",
                    unit="percentunit",
                    limits=bad_below(0.95, 0.9),
                    high=1,
                ),
                over_time(
                    "sum(rate(pg_stat_database_blks_hit[$__rate_interval]))"
                    " / (sum(rate(pg_stat_database_blks_hit[$__rate_interval]))"
                    " + sum(rate(pg_stat_database_blks_read[$__rate_interval])))",
                    "hit",
                ),
            ),
            rows(
                About(
                    title="The largest tables",
                    says="With indexes. Dead rows that stay many while nothing is vacuumed hold the disk.",
                    unit="none",
                    limits=LIMITLESS,
                ),
                sql_rows(TABLES),
                Column("bytes", unit="bytes"),
                Column("rows", unit="short"),
                Column("dead_rows", unit="short"),
                width=18,
            ),
            figure(
                About(
                    title="Pages that fail their checksum",
                    says="Anything but none is a broken disk or worse: restore (docs/how-to/backup.md).",
                    unit="short",
                    limits=bad_from(1),
                    decimals=0,
                ),
                sql_over_time(CHECKSUMS),
                width=6,
                height=8,
            ),
        ),
    )


def _prometheus() -> Row:
    return Row(
        "Prometheus",
        (
            lines(
                About(
                    title="Series",
                    says="That it holds in memory; each device brings up to 25.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time("max(prometheus_tsdb_head_series)", "series"),
                width=8,
            ),
            lines(
                About(
                    title="Samples a second",
                    says="That it takes in.",
                    unit="ops",
                    limits=LIMITLESS,
                ),
                over_time("sum(rate(prometheus_tsdb_head_samples_appended_total[$__rate_interval]))", "samples"),
                width=8,
            ),
            lines(
                About(
                    title="On disk",
                    says="Its blocks, and the bound past which the oldest goes (METRICA_PROMETHEUS_SIZE).",
                    unit="bytes",
                    limits=LIMITLESS,
                ),
                over_time("max(prometheus_tsdb_storage_blocks_bytes)", "blocks"),
                over_time("max(prometheus_tsdb_retention_limit_bytes) > 0", "bound"),
                width=8,
            ),
            lines(
                About(
                    title="Its questions take",
                    says="99 of 100 of what dashboards and rules ask. Five seconds are allowed.",
                    unit="s",
                    limits=Limits(GOOD, ((1, WARN), (5, BAD))),
                ),
                over_time('max by (slice) (prometheus_engine_query_duration_seconds{quantile="0.99"})', "{{slice}}"),
            ),
            lines(
                About(
                    title="What failed",
                    says="Rules that could not be judged, and alerts that did not reach Alertmanager, a second.",
                    unit="ops",
                    limits=bad_from(0.001),
                ),
                over_time("sum(rate(prometheus_rule_evaluation_failures_total[$__rate_interval]))", "rules"),
                over_time("sum(rate(prometheus_notifications_dropped_total[$__rate_interval]))", "alerts"),
            ),
        ),
    )


def _backups() -> Row:
    return Row(
        "Backups",
        (
            bars(
                About(
                    title="Last made",
                    says="How long ago, by kind.",
                    unit="s",
                    limits=bad_from(26 * 3600, 50 * 3600),
                    empty="no backup is set up",
                ),
                now("time() - max by (kind) (metrica_backup_last_success_timestamp_seconds)", "{{kind}}"),
                width=8,
                height=6,
            ),
            bars(
                About(
                    title="Last restored to see whether it is one",
                    says="How long ago the newest backup was restored and looked at, by kind.",
                    unit="s",
                    limits=bad_from(8 * 86_400, 15 * 86_400),
                    empty="none was verified yet",
                ),
                now("time() - max by (kind) (metrica_backup_last_verified_timestamp_seconds)", "{{kind}}"),
                width=8,
                height=6,
            ),
            figure(
                About(
                    title="Failed",
                    says="Kinds whose last try failed.",
                    unit="short",
                    limits=bad_from(1),
                    decimals=0,
                    empty="no backup is set up",
                ),
                now("sum(max by (kind) (metrica_backup_failed))"),
                height=6,
            ),
            figure(
                About(
                    title="It took",
                    says="The slowest kind's last time.",
                    unit="s",
                    limits=bad_from(1800, 3600),
                    empty="no backup is set up",
                ),
                now("max(metrica_backup_last_duration_seconds)"),
                height=6,
            ),
            lines(
                About(
                    title="Size of backups",
                    says="Of what is kept, by kind.",
                    unit="bytes",
                    limits=LIMITLESS,
                    empty="no backup is set up",
                ),
                over_time("max by (kind) (metrica_backup_size_bytes)", "{{kind}}"),
                width=24,
            ),
        ),
    )


def vps() -> str:
    """Return the dashboard's file."""
    return board(
        uid="metrica-vps",
        title="VPS",
        says="Is the machine that the stack runs on well, and would it come back?",
        links=(link_beside("Logs of the stack", "metrica-logs"),),
        rows=(_now(), _machine(), _postgres(), _prometheus(), _backups()),
    )
