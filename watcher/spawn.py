"""Starting shims and waiting for them, in ways that never end one when the watcher ends."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self, TypeVar

from watcher import starter
from watcher.crashpoint import reached

#: The watcher's own, which no command inherits; beside everything that begins with one of the prefixes.
WITHHELD: Final = frozenset(
    {"EVENTLOG_URL", "EVENTLOG_TOKEN", "EVENTLOG_TOKEN_FILE", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "MAINPID"}
)
WITHHELD_PREFIXES: Final = ("WAKE_", "LISTEN_", "WATCHDOG_", "BUS_WATCHER_")

#: Runs the starter as a module, of which Python keeps the compiled form; a script it would compile at every start.
_IMPORTED: Final = (
    "import sys; sys.path.append(sys.argv[1].rpartition('/watcher/')[0]); "
    "from watcher import starter; sys.exit(starter.main())"
)
#: When the starter is told again that has more to do than its socket holds, seconds: it takes a folder in less.
FULL_S: Final = 0.005
#: How long a starter may take to end once nothing is left for it to do.
END_S: Final = 1.0

_T = TypeVar("_T")


class Shims:
    """Starts shims through a process that has loaded them ahead (see watcher/starter.py): `with Shims() as shims`.

    That process is started again as soon as it is needed and not there; no shim ends with it.
    """

    def __init__(self) -> None:
        self._starter = 0
        self._socket: socket.socket | None = None
        self._waiting: dict[str, asyncio.Future[int | None]] = {}
        self._telling = asyncio.Lock()

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):  # who wants a shim hears of it
            self._prepare()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _prepare(self) -> None:
        """Have the starter there. Raises OSError if it cannot be started."""
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            self._starter = _start(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        asyncio.get_running_loop().add_reader(ours, self._heard)
        self._socket = ours

    async def run(self, folder: Path) -> int | None:
        """Start a shim on a folder and wait for its end; its exit code, None if nobody can tell it.

        Raises OSError if it cannot be started. A shim outlives the watcher: cancelling the wait leaves it running.
        """
        place = str(folder)
        ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        try:
            async with self._telling:  # many at once fill the socket: they wait for room, each in its turn
                await self._tell(place, ended)
            reached("watcher.shim.started")
            return await ended
        finally:
            self._waiting.pop(place, None)

    async def _tell(self, place: str, ended: "asyncio.Future[int | None]") -> None:
        again = True
        while True:
            self._prepare()
            assert self._socket is not None
            try:
                self._socket.send(os.fsencode(place))
            except BlockingIOError:
                await asyncio.sleep(FULL_S)
            except (BrokenPipeError, ConnectionResetError):  # it was killed, and nothing told us yet
                self._close()
                if not again:
                    raise
                again = False
            else:
                self._waiting[place] = ended
                return

    def _heard(self) -> None:
        """A shim has ended, or the starter."""
        assert self._socket is not None
        try:
            said = self._socket.recv(starter.MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except ConnectionResetError:
            said = b""
        if not said:
            self._close()
            return
        exit_code, _, folder = said.partition(b" ")
        ended = self._waiting.get(os.fsdecode(folder))
        if ended is not None and not ended.done():
            ended.set_result(int(exit_code))

    def _close(self) -> None:
        """Let the starter end; the shims go on, and nobody tells of their ends any more."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        _reap(self._starter)
        for ended in self._waiting.values():
            if not ended.done():
                ended.set_result(None)


def _start(theirs: socket.socket) -> int:
    # Not asyncio's subprocess: closing its transport, as a watcher that ends does, would kill the starter.
    arguments = [sys.executable, "-I", "-S", "-c", _IMPORTED, starter.__file__]
    streams = [
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), starter.WATCHER),
        *((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (1, 2)),
    ]
    return os.posix_spawn(sys.executable, arguments, inheritable(os.environ), file_actions=streams, setsid=True)


def _reap(pid: int) -> None:
    """Wait for the end of a starter that has nothing to do any more; one that hangs is ended."""
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if not poll.poll(END_S * 1000):
        os.kill(pid, signal.SIGKILL)
    os.close(handle)
    os.waitpid(pid, 0)


def inheritable(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment less the watcher's credentials and what belongs to its own process or wake."""
    return {
        name: value
        for name, value in environ.items()
        if name not in WITHHELD and not name.startswith(WITHHELD_PREFIXES)
    }


async def apart(function: Callable[[], _T]) -> _T:
    """Run what may block for as long as a wake lasts in a thread of its own, which holds up nobody's end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the watcher has ended meanwhile

    threading.Thread(target=work, daemon=True).start()
    return await done
