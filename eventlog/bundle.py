"""Bundle: a group of plain messages stored by one statement, which is a transaction by itself."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Final

from eventlog.queries import SQL, Write

#: The most messages in one statement. There is one for each number, prepared when that number first comes.
BUNDLE_MAX: Final = 64
#: The most bytes of their payloads: a prepared statement keeps what it was run with last, and there are many.
BUNDLE_BYTES_MAX: Final = 64 * 1024

_PLACE: Final = ("agent", "sender", "thread_id", "reply_to")
_CONTENT: Final = ("header", "salt", "digest", "hash", "payload")
#: For each statement that stores a message, what its parameters are: with `hops` the columns of a view.
_COLUMNS: Final = {
    "insert_message": ("id", "time", *_PLACE, *_CONTENT),
    "insert_event": ("id", "event", "time", *_PLACE, "expires", "scope", "key", "part", "request", *_CONTENT),
}
#: What else a plain message changes: its thread, and a deadline of what it answers.
_FOLLOWS: Final = frozenset({"put_thread", "answer_deadline"})


def prepare(connection: sqlite3.Connection) -> None:
    """Make what `run` needs, for as long as this connection is open."""
    # The copy of the rows is nobody's to read, and no temporary file's to keep.
    connection.execute("PRAGMA temp_store = MEMORY")
    for name, columns in _COLUMNS.items():
        view = ", ".join(f"0 AS {column}" for column in (*columns, "hops"))
        steps = (
            _filled(name, columns),
            _filled("put_thread", ("thread_id", "id", "hops")),
            _filled("answer_deadline", ("reply_to", "sender", "agent")),
        )
        connection.execute(f"CREATE TEMP VIEW plain_{name} AS SELECT {view}")
        connection.execute(
            f"CREATE TEMP TRIGGER stored_{name} INSTEAD OF INSERT ON plain_{name} BEGIN {' '.join(steps)} END"
        )


def run(connection: sqlite3.Connection, rows: Sequence[Write], writes: Sequence[Write]) -> bool:
    """Store `rows`, and what `writes` say follows from them, durably; False, and nothing done, unless all are plain.

    Plain are at most BUNDLE_MAX messages, all with a key or an expiry or all without, that change nothing but threads
    and what they answer. Each statement of a transaction has to get Python's lock back while the event loop computes.
    """
    names = {name for name, _ in rows}
    if len(rows) > BUNDLE_MAX or len(names) > 1 or not _FOLLOWS.issuperset([name for name, _ in writes]):
        return False
    hops = [values[2] for name, values in writes if name == "put_thread"]
    if len(hops) != len(rows) or sum([len(values[-1]) for _, values in rows]) > BUNDLE_BYTES_MAX:
        return False
    values = chain.from_iterable([(*values, each) for (_, values), each in zip(rows, hops, strict=True)])
    connection.execute(_of(names.pop(), len(rows)), tuple(values))
    return True


@cache
def _of(name: str, count: int) -> str:
    row = f"({', '.join('?' * (len(_COLUMNS[name]) + 1))})"
    return " ".join(("INSERT INTO", f"plain_{name}", "VALUES", ", ".join([row] * count)))


def _filled(name: str, columns: Sequence[str]) -> str:
    """The statement with these columns of the view in place of its parameters."""
    first, *rest = SQL[name].split("?")
    return first + "".join(f"new.{column}{part}" for column, part in zip(columns, rest, strict=True)) + ";"
