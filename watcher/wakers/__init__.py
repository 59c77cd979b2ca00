"""Wakers: what a wake does to get an agent to look at its inbox.

The `command` waker runs a program of the person's own. Every other waker is a Python callable

    def wake(request: dict[str, Any], settings: dict[str, Any]) -> None        # or async def

which is called in a process of its own, under the shim, so that a wake of any kind has the same time limit and the same
protection from a restart. `request` is what a command gets on standard input: `{"wake", "messages", "truncated"}`; of a
run, which is for one message, the message's own fields, too, and `prompt`, the text for the agent. What a waker prints
is the run's reply, if the setting `reply` says so. `settings` are the agent's settings by their names in the
configuration, and `key`, the wake's key, which stays the same however often the wake is looked at. The wake's token is
in the file that EVENTLOG_TOKEN_FILE names. It returns when the agent's turn is over, or was accepted; raises
`NotStarted` if no turn began (the way in is broken, not the message: nothing is counted against the message); any other
exception says that the wake failed.

Other wakers are found in the entry point group `bus_watcher.wakers`; the entry's name is the value of `waker`.
"""

import os
import sys
from collections.abc import Awaitable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from watcher.settings import BUILT_IN_WAKERS, AgentSettings
from watcher.wakers import command

#: The entry point group of wakers that are not part of this program.
ENTRY_POINTS: Final = "bus_watcher.wakers"
#: Tells a waker's process where the grant with its settings is.
GRANT_FILE: Final = "WAKE_GRANT_FILE"


class NotStarted(Exception):
    """No turn of the agent began: nothing reached it, or it refused for a reason that is not the message's."""


class Waker(Protocol):
    """The callable that a waker is."""

    def __call__(self, request: dict[str, Any], settings: dict[str, Any]) -> Awaitable[None] | None:
        """Wake the agent; see the module's description."""


def argv(settings: AgentSettings) -> list[str]:
    """The program that the shim runs to wake this agent, and its arguments."""
    if settings.waker == "command":
        return command.argv(settings.command)
    return [sys.executable, "-m", "watcher.wakers", settings.waker]


def environment(settings: AgentSettings, grant_file: Path) -> Mapping[str, str]:
    """What the program needs in its environment besides what every wake has."""
    if settings.waker == "command":
        return settings.env
    # The process must find this package also where it runs from a checkout, and the waker wherever the watcher does.
    found = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": found, **settings.env, GRANT_FILE: str(grant_file)}


def load(name: str) -> Waker:
    """The waker of this name. Raises NotStarted if it is not installed."""
    if name in BUILT_IN_WAKERS:
        found: Waker = import_module(f"watcher.wakers.{name.replace('-', '_')}").wake
        return found
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS, name=name):
        loaded: Waker = point.load()
        return loaded
    raise NotStarted(f"the waker {name!r} is not installed for {sys.executable}")
