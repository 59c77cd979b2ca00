"""Fixtures that many tests share."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scene import Scene, Watch
from tests.support import BusProcess, CommandLine, WatcherProcess

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has what it starts in the background ignore Ctrl-C; programs that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The bus runs on asyncio alone."""
    return "asyncio"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    """A real bus, with a data folder and a home folder of its own."""
    with BusProcess(tmp_path / "bus") as running:
        yield running


@pytest.fixture(scope="module")
def shared_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusProcess]:
    """One real bus for all tests of a module that each use agents' names of their own."""
    with BusProcess(tmp_path_factory.mktemp("shared") / "bus") as running:
        yield running


@pytest.fixture
def eventlog(
    shared_bus: BusProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line in this process, as the administrator of the module's bus."""
    for name in [name for name in os.environ if name.startswith(("EVENTLOG_", "WAKE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(shared_bus.home / ".config"))
    monkeypatch.setenv("EVENTLOG_URL", shared_bus.url)
    monkeypatch.setenv("EVENTLOG_TOKEN", shared_bus.admin_token)
    return CommandLine(capsys)


@pytest.fixture
def scene(bus: BusProcess, tmp_path: Path) -> Scene:
    """A real bus and a folder for wake commands."""
    folder = tmp_path / "agents"
    folder.mkdir()
    return Scene(bus, folder)


@pytest.fixture
def watch(scene: Scene, tmp_path: Path) -> Iterator[Watch]:
    """Makes watchers of the scene's bus; they end, with their wakes, when the test does."""
    made: list[WatcherProcess] = []

    def make(agents: str, name: str = "minipc-1", url: str = "") -> WatcherProcess:
        made.append(WatcherProcess(tmp_path / name, url or scene.bus.url, scene.watcher_token, agents, name=name))
        return made[-1]

    yield make
    for watcher in made:
        watcher.__exit__()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A program that a test runs in this process sets up logging for good, into a stream that ends with the test."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # pytest's own are of other types
            root.removeHandler(handler)
