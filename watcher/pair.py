"""Pair: the process that becomes a wake's command, and its guard, which ends the command's group when the shim dies.

Both are forked by the shim, before it knows of a wake if there is time for it, and wait at a pipe from it until they
are told what they are for. When the shim dies before, both end at once, and nothing was begun.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal

from watcher.crashpoint import reached
from watcher.processes import Marks, began_at, boottime, end_left

# As in the shim: what only the type checker needs is not loaded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

#: How often the clock is looked at: a timer does not run while a machine is suspended, CLOCK_BOOTTIME does.
TICK_S: Final = 1.0
#: What the guard hears once it knows its wake: that the command begins now, and that the wake is over.
BEGUN: Final = b"b"
OVER: Final = b"\n"


class Pair:
    """The two processes, forked. Raises OSError if they cannot be; of the handles `held` they keep none.

    `pid` is the command's, the leader of a group of its own, and `began` its start in clock ticks; `out` and `err` are
    the other ends of its output, and what comes of `failed` is why it could not become the command.
    """

    def __init__(self, *held: int) -> None:
        self._request = os.memfd_create("request")
        wait, self._go = os.pipe()
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.failed, failed = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for handle in (*held, self._go, self.out, self.err, self.failed):
                os.close(handle)
            become_command(wait, (self._request, out, err), failed)
        for handle in (wait, out, err, failed):
            os.close(handle)
        os.setpgid(self.pid, self.pid)
        self.began = began_at(self.pid)
        watch, self._alive = os.pipe()
        try:
            self._guard = os.fork()
        except OSError:
            os.close(self._go)
            os.waitpid(self.pid, 0)
            raise
        if self._guard == 0:
            guard(watch)
        os.close(watch)

    def tell(self, request: bytes, plan: dict[str, Any], marks: tuple[int, int, int, str], latest_end: float) -> bool:
        """Tell the command what it is to become, and the guard what to end, and when; False if one has been killed.

        The command does not begin before `let_go`. Raises OSError if the request cannot be handed over.
        """
        os.write(self._request, request)
        os.lseek(self._request, 0, os.SEEK_SET)
        if not tell(self._go, plan):
            return False
        reached("shim.command.told")
        if not tell(self._alive, {"marks": marks, "latest_end": latest_end}):
            return False
        reached("shim.guard.told")
        return True

    def let_go(self) -> bool:
        """Let the command begin, `started` being durable; False if it or its guard does not live any more."""
        try:
            os.write(self._alive, BEGUN)
            os.write(self._go, b"g")
        except BrokenPipeError:
            return False
        for handle in (self._go, self._request):
            os.close(handle)
        return True

    def give_up(self) -> None:
        """Let the command end that has not begun, and the guard, and wait for both."""
        for handle in (self._go, self._request, self.out, self.err, self.failed):
            os.close(handle)
        os.waitpid(self.pid, 0)
        self.release_guard()

    def release_guard(self) -> None:
        """Tell the guard that the wake is over, so that it leaves alone what the command left running."""
        try:  # noqa: SIM105 - contextlib costs a shim's start a twentieth
            os.write(self._alive, OVER)
        except BrokenPipeError:
            pass  # it was killed, or has acted: this process was stopped for too long
        os.waitpid(self._guard, 0)


def tell(handle: int, value: object) -> bool:
    """Tell a process that waits at `told`; False if it does not live any more."""
    said = json.dumps(value).encode() + b"\n"
    try:
        while said:
            said = said[os.write(handle, said) :]
    except BrokenPipeError:
        return False
    return True


def told(handle: int) -> tuple[Any, bytes]:
    """What this process is told, and what has come after that; it ends if the shim does before, or tells it nothing."""
    said = b""
    while b"\n" not in said:
        more = os.read(handle, 65_536)
        if not more:
            os._exit(0)
        said += more
    value, _, rest = said.partition(b"\n")
    if not value:
        os._exit(0)
    return json.loads(value), rest


def become_command(wait: int, streams: tuple[int, int, int], failed: int) -> NoReturn:
    """In the forked process: wait until there is a wake and its start is stored, then become its command."""
    argv, cwd = [""], ""
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for target, handle in enumerate(streams):
            os.dup2(handle, target)
        plan, go = told(wait)
        argv, cwd = plan["argv"], plan["cwd"]
        environ = {**os.environ, **plan["env"]}
        if (go or os.read(wait, 1)) != b"g":
            os._exit(0)  # the shim died, or decided otherwise
        reached("shim.command.starting")
        os.chdir(cwd)
        os.execvpe(argv[0], argv, environ)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        where = cwd if error.filename == cwd else argv[0]
        os.write(failed, f"cannot run {where}: {error.strerror}".encode()[:2048])
        os._exit(127 if missing else 126)
    finally:
        os._exit(126)


def guard(watch: int) -> NoReturn:
    """In the guard's process: end the command's group when the shim dies, or is far beyond the wake's end.

    A shim that dies before its command began has nothing to be ended; and another may have begun the wake by now, whose
    command has the same marks.
    """
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.closerange(3, watch)
    os.closerange(watch + 1, os.sysconf("SC_OPEN_MAX"))
    what, heard = told(watch)
    while OVER not in heard and boottime() < what["latest_end"]:
        if select.select([watch], [], [], TICK_S)[0]:
            more = os.read(watch, 2)
            if not more:
                break
            heard += more
    if heard == BEGUN:
        end_left(Marks(*what["marks"]))
    os._exit(0)
