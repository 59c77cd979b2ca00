"""Bus: the Python client that the command line, the watcher and agent authors use; everything over HTTP."""

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import msgspec

from eventlog import errors
from eventlog.client_admin import Administration, body_of, segment
from eventlog.discovery import discover
from eventlog.sse import RETRY_MS, Frame
from eventlog.wire import Answer, Stream

__all__ = ["Answer", "Bus", "Stream", "backoff_s"]

#: The longest wait between two attempts to reach the bus: so soon is a bus used that is back. (`retry:` asks for longer
#: ones, of browsers, which never lengthen them and know no jitter.)
BACKOFF_S_MAX = 0.8
#: The longest that a follower stays away because it was asked to.
ASKED_S_MAX = 30.0
#: The first wait between two attempts to send.
SEND_BACKOFF_S = 0.25
#: One request of a long wait: short enough to pass what cuts silent connections, and to notice a bus that is gone.
WAIT_ONCE_S = 25.0
#: How long `send` goes on trying, by default.
GIVE_UP_S = 60.0


def backoff_s(failures: int, base_s: float = RETRY_MS / 1000, *, tried_s: float = 0.0) -> float:
    """How long to wait after so many failures in a row (from 1): doubling, with jitter, lest all return as one.

    A try that took `tried_s` to fail was a wait itself: it counts, but some wait remains.
    """
    import random  # which most calls do without

    bound_s = min(BACKOFF_S_MAX, base_s * 2.0 ** min(failures - 1, 10))
    return random.uniform(0.5, 1.0) * max(bound_s - tried_s, bound_s / 4)


