"""What tests of a running watcher need: a fake bus, and a watcher in this process that follows it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.watcher.fake_bus import FakeBus
from watcher import daemon
from watcher.config import Config
from watcher.link import Link
from watcher.state import State
from watcher.status import Status


@pytest.fixture
async def bus() -> AsyncIterator[FakeBus]:
    """A fake bus over a real socket."""
    async with FakeBus() as fake:
        yield fake


@dataclass
class Watching:
    """A watcher that runs in this process."""

    state: State
    status: Status
    task: "asyncio.Future[None]"

    def agent(self, name: str = "mel") -> Any:
        """Where the loop of an agent is."""
        return self.status.agents[name]

    def folders(self, agent: str = "mel") -> list[Path]:
        """The granted folders of an agent."""
        return [folder.path for folder in self.state.folders(agent) if folder.granted]


Watch = Callable[..., AbstractAsyncContextManager[Watching]]


@pytest.fixture
def config_file(bus: FakeBus, tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration for the fake bus: `agents` is TOML, or the shell script that wakes `mel`."""

    def write(agents: str, *, top: str = "") -> Path:
        (tmp_path / "token").write_text("the-watchers-token\n")
        if not agents.startswith("[agents"):
            agents = f"[agents.mel]\ncommand = ['/bin/sh', '-c', '''{agents}''']\ncwd = '{tmp_path}'\n"
        path = tmp_path / "config.toml"
        path.write_text(
            f'name = "minipc"\n[bus]\nurl = "{bus.url}"\ntoken_file = "{tmp_path}/token"\n'
            f"heartbeat = 1\nreconnect_min = 0.01\nreconnect_max = 0.1\n{top}\n{agents}"
        )
        return path

    return write


@pytest.fixture
def watch(config_file: Callable[..., Path], tmp_path: Path) -> Watch:
    """Runs a watcher on the state folder `state` of this test."""

    @asynccontextmanager
    async def run(agents: str = "true", *, top: str = "") -> AsyncIterator[Watching]:
        config = Config.load(config_file(agents, top=top))
        with State(tmp_path / "state") as state:
            async with Link(config) as link:
                watcher = daemon.Watcher(config, state, link)
                task = asyncio.ensure_future(watcher.run(state.recover().agents))
                try:
                    yield Watching(state, watcher.status, task)
                finally:
                    assert not task.done(), f"the watcher ended: {task}"
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    return run
