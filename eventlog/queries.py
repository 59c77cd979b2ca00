"""The named statements of queries.sql, and how one of them is run for many rows."""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

#: How many rows share a statement, the most first: powers of two. Each statement is one step outside Python's lock; one
#: for each row would have the writer wait for that lock again and again while the event loop computes.
ROWS = (64, 32, 16, 8, 4, 2, 1)

#: A statement by its name, and the values of its parameters.
Write = tuple[str, tuple[Any, ...]]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_VALUES = re.compile(r"^VALUES (\(.*?\))(?=\nON |\Z)", re.MULTILINE | re.DOTALL)


def _load() -> dict[str, str]:
    parts = _NAME.split(files("eventlog").joinpath("queries.sql").read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


#: Every statement that runs against a log, by name.
SQL: dict[str, str] = _load()


def run_all(connection: sqlite3.Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement for each of `rows`, in order; an INSERT whose VALUES begin a line for many of them at once."""
    if name not in _OF_MANY:
        connection.executemany(SQL[name], rows)
        return
    done = 0
    while left := len(rows) - done:
        # The largest of these that is not more than what is left: they are powers of two.
        size = min(ROWS[0], 1 << left.bit_length() - 1)
        connection.execute(_OF_MANY[name][size], tuple(chain.from_iterable(rows[done : done + size])))
        done += size


def run_each(connection: sqlite3.Connection, writes: Iterable[Write]) -> None:
    """Run these in order, and what follows one another under one name together."""
    for name, run in groupby(writes, key=itemgetter(0)):
        run_all(connection, name, [values for _, values in run])


def _of_many(statement: str) -> dict[int, str]:
    """A statement with its VALUES so many times, by how many."""
    values = _VALUES.search(statement)
    assert values is not None
    before, after = statement[: values.start(1)], statement[values.end(1) :]
    return {size: before + ", ".join([values[1]] * size) + after for size in ROWS}


_OF_MANY = {name: _of_many(statement) for name, statement in SQL.items() if _VALUES.search(statement)}
