"""The stage for `make run` and `make demo`: a bus and a watcher with the agents mel and tony, as child processes."""

import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import call

EXAMPLES = Path(__file__).resolve().parent
AGENTS = ("mel", "tony")
PORT = 8091
#: How long a program may take to start or stop, seconds.
PATIENCE_S = 15.0


class Stage:
    """One bus and one watcher that keep all they have in `folder`; nothing outside it is written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data_dir = folder / "bus"
        self.config_home = folder / "config"
        self.record = folder / "starts.ndjson"
        self.admin_token = self.data_dir / "admin.token"
        self.url = ""
        self.bus: subprocess.Popen[str] | None = None
        self.watcher: subprocess.Popen[str] | None = None

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """One request to the bus as its administrator."""
        return call(method, path, body, key=key, url=self.url, token_file=str(self.admin_token))

    # ---- the bus ----------------------------------------------------------------------------------------------------

    def start_bus(self, port: int) -> None:
        """Start the bus; returns when it serves. It writes its address for clients into `config_home`."""
        self.bus = self._start("eventlog.cli", "serve", "--data-dir", str(self.data_dir), "--port", str(port))
        self.url = _address(self.bus, self.folder / "eventlog.cli.log")

    def kill_bus(self) -> None:
        """SIGKILL."""
        _end(self.bus, signal.SIGKILL)

    # ---- the watcher ------------------------------------------------------------------------------------------------

    def start_watcher(self) -> None:
        """Start the watcher with the token that was made for it on the first start."""
        token_file = self.folder / "watcher.token"
        if not token_file.exists():
            body = {"name": "stage", "kind": "watcher", "agents": list(AGENTS)}
            token = self.call("POST", "/api/tokens", body)["token"]
            with open(os.open(token_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(token)
        config = self.folder / "watcher.toml"
        config.write_text(watcher_config(self.url, token_file))
        self.watcher = self._start(
            "watcher.cli", "run", "--config", str(config), "--state-dir", str(self.folder / "watcher")
        )

    def kill_watcher(self) -> None:
        """SIGKILL to the watcher alone; the wakes that it started go on."""
        _end(self.watcher, signal.SIGKILL)

    # ---- both -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let wakes in flight end, if they are quick, then stop the watcher and the bus."""
        if _alive(self.bus) and _alive(self.watcher):
            waiting_until(lambda: not any(self.call("GET", f"/api/agents/{name}").get("wake") for name in AGENTS), 3)
        _end(self.watcher, signal.SIGTERM)
        _end(self.bus, signal.SIGTERM)

    def failed(self) -> str | None:
        """Which of the two has ended by itself, if one has."""
        for name, process in (("eventlog.cli", self.bus), ("watcher.cli", self.watcher)):
            if process is not None and not _alive(process):
                return f"{name} ended with exit code {process.returncode}; see {self.folder / name}.log"
        return None

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EVENTLOG_")}
        environ |= {"XDG_CONFIG_HOME": str(self.config_home), "AGENT_RECORD": str(self.record)}
        with open(self.folder / f"{module}.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if arguments[0] == "serve" else log,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for us: we stop the two in order
                preexec_fn=_end_with_parent,
            )


def watcher_config(url: str, token_file: Path) -> str:
    """The watcher's configuration: both agents are this checkout's example scripts."""
    lines = ['name = "stage"', "[bus]", f"url = {json.dumps(url)}", f"token_file = {json.dumps(str(token_file))}"]
    for name in AGENTS:
        command = json.dumps([sys.executable, str(EXAMPLES / f"{name}.py")])
        lines += [f"[agents.{name}]", 'waker = "command"', f"command = {command}"]
    return "\n".join(lines) + "\n"


def port_is_free(port: int) -> bool:
    """Whether a bus could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def waiting_until(reached: Callable[[], bool], timeout_s: float) -> bool:
    """Look again and again until it is so, or the time is over; whether it is."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block by KeyboardInterrupt, even where a shell started us with Ctrl-C ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _address(bus: subprocess.Popen[str], log: Path) -> str:
    """The address in the line that a bus prints when it is ready."""
    assert bus.stdout is not None
    line = bus.stdout.readline() if select.select([bus.stdout], [], [], PATIENCE_S)[0] else ""
    found = re.search(r"https?://[^\s,]+", line)
    if found is None:
        _end(bus, signal.SIGTERM)
        raise SystemExit(f"the bus did not start; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-5:]))
    return found[0].rstrip("/")


def _alive(process: subprocess.Popen[str] | None) -> bool:
    return process is not None and process.poll() is None


def _end(process: subprocess.Popen[str] | None, number: signal.Signals) -> None:
    if process is None:
        return
    process.send_signal(number)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _end_with_parent() -> None:
    """In the child: SIGTERM when this program dies, however it dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
