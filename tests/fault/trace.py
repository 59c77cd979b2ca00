"""System calls of a running process that fail or are counted, by strace: `with failing(...)`, `with counted(...)`."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import until

#: For tests that need it.
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@contextmanager
def failing(pid: int, call: str, error: str, *paths: Path, when: str = "1+") -> Iterator[None]:
    """While the block lasts, `call` on one of the paths fails with `error`, in the process and those that it forks.

    `when` is strace's: `3` for the third such call of a thread, `1+` for all of them.
    """
    with _traced(pid, paths, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"):
        yield


@contextmanager
def counted(pid: int, call: str, record: Path, *paths: Path) -> Iterator[None]:
    """Each `call` on one of the paths while the block lasts is a line of `record`, complete when it ends."""
    with _traced(pid, paths, "-e", f"trace={call}", record=record):
        yield


@contextmanager
def _traced(pid: int, paths: tuple[Path, ...], *what: str, record: Path = Path("/dev/null")) -> Iterator[None]:
    on = [part for path in paths for part in ("-P", str(path))]
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-p", str(pid), *on, *what, "-o", str(record)])
    try:
        until(lambda: _tracers(pid) == {tracer.pid} or tracer.poll() is not None)
        assert tracer.poll() is None, "strace could not attach itself"
        yield
    finally:
        tracer.terminate()  # it lets go of the process
        tracer.wait(30)


def _tracers(pid: int) -> set[int]:
    """Who traces the threads of a process; 0 stands for nobody."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        text = status.read_text()
        found.add(int(text.partition("TracerPid:")[2].split()[0]))
    return found
