"""Bells: those who wait for events are rung when something comes that they are shown; a hint, never the data."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from eventlog.event import Event
from eventlog.window import Filter

#: From how long a turn of all who were rung it is followed by a rest, and how long that is at most, seconds.
REST_FROM_S, REST_MAX_S = 0.001, 0.05

_log = structlog.get_logger()


#: Does at once what a waiter would do for its ring; False if it takes the waiter, who then is rung.
Turn = Callable[[], bool]


class Bell:
    """One waiter's bell. It hangs for as long as its waiter lives, so that waiting once more costs next to nothing.

    `stand_in` has its waiter's turns while that waits: a call costs a fraction of what waking a task does.
    """

    __slots__ = ("_rung", "_waiter", "stand_in")

    def __init__(self, stand_in: Turn | None = None) -> None:
        self.stand_in = stand_in
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """End the wait; if there is none, the next one ends at once."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def turn(self) -> None:
        """Have the waiter's turn taken, or ring."""
        stand_in, waiter = self.stand_in, self._waiter
        if stand_in is not None and waiter is not None and not waiter.done():
            try:
                if stand_in():
                    return
            except Exception:
                _log.exception("a follower's turn failed; it takes its own")
        self.ring()

    async def wait(self) -> None:
        """Until it rings, or at once if it rang since the last wait."""
        if not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._rung = False


class Bells:
    """All bells of a log. Only those are rung whose filter shows something of what came.

    Where it takes all who were rung a while to have their turn, nobody is rung for as long again: appends get half of
    the time, and what they add goes out in one piece. Few followers, or few events, are never held up.
    """

    def __init__(self) -> None:
        #: What came since it was last rung for something.
        self._news: list[Event] = []
        self._began = 0.0
        self._resting = False
        #: By an agent for whose events they wait (None: for any agent's), then by filter: each is asked but once.
        self._hung: dict[str | None, dict[Filter, set[Bell]]] = {}

    @contextmanager
    def hung(self, wanted: Filter, stand_in: Turn | None = None) -> Iterator[Bell]:
        """A bell that rings, while the block lasts, for what `wanted` shows; or has `stand_in` take the turn."""
        bell = Bell(stand_in)
        places = tuple(wanted.agents) or (None,)
        for agent in places:
            self._hung.setdefault(agent, {}).setdefault(wanted, set()).add(bell)
        try:
            yield bell
        finally:
            for agent in places:
                here = self._hung[agent]
                here[wanted].discard(bell)
                if not here[wanted]:
                    del here[wanted]
                if not here:
                    del self._hung[agent]

    def heard(self, events: Sequence[Event]) -> None:
        """Ring for what has just come; during a rest, at its end, for all that came meanwhile."""
        if not self._hung:
            return
        self._news += events
        if not self._resting:
            self._ring()

    def _ring(self) -> None:
        by_agent: dict[str | None, list[Event]] = {None: self._news}
        for event in self._news:
            by_agent.setdefault(event.agent, []).append(event)
        self._news = []
        waiting: list[Bell] = []
        loop = asyncio.get_running_loop()
        # Who is rung runs between this and the end.
        loop.call_soon(self._begin)
        for agent, new in by_agent.items():
            for wanted, bells in self._hung.get(agent, {}).items():
                if any(wanted.shows(one.event, one.agent, one.sender) for one in new):
                    for bell in bells:
                        if bell.stand_in is None:
                            bell.ring()
                        else:
                            waiting.append(bell)
        loop.call_soon(self._turns, waiting)

    def _begin(self) -> None:
        # Not the loop's clock: uvloop's stands still within a turn.
        self._began = time.perf_counter()

    def _turns(self, waiting: Sequence[Bell]) -> None:
        # In the loop's next step: now the head has not moved yet.
        for bell in waiting:
            bell.turn()
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        took_s = time.perf_counter() - self._began
        if took_s >= REST_FROM_S and not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_later(min(took_s, REST_MAX_S), self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        if self._news:
            self._ring()

    def ring_all(self) -> None:
        """Ring for everyone: who is not meant looks, finds nothing, and waits again."""
        for here in self._hung.values():
            for bells in here.values():
                for bell in bells:
                    bell.ring()
