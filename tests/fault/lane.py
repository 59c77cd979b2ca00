"""A lane of the crash matrix: a bus and a watcher, each on a disk whose power can be cut, through cell after cell."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.checkers import log_problems, reply_problems, run_problems
from tests.e2e.foreign import Answer
from tests.e2e.senders import Sender
from tests.fault.disguise import another_boot
from tests.fault.launch import QUICK, tuned
from tests.fault.matrix import HANG, KNOWN, MESSAGE, MESSAGES, RUN, Cell, Fault, Row
from tests.fault.power import Disk
from tests.scene import Scene
from tests.support import BusProcess, WatcherProcess, clean_environment, lock_of, until

#: The switch of the points, in the environment of every process of a lane.
SWITCH = "EVENTLOG_STOP_AT"
#: How long a state is waited for; the machine is busy with other lanes.
DEADLINE_S = 60.0
#: The agents whose commands write down what they do.
WRITERS = ("mel", "holds", "exits", "short", "runs", "brief")
#: Of these, the ones that get runs and print the answer.
RUNNERS = ("runs", "brief")
#: Limits that nothing runs into, and ones that a lease soon has run out under.
LONG: dict[str, Any] = {"timeout": 60, "start_within": 60, "ack_within": 60}
SHORT: dict[str, Any] = {"timeout": 1, "start_within": 3, "ack_within": 60}
RUNS: dict[str, Any] = {"deliver": "each", "reply": "stdout"}
#: Where the wake is granted, and the watcher's disk does not know of it yet.
UNSTORED = (
    *("watcher.ask.answered", "watcher.token.stored", "grant.flushed", "grant.renamed"),
    *("watcher.run.made", "watcher.run.told", "watcher.run.prompted"),
)
#: Points of the shim at which its command must not have begun.
BEFORE_GO = (
    *("shim.lock.taken", "shim.command.told", "shim.guard.told"),
    *("started.flushed", "started.renamed", "started.durable"),
)
#: Points at which the outcome has its name already, so that no other shim is started.
DECIDED = ("outcome.renamed", "outcome.durable")
#: Points at which nobody may have been told of what is appended.
BEFORE_COMMIT = tuple(f"bus.append.{step}" for step in ("decided", "begun", "inserted", "projected"))


class Stop:
    """One point at which the first process that comes is held."""

    def __init__(self, folder: Path, point: str) -> None:
        self.point = point
        self.pid = 0
        self._folder = folder
        self._path = folder / point
        os.mkfifo(self._path)

    def wait(self) -> int:
        """The process that is held there, as soon as there is one."""
        self.pid = int(until(self._held, DEADLINE_S, lambda: f"at {self.point}")[0].rpartition(".")[2])
        return self.pid

    def _held(self) -> list[str]:
        return [name for name in os.listdir(self._folder) if name.startswith(f"{self.point}.")]

    def release(self) -> None:
        """Let it go on, if it still lives."""
        held = self._folder / f"{self.point}.{self.pid}"
        until(lambda: opened(held) or not stat(self.pid), DEADLINE_S)
        held.unlink()


def opened(held: Path) -> bool:
    """Whether who waits at this FIFO was let go; it may not wait yet, or not any more."""
    try:
        os.close(os.open(held, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


class Seen(NamedTuple):
    """A running process: its number, its parent's, its group's and its session's."""

    pid: int
    parent: int
    group: int
    session: int


