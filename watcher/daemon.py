"""The daemon: one task group that follows the bus, runs each agent's loop and keeps the state folder."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Final

import structlog

from eventlog import errors, systemd
from eventlog.client import Stream
from eventlog.event import fold
from eventlog.sse import Frame
from watcher.agent import UNCONNECTED_ASK_S, AgentLoop
from watcher.config import Config
from watcher.link import Link
from watcher.spawn import Shims
from watcher.state import Cursor, State
from watcher.status import Status

#: What is followed: messages, and that an agent is woken again.
EVENTS: Final = ("message", "agent.resumed")
#: Between two looks for wakes' tokens that have ended.
TOKEN_SWEEP_S: Final = 3600.0

_log = structlog.get_logger()


async def run(config: Config, state_dir: Path) -> None:
    """Watch until SIGTERM or SIGINT; wakes that run are left running.

    Raises Locked if a watcher runs on this state folder already, ConfigError if folder or token cannot be used.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with State(state_dir) as state:
        async with Link(config) as link:
            recovered = state.recover()
            for said in recovered.said:
                _log.warning(said)
            state.sweep_tokens()
            try:
                await Watcher(config, state, link).run(recovered.agents)
            except asyncio.CancelledError:
                _log.info("stopping; wakes that run go on")
            finally:
                systemd.notify("STOPPING=1")


class Watcher:
    """The tasks of one watcher and what they share."""

    def __init__(self, config: Config, state: State, link: Link) -> None:
        self._config = config
        self._state = state
        self._link = link
        self._cursor = state.read_cursor()
        self._standing = False
        self.status = Status(watcher=config.name, node=state.node, url=config.bus.url)
        self._places = asyncio.Semaphore(config.limits.max_wakes)
        self._shims = Shims()
        self._loops = {fold(name): self._loop(name) for name in config.agents}

    def _loop(self, name: str) -> AgentLoop:
        return AgentLoop(
            name,
            self._config.agents.get(name),
            state=self._state,
            link=self._link,
            status=self.status,
            watcher=self._config.name,
            url=self._config.bus.url,
            places=self._places,
            shims=self._shims,
        )

    async def run(self, left: set[str]) -> None:
        """Run all tasks; the first one that fails ends the others, and the program: systemd starts it anew."""
        leaving = [self._loop(agent) for agent in sorted(left - set(self._loops))]
        with self._shims:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.status.keep(self._state))
                for one in [*self._loops.values(), *leaving]:
                    group.create_task(one.run())
                group.create_task(self._follow())
                group.create_task(self._ask_without_stream())
                group.create_task(self._sweep_tokens())
                group.create_task(_watchdog())
                systemd.notify("READY=1")
                _log.info(
                    "watching",
                    watcher=self._config.name,
                    node=self._state.node,
                    bus=self._config.bus.url,
                    agents=list(self._config.agents),
                    wakes_left_of=sorted(left),
                )

    async def _follow(self) -> None:
        """Hold a stream to the bus, for good."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            reason = "the bus ended the stream"
            asked_s: float | None = None
            began: float | None = loop.time()
            try:
                async with self._opened() as stream:
                    began = None
                    async for frame in stream:
                        failures = 0
                        self._take(stream, frame)
            except errors.EventlogError as error:
                reason, asked_s = error.detail, error.retry_after_s
                await self._link.refused(error)
                if isinstance(error, errors.BadRequest):
                    self._cursor = None
            self._standing = False
            failures += 1
            # Where a link is dead, a try takes seconds: what it sent again meanwhile is a second apart at most.
            tried_s = 0.0 if began is None else loop.time() - began
            delay_s = self._link.delay_s(failures, asked_s, tried_s=tried_s)
            self.status.connected("connecting", reason)
            say = _log.warning if failures == 1 else _log.debug
            say("no stream; trying again", reason=reason, in_s=round(delay_s, 1))
            await asyncio.sleep(delay_s)

    def _opened(self) -> "contextlib.AbstractAsyncContextManager[Stream]":
        cursor = self._cursor
        return self._link.bus.follow_once(
            last_event_id=cursor.cursor if cursor else None,
            log=cursor.log if cursor else None,
            agents=list(self._config.agents),
            events=EVENTS,
            heartbeat_s=self._config.bus.heartbeat,
            watcher=self._config.name,
            node=self._state.node,
        )

    def _take(self, stream: Stream, frame: Frame) -> None:
        """One frame. The stream stands once it has reached the head of its start: then all are asked for (R17)."""
        stood = self._standing
        if not stood:
            self.status.head = stream.head
            self.status.connected("replaying")
        if frame.data is not None and frame.kind == "reset":
            _log.warning("the bus has another log, or another cursor for us; going on from there", cursor=frame.cursor)
        if frame.cursor is not None:
            self._cursor = Cursor(stream.log_id, frame.cursor)
            self.status.moved(self._cursor)
            if not stood and frame.cursor >= stream.head:
                self._stand()
        if stood and frame.data is not None:
            self._hint(frame)

    def _stand(self) -> None:
        self._standing = True
        self.status.connected("connected")
        systemd.notify("STATUS=connected")
        _log.info("connected")
        for one in self._loops.values():
            one.stands()

    def _hint(self, frame: Frame) -> None:
        """Something happened: the agent that it is about may be due."""
        try:
            fields = frame.fields()
        except ValueError:
            return
        agent = fields.get("to_agent") or fields.get("agent")
        one = self._loops.get(fold(agent)) if isinstance(agent, str) else None
        if one is not None:
            one.hint()

    async def _ask_without_stream(self) -> None:
        """While no stream stands, as where a proxy holds it back, nothing hints at messages: ask all the same (R20)."""
        while True:
            await asyncio.sleep(UNCONNECTED_ASK_S)
            if not self._standing:
                for one in self._loops.values():
                    one.hint()

    async def _sweep_tokens(self) -> None:
        while True:
            await asyncio.sleep(TOKEN_SWEEP_S)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._state.sweep_tokens)


async def _watchdog() -> None:
    """Tell systemd that the loop turns, twice as often as it wants to hear it."""
    interval_s = systemd.watchdog_s()
    while interval_s is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval_s / 2)
