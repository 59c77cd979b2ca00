"""What arrives on one HTTP/1.1 connection, and its bounds: headers, and what waits its turn."""

import asyncio
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from eventlog.answers import Answer, header_lines, problem
from eventlog.errors import BadRequest, EventlogError, TooLarge
from eventlog.web import WHOLE

#: What may wait behind a request that is being answered, until no more is read.
HELD_BYTES_MAX = 65_536
#: What every header ends with; nothing else is taken.
HEAD_ENDS = b"\r\n\r\n"


class Arriving(HttpToolsProtocol):
    """uvicorn's connection, with bounds on what a client can make it keep.

    The parser itself has no limit: it took megabytes of header, at any pace. `header_limit_bytes` counts the request
    line and all header lines; `header_timeout_s` runs from the connection's start, or from the first byte of a later
    request.

    What comes behind a request that is being answered, or while the client leaves answers unread, is held as bytes,
    and is looked at when its turn comes: uvicorn would make objects of all requests that one read brings, thousands.
    """

    header_limit_bytes = 32_768
    header_timeout_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_header = False
        self._between = True
        self._header_bytes = 0
        self._ended = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._refusal: EventlogError | None = None
        self._held = b""

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._in_cycle

    @property
    def _in_cycle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        super().connection_made(transport)
        self._set_alarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._drop_alarm()
        super().connection_lost(exc)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Give the parser what came, as long as it is its turn: up to the end of one header at a time."""
        self._unset_keepalive_if_required()
        ended, at = self._ended, 0
        while at < len(data) and not self.transport.is_closing():
            if self._in_cycle and (self._between or self.pipeline):
                self._hold(data[at:])
                return
            end = data.find(HEAD_ENDS, at) + len(HEAD_ENDS)
            if end < at + len(HEAD_ENDS) or data.find(HEAD_ENDS, end) < 0:
                end = len(data)
            self._parse(data[at:end])
            at = end
        if self._in_header and not self.transport.is_closing():
            # A header that is not whole yet: nothing of it may have been told to us, so its bytes are counted here,
            # but for those of a piece that began with other requests.
            self._header_bytes += len(data) if ended == self._ended else 0
            if self._header_bytes > self.header_limit_bytes:
                self._refuse(self._too_large())
            else:
                self._set_alarm()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        except httptools.HttpParserUpgrade as stopped:
            # The parser takes what follows for another protocol. The offer of one that is not spoken is ignored
            # (RFC 9110, 7.8), so a parser is given the same request without it.
            line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            lines = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's is
            self._parse(b"\r\n".join([line, *lines]) + HEAD_ENDS + data[stopped.args[0] :])

    def _hold(self, data: bytes) -> None:
        """Keep what is not to be looked at yet; no clock runs for it."""
        self._unset_keepalive_if_required()
        self._drop_alarm()
        self._held += data
        if len(self._held) > HELD_BYTES_MAX:
            self.flow.pause_reading()

    def _go_on(self) -> None:
        """Look at what was held."""
        held, self._held = self._held, b""
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.data_received(held)

    # ---- the parser's calls -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_header = True
        self._between = False
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        """A request's header is whole."""
        self._in_header = False
        self._drop_alarm()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.header_limit_bytes:
            self._refusal = self._too_large()
            raise self._refusal
        if not self.parser.should_upgrade():
            super().on_headers_complete()
        elif self.parser.get_method() == b"CONNECT":
            self._refusal = BadRequest("this is no proxy: it connects to nothing; send another method")
            raise self._refusal

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self.parser.should_upgrade():  # it is parsed once more
            return
        self._between = True
        self._ended += 1
        cast(dict[str, Any], self.scope)[WHOLE] = True
        super().on_message_complete()

    # ---- answering --------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """A request that took uvicorn's way is answered."""
        super().on_response_complete()
        if self._held:
            self._go_on()

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        if self._held:
            self._go_on()

    def _send(self, answer: Answer, *, keep_alive: bool) -> None:
        """Send a whole answer in one write."""
        lines, keep_alive = header_lines(tuple(self.server_state.default_headers), answer.headers, keep_alive)
        body = answer.body
        self.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[answer.status], lines, len(body), body))
        if not keep_alive:
            self.transport.close()

    # ---- refusing ---------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """What the parser could not take is refused."""
        self._refuse(self._refusal or BadRequest("this is not a request of HTTP/1.1; send one", code="bad_field"))

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request's header is over {self.header_limit_bytes} bytes; send less")

    def _refuse(self, error: EventlogError) -> None:
        """Answer and close; only close where that would break into another answer."""
        self._drop_alarm()
        self._in_header = False
        if not self.busy:
            self._send(problem(error), keep_alive=False)
        self.transport.close()

    def _set_alarm(self) -> None:
        if self._alarm is None:
            self._alarm = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _drop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _too_slow(self) -> None:
        if self._in_header:
            self._refuse(BadRequest(f"the request's header did not arrive within {self.header_timeout_s:g} s"))
        else:
            self.transport.close()
