"""How far is the commit, who failed, and does it go on?"""

from __future__ import annotations

from typing import Final

from scripts.generators.dashboards.board import Row, board
from scripts.generators.dashboards.fleet import ROLLOUTS, STOPS
from scripts.generators.dashboards.panels import (
    GOOD,
    LIMITLESS,
    NO_YES,
    WARN,
    About,
    Column,
    Limits,
    Words,
    bad_from,
    columns,
    figure,
    lines,
    link_out,
    link_to,
    rows,
)
from scripts.generators.dashboards.queries import now, over_time, sql_over_time, sql_rows

STAGES: Final = """\
SELECT stage + 1 AS stage, stage_name AS name, count(*) AS devices,
       count(*) FILTER (WHERE state = 'waiting') AS waiting,
       count(*) FILTER (WHERE state = 'started') AS started,
       count(*) FILTER (WHERE state = 'confirmed') AS confirmed,
       count(*) FILTER (WHERE state = 'unchanged') AS unchanged,
       count(*) FILTER (WHERE state = 'refused') AS refused
FROM dashboards.rollout_devices WHERE rollout = (SELECT max(id) FROM dashboards.rollouts)
GROUP BY 1, 2 ORDER BY 1"""
FAILED: Final = """\
SELECT device, stage_name AS stage, reason, message, since
FROM dashboards.rollout_devices WHERE rollout = (SELECT max(id) FROM dashboards.rollouts) AND state = 'refused'
ORDER BY since DESC, device LIMIT 200"""
ALL: Final = """\
SELECT id, left(commit, 8) AS commit, begun_at AS begun, ended_at AS ended, coalesce(state, 'open') AS state,
       open_stages || ' of ' || stages AS stages, reason, message
FROM dashboards.rollouts ORDER BY id DESC LIMIT 50"""
TIMES: Final = """\
SELECT rollouts.begun_at AS time,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM since - begun_at)) AS "half of the devices",
       max(extract(epoch FROM since - begun_at)) AS "the last device"
FROM dashboards.rollouts JOIN dashboards.rollout_devices ON rollout = id AND rollout_devices.state = 'confirmed'
WHERE $__timeFilter(rollouts.begun_at) GROUP BY 1 ORDER BY 1"""
OUTCOMES: Final = """\
SELECT $__timeGroupAlias(received_at, $__interval), kind AS metric, count(*) AS events
FROM dashboards.events
WHERE $__timeFilter(received_at)
  AND kind IN ('release.trial_started', 'release.confirmed', 'release.refused', 'commit.refused', 'rollback.finished')
GROUP BY 1, 2 ORDER BY 1"""
HEADS: Final = """\
SELECT branch, left(commit, 8) AS commit, left(read_commit, 8) AS read, seen_at AS seen,
       array_to_string(problems, '; ') AS problems
FROM dashboards.heads ORDER BY branch"""


