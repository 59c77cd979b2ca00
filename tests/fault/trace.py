"""System calls of a running process that fail or are counted, by strace: `with failing(...)`, `with counted(...)`."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import until

#: How long strace may take to let go of a process; when it is killed, the kernel lets go in its place.
LET_GO_S = 3

#: For tests that need it.
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@contextmanager
def failing(pid: int, call: str, error: str, *paths: Path, when: str = "1+") -> Iterator["Struck"]:
    """While the block lasts, `call` on one of the paths fails with `error`, in the process and all that come of it.

    `when` is strace's: `3` for the third such call of a thread, `1+` for all of them. Without paths all are meant.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "calls"
        with _traced(
            pid, paths, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}", record=record
        ):
            yield Struck(record)


class Struck:
    """The calls that failed so far."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def times(self, path: Path) -> int:
        """How many were on something in this folder, or on this file."""
        lines = self._record.read_text(errors="replace").splitlines()
        return sum(str(path) in line for line in lines if "(INJECTED)" in line)


@contextmanager
def counted(pid: int, call: str, record: Path, *paths: Path) -> Iterator[None]:
    """Each `call` on one of the paths while the block lasts is a line of `record`, complete when it ends."""
    with _traced(pid, paths, "-e", f"trace={call}", record=record):
        yield


@contextmanager
def _traced(pid: int, paths: tuple[Path, ...], *what: str, record: Path) -> Iterator[None]:
    on = [part for path in paths for part in ("-P", str(path))]
    tracer = _attached(pid, ["strace", "-f", "-y", "-qq", *on, *what, "-o", str(record)])
    try:
        yield
    finally:
        _let_go(tracer)


def _attached(pid: int, strace: list[str]) -> subprocess.Popen[bytes]:
    """An strace of the process and all that came of it so far, such as a watcher's starter and its next shim."""
    while True:
        family = (pid, *_children(pid))
        tracer = subprocess.Popen([*strace, *(f"--attach={one}" for one in family)])
        try:
            _wait_for(tracer, family)
            # What came of it while strace was on its way is followed by nobody: then once more, with that one named.
            if _follows(tracer, _children(pid)):
                return tracer
        except BaseException:
            _let_go(tracer)
            raise
        _let_go(tracer)


def _wait_for(tracer: subprocess.Popen[bytes], family: Iterable[int]) -> None:
    until(lambda: _follows(tracer, family))


def _follows(tracer: subprocess.Popen[bytes], family: Iterable[int]) -> bool:
    assert tracer.poll() is None, "strace could not attach itself"
    return all(_tracers(one) <= {tracer.pid} for one in family)


def _let_go(tracer: subprocess.Popen[bytes]) -> None:
    tracer.terminate()
    try:
        tracer.wait(LET_GO_S)
    except subprocess.TimeoutExpired:  # it now and then waits for ever for a thread that is just ending
        tracer.kill()
        tracer.wait()


def _children(pid: int) -> Iterator[int]:
    """The processes that come of this one."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return
    for child in map(int, children):
        yield child
        yield from _children(child)


def _tracers(pid: int) -> set[int]:
    """Who traces the threads of a process, none if it has ended; 0 stands for nobody."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "State:\tZ" not in text:  # what has ended is there until its parent asks, and cannot be traced
            found.add(int(text.partition("TracerPid:")[2].split()[0]))
    return found
