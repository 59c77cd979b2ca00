"""Starter: the process that starts shims; it has loaded the shim before there is a wake, and forks the next one ahead.

The watcher starts it with `python -I -S` (standard library only; see watcher/spawn.py), and speaks with it through its
standard input, a socket that keeps messages apart: in comes the path of a folder; out goes, when the shim of that one
has ended, its exit code, a space and the path. When the socket is closed the watcher has ended, and so does this
process; the shims go on. They inherit nothing of it: each has a session and streams of its own.
"""

from __future__ import annotations

import gc
import os
import select

from watcher import shim
from watcher.pair import Pair

# As in the shim: what only the type checker needs is not loaded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

#: Standard input.
WATCHER: Final = 0
#: More than the longest path.
MESSAGE_BYTES_MAX: Final = 8192
EXIT_BROKEN: Final = 1
#: How long nothing must have come before the next shim is forked, milliseconds: the one that has just begun, its
#: command and the watcher need both of a small machine's cores.
REST_MS: Final = 50


def main() -> int:
    """Start a shim for each folder that the watcher names, until it ends; 0."""
    # Nor of who started the watcher: a lock that was left open around it would stay held by shims and commands.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    # What is loaded here is shared with the shims for good: nothing of it is written to, not even to count it.
    gc.freeze()
    poll = select.poll()
    poll.register(WATCHER, select.POLLIN)
    running: dict[int, tuple[int, bytes]] = {}
    ahead: Ahead | None = Ahead(running)
    while True:
        ready = poll.poll(None if ahead else REST_MS)
        if not ready:
            ahead = Ahead(running)
        for handle, _ in ready:
            if handle == WATCHER:
                folder = heard()
                if not folder:
                    return 0
                pid = begun(folder, ahead, running)
                ahead = None
                ended = os.pidfd_open(pid)
                running[ended] = pid, folder
                poll.register(ended, select.POLLIN)
            else:
                poll.unregister(handle)
                os.close(handle)
                pid, folder = running.pop(handle)
                tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), folder)


def begun(folder: bytes, ahead: Ahead | None, others: dict[int, tuple[int, bytes]]) -> int:
    """Let a shim begin on this folder: the one ahead, or another if there is none or it was killed; its process id."""
    if ahead is not None:
        if ahead.begun(folder):
            return ahead.pid
        os.waitpid(ahead.pid, 0)
    ahead = Ahead(others)
    ahead.begun(folder)
    return ahead.pid


def heard() -> bytes:
    """The path of a folder; b"" if the watcher has ended."""
    try:
        return os.read(WATCHER, MESSAGE_BYTES_MAX)
    except ConnectionResetError:
        return b""


def tell(exit_code: int, folder: bytes) -> None:
    """Tell the watcher how a shim ended; if it has ended itself, its successor finds the outcome."""
    try:  # noqa: SIM105 - contextlib costs as much as all of the shim
        os.write(WATCHER, b"%d %b" % (exit_code, folder))
    except (BrokenPipeError, ConnectionResetError):
        pass


class Ahead:
    """The next shim: forked before there is a folder for it, because a fork and its first steps take time, too."""

    def __init__(self, others: dict[int, tuple[int, bytes]]) -> None:
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            become_shim(wait, (self._go, *others))
        os.close(wait)

    def begun(self, folder: bytes) -> bool:
        """Let it begin on this folder; False if it does not live any more."""
        try:
            os.write(self._go, folder)
        except BrokenPipeError:
            return False
        finally:
            os.close(self._go)
        return True


def forked_ahead(wait: int) -> Pair | None:
    """The processes of the next wake's command; None if they cannot be forked now."""
    try:
        return Pair(wait)
    except OSError:
        return None


def become_shim(wait: int, others: tuple[int, ...]) -> NoReturn:
    """In the forked process: let go of what the starter holds, wait for the folder, and be its shim."""
    exit_code = EXIT_BROKEN
    try:
        os.setsid()
        nothing = os.open("/dev/null", os.O_RDWR)
        os.dup2(nothing, WATCHER)
        for handle in (nothing, *others):
            os.close(handle)
        os.chdir("/")
        pair = forked_ahead(wait)
        if not select.select([wait], [], [], 0)[0]:
            shim.rehearse()
        folder = os.read(wait, MESSAGE_BYTES_MAX)
        os.close(wait)
        exit_code = shim.main(os.fsdecode(folder), pair) if folder else 0
    finally:
        os._exit(exit_code)
