"""Standard error as the place of log lines: a line that cannot be written is dropped, for it decides nothing."""

import io
import os
import sys
from typing import Any, TextIO


class _Dropping(io.FileIO):
    """A file whose writes never fail: there may be no room on its disk, or nobody reads the pipe any more."""

    def write(self, data: Any) -> int:
        """Write what can be written; the rest is gone."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) or len(rest) :]  # None: it would block
        except OSError:
            pass
        return len(data)


def log_stream() -> TextIO:
    """A stream for log lines; nothing is kept back in it, so that what failed is not written later, in pieces."""
    # Python has no standard error where its descriptor was closed at the start; the number may be another file's now.
    try:
        number = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    except io.UnsupportedOperation:
        return sys.stderr  # a stand-in, in memory
    file = _Dropping(number, "wb", closefd=False)
    return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", write_through=True)
