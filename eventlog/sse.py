"""Server-sent events: encoding an event as a frame, and decoding a stream; pure, no I/O.

Encoding follows the bus's contract: LF line ends, integer ids, one `data:` line, and no `event:` line for a message, so
that a browser's `onmessage` and a script that looks for `data:` lines work. Decoding follows the WHATWG rules for any
server's stream.
"""

from typing import Any

import msgspec

from eventlog.errors import TooLarge

#: What the first frame of a stream tells a client to wait before it reconnects.
RETRY_MS = 2000
#: A block of a stream larger than this is not an event of ours: the bus's own limit is far below it.
BLOCK_BYTES_MAX = 4 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
#: Digits of the largest integer that SQLite stores; longer numbers are nobody's.
_DIGITS_MAX = 19


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX


def encode_event(event_id: int, data: bytes, kind: str = "message") -> bytes:
    """The frame of one event; `data` is its JSON on one line.

    Raises ValueError if `data` or `kind` holds a line end, which would break the frame.
    """
    if b"\n" in data or b"\r" in data or "\n" in kind or "\r" in kind:
        raise ValueError("a frame's data and kind must each be one line")
    if kind == "message":
        return b"id: %d\ndata: %b\n\n" % (event_id, data)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event_id, kind.encode(), data)


def encode_opening(event_id: int, retry_ms: int = RETRY_MS) -> bytes:
    """The first frame of a stream: it anchors a reconnect before any event came, and dispatches nothing."""
    return b"retry: %d\nid: %d\n\n" % (retry_ms, event_id)


def encode_id(event_id: int) -> bytes:
    """The frame that moves a follower's cursor past events which its filter hides."""
    return b"id: %d\n\n" % event_id


def encode_comment(text: str = "") -> bytes:
    """A heartbeat. Raises ValueError if `text` holds a line end."""
    if "\n" in text or "\r" in text:
        raise ValueError("a comment must be one line")
    return b": %b\n\n" % text.encode()


def encode_reset(cursor: int, *, reason: str, log_id: str) -> bytes:
    """The frame that says a cursor was not usable: the stream goes on strictly after `cursor`, of the log `log_id`."""
    said = {"reason": reason, "log": log_id, "cursor": cursor}
    return encode_event(cursor, msgspec.json.encode(said), "reset")


class Frame(msgspec.Struct, frozen=True):
    """One block of a stream, ended by an empty line.

    `id` is the last event id as it stands after the block, '' if none was seen yet. `data` is None if the block
    dispatches nothing: an id-only frame, a retry, or a comment; `kind` is '' then. Those are still signs of life.
    """

    id: str
    data: str | None = None
    kind: str = "message"

    @property
    def cursor(self) -> int | None:
        """The id as an integer; None if it is not one of ours."""
        return int(self.id) if _is_number(self.id) else None

    def fields(self) -> dict[str, Any]:
        """The event as a flat object. Raises ValueError if the data is not a JSON object."""
        try:
            return msgspec.json.decode(self.data or "", type=dict[str, Any])
        except msgspec.MsgspecError as exc:
            raise ValueError(f"the data of frame {self.id!r} is not a JSON object: {exc}") from exc


class Decoder:
    """Decodes one connection's bytes, in chunks cut anywhere. What is incomplete when the bytes end is discarded.

    `last_id` may be given from the connection before. `retry_ms` is what the server asked for last, None if it did not.
    """

    def __init__(self, last_id: str = "", *, block_bytes_max: int = BLOCK_BYTES_MAX) -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self._block_bytes_max = block_bytes_max
        self._block_bytes = 0
        self._partial: list[bytes] = []
        self._at_start = True
        self._after_cr = False
        self._begin_block()

    def _begin_block(self) -> None:
        self._id = self.last_id
        self._kind = ""
        self._data: list[str] = []
        self._block_bytes = 0
        self._blank = True

    def feed(self, chunk: bytes) -> list[Frame]:
        """The blocks that `chunk` completes, in order.

        Raises `TooLarge` if a block is over the limit; the connection is then of no more use.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        frames: list[Frame] = []
        for line in chunk.splitlines(keepends=True):
            self._block_bytes += len(line)
            if self._block_bytes > self._block_bytes_max:
                raise TooLarge(f"an event of the stream is over {self._block_bytes_max} bytes; is this an event log?")
            self._partial.append(line)
            if not line.endswith((b"\n", b"\r")):
                break
            whole = b"".join(self._partial).rstrip(b"\r\n")
            self._partial.clear()
            if self._at_start:
                whole = whole.removeprefix(_BOM)
                self._at_start = False
            if whole:
                self._field(whole)
            elif (frame := self._end_block()) is not None:
                frames.append(frame)
        self._after_cr = chunk.endswith(b"\r") if chunk else self._after_cr
        return frames

    def _field(self, line: bytes) -> None:
        self._blank = False
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and _is_number(value):
            self.retry_ms = int(value)

    def _end_block(self) -> Frame | None:
        if self._blank:
            self._begin_block()
            return None
        self.last_id = self._id
        data = "\n".join(self._data) if self._data else None
        frame = Frame(self.last_id, data, (self._kind or "message") if data is not None else "")
        self._begin_block()
        return frame
