"""What a run prints beside pytest's own words; not beside the fault tests, so that it does so with xdist, too."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.faults import failures
from tests.rota import of_this_commit

_LEFT = pytest.StashKey[int]()
"""How many long tests are left to other commits."""


class _AtOnce:
    """Names what fails when it fails: a whole run takes long, and pytest tells names and reasons at its end."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # pytest-rerunfailures gives pytest's outcomes a fourth.
        again = str(report.outcome) == "rerun"
        if report.failed or again:
            lines = [line for line in report.longreprtext.splitlines() if re.search(r"\w", line)] or ["without a word"]
            reason = next((line.removeprefix("E").strip() for line in lines if line.startswith("E ")), lines[-1])
            self._reporter.ensure_newline()
            self._reporter.write_line(
                f"{'↻' if again else '✘'} {report.nodeid} ({report.when}, {report.duration:.1f} s): {reason}",
                yellow=again,
                red=not again,
            )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave three quarters of the long tests of a whole run to other commits; begin with those that are patient."""
    long = [item.nodeid for item in items if item.get_closest_marker("long")]
    left = set(long).difference(of_this_commit(long))
    if left:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left])
        items[:] = [item for item in items if item.nodeid not in left]
    config.stash[_LEFT] = len(left)
    items.sort(key=lambda item: item.get_closest_marker("patient") is None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints, where that is another one, how many were left."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["left"] = session.config.stash.get(_LEFT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear it: every worker collects, and leaves, the same."""
    node.config.stash[_LEFT] = getattr(node, "workeroutput", {}).get("left", 0)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register what tells failures, where anything is told at all: not in a worker of xdist."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(reporter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the tests, in whatever process, had to say, and the table of failures when any of it was filled in."""
    reports: list[pytest.TestReport] = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    properties = [one for report in reports for one in report.user_properties]
    for title, lines in failures.told(properties).items():
        if lines:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    if left := config.stash.get(_LEFT, 0):
        terminalreporter.section("long tests")
        terminalreporter.write_line(
            f"{left} are left to other commits (tests/rota.py); ./scripts/test --every runs all"
        )
