"""The newest id, awaitable: a level, not an edge, so that no reader can miss it."""

import asyncio


class Head:
    """The id of the newest durable event.

    Whoever waits, waits for the level to pass its own cursor: there is no moment between looking and waiting in which
    an event could be missed.
    """

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._moved: asyncio.Future[None] | None = None

    @property
    def value(self) -> int:
        """The id of the newest event; 0 for an empty log."""
        return self._value

    def advance(self, value: int) -> None:
        """Move to `value`, if that is further, and wake everyone who waits."""
        if value <= self._value:
            return
        self._value = value
        moved, self._moved = self._moved, None
        if moved is not None and not moved.done():
            moved.set_result(None)

    async def wait_past(self, cursor: int) -> int:
        """Return the head as soon as it is greater than `cursor`."""
        while self._value <= cursor:
            if self._moved is None:
                self._moved = asyncio.get_running_loop().create_future()
            # Shielded: all waiters share one future, and one that is cancelled must not cancel it for the others.
            await asyncio.shield(self._moved)
        return self._value
