"""The crash matrix as data: every point, the occasions on which it is reached, the faults there; and its page.

A point is a moment between two durable steps; it has its name in the code (`reached("bus.append.committed")`). A row is
a point on one occasion; a cell is a row and a fault. The page says what becomes of each cell, and the test that runs
the cells holds them to it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from tests.support import ROOT

PAGE: Final = ROOT / "docs" / "explanation" / "crash-matrix.md"
#: What stands where there is nothing that the fault could strike.
NOTHING: Final = "–"
#: What stands where a cell was never run.
UNKNOWN: Final = "?"
#: Occasion, point and fault.
Key = tuple[str, str, str]


class Fault(StrEnum):
    """What happens while a process is held at a point; a power cut takes everything on its machine."""

    KILL_BUS = "bus killed"
    KILL_WATCHER = "watcher killed"
    KILL_SHIM = "shim killed"
    KILL_COMMAND = "command killed"
    CUT_BUS = "power cut: bus"
    CUT_WATCHER = "power cut: watcher"
    CUT_BOTH = "power cut: both"


class Row(NamedTuple):
    """A point on one occasion. `held` is the process that stops there; `alive` are all that run at that moment."""

    occasion: str
    point: str
    held: str
    alive: frozenset[str]

    @property
    def faults(self) -> list[Fault]:
        """The faults that find something to strike."""
        cuts = {Fault.CUT_BUS: "bus", Fault.CUT_WATCHER: "watcher", Fault.CUT_BOTH: "watcher"}
        return [fault for fault in Fault if cuts.get(fault, fault.partition(" ")[0]) in self.alive]

    @property
    def telling(self) -> list[Fault]:
        """The faults of a quick run. A kill does not tell what was flushed from what was not, a power cut does little
        else: so after a flush there is a power cut, elsewhere a kill of the held process, and at some points more.
        """
        if self.occasion == HANG:
            return [Fault.KILL_WATCHER]
        if self.held == "bus" and self.occasion not in MESSAGES and self.point in INNER:
            return []
        machine = Fault.CUT_BUS if self.held == "bus" else Fault.CUT_WATCHER
        own = {machine if self.point.endswith(FLUSHED) else Fault(f"{self.held} killed")} | MORE.get(self.point, set())
        if self.held in ("shim", "command"):
            own |= {Fault.KILL_COMMAND, Fault.KILL_SHIM}
        return [fault for fault in self.faults if fault in own]


class Cell(NamedTuple):
    """One row and one fault."""

    row: Row
    fault: Fault

    def __str__(self) -> str:
        return f"{self.row.occasion}, {self.row.point}, {self.fault}"


#: The append's own points, in order.
APPEND: Final = tuple(
    f"bus.append.{step}" for step in ("decided", "begun", "inserted", "projected", "committed", "advanced", "answered")
)
#: Of these, the ones that are left to the full run but for messages: nothing is durable between them.
INNER: Final = frozenset(f"bus.append.{step}" for step in ("decided", "begun", "inserted", "advanced", "answered"))

#: How points end that come right after a flush, or a commit.
FLUSHED: Final = (
    *(".flushed", ".durable", ".committed", ".folded", ".noted", ".gone", "key.made"),
    *("ask.granted", "report.recorded", "letters.appended", "lease.closed"),
)
#: What else a quick run has at a point: what came before is lost, or what goes on meanwhile is not held up.
MORE: Final = {
    "bus.append.projected": {Fault.CUT_BUS},
    "bus.append.committed": {Fault.KILL_BUS},
    "bus.ask.granted": {Fault.KILL_BUS, Fault.KILL_WATCHER},
    "bus.report.recorded": {Fault.KILL_BUS, Fault.KILL_WATCHER},
    "watcher.ask.answered": {Fault.CUT_WATCHER},
    "grant.renamed": {Fault.CUT_WATCHER},
    "grant.durable": {Fault.KILL_WATCHER},
    "shim.lock.taken": {Fault.KILL_WATCHER, Fault.CUT_WATCHER},
    "shim.command.told": {Fault.KILL_WATCHER},
    "shim.command.released": {Fault.KILL_WATCHER, Fault.KILL_BUS, Fault.CUT_WATCHER},
    "shim.command.ended": {Fault.CUT_WATCHER},
    "outcome.renamed": {Fault.CUT_WATCHER},
    "outcome.durable": {Fault.KILL_WATCHER, Fault.KILL_BUS},
    "watcher.outcome.seen": {Fault.KILL_BUS},
}

MESSAGE: Final = "a message"
#: It changes no agent, so it is stored by one statement.
KNOWN: Final = "a message between known agents"
MESSAGES: Final = (MESSAGE, KNOWN)
HANG: Final = "a command that hangs"
#: One message, handed to a command that prints the answer: outcome, answer and ack are one append.
RUN: Final = "a run"

_BUS = frozenset({"bus"})
_BOTH = frozenset({"bus", "watcher"})
_SHIM = _BOTH | {"shim"}
_ALL = _SHIM | {"command"}


def _rows(occasion: str, held: str, alive: frozenset[str], points: Iterable[str]) -> list[Row]:
    return [Row(occasion, point, held, alive) for point in points]


#: Every row, in the order in which its points are reached.
ROWS: Final = (
    *_rows(MESSAGE, "bus", _BOTH, APPEND),
    *_rows(KNOWN, "bus", _BOTH, ("bus.append.decided", "bus.append.committed")),
    *_rows("a grant", "bus", _BOTH, ("bus.ask.decided", *APPEND, "bus.ask.granted")),
    *_rows("an ack", "bus", _ALL, APPEND),
    *_rows("a report with an ack", "bus", _BOTH, ("bus.report.decided", *APPEND, "bus.report.recorded")),
    *_rows("a report with a reply", "bus", _BUS, ("bus.report.decided", *APPEND, "bus.report.recorded")),
    *_rows("dead letters", "bus", _BOTH, ("bus.letters.decided", *APPEND, "bus.letters.appended")),
    *_rows("a lease that runs out", "bus", _BUS, ("bus.lease.ran_out", *APPEND, "bus.lease.closed")),
    *_rows("a redaction", "bus", _BUS, ("bus.append.committed", "bus.append.folded")),
    *_rows(
        "a first start",
        "bus",
        _BUS,
        (
            *(f"bus.migration.{step}" for step in ("decided", "applied", "committed")),
            *(f"bus.adopt.{step}" for step in ("decided", "written", "committed")),
            "bus.open.folded",
            *(f"bus.secret.{step}" for step in ("begun", "flushed", "renamed", "durable")),
        ),
    ),
    *_rows(
        "a restore",
        "bus",
        _BUS,
        (
            *(f"bus.adopt.{step}" for step in ("decided", "written", "committed")),
            "bus.open.folded",
            "bus.quiet.noted",
        ),
    ),
    *_rows("a watcher's start", "watcher", _ALL, ("watcher.state.made", "watcher.node.written")),
    *_rows("a watcher's start", "watcher", _ALL, ("watcher.state.flushed", "watcher.state.durable")),
    *_rows("a watcher's start", "watcher", _ALL, ("watcher.scratch.removed", "watcher.token.removed")),
    *_rows("a first key", "watcher", _BOTH, ("watcher.home.made", "watcher.home.durable")),
    *_rows("a wake", "watcher", _BOTH, ("watcher.ask.sending", "watcher.ask.answered", "watcher.token.stored")),
    *_rows("a wake", "watcher", _BOTH, ("grant.flushed", "grant.renamed", "grant.durable")),
    *_rows("a wake", "watcher", _ALL, ("watcher.cursor.written", "watcher.status.written", "watcher.shim.started")),
    *_rows("a wake", "shim", _ALL, ("shim.lock.taken", "shim.command.told", "shim.guard.told")),
    *_rows("a wake", "shim", _ALL, ("started.flushed", "started.renamed", "started.durable")),
    *_rows("a wake", "command", _ALL, ("shim.command.starting",)),
    *_rows("a wake", "shim", _ALL, ("shim.command.released",)),
    *_rows("a wake", "shim", _SHIM, ("shim.command.ended", "shim.guard.released")),
    *_rows("a wake", "shim", _SHIM, ("outcome.flushed", "outcome.renamed", "outcome.durable")),
    *_rows("a wake", "watcher", _BOTH, ("watcher.outcome.seen",)),
    *_rows("a wake", "watcher", _BOTH, ("watcher.key.begun", "watcher.key.lockable")),
    *_rows("a wake", "watcher", _BOTH, ("key.flushed", "key.renamed", "key.durable")),
    *_rows("a wake", "watcher", _BOTH, ("watcher.key.named", "watcher.key.made", "watcher.report.answered")),
    *_rows("a wake", "watcher", _BOTH, (f"watcher.folder.{step}" for step in ("renamed", "gone", "deleted"))),
    *_rows(RUN, "watcher", _BOTH, (f"watcher.run.{step}" for step in ("made", "told", "prompted"))),
    *_rows(RUN, "watcher", _BOTH, ("grant.durable",)),
    *_rows(RUN, "shim", _ALL, ("started.durable",)),
    *_rows(RUN, "command", _ALL, ("shim.command.starting",)),
    *_rows(RUN, "shim", _SHIM, ("shim.command.ended", "outcome.durable")),
    *_rows(RUN, "bus", _BOTH, ("bus.report.decided", "bus.append.projected", "bus.append.committed")),
    *_rows(RUN, "bus", _BOTH, ("bus.report.recorded",)),
    *_rows(RUN, "watcher", _BOTH, ("watcher.report.answered", "watcher.folder.renamed")),
    *_rows("a second shim", "shim", _SHIM, ("shim.left.ended",)),
    *_rows(HANG, "shim", _ALL, ("shim.command.released",)),
)
CELLS: Final = tuple(Cell(row, fault) for row in ROWS for fault in row.faults)
POINTS: Final = frozenset(row.point for row in ROWS)
OCCASIONS: Final = tuple(dict.fromkeys(row.occasion for row in ROWS))

_HEAD: Final = """# The crash matrix: every point between two durable steps, every fault, and what becomes of it

