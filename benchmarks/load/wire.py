"""The client side of each protocol, as little as loads need: where an answer ends, and whether it is good."""

import re
import resource
from collections.abc import Callable
from enum import Enum
from typing import Final

#: What stands in a request for the time of its sending: a mark, then nanoseconds of the monotonic clock. The mark is
#: long, and of a letter that is rare elsewhere, so that counting it steps over most of what is received.
MARK: Final = b"~" * 16
STAMP: Final = MARK + b"0" * 19

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Said(Enum):
    """What an answer means to a load generator."""

    PARTIAL = 0  #: it is not whole yet
    GOOD = 1
    LATER = 2  #: refused, with the request to come back later
    BAD = 3
    NOISE = 4  #: no answer at all: the protocol's own signs of life


#: What the bytes begin with, and where that ends.
Parse = Callable[[bytes], tuple[Said, int]]
_PARTIAL = (Said.PARTIAL, 0)


def http(data: bytes) -> tuple[Said, int]:
    """One HTTP/1.1 answer with a length; 429 and 503 mean later."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return _PARTIAL
    found = _LENGTH.search(data, 0, head + 2)
    end = head + 4 + (int(found[1]) if found else 0)
    if len(data) < end:
        return _PARTIAL
    if data[9:10] == b"2":
        return Said.GOOD, end
    return (Said.LATER if data[9:12] in (b"429", b"503") else Said.BAD), end


def resp(data: bytes) -> tuple[Said, int]:
    """One RESP reply that is a bulk string, a status, an integer or an error."""
    line = data.find(b"\r\n")
    if line < 0:
        return _PARTIAL
    kind = data[:1]
    if kind != b"$":
        return (Said.BAD if kind == b"-" else Said.GOOD), line + 2
    end = line + 2 + int(data[1:line]) + 2
    return (Said.GOOD, end) if len(data) >= end else _PARTIAL


def nats(data: bytes) -> tuple[Said, int]:
    """One acknowledgement of JetStream, or another line of NATS."""
    line = data.find(b"\r\n")
    if line < 0:
        return _PARTIAL
    if not data.startswith(b"MSG "):
        return (Said.BAD if data.startswith(b"-ERR") else Said.NOISE), line + 2
    end = line + 2 + int(data[data.rindex(b" ", 0, line) + 1 : line]) + 2
    if len(data) < end:
        return _PARTIAL
    return (Said.BAD if b'"error"' in data[line:end] else Said.GOOD), end


PROTOCOLS: dict[str, Parse] = {"http": http, "resp": resp, "nats": nats}


def allow_many_files() -> None:
    """Let this process hold as many connections as the machine lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
