"""What tests of the watcher share: waiting for a state, folders of keys made by hand, shims of their own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import ROOT
from watcher import processes, shim

#: A wake's token, as far as its looks go.
TOKEN = "ewk_7_" + "the-token-" * 4 + "xyz"
#: How long a test waits for what must come.
DEADLINE_S = 30.0
#: Between two looks at a state that nobody tells of.
LOOK_S = 0.01

# A shim of its own, without a starter: its command and guard are not forked ahead.
_SHIM = """
import sys
sys.path.append({root!r})
from watcher import processes, shim
processes.TERM_GRACE_S = {grace_s}
sys.exit(shim.main({folder!r}))
"""


def shim_alone(folder: Path, *, grace_s: float = processes.TERM_GRACE_S) -> list[str]:
    """The program of a shim on this folder, with so much time between SIGTERM and SIGKILL."""
    program = _SHIM.format(root=str(ROOT), grace_s=grace_s, folder=str(folder))
    return [sys.executable, "-I", "-S", "-c", program]


def wait_until(true: Callable[[], Any], what: str = "") -> Any:
    """The first true value of `true()`; fails if it does not come in time."""
    give_up = time.monotonic() + DEADLINE_S
    while not (value := true()):
        assert time.monotonic() < give_up, f"did not come true: {what or true}"
        time.sleep(LOOK_S)
    return value


async def until(true: Callable[[], Any], what: str = "") -> Any:
    """The same, for tests that share their loop with what they wait for."""
    give_up = time.monotonic() + DEADLINE_S
    while not (value := true()):
        assert time.monotonic() < give_up, f"did not come true: {what or true}"
        await asyncio.sleep(LOOK_S)
    return value


def alive(pid: int) -> bool:
    """Whether this process runs; one that has ended but was not reaped does not."""
    return processes.began_at(pid) > 0


def pids_in(path: Path) -> list[int]:
    """The process ids in a file, one a line; [] as long as there is none."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@dataclass(frozen=True)
class Folder:
    """A key's folder as the watcher would leave it for the shim."""

    path: Path

    @property
    def outcome(self) -> dict[str, Any]:
        """What the shim wrote; {} if nothing yet."""
        found = self.path / "outcome"
        return json.loads(found.read_text()) if found.exists() else {}

    def write(self, name: str, value: object) -> None:
        """Put a file there."""
        (self.path / name).write_text(json.dumps(value))

    def start(self, *, grace_s: float = processes.TERM_GRACE_S) -> "subprocess.Popen[bytes]":
        """Start a shim on it."""
        return subprocess.Popen(shim_alone(self.path, grace_s=grace_s), start_new_session=True)

    def run(self, *, grace_s: float = processes.TERM_GRACE_S) -> dict[str, Any]:
        """Run a shim on it to its end; the outcome."""
        with self.start(grace_s=grace_s) as process:
            assert process.wait(DEADLINE_S) == 0
        return self.outcome


def make_folder(
    at: Path,
    argv: Sequence[str] = ("true",),
    *,
    wake_id: int = 7,
    timeout_s: float = 60.0,
    late_s: float = -30.0,
    boot_id: str | None = None,
    request: object = None,
    cwd: Path | None = None,
    run: dict[str, Any] | None = None,
) -> Folder:
    """A granted folder whose latest start is `late_s` ago."""
    path = at / f"key-{wake_id}"
    path.mkdir(parents=True)
    folder = Folder(path)
    (path / "lock").touch()
    folder.write("key", {"key": path.name, "boot_id": boot_id or shim.boot_id(), "machine_id": "m", "hardware": []})
    told = {"id": wake_id, "agent": "mel", "after": 0, "through": 5, "attempt": 1, "timeout_s": timeout_s}
    token_file = at / f"token-{wake_id}"
    token_file.write_text(f"{TOKEN}\n")
    folder.write(
        "grant",
        {
            "wake": {**told, "key": path.name},
            "latest_start": processes.boottime() - late_s,
            "argv": list(argv),
            "cwd": str(cwd or at),
            "env": {"WAKE_ID": str(wake_id), "EVENTLOG_TOKEN_FILE": str(token_file)},
            "request": request or {"wake": told, "messages": [], "truncated": False},
            "settings": {},
            "run": run,
        },
    )
    return folder


def shell(script: str) -> list[str]:
    """A command that runs a few lines of shell."""
    return ["/bin/sh", "-c", script]


def end(pid: int) -> None:
    """Kill a process that a test left on purpose."""
    if alive(pid):
        os.kill(pid, 9)