Written by the tests (`make matrix`), and held to by them: a cell that comes out otherwise is a failing test.

Bus, watcher and shim change what outlasts them in steps: a commit, a rename, a flush. Each moment between two such
steps has a name in the code, a *point*: `reached("bus.append.committed")`. In production that is a test of one
constant. When `EVENTLOG_STOP_AT` names a folder and a test has laid a FIFO of a point's name there, the first process
that comes to the point waits at it. The test then strikes: it kills bus, watcher, shim or command with SIGKILL, or cuts
the power of the machine of the bus, of the watcher, or of both (a copy of the disk as it was at that moment, mounted
again and started as after another boot). It lets go of what was held, starts what was ended, and waits until nothing is
left to do.

Then the checkers judge log and commands. That is no part of the tables, because it holds for every cell: no accepted
message lost or twice, every message read or dead, no wake started twice, never two commands of one agent, an outcome
that was reported stands, one good run and one answer for each message that was run, the log's chain whole. What the
tables say is how the message got there:

- *ok*: one wake; its command was started once and came to its end
- *interrupted*: the wake's command was cut; *before its start*: there was none yet. An arrow leads to the next wake
- *ran out*: nobody could report on the wake, so its lease had to run out
- *not_started*, *failed*, *timeout*: the outcome of that name; *dead*: a dead letter, of which the sender was told
- *sent again*: what was not durable had been acknowledged to nobody; its sender sent it again, and it is there once
- *stored*: it was durable, and was answered as the same message when it was sent again under its key
- *done*, *done by the next start*: whether the first start, or the start on a restored copy, had come to its commit
- –: at this point there is no process that the fault could strike

