"""Action: one thing that may happen next in the model, with the words of WAKES.md for it."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """WORK: a step of bus, network, watcher or shim that a fair run takes. HALF: the first half of one, so that a fault
    can come between. COMMAND: what a command does. INPUT: messages, acks, pauses. TIME: the clocks. FAULT: the rest."""

    WORK = "work"
    HALF = "half"
    COMMAND = "command"
    INPUT = "input"
    TIME = "time"
    FAULT = "fault"


class Action(NamedTuple):
    """`run` does it and says in a word what came of it."""

    label: str
    kind: Kind
    run: Callable[[], str | None]
