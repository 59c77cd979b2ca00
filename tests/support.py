"""Real processes for tests: a bus on a data folder, and the command line, both shut off from the user's settings."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from eventlog import cli

ROOT = Path(__file__).parent.parent
#: How long a process may take to become ready or to end, on a busy machine.
DEADLINE_S = 30.0


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with `home` as home folder and none of its own settings of the bus or the watcher."""
    ours = ("EVENTLOG_", "BUS_WATCHER_", "WAKE_", "XDG_", "NOTIFY_SOCKET", "LISTEN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return (
        kept
        | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "PYTHONPATH": str(ROOT)}
        | dict(extra or {})
    )


@dataclass(frozen=True)
class Called:
    """How a call of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


def run_eventlog(
    *args: str | Path, home: Path, env: Mapping[str, str] | None = None, text: str | None = None
) -> Called:
    """One call of the command line, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "eventlog.cli", *map(str, args)],
        env=clean_environment(home, env),
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
        check=False,
    )
    return Called(done.returncode, done.stdout, done.stderr)


class CommandLine:
    """The command line, called in this process: quicker than `run_eventlog`, and with this process's environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str | int | Path) -> Called:
        """One call, to its end."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(arg) for arg in args])
        out, err = self._capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Called(caught.value.code, out, err)


class BusProcess:
    """A bus in a process of its own. It is a context manager; `kill` and `start` may be called in between.

    `url` is known once it has started, and stays the same through later starts.
    """

    def __init__(
        self,
        home: Path,
        *,
        data_dir: Path | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.data_dir = data_dir or home / "data"
        self.options = list(options)
        self.env = dict(env or {})
        self.url = ""
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The running process."""
        assert self._process is not None, "the bus was not started"
        return self._process

    @property
    def log_text(self) -> str:
        """What it wrote to standard error, over all its starts."""
        return (self.home / "bus.log").read_text(errors="replace")

    @property
    def admin_token(self) -> str:
        """The administrator's token."""
        return (self.data_dir / "admin.token").read_text().strip()

    def start(self) -> Self:
        """Starts it and waits until it says its address."""
        self.home.mkdir(parents=True, exist_ok=True)
        where = ["--data-dir", str(self.data_dir), "--port", str(self.port)]
        with (self.home / "bus.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "eventlog.cli", "serve", *where, *self.options],
                env=clean_environment(self.home, self.env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        said = _line_before(self._process, time.monotonic() + DEADLINE_S)
        found = re.search(r"https?://[\w.\[\]:-]+:(\d+)", said)
        if found is None:
            self.kill()
            raise AssertionError(f"the bus did not say its address: {said!r}\n{self.log_text}")
        self.url, self.port = found.group(), int(found.group(1))
        return self

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal and waits for the end; its exit code (negative: the signal that ended it)."""
        self.process.send_signal(sign)
        return self.wait()

    def stop(self) -> int:
        """Stops it as systemd would; its exit code."""
        return self.kill(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for its end; its exit code."""
        code = self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        elif self._process is not None:
            self.wait()


def _line_before(process: subprocess.Popen[str], deadline: float) -> str:
    """The process's first line of output; what there is of it if the deadline passes or the process ends."""
    assert process.stdout is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in said and selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                break
            said += chunk
    return said.decode(errors="replace")
