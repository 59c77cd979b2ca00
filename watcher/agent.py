"""AgentLoop: the life of one agent at this watcher: ask, carry out what was granted, report, ask again.

It is one sequence: before an ask comes whatever wake still has a folder (R21), after every report comes an ask (R18).
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import structlog

from eventlog import errors
from eventlog.event import fold
from watcher import runs
from watcher.crashpoint import reached
from watcher.folder import Broken, KeyFolder
from watcher.link import Link, either
from watcher.processes import boottime
from watcher.settings import AgentSettings
from watcher.spawn import Shims, apart
from watcher.state import State
from watcher.status import AgentStatus, Status, clock
from watcher.wake import Answer, Granted, asked, check_recorded, grant, read_answer, token_lasts_s

#: Answers to a report that end a wake's folder, besides 200. A proxy's 404 has none of these codes (R13).
ENDING_CODES: Final = frozenset({"unknown_wake", "already_finished", "superseded"})
#: What is told of an outcome, as far as the shim knows it.
TOLD: Final = ("exit_code", "duration_ms", "detail")
#: Without a stream an agent is asked for all the same, after this long: asking never ends for good (R20).
UNCONNECTED_ASK_S: Final = 10.0

_log = structlog.get_logger()


class AgentLoop:
    """One agent. `hint` says that something may be due for it; `stands` that the stream stands (again)."""

    def __init__(
        self,
        name: str,
        settings: AgentSettings | None,
        *,
        state: State,
        link: Link,
        status: Status,
        watcher: str,
        url: str,
        places: asyncio.Semaphore,
        shims: Shims,
    ) -> None:
        self.name = name
        self.settings = settings
        self._state = state
        self._link = link
        self._status = status
        self._watcher = watcher
        self._url = url
        self._places = places
        self._shims = shims
        self._hinted = asyncio.Event()
        self._stands = asyncio.Event()
        self._ended = asyncio.Event()
        self._closed = 0
        self._at = AgentStatus(waker=settings.waker if settings else "none: not in the configuration any more")
        self._at.runs = settings is not None and settings.deliver == "each"
        status.agents[name] = self._at
        self._log = _log.bind(agent=name)

    def hint(self) -> None:
        """A message came, or the like. During an ask it leads to another one (R19)."""
        self._hinted.set()

    def stands(self) -> None:
        """The stream stands: ask, and do not wait any longer where the bus did not answer."""
        self._stands.set()
        self.hint()

    async def run(self) -> None:
        """Carry out the wakes that an earlier watcher left, then ask, for good."""
        failures = 0
        while not await self._settled(failures):
            failures += 1
        if self.settings is None:
            del self._status.agents[self.name]
            return
        self._say("waiting", "for the stream", in_s=UNCONNECTED_ASK_S)
        again_in_s = UNCONNECTED_ASK_S
        failures = 0
        while True:
            await either(self._hinted, again_in_s)
            self._say("waiting", "for one of the places that max_wakes allows")
            async with self._places:
                self._hinted.clear()
                self._stands.clear()
                self._say("asking")
                try:
                    again_in_s = await self._ask(self.settings)
                    failures = 0
                    continue
                except (errors.EventlogError, OSError) as error:
                    failures += 1
                    delay_s = await self._failed("ask", error, failures)
            await either(self._stands, delay_s)
            self.hint()

    async def _settled(self, failures: int) -> bool:
        """Carry out what is left; False if the disk did not let us."""
        try:
            await self._settle()
        except OSError as error:
            await asyncio.sleep(await self._failed("wake", error, failures + 1))
            return False
        return True

    async def _settle(self) -> None:
        """Carry out every wake of this agent that has a folder. Raises OSError."""
        for folder in await asyncio.to_thread(self._state.folders, fold(self.name)):
            if folder.granted:
                await self._carry_out(folder)

    async def _free_key(self) -> KeyFolder:
        """The key to ask with, as soon as every wake that has a folder is carried out (R21). Raises OSError, Locked."""
        while True:
            granted, free = await asyncio.to_thread(self._state.keys, fold(self.name))
            if free is not None:
                return free
            for folder in granted:
                await self._carry_out(folder)

    async def _ask(self, settings: AgentSettings) -> float:
        """One ask, and all that a grant entails; in how many seconds to ask again.

        Raises EventlogError if the bus did not answer, OSError if its answer could not be stored.
        """
        folder = await self._free_key()
        reached("watcher.ask.sending")
        sent = boottime()
        limits = asked(settings, self._watcher, self._state.node)
        body = await self._in_time(self._link.bus.ask(folder.key, self.name, **limits))
        answer = read_answer(body, folder.key)
        reached("watcher.ask.answered")
        if answer.wake is None:
            return await self._nothing(folder, answer)
        latest_start = sent - answer.age_s + settings.start_within
        try:
            stored = await asyncio.to_thread(self._store, folder, answer.wake, settings, latest_start)
        except OSError as error:
            await self._give_back(folder, answer.wake, error)
            raise
        self._log.info("granted", wake=answer.wake.id, attempt=answer.wake.attempt, through=answer.wake.through)
        self._closed = 0
        self._ended.clear()
        ahead = asyncio.ensure_future(self._make_key_ahead())
        try:
            await self._carry_out(folder, stored)
        finally:
            self._ended.set()
            await ahead
        return 0.0

    async def _nothing(self, folder: KeyFolder, answer: Answer) -> float:
        self._say("waiting", answer.why, in_s=answer.again_in_s)
        self._log.debug("nothing due", why=answer.why, ask_again_in_s=answer.again_in_s)
        if answer.why != "closed":
            self._closed = 0
            return answer.again_in_s
        await asyncio.to_thread(folder.remove)
        self._closed += 1
        return 0.0 if self._closed == 1 else self._link.delay_s(self._closed)

    def _store(self, folder: KeyFolder, wake: Granted, settings: AgentSettings, latest_start: float) -> dict[str, Any]:
        """Make a wake ready for its shim; the grant. Blocks on the disk."""
        token_file = self._state.store_token(wake.id, wake.token, token_lasts_s(settings))
        run = runs.store(folder.path, wake, settings, self._url) if settings.deliver == "each" else None
        place = {"folder": folder.path, "token_file": token_file}
        stored = grant(wake, settings, latest_start=latest_start, url=self._url, run=run, **place)
        folder.store_grant(stored)
        return stored

    async def _give_back(self, folder: KeyFolder, wake: Granted, error: OSError) -> None:
        """A wake that no folder tells of is none: a full disk must not use up the message's attempts."""
        if folder.granted:  # it was only not flushed
            return
        outcome = {"outcome": "not_started", "detail": f"the watcher could not store the wake: {error.strerror}"}
        await self._report({"id": wake.id, "key": wake.key}, outcome)
        await asyncio.to_thread(folder.remove)

    async def _make_key_ahead(self) -> None:
        """Make the next key while the end of the command is reported: earlier, its flushes would hold up the shim's."""
        await self._ended.wait()
        try:
            await asyncio.to_thread(self._state.unused_key, fold(self.name))
        except (errors.Locked, OSError) as error:
            self._log.warning("no key could be made ahead; the next ask tries again", reason=str(error))

    async def _carry_out(self, folder: KeyFolder, stored: dict[str, Any] | None = None) -> None:
        """Start the shim until the granted folder has an outcome; report that; remove the folder.

        `stored` is the grant if it was stored just now; then no shim has seen it yet.
        """
        fresh = stored is not None
        try:
            if stored is None:
                stored = await asyncio.to_thread(folder.grant)
            wake = stored["wake"]
            message = (stored.get("run") or {}).get("message")
            self._at.wake = {"id": wake["id"], "attempt": wake["attempt"], "message": message, "since": clock()}
            self._say("running")
            outcome = await self._outcome(folder, fresh=fresh)
            self._ended.set()
            reached("watcher.outcome.seen")
            self._say("reporting", outcome["outcome"])
            await self._report(wake, outcome, message=message, **runs.reply(stored, outcome))
            reached("watcher.report.answered")
            await asyncio.to_thread(folder.remove)
        except Broken as error:
            await apart(folder.wait_unlocked)
            await self._set_aside(folder, error)
        finally:
            self._at.wake = None
            self._status.changed()

    async def _set_aside(self, folder: KeyFolder, error: Broken) -> None:
        """Put a broken folder away, unless it is gone itself. Raises OSError if it cannot be put away."""
        try:
            kept = await asyncio.to_thread(self._state.set_aside, folder)
        except FileNotFoundError:
            if await asyncio.to_thread(folder.path.exists):
                raise
            self._log.error("a wake's folder is gone; its lease must run out", reason=str(error))
        else:
            self._log.error("a wake's folder was set aside; its lease must run out", reason=str(error), at=str(kept))

    async def _outcome(self, folder: KeyFolder, *, fresh: bool) -> dict[str, Any]:
        """The outcome, which only a shim decides; one is started as often as needed (R3). Raises Broken."""
        failures = 0
        while True:
            outcome = None if fresh and not failures else await asyncio.to_thread(folder.outcome)
            if outcome is not None:
                return outcome
            if failures:
                await asyncio.sleep(self._link.delay_s(failures))
            try:
                exit_code = await self._shims.run(folder.path)
                if exit_code:
                    self._log.error("the shim failed; it is started again", exit_code=exit_code, at=str(folder.path))
                # It leaves at once where an earlier shim still works, one of an earlier watcher or starter.
                await apart(folder.wait_unlocked)
            except OSError as error:
                self._log.error("the shim cannot be started; trying again", reason=str(error))
            failures += 1

    async def _report(
        self, wake: dict[str, Any], outcome: dict[str, Any], *, message: int | None = None, **more: str
    ) -> None:
        """Tell the bus, until it has recorded the outcome or says that the wake is over.

        `message` is what a run was for; `more` is told along with the outcome.
        """
        ended, exit_code = outcome["outcome"], outcome.get("exit_code")
        told: dict[str, Any] = {name: outcome[name] for name in TOLD if outcome.get(name) not in (None, "")} | more
        last = {"wake": wake["id"], "message": message, "outcome": ended, "exit_code": exit_code, "at": clock()}
        self._at.last = {**last, "detail": outcome.get("detail") or ""}
        log = self._log.bind(wake=wake["id"], outcome=ended, exit_code=exit_code)
        failures = 0
        while True:
            self._stands.clear()
            try:
                body = await self._in_time(self._link.bus.report(wake["id"], wake["key"], ended, **told))
                check_recorded(body, wake["id"], ended)
                log.info("reported")
                return
            except errors.EventlogError as error:
                if error.code in ENDING_CODES:
                    log.warning("the bus does not take this report; the wake is over", code=error.code)
                    return
                if isinstance(error, (errors.BadRequest, errors.TooLarge)):
                    # What is needless must not keep the outcome from being told.
                    told = runs.lessened(told, error)
                failures += 1
                delay_s = await self._failed("report", error, failures)
            await either(self._stands, delay_s)

    async def _in_time(self, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """An answer, all of it within `[bus] timeout`: of one that trickles, the client bounds each piece alone.

        Raises Unreachable, and closes the connection, if it takes longer; the key makes asking again harmless.
        """
        timeout_s = self._link.bus.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            late = f"the bus at {self._url} gave no whole answer within {timeout_s:g} s"
            raise errors.Unreachable(late, sent=True) from error

    async def _failed(self, what: str, error: Exception, failures: int) -> float:
        """Note a failure; in how many seconds to try again."""
        reason = error.detail if isinstance(error, errors.EventlogError) else str(error)
        asked_s = None
        if isinstance(error, errors.EventlogError):
            await self._link.refused(error)
            asked_s = error.retry_after_s
        delay_s = self._link.delay_s(failures, asked_s)
        self._say("waiting", reason, in_s=delay_s)
        say = self._log.warning if failures == 1 else self._log.debug
        say(f"the {what} failed; trying again", reason=reason, in_s=round(delay_s, 1))
        return delay_s

    def _say(self, state: str, why: str = "", in_s: float | None = None) -> None:
        self._at.state, self._at.why = state, why
        self._at.next_ask = None if in_s is None else clock(in_s)
        self._status.changed()
