"""One HTTP/1.1 connection: uvicorn's, with bounds (eventlog/arriving.py), and a short way for whole requests."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, cast

import msgspec
from starlette.types import ASGIApp, Receive, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from eventlog.answers import Answer, chunk
from eventlog.arriving import HEAD_ENDS, Arriving
from eventlog.call import Seats
from eventlog.web import BODY, WRITE, by_name

#: Answers a request whose body is in its scope (web.BODY); None if nobody is there any more.
Respond = Callable[[Scope, Receive], Awaitable[ASGIApp | None]]
#: What answers all requests with the same header as this one, and the seats they take; None: not the short way.
Direct = Callable[[Scope], tuple[Respond, Seats | None] | None]

#: The most headers that are kept with what they mean, and the most bytes of one that is.
HEADS_MAX, HEAD_BYTES_MAX = 1000, 2048


class Head(msgspec.Struct, frozen=True):
    """What one header means: the scope of its requests, how long their bodies are, what answers them, and the seats of
    which each must have one."""

    scope: Scope
    length: int
    respond: Respond
    seats: Seats | None
    keep_alive: bool


class Connection(Arriving):
    """A client's connection.

    Most of what an append costs is HTTP. So a request that comes alone and whole in one piece, and whose route gives a
    whole answer, takes a short way: one task, one write, no ASGI messages; and as a client's headers are the same each
    time, a header that was read by the parser once is known by its bytes from then on. Everything else takes uvicorn's.
    """

    direct: ClassVar[Direct]
    #: Headers by their bytes; shared by all connections of a server.
    heads: ClassVar[dict[bytes, Head]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What came when nothing else was under way: a request that is all of it may take the short way.
        self._piece = b""
        self._alone: Head | None = None
        self._answering: asyncio.Task[None] | None = None
        self._seats: Seats | None = None
        self._answered_at = 0.0
        self._last = False
        self._used = False
        self._eof = False
        self._gone: asyncio.Event | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._answering is not None or super().busy

    @property
    def unused(self) -> bool:
        """Whether no request has come yet: one may be on its way."""
        return not self._used and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        if self._gone is not None:
            self._gone.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: it is gone, or has closed its half and waits for what it asked for."""
        self._eof = True
        return self._owing

    @property
    def _owing(self) -> bool:
        """Whether a client that sends no more is still owed an answer."""
        return (self._answering is not None and self._gone is None) or (self.flow.write_paused and bool(self._held))

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if self._answering is not None or self.flow.write_paused:
            self._hold(data)
            return
        if self._between and not self._in_cycle:
            end = data.find(HEAD_ENDS) + len(HEAD_ENDS)
            head = self.heads.get(data[:end])
            if head is not None and len(data) == end + head.length:
                self._begin(head, data[end:])
                return
            self._piece = data
        self._read(data)
        self._piece = b""
        if self._alone is not None:  # more of it is to come, whatever it looked like
            self._alone = None
            self._start_long(self.cycle, self.app)

    # ---- the parser's calls -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._used = True

    def on_message_complete(self) -> None:
        """A request is whole."""
        super().on_message_complete()
        if self._alone is not None:
            head, self._alone = self._alone, None
            self._begin(head, bytes(self.cycle.body))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """uvicorn starts to answer here, before the body; a request that may take the short way waits for its end."""
        self._alone = self._read_alone(cycle)
        if self._alone is None:
            self._start_long(cycle, app)

    def _start_long(self, cycle: RequestResponseCycle, app: Any) -> None:
        cast(dict[str, Any], cycle.scope)[WRITE] = partial(self._write_part, cycle)
        super()._start_asgi_task(cycle, app)

    def _write_part(self, cycle: RequestResponseCycle, part: bytes) -> bool:
        """Write a part of an answer without an end at once, as the cycle would; False if it is not the time for it."""
        if (
            self.flow.write_paused
            or self.transport.is_closing()
            or cycle.response_complete
            or not cycle.chunked_encoding
        ):
            return False
        self.transport.write(chunk(part))
        return True

    # ---- the short way ----------------------------------------------------------------------------------------------

    def _read_alone(self, cycle: RequestResponseCycle) -> Head | None:
        """What the header means that was just read, if its request is all of the piece that came; None otherwise."""
        piece, headers = self._piece, self.headers
        names = [name for name, _ in headers]
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        end = piece.find(HEAD_ENDS) + len(HEAD_ENDS)
        if (
            not length.isdigit()
            or piece.startswith(b"\r\n")  # empty lines before a request are no part of it
            or len(piece) != end + int(length)
            or b"transfer-encoding" in names
            or self.expect_100_continue
        ):
            return None
        scope = cast(dict[str, Any], self.scope)
        direct = type(self).direct(scope)
        if direct is None:
            return None
        head = Head(scope, int(length), *direct, keep_alive=cycle.keep_alive)
        # One that is another each time is not worth keeping; nor is one whose lines the parser saw otherwise.
        if end <= HEAD_BYTES_MAX and b"idempotency-key" not in names and piece[:end].count(b"\n") == len(headers) + 2:
            if len(self.heads) >= HEADS_MAX:
                self.heads.clear()
            kept = {name: value for name, value in scope.items() if name not in ("client", "state")}
            by_name(kept)  # once for all requests that begin so
            self.heads[piece[:end]] = Head(kept, head.length, *direct, keep_alive=head.keep_alive)
        return head

    def _begin(self, head: Head, body: bytes) -> None:
        """Answer a request that is here."""
        self._used = True
        if self._alarm is not None:
            self._drop_alarm()
        if head.seats is not None:
            if head.seats.full:
                # Here, where it costs a fifth of what taking it would: else refusing is all that a crowded bus does.
                self._send(head.seats.refusal, keep_alive=head.keep_alive)
                self._end()
                return
            head.seats.take()
            self._seats = head.seats
        self._answering = self.loop.create_task(self._answer(head, {**head.scope, BODY: body}))

    async def _answer(self, head: Head, scope: Scope) -> None:
        try:
            answer = await head.respond(scope, self._receive)
            # Nothing waits for the client here, as nothing is begun while it leaves much unread.
            if answer is not None and not self.transport.is_closing():
                assert isinstance(answer, Answer)
                self._send(answer, keep_alive=head.keep_alive and not self._last)
        finally:
            self._end()

    async def _receive(self) -> dict[str, Any]:
        """What ASGI's `receive` says once the body was read: the client is gone, as soon as it is."""
        gone = self._gone = asyncio.Event()
        try:
            if not self._eof and not self.transport.is_closing():
                await gone.wait()
        finally:
            self._gone = None
        return {"type": "http.disconnect"}

    def _end(self) -> None:
        """A request that took the short way is answered: what came meanwhile is next."""
        self._answering = None
        if self._seats is not None:
            self._seats.leave()
            self._seats = None
        self._answered_at = self.loop.time()
        self.server_state.total_requests += 1
        if self.cycle is not None:
            self.cycle.response_complete = True
        if self.transport.is_closing():
            return
        if self.timeout_keep_alive_task is None:
            self._set_keep_alive(self.timeout_keep_alive)
        self.flow.resume_reading()  # a long body, or much of what came meanwhile, has paused it
        if self._held:
            self._go_on()
        if self._eof and not self._owing:
            self.transport.close()

    def resume_writing(self) -> None:
        """The client has read most of what was left."""
        super().resume_writing()
        if self._eof and not self._owing:
            self.transport.close()

    # ---- ending -----------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server stops: an answer that is under way is the last."""
        if self._answering is not None:
            self._last = True
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while, unless it was asked the short way: that sets no timer each time."""
        self.timeout_keep_alive_task = None
        left_s = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if self._answering is not None or left_s > 0:
            self._set_keep_alive(max(left_s, 1.0))
        else:
            super().timeout_keep_alive_handler()

    def _set_keep_alive(self, after_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after_s, self.timeout_keep_alive_handler)


def limited(header_limit_bytes: int, header_timeout_s: float, direct: Direct) -> type[Connection]:
    """Connections with these limits; `direct` says what may take the short way."""

    class Limited(Connection):
        pass

    Limited.header_limit_bytes = header_limit_bytes
    Limited.header_timeout_s = header_timeout_s
    Limited.direct = staticmethod(direct)
    Limited.heads = {}
    return Limited