def _now() -> Row:
    halted = About(
        title="Halted",
        says="Whether it halted by itself, or was halted: no other device begins the commit.",
        unit="none",
        limits=bad_from(1),
        words=NO_YES,
        runbook="MetricaRolloutHalted",
        empty="no rollout",
        link=link_out("In the hub", "rollouts"),
    )
    paused = About(
        title="Waits for a person",
        says="Whether it paused after a stage that says so, or because somebody paused it.",
        unit="none",
        limits=Limits(GOOD, ((1, WARN),)),
        words=Words({"0": ("no", GOOD), "1": ("yes", WARN)}),
        runbook="MetricaRolloutWaitsForAPerson",
        empty="no rollout",
        link=link_out("In the hub", "rollouts"),
    )
    stage = About(
        title="Open stage",
        says="The last stage that is open, from 1; 0: none.",
        unit="none",
        limits=LIMITLESS,
        empty="no rollout",
    )
    stages = About(title="Stages", says="How many it has.", unit="none", limits=LIMITLESS, empty="no rollout")
    share = About(
        title="Failed of the open stage",
        says=(
            "Of its devices that started: the share that refused, or started and fell silent. "
            "Past failure_share it halts."
        ),
        unit="percentunit",
        limits=bad_from(0.02, 0.05),
        empty="no rollout",
    )
    behind = About(
        title="Mirror behind",
        says="For how long a mirror of the repository has not had what the first remote has.",
        unit="s",
        limits=bad_from(300, 900),
        empty="no mirror is watched",
    )
    by_stage = About(
        title="The newest rollout, stage by stage",
        says="Devices by what became of them, by their own words. Waiting: not reached, or not there.",
        unit="short",
        limits=LIMITLESS,
        empty="no rollout",
    )
    return Row(
        "The newest rollout",
        (
            figure(halted, now("max(metrica_rollout_halted)")),
            figure(paused, now("max(metrica_rollout_paused)")),
            figure(stage, now("max(metrica_rollout_stage)")),
            figure(stages, now("max(metrica_rollout_stages)")),
            figure(share, now("max(metrica_rollout_refused_ratio)")),
            figure(behind, now("max by (remote) (metrica_git_remote_behind_seconds)", "{{remote}}")),
            rows(by_stage, sql_rows(STAGES), Column("refused", limits=bad_from(1)), width=12, height=8),
            lines(
                About(
                    title="Its devices by state",
                    says="Over all stages. Silent: started, and past the deadline without an end.",
                    unit="short",
                    limits=LIMITLESS,
                    empty="no rollout",
                ),
                over_time("sum by (state) (max by (stage, state) (metrica_rollout_devices)) > 0", "{{state}}"),
                stacked=True,
            ),
            rows(
                About(
                    title="Who failed, and why",
                    says="Devices of the newest rollout that refused its commit; they run what they ran before.",
                    unit="none",
                    limits=LIMITLESS,
                    empty="nobody",
                ),
                sql_rows(FAILED),
                Column("device", link=link_to("This device", "metrica-device?var-device=${__value.text}")),
            ),
        ),
    )


def _before() -> Row:
    return Row(
        "All rollouts",
        (
            rows(
                About(
                    title="Rollouts",
                    says="The last fifty, the newest first.",
                    unit="none",
                    limits=LIMITLESS,
                    empty="none yet: fleet.toml has no [rollout]",
                ),
                sql_rows(ALL),
                Column("id", link=link_out("In the hub", "rollouts/${__value.text}")),
            ),
            lines(
                About(
                    title="How long a rollout takes",
                    says=(
                        "From its begin until half of the devices, and the last one, had confirmed it. "
                        "A point for each rollout."
                    ),
                    unit="s",
                    limits=LIMITLESS,
                    empty="none began in this time",
                ),
                sql_over_time(TIMES),
            ),
            columns(
                About(
                    title="What devices decided",
                    says="Trials begun, confirmed, refused, gone back from; by the time when it was stored.",
                    unit="short",
                    limits=LIMITLESS,
                    empty="nothing was tried in this time",
                ),
                sql_over_time(OUTCOMES),
            ),
        ),
    )


def _devices() -> Row:
    phase = "count by (phase) (max by (device, phase) (metrica_device_phase))"
    return Row(
        "The branch and the fleet",
        (
            rows(
                About(
                    title="The branch",
                    says=(
                        "Where it is, up to where the hub has read it, and why that commit can't be used, if it can't."
                    ),
                    unit="none",
                    limits=LIMITLESS,
                    empty="the hub follows no repository",
                ),
                sql_rows(HEADS),
                width=24,
                height=4,
            ),
            lines(
                About(
                    title="Devices by phase",
                    says="How far the commit that each wants has come, whatever commit that is.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time(phase, "{{phase}}"),
                stacked=True,
            ),
            lines(
                About(
                    title="Devices by confirmed commit",
                    says="The ten commits that most devices have.",
                    unit="short",
                    limits=LIMITLESS,
                ),
                over_time("topk(10, max by (commit) (metrica_devices_of_commit))", "{{commit}}"),
                stacked=True,
            ),
        ),
    )


def rollouts() -> str:
    """Return the dashboard's file."""
    return board(
        uid="metrica-rollouts",
        title="Rollouts",
        says="How far is the commit, who failed, and does it go on?",
        marks=(ROLLOUTS, STOPS),
        links=(link_out("Rollouts in the hub", "rollouts"),),
        rows=(_now(), _before(), _devices()),
        begins="now-24h",
    )
