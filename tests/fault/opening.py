"""The cells of the crash matrix in which a bus starts: on an empty folder, and on a backup's copy."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.checkers import log_problems
from tests.e2e.foreign import Foreign
from tests.fault.lane import SWITCH, Stop, offline
from tests.fault.launch import QUICK, tuned
from tests.fault.matrix import Cell, Fault
from tests.fault.power import Disk
from tests.support import BusProcess, until

#: What makes a quiet time short, and its end soon seen.
QUIET = {"EVENTLOG_QUIET_AFTER_RESTORE_S": "0.1", "EVENTLOG_SWEEP_INTERVAL_S": "0.05"}


class Opening:
    """A context manager; each cell is a bus of its own, on one disk. `power` says whether it can be cut."""

    def __init__(self, place: Path, *, power: bool) -> None:
        self.place = place
        self.stops = place / "stops"
        self._power = power
        self._number = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.stops.mkdir(parents=True)
        (self.place / "b").mkdir()
        with ExitStack() as undo:
            self.disk = undo.enter_context(Disk(self.place / "b")) if self._power else None
            self.root = self.disk.path if self.disk else self.place / "b"
            self.restored = self._restored()
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def close(self) -> None:
        """Nothing is left running between two cells."""

    def _restored(self) -> Path:
        """The data folder made from a backup of a log with a message that waits and a wake in flight."""
        target = self.place / "backup.db"
        with BusProcess(self.place / "old", under=tuned(QUICK)) as bus:
            admin = Foreign(bus.url, bus.admin_token)
            admin.send("mel")
            assert admin.ask("old-key", timeout_s=0.1, start_within_s=0).status == 201
            assert admin.call("POST", "/api/backup", {"path": str(target)}).status < 300
        offline("restore", target, "--data-dir", self.place / "restored")
        for secret in ("admin.token", "wake.key"):
            shutil.copy(bus.data_dir / secret, self.place / "restored")
        return self.place / "restored"

    def cell(self, cell: Cell) -> str:
        """What came of one cell, in the page's words. Fails if something is wrong."""
        self._number += 1
        data = self.root / f"data-{self._number}"
        restored = cell.row.occasion == "a restore"
        if restored:
            shutil.copytree(self.restored, data)
            subprocess.run(["sync", "-f", data], check=True, timeout=30)
        stop = Stop(self.stops, cell.row.point)
        env = {SWITCH: str(self.stops), **QUIET}
        bus = BusProcess(self.place / f"bus-{self._number}", data_dir=data, under=tuned(QUICK), env=env)
        starting = threading.Thread(target=start, args=(bus,), daemon=True)
        starting.start()
        pid = stop.wait()
        if cell.fault == Fault.CUT_BUS:
            assert self.disk is not None
            os.kill(pid, signal.SIGSTOP)
            image = self.disk.cut()
            os.kill(pid, signal.SIGKILL)
            bus.process.wait()
            self.disk.restore(image)
        else:
            bus.process.kill()
        starting.join()
        bus.wait()
        stop.release()
        word = "done" if done(data, restored=restored) else "done by the next start"
        with bus:
            self._check(bus, restored=restored)
            assert bus.stop() == 0
        offline("verify", "--data-dir", data)
        shutil.rmtree(data)
        return word

    def _check(self, bus: BusProcess, *, restored: bool) -> None:
        admin = Foreign(bus.url, bus.admin_token)
        number = admin.send("mel")
        events = admin.events()
        wrong = log_problems(events, accepted=[number])
        assert not wrong, wrong
        ends = [event["outcome"] for event in events if event["event"] == "wake.finished"]
        assert ends == (["interrupted"] if restored else [])
        assert (number > 10**6) is restored
        assert len([event for event in events if event["event"] == "token.created"]) == 1
        if restored:
            # After the quiet time the message is woken for: under another wake, and once.
            wake = until(lambda: admin.ask("new-key", timeout_s=1, start_within_s=1).body["wake"])
            assert wake["attempt"] == 2
            assert admin.ask("old-key", timeout_s=1, start_within_s=1).body["why"] == "closed"


def start(bus: BusProcess) -> None:
    """Start a bus that a test is going to end before it is ready."""
    with contextlib.suppress(AssertionError):
        bus.start()


def done(data: Path, *, restored: bool) -> bool:
    """Whether the database that was left is a log already, and no copy of one any more. Looks at a copy."""
    look = data.with_name("look")
    if not (data / "eventlog.db").exists():
        return False
    shutil.copytree(data, look)
    connection = sqlite3.connect(look / "eventlog.db")
    try:
        logs = connection.execute("SELECT count(*) FROM logs").fetchone()[0]
        marked = connection.execute("SELECT count(*) FROM meta WHERE name = 'marked'").fetchone()[0]
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
        shutil.rmtree(look)
    return bool(logs == (2 if restored else 1) and not marked)