`make test` runs every point with the faults that are likeliest to tell something there; `make crashes` runs all.
"""


def key_of(cell: Cell) -> Key:
    """Where a cell stands on the page."""
    return cell.row.occasion, cell.row.point, str(cell.fault)


def summary(results: Mapping[Key, str]) -> str:
    """How often each result came of each fault, the most frequent first."""
    cells = [cell for cell in CELLS if key_of(cell) in results]
    parts = [
        f"\n## Results by fault\n\n{len(POINTS)} points, {len(ROWS)} rows, {len(cells)} cells.\n",
        "\n| fault | cells | results |\n|---|---|---|\n",
    ]
    for fault in Fault:
        counts = Counter(results[key_of(cell)] for cell in cells if cell.fault is fault)
        told = " · ".join(f"{result}: {count}" for result, count in counts.most_common())
        parts.append(f"| {fault} | {counts.total()} | {told} |\n")
    return "".join(parts)


def page(results: Mapping[Key, str]) -> str:
    """The page of these results."""
    parts = [_HEAD, summary(results)]
    for occasion in OCCASIONS:
        parts.append(
            f"\n## {occasion[0].upper()}{occasion[1:]}\n\n"
            f"| point | {' | '.join(Fault)} |\n|{'---|' * (len(Fault) + 1)}\n"
        )
        for row in ROWS:
            if row.occasion == occasion:
                told = [
                    results.get(key_of(Cell(row, fault)), UNKNOWN) if fault in row.faults else NOTHING
                    for fault in Fault
                ]
                parts.append(f"| `{row.point}` | {' | '.join(told)} |\n")
    return "".join(parts)


def told_by_page(text: str) -> dict[Key, str]:
    """What the page says of each occasion, point and fault."""
    found: dict[Key, str] = {}
    for section in text.split("\n## ")[1:]:
        occasion = section[0].lower() + section.partition("\n")[0][1:]
        for line in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
            point, *told = [part.strip() for part in line.strip("|").split("|")]
            found |= {(occasion, point.strip("`"), str(fault)): word for fault, word in zip(Fault, told, strict=True)}
    return found