class Bus(Administration):
    """A client of one bus: `async with Bus(url, token) as bus: ...`, or `Bus.discover()`.

    Methods return decoded JSON in the shapes of the HTTP reference. They raise the error of `eventlog.errors` that the
    answer's `code` stands for; no answer, or one that is not the bus's, is `Unreachable`.
    """

    @classmethod
    def discover(
        cls, url: str | None = None, token_file: Path | None = None, *, timeout_s: float = 10.0, blocking: bool = False
    ) -> Self:
        """The bus that the environment or the client's configuration file names; `ConfigError` says what to set."""
        address = discover(url, token_file)
        return cls(address.url, address.token, timeout_s=timeout_s, blocking=blocking)

    async def follow(
        self,
        *,
        after: int | str | None = None,
        agents: Sequence[str] = (),
        events: Sequence[str] = (),
        heartbeat_s: float = 5,
        log: str | None = None,
        id_only: bool = False,
        trying_again: Callable[[errors.EventlogError], None] | None = None,
    ) -> AsyncGenerator[Frame, None]:
        """Every event after the cursor, each once and in order, for as long as it is iterated: it reconnects by itself.

        A `reset` is yielded like an event: the log is another one, or the cursor was not of it, and ids begin anew from
        the frame's. With `id_only`, frames that only move the cursor are yielded too (their `data` is None).
        `trying_again` is called with the first of several failures in a row to get a stream.
        Raises what no reconnect mends: a wrong token, a forbidden agent, a bad argument.
        """
        cursor: int | None = None
        failures, told = 0, False
        while True:
            retry_s, asked_s = RETRY_MS / 1000, 0.0
            began: float | None = time.monotonic()
            try:
                async with self.follow_once(
                    after=after, last_event_id=cursor, agents=agents, events=events, heartbeat_s=heartbeat_s, log=log
                ) as stream:
                    began, told = None, False
                    async for frame in stream:
                        failures, retry_s, before = 0, stream.retry_s, cursor
                        # The opening frame of another log comes before the reset that tells of it: cut off between the
                        # two, we must come back with the old cursor, or the reset would never be told.
                        if frame.cursor is not None and (frame.data is not None or log in (None, stream.log_id)):
                            cursor, log = frame.cursor, stream.log_id
                        if frame.data is not None or (id_only and cursor != before):
                            yield frame
            except (errors.Unavailable, errors.TooManyRequests) as exc:
                asked_s = min(exc.retry_after_s or 0.0, ASKED_S_MAX)
                if began is not None and not told and trying_again is not None:
                    told = True
                    trying_again(exc)
            failures += 1
            tried_s = 0.0 if began is None else time.monotonic() - began
            await self.net.sleep(max(backoff_s(failures, retry_s, tried_s=tried_s), asked_s))

    # ---- messages ---------------------------------------------------------------------------------------------------

    async def send(
        self,
        to_agent: str | Sequence[str],
        payload: Any = None,
        *,
        type: str | None = None,  # noqa: A002 - the contract's word
        from_agent: str | None = None,
        reply_to: int | None = None,
        thread_id: int | None = None,
        expires: str | None = None,
        expires_in: float | None = None,
        deadline: str | None = None,
        deadline_in: float | None = None,
        awaits: str | None = None,
        key: str | None = None,
        give_up_s: float = GIVE_UP_S,
        trying_again: Callable[[errors.EventlogError], None] | None = None,
    ) -> Any:
        """Sends a message to one agent, several, or "*"; tries for `give_up_s` seconds with one key until accepted.

        Times are RFC 3339, `..._in` seconds from now; `awaits` is `read` or `replied`, by the deadline.
        `trying_again` is called once, with the first failure that does not end it.
        Returns `{"id", "hash", "thread_id", "status", "known", "watched"}`, a list of these for several recipients.
        Raises `NotAccepted` if no attempt can have been accepted, `OutcomeUnknown` (its detail names the key) if one
        may have been, and at once what no other attempt would mend.
        """
        message = {
            "to_agent": to_agent if isinstance(to_agent, str) else list(to_agent),
            "payload": payload,
            "type": type,
            "from_agent": from_agent,
            "reply_to": reply_to,
            "thread_id": thread_id,
            "expires": expires,
            "expires_in": expires_in,
            "deadline": deadline,
            "deadline_in": deadline_in,
            "awaits": awaits,
        }
        body = {name: value for name, value in message.items() if value is not None}
        return await self._post_until_accepted(body, key or uuid.uuid4().hex, give_up_s, trying_again)

    async def _post_until_accepted(
        self,
        body: Mapping[str, Any],
        key: str,
        give_up_s: float,
        trying_again: Callable[[errors.EventlogError], None] | None,
    ) -> Any:
        deadline = time.monotonic() + give_up_s
        failures, maybe = 0, False
        if not (key.isascii() and key.isprintable()):
            raise errors.BadRequest("a key is 1 to 255 visible ASCII characters; take a UUID", field="key")
        headers = {"Idempotency-Key": key}
        while True:
            timeout_s = max(0.1, min(self.timeout_s, deadline - time.monotonic()))
            try:
                return (await self.request("POST", "/api/send", json=body, headers=headers, timeout_s=timeout_s)).body
            except errors.EventlogError as exc:
                failures += 1
                # A loop is lifted by a person, if at all.
                again = isinstance(exc, (errors.Unavailable, errors.TooManyRequests)) and exc.code != "loop"
                maybe = maybe or _maybe_accepted(exc)
                wait_s = max(backoff_s(failures, SEND_BACKOFF_S), exc.retry_after_s or 0.0)
                if not again and not maybe:
                    raise
                if not again or time.monotonic() + wait_s > deadline:
                    raise _given_up(exc, maybe, failures, key) from exc
                if failures == 1 and trying_again is not None:
                    trying_again(exc)
            await self.net.sleep(wait_s)

    async def inbox(
        self, agent: str, *, after: int | None = None, limit: int | None = None, wait_s: float | None = None
    ) -> dict[str, Any]:
        """`{"agent", "messages", "cursor", "has_more"}`: what is after the cursor (default: the acked one).

        With `wait_s` an empty inbox is answered only when a message has come or the time is over.
        """
        params = {"agent": agent, "after": after, "limit": limit, "wait": None if wait_s is None else round(wait_s, 3)}
        return await self._get("/api/inbox", params, timeout_s=self.timeout_s + (wait_s or 0.0))

    async def ack(self, agent: str, cursor: int) -> dict[str, Any]:
        """Acknowledges all messages up to `cursor`, it included; `{"agent", "cursor"}` as it now stands."""
        return await self._post("/api/inbox/ack", {"agent": agent, "cursor": cursor})

    async def message(self, message_id: int) -> dict[str, Any]:
        """One message and its receipt. Raises `NotFound` also if the token may not see it."""
        return await self._get(f"/api/messages/{message_id}")

    async def wait(self, message_id: int, wanted: str, timeout_s: float) -> dict[str, Any]:
        """The message and its receipt, as soon as it is `woken`, `read`, `replied` or `done`; else as it stands when
        it is dead or expired, or after `timeout_s`. `["receipt"]["waited"]` says which.

        A bus that restarts meanwhile is waited for. Raises `Unavailable` or `TooManyRequests` if no bus has answered
        when the time is over, `NotFound` also if the token may not see the message.
        """
        deadline = time.monotonic() + timeout_s
        failures = 0
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            once_s = round(min(left_s, WAIT_ONCE_S), 3)
            asked_s = 0.0
            try:
                params = {"wait": wanted, "timeout": once_s}
                told = await self._get(f"/api/messages/{message_id}", params, timeout_s=self.timeout_s + once_s)
                waited = told["receipt"]["waited"]
                if waited == "stopping" and left_s:
                    failures += 1
                elif waited == "time_over" and left_s > WAIT_ONCE_S:
                    failures = 0
                else:
                    return told
            except (errors.Unavailable, errors.TooManyRequests) as exc:
                failures += 1
                asked_s = min(exc.retry_after_s or 0.0, ASKED_S_MAX)
                if time.monotonic() + asked_s > deadline:
                    raise
            if failures:
                await self.net.sleep(max(backoff_s(failures, SEND_BACKOFF_S), asked_s))

    async def thread(self, thread_id: int) -> dict[str, Any]:
        """The conversation that the message `thread_id` began, in order."""
        return await self._get(f"/api/threads/{thread_id}")

    async def thread_resume(self, thread_id: int) -> dict[str, Any]:
        """Lets a stopped thread, or the agents that were stopped in it, go on: its limits count from here on."""
        return await self._post(f"/api/threads/{thread_id}/resume", {})

    # ---- history ----------------------------------------------------------------------------------------------------

    async def events(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        agent: str | None = None,
        event: str | None = None,
        thread: int | None = None,
    ) -> dict[str, Any]:
        """One page of the log: `{"events", "cursor", "has_more", "head"}`; every event with its hash."""
        params = {"after": after, "before": before, "limit": limit, "agent": agent, "event": event, "thread": thread}
        return await self._get("/api/events", params)

    async def replay(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        agent: str | None = None,
        event: str | None = None,
        thread: int | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Every event strictly between the cursors up to the head, oldest first, in one answer of any length.

        Raises `Unreachable` if the answer breaks off before its end.
        """
        params = {"after": after, "before": before, "agent": agent, "event": event, "thread": thread}
        async with aclosing(self.lines("/api/events", params)) as lines:
            async for line in lines:
                yield msgspec.json.decode(line)

    async def anchor(self) -> tuple[int, str]:
        """The newest event's id and hash; (0, 64 zeros) of an empty log."""
        head = (await self.events(limit=1))["head"]
        if not head:
            return 0, "0" * 64
        newest = (await self.events(after=head - 1, limit=1))["events"][0]
        return newest["id"], newest["hash"]

    # ---- agents and wakes -------------------------------------------------------------------------------------------

    async def agents(self) -> Any:
        """What the bus knows of every agent; see `agent`."""
        return await self._get("/api/agents")

    async def agent(self, name: str) -> dict[str, Any]:
        """Unread count, cursor, wake in flight, last wake, when the next is due and why, watchers, last seen."""
        return await self._get(f"/api/agents/{segment(name)}")

    async def ask(self, key: str, agent: str, **limits: Any) -> dict[str, Any]:
        """Asks for a wake: `{"wake", "age_s"}` if granted, else `{"wake": None, "why", "retry_after_s"}`.

        `limits`: watcher, node, timeout_s, start_within_s, ack, ack_within_s, max_attempts, min_interval_s, deliver,
        max_wakes_per_hour.
        """
        return await self._post("/api/wakes", {"key": key, "agent": agent, **limits})

    async def report(self, wake_id: int, key: str, outcome: str, **told: Any) -> dict[str, Any]:
        """Reports how a wake ended; `told`: exit_code, duration_ms, detail, reply.

        Raises `NotFound` (unknown_wake) or `Conflict` (already_finished, superseded): then, too, the wake is over.
        """
        body = {"key": key, "outcome": outcome, **told}
        return body_of(await self.request("PATCH", f"/api/wakes/{wake_id}", json=body))


def _given_up(exc: errors.EventlogError, maybe: bool, attempts: int, key: str) -> errors.Unavailable:
    """What `send` says when it stops trying: whether an attempt may have been accepted."""
    last = f"last of {attempts} attempts: {exc.detail}"
    if maybe:
        return errors.OutcomeUnknown(
            f"not known whether the message was accepted; send it again with the key {key} ({last})"
        )
    return errors.NotAccepted(f"the message was not accepted; send it again later ({last})")


def _maybe_accepted(exc: errors.EventlogError) -> bool:
    """Whether a failed attempt may have been accepted: a refused connection and a full queue took nothing."""
    if isinstance(exc, errors.Unreachable):
        return exc.sent
    return isinstance(exc, errors.Unavailable)
