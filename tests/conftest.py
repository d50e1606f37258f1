"""What a run prints at its end: here and not beside the fault tests, so that it does so with xdist, too."""

from __future__ import annotations

import pytest
from tests.faults import failures


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
