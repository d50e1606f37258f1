"""What a run prints beside pytest's own words; not beside the fault tests, so that it does so with xdist, too."""

from __future__ import annotations

import pytest
from tests.faults import failures


class _AtOnce:
    """Names what fails when it fails: a whole run takes long, and pytest tells names and reasons at its end."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # pytest-rerunfailures gives pytest's outcomes a fourth.
        again = str(report.outcome) == "rerun"
        if report.failed or again:
            lines = report.longreprtext.splitlines()
            reason = next((line.removeprefix("E").strip() for line in lines if line.startswith("E ")), "see the end")
            self._reporter.ensure_newline()
            self._reporter.write_line(
                f"{'↻' if again else '✘'} {report.nodeid} ({report.when}, {report.duration:.1f} s): {reason}",
                yellow=again,
                red=not again,
            )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register what tells failures, where anything is told at all: not in a worker of xdist."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(reporter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
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
