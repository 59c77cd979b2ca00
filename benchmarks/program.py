"""Programs under measurement: started in a session of their own, watched in /proc, ended with all that is in it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: How long a program may take to listen, or to end when asked to, seconds.
READY_S, END_S = 60.0, 10.0

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Program:
    """A running program. `log` gets all that it writes; `said`, if wanted, is its first line of output."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        listens: bool = False,
    ) -> None:
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env=clean_environment(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if listens else sink,
                stderr=sink,
                start_new_session=True,
            )
        self.said = ""
        if listens:
            assert self.process.stdout is not None
            self.said = self.process.stdout.readline().decode()

    @property
    def pid(self) -> int:
        """Its process id, which is also its session's."""
        return self.process.pid

    def wait_port(self, port: int) -> None:
        """Return once it takes connections. Raises RuntimeError, with what it last wrote, if it does not."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.process.args!r} does not listen: {self.log.read_text(errors='replace')[-500:]}")

    def stop(self) -> None:
        """End it, and whatever is left of its session."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        for pid in session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def cpu_s(self) -> float:
        """The processor time that its session has used so far, seconds."""
        return sum(_cpu_s(pid) for pid in session(self.pid))

    def rss_bytes(self) -> int:
        """The memory that its session holds."""
        return sum(_rss_bytes(pid) for pid in session(self.pid))

    def family_bytes(self) -> int:
        """The memory that it holds, and all processes that come of it, each page counted once for all of them."""
        return _rss_bytes(self.pid) + sum(_own_bytes(pid) for pid in descendants(self.pid))

    def family_cpu_s(self) -> float:
        """The processor time that it has used so far, and all processes that come of it, seconds."""
        return sum(_cpu_s(pid) for pid in (self.pid, *descendants(self.pid)))


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of the bus and the watcher, and with `extra`.

    An installation has its modules compiled, so Python may keep what it compiles here, too.
    """
    ours = ("EVENTLOG_", "BUS_WATCHER_", "WAKE_", "NOTIFY_SOCKET", "LISTEN_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(extra or {})


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdecimal() else []
        if fields and int(fields[3]) == leader:
            found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    """The processes that come of one, at whatever remove."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [one for child in children for one in (child, *descendants(child))]


def _stat(pid: int) -> list[str]:
    """What /proc says of a process, from its state on; empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) * _TICK_S if fields else 0.0


def _rss_bytes(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[21]) * _PAGE_BYTES if fields else 0


def _own_bytes(pid: int) -> int:
    """What a process that was started or forked by another adds to that one's memory: its share of what is not a file's
    page, as those are the same ones.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
