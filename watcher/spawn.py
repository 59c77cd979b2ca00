"""Starting shims and waiting for them, in ways that never end one when the watcher ends."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from watcher import shim

#: The watcher's own, which no command inherits; beside everything that begins with one of the prefixes.
WITHHELD: Final = frozenset(
    {"EVENTLOG_URL", "EVENTLOG_TOKEN", "EVENTLOG_TOKEN_FILE", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "MAINPID"}
)
WITHHELD_PREFIXES: Final = ("WAKE_", "LISTEN_", "WATCHDOG_", "BUS_WATCHER_")

#: Runs the shim as a module, of which Python keeps the compiled form; a script it would compile at every start.
_IMPORTED: Final = (
    "import sys; sys.path.append(sys.argv[1].rpartition('/')[0]); import shim; sys.exit(shim.main(sys.argv[2]))"
)

_T = TypeVar("_T")


async def run_shim(folder: Path) -> int:
    """Start a shim on a folder and wait for its end; its exit code. Raises OSError if it cannot be started.

    A shim outlives the watcher: cancelling the wait leaves it running.
    """
    pid = _start(folder)
    shim.reached("watcher.shim.started")
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    handle = os.pidfd_open(pid)
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - it has ended


def _start(folder: Path) -> int:
    # Not asyncio's subprocess: closing its transport, as a watcher that ends does, would kill the shim.
    arguments = [sys.executable, "-I", "-S", "-c", _IMPORTED, shim.__file__, str(folder)]
    devnull = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)]
    return os.posix_spawn(sys.executable, arguments, inheritable(os.environ), file_actions=devnull, setsid=True)


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
