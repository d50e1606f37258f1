"""Does everything that devices say arrive, and how soon?"""

from __future__ import annotations

from typing import Final

from scripts.generators.dashboards.board import Row, board
from scripts.generators.dashboards.fleet import STOPS
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
    link_to,
    rows,
)
from scripts.generators.dashboards.queries import now, over_time, sql_rows

LETTERS: Final = """\
SELECT received_at, device, reason, explanation, topic, payload_bytes
FROM dashboards.dead_letters WHERE $__timeFilter(received_at) ORDER BY received_at DESC LIMIT 100"""


def rate(metric: str, by: str = "") -> str:
    """Return the rate a second, over all hubs."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({metric}[$__rate_interval]))"


def quantile(share: float, histogram: str) -> str:
    """Return a quantile over all hubs."""
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))"


def _now() -> Row:
    def about(title: str, says: str, limits: Limits, unit: str = "short", *, alert: str | None = None) -> About:
        return About(title=title, says=says, unit=unit, limits=limits, runbook=alert)

    connected = About(
        title="On the bus",
        says=(
            "Whether a hub is connected to the broker. "
            "While none is, nothing arrives and devices keep what they have to say."
        ),
        unit="none",
        limits=bad_below(1),
        words=YES_NO,
        runbook="MetricaHubCutOff",
    )
    return Row(
        "Now",
        (
            figure(connected, now("max(metrica_bus_connected)")),
            figure(
                about(
                    "Hubs that lead",
                    "One at a time opens gates and watches presence.",
                    Limits(BAD, ((1, GOOD), (2, BAD))),
                ),
                now("sum(metrica_hub_leads)"),
            ),
            figure(
                about("Stored a second", "Heartbeats and events that Postgres has committed.", LIMITLESS, "ops"),
                now(rate("metrica_hub_records_total")),
            ),
            figure(
                about(
                    "99 of 100 stored within",
                    "From taking a message off the queue to its commit.",
                    bad_from(1, 10),
                    "s",
                ),
                now(quantile(0.99, "metrica_hub_ingest_lag_seconds")),
            ),
            figure(
                about(
                    "Waiting in the broker",
                    "Messages that wait for somebody, retained ones not counted. At a million it drops.",
                    bad_from(100_000, 500_000),
                    alert="MetricaHubQueueFills",
                ),
                now("max(metrica_broker_stored_messages - metrica_broker_retained_messages)"),
            ),
            figure(
                about(
                    "Database kept in shape",
                    "How long ago partitions were last made and dropped. Every five minutes is usual.",
                    bad_from(900, 3600),
                    "s",
                ),
                now("time() - max(metrica_hub_retention_last_success_timestamp_seconds)"),
            ),
        ),
    )


def _arriving() -> Row:
    return Row(
        "What arrives",
        (
            lines(
                About(
                    title="Records a second",
                    says=(
                        "Stored, by kind; those that came again, which costs nothing; "
                        "those left for their device to send again."
                    ),
                    unit="ops",
                    limits=LIMITLESS,
                ),
                over_time(rate("metrica_hub_records_total", "kind"), "{{kind}}"),
                over_time(rate("metrica_hub_duplicate_records_total"), "came again"),
                over_time(rate("metrica_hub_left_records_total"), "left behind too many gaps"),
            ),
            lines(
                About(
                    title="From the queue to the commit",
                    says=(
                        "How long messages take. When it rises with the commit's time, Postgres is slow; "
                        "alone, the hub is."
                    ),
                    unit="s",
                    limits=Limits(GOOD, ((1, WARN), (10, BAD))),
                ),
                over_time(quantile(0.5, "metrica_hub_ingest_lag_seconds"), "half within"),
                over_time(quantile(0.99, "metrica_hub_ingest_lag_seconds"), "99 of 100 within"),
            ),
            lines(
                About(
                    title="A commit to Postgres",
                    says="How long transactions take.",
                    unit="s",
                    limits=Limits(GOOD, ((0.5, WARN), (5, BAD))),
                ),
                over_time(quantile(0.5, "metrica_hub_commit_duration_seconds"), "half within"),
                over_time(quantile(0.99, "metrica_hub_commit_duration_seconds"), "99 of 100 within"),
            ),
            lines(
                About(
                    title="Records a transaction",
                    says="Many in one: the hub catches up. Around one: it waits for devices, and not they for it.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time(f"{rate('metrica_hub_batch_size_sum')} / {rate('metrica_hub_batch_size_count')}", "mean"),
            ),
            lines(
                About(
                    title="Attempts that failed",
                    says=(
                        "Commits while Postgres was away, and attempts to keep it in shape. Nothing is lost by either."
                    ),
                    unit="ops",
                    limits=bad_from(0.01),
                ),
                over_time(rate("metrica_hub_commit_failures_total"), "commits"),
                over_time(rate("metrica_hub_retention_failures_total"), "retention"),
            ),
            lines(
                About(
                    title="The hub itself",
                    says="How late its event loop is: above a second everything in it waits.",
                    unit="s",
                    limits=Limits(GOOD, ((0.5, WARN), (2, BAD))),
                ),
                over_time("max by (instance) (metrica_hub_loop_lag_seconds)", "loop lag {{instance}}"),
            ),
        ),
    )


def _bad() -> Row:
    to_device = link_to("This device", "metrica-device?var-device=${__value.text}")
    return Row(
        "What can't be used",
        (
            lines(
                About(
                    title="Set aside a second, by reason",
                    says="Messages that the hub could not use. The table below has the newest of them.",
                    unit="ops",
                    limits=bad_from(0.01),
                    runbook="MetricaDeadLetters",
                    empty="none ever",
                ),
                over_time(rate("metrica_hub_dead_letters_total", "reason"), "{{reason}}"),
                over_time(rate("metrica_hub_dead_letters_unkept_total"), "only counted"),
            ),
            bars(
                About(
                    title="Who sent them",
                    says=(
                        "Since the hub began, the ten worst; _none: on a topic without a device, _others: "
                        "past the first hundred names."
                    ),
                    unit="short",
                    limits=bad_from(1),
                    runbook="MetricaDeadLetters",
                    empty="nobody",
                ),
                now("topk(10, sum by (device) (metrica_hub_dead_letters_by_device_total))", "{{device}}"),
                width=6,
            ),
            bars(
                About(
                    title="Who floods",
                    says="Devices that say more than 100 messages a second: no agent does.",
                    unit="ops",
                    limits=bad_from(100),
                    runbook="MetricaDeviceFloods",
                    empty="nobody",
                ),
                now("topk(10, max by (device) (metrica_bus_loud_device_messages_per_second))", "{{device}}"),
                width=6,
            ),
            rows(
                About(
                    title="The newest that were set aside",
                    says="Without what they said: that is in the table dead_letters, for the database's owner.",
                    unit="none",
                    limits=LIMITLESS,
                    empty="none in this time",
                ),
                sql_rows(LETTERS),
                Column("device", link=to_device),
                Column("payload_bytes", unit="bytes"),
            ),
        ),
    )


def _broker() -> Row:
    return Row(
        "The broker",
        (
            lines(
                About(
                    title="Clients",
                    says="Connected, and away with a session that the broker keeps for them.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time("max(metrica_broker_connected_clients)", "connected"),
                over_time("max(metrica_broker_absent_clients)", "away"),
            ),
            lines(
                About(
                    title="Packets a second",
                    says="MQTT packets to and from the broker.",
                    unit="ops",
                    limits=LIMITLESS,
                ),
                over_time("max(rate(metrica_broker_received_messages_total[$__rate_interval]))", "received"),
                over_time("max(rate(metrica_broker_sent_messages_total[$__rate_interval]))", "sent"),
            ),
            lines(
                About(
                    title="Bytes a second",
                    says="To and from the broker, all devices and the hub together.",
                    unit="Bps",
                    limits=LIMITLESS,
                ),
                over_time("max(rate(metrica_broker_received_bytes_total[$__rate_interval]))", "received"),
                over_time("max(rate(metrica_broker_sent_bytes_total[$__rate_interval]))", "sent"),
            ),
            lines(
                About(
                    title="Messages that it holds",
                    says="Waiting for somebody, and retained. At a million that wait, it drops.",
                    unit="short",
                    limits=Limits(GOOD, ((500_000, WARN), (1_000_000, BAD))),
                    runbook="MetricaHubQueueFills",
                ),
                over_time("max(metrica_broker_stored_messages - metrica_broker_retained_messages)", "waiting"),
                over_time("max(metrica_broker_retained_messages)", "retained"),
                over_time("max(metrica_hub_unacknowledged_messages)", "at the hub, not yet stored"),
            ),
            lines(
                About(
                    title="Dropped a second",
                    says="Somebody's queue was full. Records come again; presence and status only when they change.",
                    unit="ops",
                    limits=bad_from(0.01),
                    runbook="MetricaBrokerDropsMessages",
                    empty="none ever",
                ),
                over_time("max(rate(metrica_broker_dropped_messages_total[$__rate_interval])) or vector(0)", "dropped"),
            ),
            lines(
                About(
                    title="Answers to commands a second",
                    says=(
                        "What became of what devices answered: "
                        "stored is usual, unreadable is a device that answers garbage."
                    ),
                    unit="ops",
                    limits=LIMITLESS,
                ),
                over_time(rate("metrica_hub_command_answers_total", "outcome"), "{{outcome}}"),
            ),
        ),
    )


def hub() -> str:
    """Return the dashboard's file."""
    return board(
        uid="metrica-hub",
        title="Hub and bus",
        says="Does everything that devices say arrive, and how soon?",
        marks=(STOPS,),
        links=(link_beside("Logs of the stack", "metrica-logs"),),
        rows=(_now(), _arriving(), _bad(), _broker()),
    )
