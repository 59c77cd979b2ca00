"""The pages of docs/how-to that put an agent of some kind behind the bus, each done as it stands."""

import sys
from pathlib import Path

import pytest

from tests.e2e.pages import ADDRESS, Reader, settled
from tests.support import ROOT, BusProcess, free_port

#: A `pip` that installs one folder into a place of its own.
PIP = """#!/bin/sh
exec {python} -m pip --quiet --disable-pip-version-check "$1" --no-index --no-build-isolation --target {site} "$2"
"""

pytestmark = pytest.mark.e2e


@pytest.fixture
def home(bus: BusProcess, tmp_path: Path) -> Path:
    """A home folder as the tutorial leaves it."""
    return settled(tmp_path / "home", bus)


@pytest.fixture
def swaps(bus: BusProcess) -> dict[str, str]:
    """The addresses of the pages, and what they are here."""
    return {ADDRESS: f"127.0.0.1:{bus.port}", "9000": str(free_port())}


def test_a_plain_script(home: Path, swaps: dict[str, str]) -> None:
    with Reader("how-to/plain-script.md", home, swaps) as reader:
        reader.do_all()


def test_an_http_agent(home: Path, swaps: dict[str, str], bus: BusProcess) -> None:
    with Reader("how-to/webhook.md", home, swaps, env={"EVENTLOG_URL": bus.url}) as reader:
        reader.do_all()


def test_a_python_coroutine(home: Path, swaps: dict[str, str], tmp_path: Path) -> None:
    """`pip` here installs beside the tests' environment, not into it, and fetches nothing."""
    site, programs = tmp_path / "site", tmp_path / "programs"
    programs.mkdir()
    (programs / "pip").write_text(PIP.format(python=sys.executable, site=site))
    (programs / "pip").chmod(0o700)
    env = {"PYTHONPATH": f"{ROOT}:{site}"}
    with Reader("how-to/python-coroutine.md", home, swaps, env=env, path=programs) as reader:
        reader.do_all()
