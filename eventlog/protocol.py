"""One HTTP/1.1 connection: uvicorn's, with limits on the size of a request's header and on the time for it."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventlog.errors import BadRequest, EventlogError, TooLarge
from eventlog.web import ABORT, WHOLE, problem


class Connection(HttpToolsProtocol):
    """A client's connection. The parser itself has no limit: it took megabytes of header, at any pace.

    `header_limit_bytes` counts the request line and all header lines; `header_timeout_s` runs from the connection's
    start, or from the first byte of a later request.
    """

    header_limit_bytes = 32_768
    header_timeout_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_header = False
        self._header_bytes = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._refusal: EventlogError | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        return cycle is not None and not cycle.response_complete

    @property
    def unused(self) -> bool:
        """Whether no request has come yet: one may be on its way."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        super().connection_made(transport)
        self._set_alarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._drop_alarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        super().data_received(data)
        if self._in_header and not self.transport.is_closing():
            # A header that is not whole yet: nothing of it may have been told to us, so its bytes are counted here.
            self._header_bytes += len(data)
            if self._header_bytes > self.header_limit_bytes:
                self._refuse(self._too_large())
            else:
                self._set_alarm()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[ABORT] = self.transport.abort
        self._in_header = True
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        """A request's header is whole."""
        self._in_header = False
        self._drop_alarm()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.header_limit_bytes:
            self._refusal = self._too_large()
            raise self._refusal
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        cast(dict[str, Any], self.scope)[WHOLE] = True
        super().on_message_complete()

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
            refusal = problem(error)
            lines = [b"HTTP/1.1 %d %b" % (error.status, b"Refused"), b"connection: close"]
            lines += (name + b": " + value for name, value in refusal.raw_headers if name != b"connection")
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(refusal.body))
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


def limited(header_limit_bytes: int, header_timeout_s: float) -> type[Connection]:
    """Connections with these limits."""

    class Limited(Connection):
        pass

    Limited.header_limit_bytes = header_limit_bytes
    Limited.header_timeout_s = header_timeout_s
    return Limited
