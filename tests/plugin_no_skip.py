"""A pytest plugin that turns each skip into a failure when EVENTLOG_NO_SKIP=1, so that a full run is really full.

Left alone are skips for what no installed program would mend; their reason begins with `this machine cannot`.
"""

import os
from collections.abc import Generator

import pytest

NO_SKIP = os.environ.get("EVENTLOG_NO_SKIP") == "1"
CANNOT = "this machine cannot"


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Rewrite a skip as a failure; an expected failure (xfail) is reported as skipped too, and stays one."""
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(CANNOT):
            report.outcome = "failed"
            report.longrepr = f"skipped, which EVENTLOG_NO_SKIP=1 forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test, or its set-up, that skips."""
    report = yield
    _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips as a whole."""
    report = yield
    _fail(report)
    return report
