"""Crash points of watcher and shim: names for the moments between two durable steps, at which tests hold a process.

The shim loads this file, too: standard library only, and of that as little as can be.
"""

from __future__ import annotations

import os

# As in the shim: what only the type checker needs is not loaded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

#: Where the crash tests put what holds a process; unset, as in production, every point is passed at once.
_STOPS: Final = os.environ.get("EVENTLOG_STOP_AT")


def reached(point: str) -> None:
    """Hold this thread if a test has laid a FIFO of the point's name: its first comer waits until it is opened."""
    if _STOPS is None:
        return
    held = f"{_STOPS}/{point}.{os.getpid()}"
    try:
        os.rename(f"{_STOPS}/{point}", held)
    except FileNotFoundError:
        return
    os.close(os.open(held, os.O_RDONLY))
