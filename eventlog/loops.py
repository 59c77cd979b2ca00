"""Detectors of loops between agents: the rate of a pair, and a ring that keeps its rhythm. Pure: memory and a clock.

Both see every message between agents once it is durable, and are asked before one is appended. What they know is of
the last minute, or of the last steps, and bounded; it begins anew with the process.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

#: How long a message counts for its pair, and how long after a message what its recipient sends is taken to come of
#: it, seconds.
WINDOW_S = 60.0
#: The most pairs of agents that are counted at once; the one that was quiet for longest is forgotten.
PAIRS_MAX = 10_000
#: The most agents whose newest message's path is kept; likewise.
PATHS_MAX = 2000
#: How many agents a ring has.
RING_MIN, RING_MAX = 3, 8
#: How far a ring's rounds may be from their median for one rhythm: this part of it, or so many seconds: what goes round
#: at machine speed is never late by more.
RHYTHM, RHYTHM_S = 0.25, 1.0


class Pairs:
    """Who answers whom how often: the messages between two agents in the last minute that may be answers for ever.

    Counted are messages that come from a cause's cause (hops from 2 up), and, apart from these, those without any cause
    (hops 0: agents that never say what they answer, and are not woken); of each kind twice the number in the quieter
    direction, so that bulk one way never counts. A request and its answer (hops 0, then 1) never do.
    """

    def __init__(self, most: int) -> None:
        """`most` messages a minute are let pass; 0 lets all."""
        self._most = most
        self._pairs: OrderedDict[tuple[str, str], _Pair] = OrderedDict()

    def saw(self, sender: str, recipient: str, messages: Iterable[tuple[int, int]], now: float) -> None:
        """Note messages of one way, with folded names: the hops and the thread of each."""
        counted = [one for one in messages if one[0] != 1] if self._most else []
        if not counted:
            return
        names = _ordered(sender, recipient)
        pair = self._pairs.get(names)
        if pair is None:
            pair = self._pairs[names] = _Pair(self._most)
            if len(self._pairs) > PAIRS_MAX:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end(names)
        pair.thread = counted[-1][1]
        uncaused, caused = pair.times[sender < recipient]
        for hops, _ in counted:
            (caused if hops else uncaused).append(now)

    def too_many(self, sender: str, recipient: str, hops: int, more: int, now: float) -> bool:
        """Whether `more` messages of these hops would be more than are let pass."""
        if not self._most or hops == 1 or not more:
            return False
        pair = self._pairs.get(_ordered(sender, recipient))
        if pair is None:
            return False
        there, back = pair.times[sender < recipient], pair.times[recipient < sender]
        if not back[0] and not back[1]:
            return False  # traffic one way, most of what there is, needs no more looking
        total = 0
        for caused in (False, True):
            forth = _recent(there[caused], now) + (more if caused == (hops > 0) else 0)
            total += 2 * min(forth, _recent(back[caused], now))
        return total > self._most

    def thread(self, sender: str, recipient: str) -> int | None:
        """The thread of the newest message between the two that counts."""
        pair = self._pairs.get(_ordered(sender, recipient))
        return None if pair is None else pair.thread

    def forget(self, agents: Sequence[str]) -> None:
        """Count anew between these agents."""
        for pair in [pair for pair in self._pairs if set(pair) <= set(agents)]:
            del self._pairs[pair]


class _Pair:
    """When the newest counted messages between two agents were: as many as decide."""

    def __init__(self, most: int) -> None:
        self.thread = 0
        #: By direction, whether from the first name to the second one: of those without a cause, and of the others.
        self.times = {
            forth: (deque[float](maxlen=most // 2 + 1), deque[float](maxlen=most // 2 + 1)) for forth in (False, True)
        }


def _recent(times: deque[float], now: float) -> int:
    """How many of these are of the last minute; the others are forgotten."""
    while times and times[0] <= now - WINDOW_S:
        times.popleft()
    return len(times)


class Step(msgspec.Struct, frozen=True, gc=False):
    """One message of a path: who sent it, in which thread, and when."""

    sender: str
    thread: int
    at: float


class Rings:
    """Who goes on after whom: the path that led to each agent's newest message, and whether it goes in a ring.

    A message is taken to come of the newest one that its sender received in the last minute; one from a person or from
    the bus begins a path anew.
    """

    def __init__(self, most: int) -> None:
        """`most` steps of a ring in one rhythm are let pass, one round of the largest at least; 0 lets all."""
        self._most = max(most, RING_MAX) if most else 0
        self._paths: OrderedDict[str, tuple[Step, ...]] = OrderedDict()

    def saw(self, sender: str, recipient: str, thread: int, now: float) -> None:
        """Note a message, with folded names."""
        if not self._most:
            return
        self._paths[recipient] = (*self._path(sender, now)[1 - self._most :], Step(sender, thread, now))
        self._paths.move_to_end(recipient)
        if len(self._paths) > PATHS_MAX:
            self._paths.popitem(last=False)

    def began(self, recipient: str) -> None:
        """Note a message of a person or of the bus: what the recipient does next comes of that."""
        self._paths.pop(recipient, None)

    def ring(self, sender: str, recipient: str, now: float) -> tuple[tuple[str, ...], int] | None:
        """The agents of the ring, in order, that this message would take on for longer than is let pass, and the thread
        of the message that it comes of; None if it goes in none."""
        path = self._path(sender, now)
        if not path or len(path) < self._most:
            return None
        for size in range(RING_MIN, RING_MAX + 1):
            if path[-size].sender == sender and path[1 - size].sender == recipient:
                steps = (*path, Step(sender, 0, now))
                if _rings(steps, size):
                    return tuple(step.sender for step in steps[-size:]), path[-1].thread
        return None

    def forget(self, agents: Sequence[str]) -> None:
        """Count anew for these agents."""
        for name in agents:
            self._paths.pop(name, None)

    def _path(self, sender: str, now: float) -> tuple[Step, ...]:
        """What led to the sender's next message, oldest first."""
        path = self._paths.get(sender, ())
        return path if path and path[-1].at > now - WINDOW_S else ()


def _rings(steps: Sequence[Step], size: int) -> bool:
    """Whether these steps go round and round between `size` agents, in rounds of about one length."""
    if len({step.sender for step in steps[-size:]}) < size:
        return False
    if any(steps[i].sender != steps[i - size].sender for i in range(size, len(steps))):
        return False
    rounds = [steps[i].at - steps[i - size].at for i in range(len(steps) - 1, size - 1, -size)]
    usual = median(rounds)
    return all(abs(length - usual) <= max(RHYTHM * usual, RHYTHM_S) for length in rounds)


def _ordered(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
