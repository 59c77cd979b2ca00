"""Link: the watcher's client of the bus, which survives a renewed token, and how long it waits after failures."""

import asyncio
import random
from typing import Self

import structlog

from eventlog import errors
from eventlog.client import Bus
from watcher.config import Config

#: The longest that a watcher stays away because it was asked to, seconds.
ASKED_S_MAX = 10.0

_log = structlog.get_logger()


class Link:
    """One bus, one token: `async with Link(config) as link`. Raises ConfigError if the token cannot be read."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._token = config.token()
        self._wrong = ""
        self.bus = self._made(self._token)

    def _made(self, token: str | None) -> Bus:
        return Bus(self._config.bus.url, token, timeout_s=self._config.bus.timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.aclose()

    async def refused(self, error: errors.EventlogError) -> None:
        """After a refusal: if the token's file holds another token by now, that one is used from here on.

        What is no token, as of a file that is being written, is told of once, and the old one used meanwhile.
        """
        if not isinstance(error, errors.Unauthorized):
            return
        try:
            token = self._config.token()
            bus = self._made(token)
        except errors.ConfigError as wrong:
            if wrong.detail != self._wrong:
                _log.warning("the token is refused, and there is no good one in its place", reason=wrong.detail)
            self._wrong = wrong.detail
            return
        self._wrong = ""
        if token != self._token:
            _log.info("the token was renewed")
            self._token, self.bus, old = token, bus, self.bus
            await old.aclose()

    def delay_s(self, failures: int, asked_s: float | None = None, *, tried_s: float = 0.0) -> float:
        """How long to wait after so many failures in a row (from 1): doubling, bounded, with jitter.

        A try that took `tried_s` to fail was a wait itself: it counts, but some wait remains.
        If the bus, or a proxy before it, asked to wait for `asked_s`, then so long, within reason.
        """
        bounds = self._config.bus
        bound_s = min(bounds.reconnect_max, bounds.reconnect_min * 2.0 ** min(failures - 1, 20))
        own_s = random.uniform(0.5, 1.0) * max(bound_s - tried_s, bound_s / 4)
        return max(own_s, min(asked_s or 0.0, ASKED_S_MAX))


async def either(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until the event is set, but no longer than this; whether it was."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
