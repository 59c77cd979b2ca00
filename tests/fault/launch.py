"""A bus with other constants than the ones it is built with, for `BusProcess(under=tuned(...))`.

Leases and pauses that a test would wait for can be made short; `synchronous` can be what must not be used.
"""

import importlib
import json
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Short pauses after failures.
PAUSES: dict[str, Any] = {"wakes.BACKOFF_FIRST_S": 0.3, "wakes.BACKOFF_MAX_S": 0.3}
#: Short leases, too: this is what they hold besides start_within and timeout. It is part of what the log derives from
#: its events, so a log that was made so is judged whole only with it.
QUICK: dict[str, Any] = {**PAUSES, "agents.STOP_S": 1}


def tuned(constants: Mapping[str, Any], *, synchronous: str = "") -> list[str]:
    """What a bus is started under to have these constants of its modules, and this `PRAGMA synchronous`, if any."""
    return [sys.executable, "-m", "tests.fault.launch", json.dumps(dict(constants)), synchronous]


def main(constants: Mapping[str, Any], synchronous: str, command: list[str]) -> None:
    """Change what was asked for, then be the command line."""
    for place, value in constants.items():
        module, _, name = place.rpartition(".")
        changed = importlib.import_module(f"eventlog.{module}")
        assert hasattr(changed, name), place
        setattr(changed, name, value)
    if synchronous:
        _open_writers_with(synchronous)
    importlib.import_module("eventlog.cli").main(command)


def _open_writers_with(synchronous: str) -> None:
    database = importlib.import_module("eventlog.database")
    open_writer = database.open_writer

    def open_other(path: Path) -> sqlite3.Connection:
        connection: sqlite3.Connection = open_writer(path)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    vars(database)["open_writer"] = open_other


if __name__ == "__main__":
    # After the two of ours comes the command that would have run: an interpreter, -m, its module, and its arguments.
    main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[6:])
