"""A watcher on a bus, and a wake command that says through a named pipe when it runs."""

import os
import selectors
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.drive import ROOT
from benchmarks.program import Program

#: How long a watcher may take to connect, seconds.
CONNECT_S = 30.0


@dataclass(frozen=True)
class Started:
    """A wake command's first instruction: when (monotonic ns), of which agent, and covering (after, through]."""

    at_ns: int
    agent: str
    after: int
    through: int


class Pipe:
    """The pipe that wake commands write to. `command` is the program that does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "started"
        os.mkfifo(path)
        self.command = folder / "wake"
        self.command.write_text(f'#!/bin/sh\necho "$WAKE_AGENT ${{WAKE_AFTER:-0}} $WAKE_THROUGH" > {path}\n')
        self.command.chmod(0o755)
        # Open for both, so that it never ends while no command has it open.
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._handle, selectors.EVENT_READ)
        self._rest = b""

    def close(self) -> None:
        """Close it."""
        self._selector.close()
        os.close(self._handle)

    def read(self, timeout_s: float) -> list[Started]:
        """What was started, as soon as there is something; empty if nothing was for so long."""
        if not self._selector.select(timeout_s):
            return []
        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + os.read(self._handle, 65_536)).split(b"\n")
        found = (line.decode().split() for line in lines)
        return [Started(now, agent, int(after), int(through)) for agent, after, through in found]


def launch_watcher(folder: Path, url: str, token: str, agents: Sequence[str], command: Path, name: str) -> Program:
    """A watcher of these agents, which acknowledges for them; returns once its stream stands."""
    folder.mkdir(parents=True)
    token_file = folder / "token"
    token_file.touch(0o600)
    token_file.write_text(token)
    config = folder / "watcher.toml"
    tables = "\n".join(f"[agents.{agent}]" for agent in agents)
    config.write_text(
        f'name = "{name}"\n[bus]\nurl = "{url}"\ntoken_file = "{token_file}"\n'
        f'[defaults]\ncommand = ["{command}"]\nack = "exit"\ncwd = "{folder}"\n{tables}\n'
    )
    words = ["-m", "watcher.cli", "run", "--config", str(config), "--state-dir", str(folder / "state")]
    program = Program(
        [sys.executable, *words],
        log=folder / "watcher.log",
        env={"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder)},
    )
    end = time.monotonic() + CONNECT_S
    while '"event": "connected"' not in program.log.read_text(errors="replace"):
        if program.process.poll() is not None or time.monotonic() > end:
            program.stop()
            raise RuntimeError(f"the watcher does not connect: {program.log.read_text(errors='replace')[-500:]}")
        time.sleep(0.02)
    return program
