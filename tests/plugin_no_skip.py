"""A pytest plugin that turns each skip into a failure when EVENTLOG_NO_SKIP=1, so that a full run is really full.

Left alone are skips for what no installed program would mend; their reason begins with `this machine cannot`. Where
this process may do what the machine is said not to be able to, that is no excuse either: the look at it is broken.
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

NO_SKIP = os.environ.get("EVENTLOG_NO_SKIP") == "1"
CANNOT = "this machine cannot "
#: capabilities(7), by their numbers.
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
#: What a process with all of these capabilities can do.
NEEDED = {
    "make networks": (CAP_NET_ADMIN, CAP_SYS_ADMIN),
    "mount": (CAP_SYS_ADMIN,),
}


def capabilities() -> int:
    """The capabilities that are in effect in this process, as bits."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["CapEff"], 16)


def excused(reason: str, held: int) -> bool:
    """Whether a test may be skipped for this reason, in a process with these capabilities, where none is to be."""
    if not reason.startswith(CANNOT):
        return False
    said = reason.removeprefix(CANNOT)
    needed = next((needed for what, needed in NEEDED.items() if said.startswith(what)), None)
    return needed is None or not all(held >> number & 1 for number in needed)


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Rewrite a skip as a failure; an expected failure (xfail) is reported as skipped too, and stays one."""
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not excused(reason.removeprefix("Skipped: "), capabilities()):
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
