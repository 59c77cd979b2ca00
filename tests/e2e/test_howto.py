"""The pages of docs/how-to that put an agent of some kind behind the bus, each done as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.e2e.pages import ADDRESS, Reader, settled
from tests.e2e.stand_ins import put
from tests.support import DEADLINE_S, ROOT, BusProcess, free_port

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


def test_claude_code(home: Path, swaps: dict[str, str], tmp_path: Path, bus: BusProcess) -> None:
    with Reader("how-to/claude-code.md", home, swaps, path=put(tmp_path / "programs")) as reader:
        reader.do("The watcher")
        assert "\nyou said: Which files are here?\n" in reader.do("Try it")
        reader.interrupt(1)
        said = reader.do("Let it answer itself")
        assert said.count("\nyou said: Are you there?\n") == 2, said
    events = Foreign(bus.url, bus.admin_token).events()
    answers = [event for event in events if event["event"] == "message" and event["to_agent"] == "you"]
    assert [answer["from_agent"] for answer in answers] == ["claude", "scout", "guide"], "each answered once"


def test_codex(home: Path, swaps: dict[str, str], tmp_path: Path) -> None:
    with Reader("how-to/codex.md", home, swaps, path=put(tmp_path / "programs")) as reader:
        assert "\nyou said: Which files are here?\n" in reader.do_all()


@pytest.mark.parametrize(
    "command", [["claude", "-p", "--no-such-option"], ["claude"], ["codex", "exec", "--no-such-option", "-"]]
)
def test_the_stand_ins_refuse_what_the_real_ones_do_not_know(command: list[str], tmp_path: Path) -> None:
    command = [str(put(tmp_path / "programs") / command[0]), *command[1:]]
    done = subprocess.run(command, input="| hello\n", capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode != 0
    assert done.stdout == ""
