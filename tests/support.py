"""Real processes for tests: bus, watcher and command line, all shut off from the user's settings."""

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from eventlog import cli

ROOT = Path(__file__).parent.parent
#: How long a process may take to become ready or to end, on a busy machine.
DEADLINE_S = 30.0
#: Whether the crash tests make all their rounds (`make crashes`), instead of as many as are quick.
SOAK = os.environ.get("EVENTLOG_SOAK") == "1"
#: What a wake command of the tests begins with; its folder follows.
WAKE_AGENT = [sys.executable, "-I", "-S", str(ROOT / "tests" / "wake_agent.py")]

#: Programs to start another one under, whose standard error then takes no line: what its disk, or its reader, does.
UNWRITABLE = {
    "full": ["/bin/sh", "-c", 'exec "$@" 2> /dev/full', "sh"],
    "closed": ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh"],
    "unread": [
        sys.executable,
        "-c",
        "import os, sys; os.dup2(os.pipe()[1], 2); os.execv(sys.argv[1], sys.argv[1:])",
    ],
}

T = TypeVar("T")


def until(look: Callable[[], T], deadline_s: float = DEADLINE_S, why: Callable[[], str] = str) -> T:
    """What `look` gives as soon as that is true; fails when the deadline passes first, with what `why` says."""
    end = time.monotonic() + deadline_s
    # A look that took long may have seen what was long ago, so the last one begins after the deadline.
    began = time.monotonic()
    while not (seen := look()):
        assert began < end, f"not within {deadline_s} s: {look.__qualname__} {why()}"
        time.sleep(0.02)
        began = time.monotonic()
    return seen


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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

    `url` is known once it has started, and stays the same through later starts. `under` is the command that its own is
    appended to, as of a tracer that stays in the background.
    """

    def __init__(
        self,
        home: Path,
        *,
        data_dir: Path | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        self.home = home
        self.data_dir = data_dir or home / "data"
        self.options = list(options)
        self.env = dict(env or {})
        self.under = list(under)
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
                [*self.under, sys.executable, "-m", "eventlog.cli", "serve", *where, *self.options],
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


class WatcherProcess:
    """A watcher in a process of its own, with configuration, token and state folder in its home folder.

    It is a context manager; `kill` and `start` may be called in between. At the end its shims are ended, too.
    `agents` is what stands in the configuration besides `name` and `[bus]`, `bus` how it speaks with the bus: quickly,
    unless told otherwise. `under` is the command that its own is appended to.
    """

    def __init__(
        self,
        home: Path,
        url: str,
        token: str,
        agents: str,
        *,
        name: str = "minipc-1",
        bus: str = "reconnect_max = 1\nheartbeat = 1\n",
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        self.home = home
        self.state_dir = home / "state"
        self.config = home / "watcher.toml"
        self.env = dict(env or {})
        self.under = list(under)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_at = 0
        home.mkdir(parents=True, exist_ok=True)
        token_file = home / "token"
        token_file.touch(0o600)
        token_file.write_text(token)
        table = f'[bus]\nurl = "{url}"\ntoken_file = "{token_file}"\n{bus}'
        self.config.write_text(f'name = "{name}"\n{table}{agents}')

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "the watcher was not started"
        return self._process

    @property
    def log_text(self) -> str:
        """What it wrote to standard error, over all its starts."""
        return (self.home / "watcher.log").read_text(errors="replace")

    @property
    def connected(self) -> bool:
        """Whether its stream has stood since its last start."""
        return '"event": "connected"' in self.log_text[self._log_at :]

    def start(self, *, wait: bool = True) -> Self:
        """Starts it and, unless told otherwise, waits until its stream stands."""
        with (self.home / "watcher.log").open("a") as log:
            self._log_at = log.tell()
            self._process = subprocess.Popen(
                [*self.under, *self.command("run"), "--config", str(self.config)],
                env=clean_environment(self.home, self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            until(lambda: self.connected or self.process.poll() is not None, why=lambda: self.log_text)
            assert self.process.poll() is None, self.log_text
        return self

    def command(self, name: str) -> list[str]:
        """A call of `bus-watcher` on this watcher's state folder."""
        return [sys.executable, "-m", "watcher.cli", name, "--state-dir", str(self.state_dir)]

    def status(self) -> Called:
        """What `bus-watcher status --json` says."""
        done = subprocess.run(
            [*self.command("status"), "--json"],
            env=clean_environment(self.home),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Called(done.returncode, done.stdout, done.stderr)

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal and waits for the end; its exit code (negative: the signal that ended it)."""
        self.process.send_signal(sign)
        return self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Stops it as systemd would; its exit code."""
        return self.kill(signal.SIGTERM)

    def shims(self, agent: str = "") -> list[int]:
        """The process ids of its shims, or of those of one agent, without their guards and commands."""
        return shims(str(self.state_dir / "agents" / agent))

    def kill_shims(self) -> None:
        """SIGKILL to each of its shims; their guards end the commands."""
        for pid in self.shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.kill_shims()


def shims(place: str) -> list[int]:
    """The process ids of the shims that work in folders below a place, without their guards and commands."""
    found = {pid: parent for pid, parent in _processes() if (locked := lock_of(pid)) and place in locked}
    return [pid for pid, parent in found.items() if parent not in found]


def lock_of(pid: int) -> str:
    """The lock's file that a shim holds open; "" of any other process."""
    with contextlib.suppress(OSError):
        if b"starter.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if (path := os.readlink(handle)).endswith("/lock"):
                        return path
    return ""


def _processes() -> Iterator[tuple[int, int]]:
    """Every process of the machine: its id and its parent's."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(path.name), int((path / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])


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