class Lane:
    """A context manager. `cell` brings it to a point, strikes, starts again what died, and says what came of it.

    `power` says whether the machines have disks whose power can be cut.
    """

    def __init__(self, place: Path, *, power: bool) -> None:
        self.place = place
        self._power = power
        self.stops = place / "stops"
        self.folder = place / "agents"
        self.boot: list[str] = []
        self._number = 0
        self._more = ""
        self._short = True
        self._accepted: list[int] = []
        self._after: Callable[[], None] = lambda: None
        self.sender: Sender | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            for folder in (self.stops, self.folder, self.place / "b", self.place / "w"):
                folder.mkdir(parents=True)
            self.disks = {name: undo.enter_context(Disk(self.place / name)) for name in ("b", "w") if self._power}
            for disk in self.disks.values():
                unhurried(disk)
            switch = {SWITCH: str(self.stops)}
            data = self.root("b") / "data"
            self.bus = BusProcess(self.place / "bus", data_dir=data, under=tuned(QUICK), env=switch)
            undo.enter_context(self.bus)
            self.scene = Scene(self.bus, self.folder)
            self.admin = self.scene.admin
            self.watcher = WatcherProcess(
                self.place / "minipc", self.bus.url, self.scene.watcher_token, self.tables(), env=switch
            )
            self.config = self.watcher.config.read_text().removesuffix(self.tables())
            self.watcher.state_dir = self.root("w") / "state"
            undo.enter_context(self.watcher)
            # What it does once and for all, such as an agent's first key, is no part of a cell.
            until(lambda: all(self.rests(agent) for agent in self.served), DEADLINE_S)
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in [seen.pid for seen in self.processes()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._stack.close()

    def root(self, name: str) -> Path:
        """The disk of the bus's machine, `b`, or of the watcher's, `w`."""
        return self.disks[name].path if self._power else self.place / name

    def tables(self, *, short: bool = True) -> str:
        """The agents of the watcher's configuration."""
        agent = self.scene.agent
        return (
            agent(name="mel", **LONG)
            + agent("--hold", name="holds", **LONG)
            + agent("--handed", name="exits", ack="exit", **LONG)
            + agent(name="short", **(SHORT if short else LONG))
            + agent("--handed", "--print", name="runs", **RUNS, **LONG)
            + agent("--handed", "--print", name="brief", **RUNS, **(SHORT if short else LONG))
            + agent(name="fails", command=["false"], max_attempts=1, **LONG)
            + agent(name="hangs", command=["sleep", "300"], max_attempts=1, **{**LONG, "timeout": 1})
            + self._more
        )

    # ---- a cell -----------------------------------------------------------------------------------------------------

    def cell(self, cell: Cell) -> str:
        """What came of one cell, in the page's words. Fails if a checker finds something wrong."""
        self._number += 1
        self._after = lambda: None
        self._more = ""
        self.release_file.unlink(missing_ok=True)
        since = self.events()[-1]["id"]
        stop, agent = self.reach(cell)
        self.must_be_alive(cell.row, stop)
        self.strike(cell, stop)
        self.release_file.touch()
        self.told_sender()
        self._after()
        if agent in self.served:
            until(lambda: self.rests(agent), DEADLINE_S, lambda: self.said(agent))
        events = self.events()
        self.check(events, agent)
        return self.told(events, agent, since, cell)

    @property
    def release_file(self) -> Path:
        """Until it is there, the commands wait that hold."""
        return self.folder / "release"

    @property
    def served(self) -> tuple[str, ...]:
        """The agents that the watcher wakes."""
        return (*WRITERS, "fails", "hangs", *([f"new{self._number}"] if self._more else []))

    def arm(self, point: str) -> Stop:
        """Hold the next process that comes to this point."""
        return Stop(self.stops, point)

    def send(self, agent: str) -> None:
        """Begin to send a message; it is sent until it is accepted."""
        self.sender = Sender(self.bus.url, self.bus.admin_token, name=f"cell-{self._number}", to_agent=agent, count=1)
        self.sender.start()

    def short(self, name: str = "short") -> str:
        """An agent whose leases soon have run out, as the watcher that runs now asks for it."""
        if not self._short:
            self.watcher.stop()
            self.start_watcher(short=True)
        return name

    def sent(self, agent: str) -> int:
        """Send a message; its id."""
        self.send(agent)
        self.told_sender()
        assert self.sender is not None
        return next(iter(self.sender.accepted.values()))[0]

    def told_sender(self) -> None:
        """Wait until the sender has its id."""
        assert self.sender is not None
        self.sender.join(DEADLINE_S)
        assert self.sender.accepted, f"the sender was refused: {self.sender.refused}"

    def reach(self, cell: Cell) -> tuple[Stop, str]:
        """Bring about what the row is about, up to its point; and the agent that it is about."""
        row = cell.row
        act: Callable[[Cell], tuple[Stop, str]] = {
            MESSAGE: self.a_message,
            KNOWN: self.a_known_message,
            "a grant": self.a_grant,
            "an ack": self.an_ack,
            "a report with an ack": self.a_report,
            "a report with a reply": self.a_reply,
            "dead letters": self.dead_letters,
            "a lease that runs out": self.a_lease,
            "a redaction": self.a_redaction,
            "a watcher's start": self.a_start,
            "a first key": self.a_first_key,
            "a wake": self.a_wake,
            RUN: self.a_run,
            "a second shim": self.a_second_shim,
            HANG: self.a_hang,
        }[row.occasion]
        stop, agent = act(cell)
        stop.wait()
        return stop, agent

    def gated(self, gate: str, point: str, begin: Callable[[], object]) -> Stop:
        """The stop at `point`, laid when the process that is to come there stands at the gate before it."""
        first = self.arm(gate)
        begin()
        first.wait()
        if gate == point:
            return first
        second = self.arm(point)
        first.release()
        return second

    # ---- occasions --------------------------------------------------------------------------------------------------

    def a_message(self, cell: Cell) -> tuple[Stop, str]:
        stop = self.arm(cell.row.point)
        self.send("mel")
        return stop, "mel"

    def a_known_message(self, cell: Cell) -> tuple[Stop, str]:
        first = {"from_agent": f"cell-{self._number}", "to_agent": "nobody", "payload": {}}
        assert self.admin.call("POST", "/api/send", first).status == 201
        return self.a_message(cell)

    def a_grant(self, cell: Cell) -> tuple[Stop, str]:
        agent = self.short() if cell.fault in (Fault.CUT_WATCHER, Fault.CUT_BOTH) else "mel"
        return self.gated("bus.ask.decided", cell.row.point, lambda: self.send(agent)), agent

    def a_report(self, cell: Cell) -> tuple[Stop, str]:
        return self.gated("bus.report.decided", cell.row.point, lambda: self.send("exits")), "exits"

    def dead_letters(self, cell: Cell) -> tuple[Stop, str]:
        return self.gated("bus.letters.decided", cell.row.point, lambda: self.send("fails")), "fails"

    def an_ack(self, cell: Cell) -> tuple[Stop, str]:
        self.begin("holds")
        stop = self.arm(cell.row.point)
        self.release_file.touch()
        return stop, "holds"

    def begin(self, agent: str) -> None:
        """Send a message and wait until the command is there that it wakes."""
        before = len(self.scene.runs("start", agent))
        self.sent(agent)
        until(lambda: len(self.scene.runs("start", agent)) > before, DEADLINE_S, lambda: self.said(agent))

    def a_reply(self, cell: Cell) -> tuple[Stop, str]:
        number, key = self.sent("foreign"), f"key-{self._number}"
        answer = self.admin.ask(key, "foreign", ack="exit", timeout_s=60)
        assert answer.status == 201, answer
        wake = answer.body["wake"]["id"]
        report = Repeated(lambda: self.admin.report(wake, key, "ok", reply={"to": number}))

        def check() -> None:
            assert report.answer().status == 200
            assert len([event for event in self.events() if event.get("reply_to") == number]) == 1
            assert self.admin.report(wake, key, "ok").status == 200
            assert self.admin.report(wake, key, "failed").code == "already_finished"

        self._after = check
        return self.gated("bus.report.decided", cell.row.point, report.start), "foreign"

    def a_lease(self, cell: Cell) -> tuple[Stop, str]:
        def ask() -> None:
            answer = self.admin.ask(f"key-{self._number}", "gone", timeout_s=0.1, start_within_s=0)
            assert answer.status == 201, answer

        def read() -> None:
            until(lambda: self.rests("gone", unread=1), DEADLINE_S, lambda: self.said("gone"))
            cursor = self.admin.inbox("gone")["cursor"]
            assert self.admin.call("POST", "/api/inbox/ack", {"agent": "gone", "cursor": cursor}).status == 200

        self.sent("gone")
        self._after = read
        return self.gated("bus.lease.ran_out", cell.row.point, ask), "gone"

    def a_redaction(self, cell: Cell) -> tuple[Stop, str]:
        secret = f"secret-{uuid.uuid4().hex}"
        self.sent("nobody")
        number = self.admin.send("nobody", secret)
        stop = self.arm(cell.row.point)
        path = f"/api/messages/{number}/redact"
        redaction = Repeated(lambda: self.admin.call("POST", path, {"reason": "it slipped"}))
        redaction.start()

        def check() -> None:
            assert redaction.answer().status == 200
            left = [file.name for file in self.bus.data_dir.iterdir() if secret.encode() in file.read_bytes()]
            assert not left, f"the erased text is still in {left}"

        self._after = check
        return stop, "nobody"

    def a_start(self, cell: Cell) -> tuple[Stop, str]:
        self.begin("holds")
        self.watcher.kill()
        state = self.watcher.state_dir
        (state / "node").unlink()
        (state / "agents" / "mel" / ".new-left").mkdir()
        (state / "tokens" / "1").touch()
        os.utime(state / "tokens" / "1", (0, 0))
        stop = self.arm(cell.row.point)
        self.watcher.start(wait=False)
        return stop, "holds"

    def a_first_key(self, cell: Cell) -> tuple[Stop, str]:
        agent = f"new{self._number}"
        self.watcher.kill()
        self._more = self.scene.agent(name=agent, **LONG)
        self.sent(agent)
        stop = self.arm(cell.row.point)
        self.start_watcher(wait=False)
        return stop, agent

    def a_wake(self, cell: Cell) -> tuple[Stop, str]:
        row = cell.row
        agent = "mel"
        if row.point in UNSTORED and cell.fault in (Fault.CUT_WATCHER, Fault.CUT_BOTH):
            agent = self.short()
        if row.point == "watcher.ask.answered":
            # The ask that follows the wake of the cell before may still be on its way; it must not be the one held.
            return self.gated("bus.ask.granted", row.point, lambda: self.send(agent)), agent
        # Where the command runs while another process is held, it waits, so that it surely runs.
        held_elsewhere = row.held == "watcher" or row.point == "shim.command.released"
        if not held_elsewhere or "command" not in row.alive:
            stop = self.arm(row.point)
            self.send(agent)
            return stop, agent
        stop = self.arm(row.point)
        self.begin("holds")
        return stop, "holds"

    def a_run(self, cell: Cell) -> tuple[Stop, str]:
        row, agent = cell.row, "runs"
        if row.point in UNSTORED and cell.fault in (Fault.CUT_WATCHER, Fault.CUT_BOTH):
            agent = self.short("brief")
        if row.held == "bus":
            return self.gated("bus.report.decided", row.point, lambda: self.send(agent)), agent
        stop = self.arm(row.point)
        self.send(agent)
        return stop, agent

    def a_second_shim(self, cell: Cell) -> tuple[Stop, str]:
        self.begin("holds")
        stop = self.arm(cell.row.point)
        os.kill(self.victims(Fault.KILL_SHIM)[0], signal.SIGKILL)
        return stop, "holds"

    def a_hang(self, cell: Cell) -> tuple[Stop, str]:
        stop = self.arm(cell.row.point)
        self.sent("hangs")
        return stop, "hangs"

    # ---- faults -----------------------------------------------------------------------------------------------------

    def must_be_alive(self, row: Row, stop: Stop) -> None:
        """What the row says of the moment is so: who runs, and that nobody is told, or begins, too early."""
        for name, fault in (("shim", Fault.KILL_SHIM), ("command", Fault.KILL_COMMAND)):
            self.must_have(fault, alive=name in row.alive)
        if row.point in BEFORE_GO:
            # It sleeps, because it waits for leave to begin; or it began, and is another program by now.
            [command] = self.victims(Fault.KILL_COMMAND)
            until(lambda: stat(command)[:1] in ([], ["S"]), DEADLINE_S)
            assert b"starter.py" in Path(f"/proc/{command}/cmdline").read_bytes(), (
                f"the command has begun at {row.point}"
            )
        if row.occasion in MESSAGES and row.point in BEFORE_COMMIT:
            # The bus answers, so it would have answered the sender, too.
            assert self.admin.call("GET", "/healthz").status == 200
            assert self.sender is not None
            assert not self.sender.accepted, f"the sender has an id at {stop.point}"

    def must_have(self, fault: Fault, *, alive: bool) -> None:
        """Wait until there is what the fault kills, or is not."""
        until(lambda: bool(self.victims(fault)) is alive, DEADLINE_S, lambda: f"{fault}: {self.victims(fault)}")

    def strike(self, cell: Cell, stop: Stop) -> None:
        """Do what the fault says, let go of what was held, and start again what died."""
        fault = cell.fault
        if fault in (Fault.KILL_SHIM, Fault.KILL_COMMAND):
            [victim] = self.victims(fault)
            os.kill(victim, signal.SIGKILL)
            until(lambda: not stat(victim), DEADLINE_S)
            stop.release()
            return
        works = cell.row.held in ("shim", "command") and cell.row.point not in DECIDED
        if fault == Fault.KILL_WATCHER and works and cell.row.occasion != HANG:
            self.renew_watcher(stop)
            return
        bus = fault in (Fault.KILL_BUS, Fault.CUT_BUS, Fault.CUT_BOTH)
        watcher = fault in (Fault.KILL_WATCHER, Fault.CUT_WATCHER, Fault.CUT_BOTH)
        if fault in (Fault.CUT_BUS, Fault.CUT_WATCHER, Fault.CUT_BOTH):
            self.cut(bus=bus, watcher=watcher)
        if bus:
            self.bus.kill()
        if watcher:
            self.watcher.kill()
        stop.release()
        if cell.row.occasion == HANG and fault == Fault.KILL_WATCHER:
            # The watcher stays away until the wake is over: its time limit is not the watcher's to keep.
            place = self.watcher.state_dir / "agents" / "hangs"
            until(lambda: list(place.glob("*/outcome")), DEADLINE_S)
        if bus:
            self.bus.start()
        if watcher:
            self.start_watcher(short=False)

    def renew_watcher(self, stop: Stop) -> None:
        """Kill the watcher and start it again while a shim works: the shim that it starts has nothing to do."""
        working = self.victims(Fault.KILL_SHIM)
        self.watcher.kill()
        second = self.arm("watcher.shim.started")
        self.start_watcher(wait=False)
        second.wait()
        until(lambda: self.victims(Fault.KILL_SHIM) == working, DEADLINE_S)
        second.release()
        stop.release()

    def cut(self, *, bus: bool, watcher: bool) -> None:
        """The power of machines goes: all stops at one moment, what was on the disk is there, and nothing runs on."""
        running = [self.bus.process.pid] if bus else []
        if watcher:
            running += [self.watcher.process.pid, *(seen.pid for seen in self.processes())]
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        names = [name for name, gone in (("b", bus), ("w", watcher)) if gone]
        images = {name: self.disks[name].cut() for name in names}
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if watcher:
            self.boot = another_boot(self.place / "shown", str(uuid.uuid4()))
        for name, image in images.items():
            self.disks[name].restore(image)
            unhurried(self.disks[name])

    def start_watcher(self, *, short: bool = True, wait: bool = True) -> None:
        """Start the watcher, after the latest boot, with the agents as they are now."""
        self.watcher.config.write_text(self.config + self.tables(short=short))
        self.watcher.under = self.boot
        self._short = short
        self.watcher.start(wait=wait)

    def processes(self) -> Iterator[Seen]:
        """The running processes of the watcher's machine besides the watcher."""
        mark = f"{SWITCH}={self.stops}".encode()
        known = {self.bus.process.pid, self.watcher.process.pid}
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in known:
                with contextlib.suppress(OSError):
                    if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                        state = stat(int(name))
                        if state:
                            parent, group, session = map(int, state[1:4])
                            yield Seen(int(name), parent, group, session)

    def victims(self, fault: Fault) -> list[int]:
        """The shim, or its command's first process; none if there is none."""
        found = list(self.processes())
        ours = {seen.pid for seen in found if lock_of(seen.pid)}
        shims = [seen.pid for seen in found if seen.pid in ours and seen.parent not in ours]
        if fault == Fault.KILL_SHIM:
            return shims
        # The guard has a session of its own, the command a group.
        return [s.pid for s in found if s.parent in shims and s.pid == s.group and s.pid != s.session]

    # ---- the end ----------------------------------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """The log."""
        return self.admin.events()

    def rests(self, agent: str, unread: int = 0) -> bool:
        """Whether bus and watcher have nothing more to do for an agent."""
        view = self.admin.call("GET", f"/api/agents/{agent}").body
        if view.get("unread", 0) != unread or view.get("wake"):
            return False
        if agent not in self.served:
            return True
        home = self.watcher.state_dir / "agents" / agent
        keys = list(home.iterdir()) if home.exists() else []
        return len(keys) == 1 and keys[0].name[0] != "." and not (keys[0] / "grant").exists()

    def said(self, agent: str) -> str:
        """What may tell why it does not come to rest."""
        view = self.admin.call("GET", f"/api/agents/{agent}").body
        last = [event for event in self.events() if agent in (event.get("agent"), event.get("to_agent"))][-6:]
        home = self.watcher.state_dir / "agents" / agent
        files = [str(path.relative_to(home)) for path in home.rglob("*")] if home.exists() else []
        return json.dumps([view, last, files, self.watcher.log_text[-1500:]])

    def check(self, events: list[dict[str, Any]], agent: str) -> None:
        """Both checkers find nothing wrong."""
        assert self.sender is not None
        self._accepted += [number for told in self.sender.accepted.values() for number in told]
        news = {event["to_agent"] for event in events if event.get("to_agent", "").startswith("new")}
        writers = {*WRITERS, *news}
        path = self.folder / "runs.ndjson"
        runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        wrong = log_problems(events, accepted=self._accepted, read_by=[agent] if agent != "nobody" else [])
        wrong += run_problems(events, runs, writers) + reply_problems(events, RUNNERS)
        assert not wrong, wrong

    def told(self, events: list[dict[str, Any]], agent: str, since: int, cell: Cell) -> str:
        """What the log and the commands say of this cell, in the page's words."""
        new = [event for event in events if event["id"] > since]
        words = []
        for wake in [event for event in new if event["event"] == "wake.started" and event["agent"] == agent]:
            ends = [event for event in new if event["event"] == "wake.finished" and event["wake"] == wake["id"]]
            word = "ran out" if ends[0]["by"] == "bus" else ends[-1]["outcome"]
            started = [run for run in self.scene.runs("start", agent) if run["wake"] == wake["id"]]
            early = not started and agent in self.served and word in ("ran out", "interrupted", "ok", "timeout")
            words.append(f"{word} before its start" if early and agent != "hangs" else word)
        words += ["dead" for event in new if event["event"] == "dead_letter"]
        said = " → ".join(words)
        if cell.row.occasion == "a redaction":
            return "erased"
        struck = cell.fault in (Fault.KILL_BUS, Fault.CUT_BUS, Fault.CUT_BOTH)
        if cell.row.occasion not in MESSAGES or not struck:
            return said
        assert self.sender is not None
        return f"{'stored' if self.sender.replayed else 'sent again'}; {said}"

    def close(self) -> None:
        """Stop both; the log's chain is whole, and what is derived from it is what it says."""
        self.watcher.stop()
        assert self.bus.stop() == 0
        offline("verify", "--data-dir", self.bus.data_dir)


def offline(*arguments: str | Path) -> None:
    """A call of the command line on files, with the constants of the buses here; it must go well."""
    command = [*tuned(QUICK), sys.executable, "-m", "eventlog.cli", *map(str, arguments)]
    env = clean_environment(Path(tempfile.gettempdir()))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done


def unhurried(disk: Disk) -> None:
    """Let the kernel write nothing back that no program flushes, for longer than a cell takes."""
    subprocess.run(["mount", "-o", "remount,commit=300", disk.path], check=True, timeout=30)


class Repeated(threading.Thread):
    """A request that is made until the bus answers it."""

    def __init__(self, call: Callable[[], Answer]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._answer: Answer | None = None

    def run(self) -> None:
        """The thread."""
        while self._answer is None:
            with contextlib.suppress(Exception):
                answer = self._call()
                self._answer = answer if answer.status < 500 else None

    def answer(self) -> Answer:
        """What it was answered in the end."""
        self.join(DEADLINE_S)
        assert self._answer is not None
        return self._answer


def stat(pid: int) -> list[str]:
    """A process's fields of /proc/PID/stat from its state on; [] if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields
