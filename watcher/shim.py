"""The shim: runs the command of one wake, outlives the watcher, and alone decides and writes the wake's outcome.

Forked as `main(FOLDER)` by a process that has loaded this file ahead (see watcher/starter.py): standard library only,
so that it starts quickly and needs no installed package. FOLDER is the folder of one key; every file in it is named by
its full path:

- `key`      {"key", "boot_id", "machine_id", "hardware"}, written by the watcher before it asks
- `lock`     empty and there beforehand; held by flock until this process exits
- `grant`    {"wake", "latest_start", "argv", "cwd", "env", "request", "settings", "run"}; `latest_start` in seconds of
             CLOCK_BOOTTIME, `request` is the command's standard input; `run` is null, or of a run {"folder", "message",
             "input", "reply"}, where `folder` holds its prompt
- `started`  {"group", "began", "at"}: the command's process group, its leader's start in clock ticks and in seconds of
             CLOCK_BOOTTIME
- `outcome`  {"outcome", "exit_code", "duration_ms", "detail", "stdout", "stdout_left_out"}: the end of what the command
             printed, and how many bytes before it are not there

Three processes take part: the shim, the command (leader of a group of its own) and the guard, which holds a pipe from
the shim and ends the command's group when the shim dies (see watcher/pair.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import time

from watcher import processes
from watcher.crashpoint import reached
from watcher.pair import TICK_S, Pair
from watcher.processes import ENDING_TICK_S, Marks, boottime, end_left

# The type checker takes this for true; at run time `typing` alone would be a tenth of what starting a shim costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: How long the guard lets a shim that does not react overrun.
GUARD_SLACK_S: Final = 2.0
#: How much of what the command said is kept, from its end. The bus cuts a longer detail, and at the wrong end.
DETAIL_BYTES_MAX: Final = 2000
STDOUT_BYTES_MAX: Final = 65_536
#: Tokens of the bus, which a command may print and nobody else is to see; and what may be left of one at a cut.
TOKEN: Final = re.compile(r"(?:evt_|ewk_[0-9]+_|erc_[0-9]+_[0-9]+_)[A-Za-z0-9_-]{43}")
TOKEN_REST: Final = re.compile(r"\A[A-Za-z0-9_-]{1,77}")
#: How much is still read of what was in the pipes when the command ended.
DRAIN_BYTES_MAX: Final = 1_048_576
#: Exit codes that say that no turn began: EX_TEMPFAIL, not executable, not found.
NOT_STARTED_EXITS: Final = frozenset({75, 126, 127})
#: Between two tries to write a file on a full or failing disk.
RETRY_S: Final = 1.0


def boot_id() -> str:
    """The identity of this boot of this machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def read_json(path: str) -> Any:
    """The value stored in a file; raises OSError or ValueError if it cannot be read."""
    with open(path, "rb") as file:
        return json.loads(file.read())


def fsync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(folder: str, name: str, value: object) -> None:
    """Store a value as JSON so that after a power cut either all of it is there or nothing; raises OSError."""
    scratch = f"{folder}/.{name}.new"
    write_flushed(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), value)
    reached(f"{name}.flushed")
    os.rename(scratch, f"{folder}/{name}")
    reached(f"{name}.renamed")
    fsync_folder(folder)
    reached(f"{name}.durable")


def write_flushed(handle: int, value: object) -> None:
    """Write a value as JSON into an open file, flush it and close it; raises OSError."""
    with os.fdopen(handle, "wb") as file:
        file.write(json.dumps(value).encode())
        file.flush()
        os.fsync(file.fileno())


def main(folder: str, ahead: Pair | None = None) -> int:
    """Bring the wake of one folder to its outcome; 0 also when there was nothing to do.

    `ahead` are the command's process and its guard, if they are forked already.
    """
    os.chdir("/")
    try:
        lock = os.open(f"{folder}/lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0
    reached("shim.lock.taken")
    if not os.path.exists(f"{folder}/grant") or os.path.exists(f"{folder}/outcome"):
        return 0
    grant = read_json(f"{folder}/grant")
    outcome = decide(folder, grant, lock, ahead)
    while True:
        try:
            write_durably(folder, "outcome", {"detail": "", "stdout": "", **outcome})
            return 0
        except OSError:
            if not os.path.isdir(folder):
                return 0  # it was set aside
            time.sleep(RETRY_S)


def decide(folder: str, grant: dict[str, Any], lock: int, ahead: Pair | None) -> dict[str, Any]:
    """What became of the wake: found out from what an earlier shim left, else by running the command."""
    if read_json(f"{folder}/key")["boot_id"] != boot_id():
        return {"outcome": "interrupted", "detail": "the machine was restarted during the wake"}
    if os.path.exists(f"{folder}/started"):
        if ahead is not None:
            ahead.give_up()
        try:
            started = read_json(f"{folder}/started")
        except ValueError:
            started = {"group": 0, "began": -1}  # a damaged disk: the environment alone has to do
        end_left(Marks(*marks_of(grant, started["group"], started["began"])))
        reached("shim.left.ended")
        return {"outcome": "interrupted", "detail": "the shim of the wake died; what was left of its command was ended"}
    late_s = boottime() - grant["latest_start"]
    if late_s > 0:
        return {"outcome": "not_started", "detail": f"too late by {late_s:.1f} s to start the command"}
    return Run(folder, grant, lock, ahead).outcome()


def rehearse() -> None:
    """Do once, on nothing, what is done from the taking of the lock to the command's start.

    After a fork the first time takes up to ten times as long as the second: memory is copied as it is touched.
    """
    told = {"id": 0, "timeout_s": 0.0, "messages": [{"payload": {"text": ""}}]}
    grant: dict[str, Any] = {"wake": told, "latest_start": 0.0, "request": told, "env": {"EVENTLOG_TOKEN_FILE": ""}}
    handle = os.memfd_create("rehearsal")
    path = f"/proc/self/fd/{handle}"
    write_flushed(os.dup(handle), grant)
    os.path.exists(path)
    read_json(path)
    os.close(handle)
    boot_id()
    boottime()
    run = Run("", grant, 0, None)
    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    standard_input(grant)
    Marks(*marks_of(grant, 0, 0))
    os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))


def marks_of(grant: dict[str, Any], group: int, began: int) -> tuple[int, int, int, str]:
    """What the processes of the wake's command are recognised by, as `Marks` takes it."""
    return group, began, grant["wake"]["id"], grant["env"]["EVENTLOG_TOKEN_FILE"]


def standard_input(grant: dict[str, Any]) -> bytes:
    """What the command reads: the request; of a run with its prompt, or the prompt alone. Raises OSError."""
    request, run = grant["request"], grant.get("run")
    if run:
        with open(f"{run['folder']}/prompt.txt", "rb") as file:
            prompt = file.read()
        if run["input"] == "prompt":
            return prompt
        request = {**request, "prompt": prompt.decode(errors="replace")}
    return json.dumps(request).encode()


class Run:
    """One start of the wake's command, from what it is told to its outcome."""

    def __init__(self, folder: str, grant: dict[str, Any], lock: int, ahead: Pair | None) -> None:
        self.folder = folder
        self.grant = grant
        self.lock = lock
        self.ahead = ahead
        self.stopped = False
        self.stdout = Tail(STDOUT_BYTES_MAX)
        self.stderr = Tail(DETAIL_BYTES_MAX)

    def outcome(self) -> dict[str, Any]:
        """Run the command and say how it ended; an error of our own before the start is `not_started`."""
        signal.signal(signal.SIGTERM, self.stop)
        try:
            pair = self.told_pair()
        except OSError as error:
            return {"outcome": "not_started", "detail": f"the shim could not start the command: {error}"}
        detail = self.let_go(pair)
        if detail:
            pair.give_up()
            return {"outcome": "not_started", "detail": detail}
        reached("shim.command.released")
        ended_by = self.supervise(pair)
        status = os.waitstatus_to_exitcode(os.waitpid(pair.pid, 0)[1])
        reached("shim.command.ended")
        took_ms = round((boottime() - self.start) * 1000)
        self.drain(pair)
        result = {"duration_ms": took_ms, **self.verdict(pair, ended_by, status)}
        pair.release_guard()
        reached("shim.guard.released")
        return result

    def let_go(self, pair: Pair) -> str:
        """Let the command begin; "" or why it does not."""
        if boottime() > self.grant["latest_start"]:
            return "too late: the disk was slow in storing the start"
        return "" if pair.let_go() else "the command or its guard was ended before it began"

    def stop(self, _signal: int, _frame: object) -> None:
        """SIGTERM to the shim (the machine goes down): the command is ended in good order."""
        self.stopped = True

    def told_pair(self) -> Pair:
        """The pair, told of this wake; `started` is stored. The command waits until it is let go. Raises OSError."""
        request = standard_input(self.grant)
        self.start = boottime()
        timeout_s = self.grant["wake"]["timeout_s"]
        self.deadline = min(self.start, self.grant["latest_start"]) + timeout_s
        pair = self.ahead or Pair(self.lock)
        if not self.tell(pair, request):  # one of the two was killed while it waited
            pair.give_up()
            pair = Pair(self.lock)
            self.tell(pair, request)
        try:
            write_durably(self.folder, "started", {"group": pair.pid, "began": pair.began, "at": self.start})
        except OSError:
            pair.give_up()
            raise
        return pair

    def tell(self, pair: Pair, request: bytes) -> bool:
        """Tell both what they are for; False if one of them has been killed. Raises OSError."""
        marks = marks_of(self.grant, pair.pid, pair.began)
        self.marks = Marks(*marks)
        plan = {name: self.grant[name] for name in ("argv", "cwd", "env")}
        return pair.tell(request, plan, marks, self.deadline + processes.TERM_GRACE_S + GUARD_SLACK_S)

    def supervise(self, pair: Pair) -> str:
        """Wait for the first process, ending the group when its time is up: "" or why it was ended."""
        poll = select.poll()
        ended = os.pidfd_open(pair.pid)
        for handle in (ended, pair.out, pair.err):
            poll.register(handle, select.POLLIN)
            os.set_blocking(handle, False)
        over, ended_by, due = False, "", self.deadline
        while True:
            wait_s = ENDING_TICK_S if over else min(TICK_S, max(ENDING_TICK_S, due - boottime()))
            for handle, _ in poll.poll(wait_s * 1000):
                if handle == ended:
                    over = True
                elif self.read(self.stdout if handle == pair.out else self.stderr, handle):
                    continue
                poll.unregister(handle)
            if over and (not ended_by or not self.marks.group_lives()):
                return ended_by
            # Only after the look at what has ended: what came to its end by itself is not called ended by its limit.
            now = boottime()
            if not ended_by and (now >= due or self.stopped):
                ended_by, due = ("interrupted" if self.stopped else "timeout"), now + processes.TERM_GRACE_S
                # The leader is not reaped before the end, so its number cannot belong to anyone else.
                os.killpg(pair.pid, signal.SIGTERM)
            elif ended_by and now >= due:
                os.killpg(pair.pid, signal.SIGKILL)

    def read(self, tail: Tail, handle: int) -> bool:
        """Take in some output; False when that stream is closed."""
        try:
            chunk = os.read(handle, 65_536)
        except BlockingIOError:
            return True
        tail.add(chunk)
        return bool(chunk)

    def drain(self, pair: Pair) -> None:
        """Take in what was said before the end; what is left running is not read any more."""
        for tail, handle in ((self.stdout, pair.out), (self.stderr, pair.err)):
            for _ in range(DRAIN_BYTES_MAX // 65_536):
                if select.select([handle], [], [], 0)[0] and self.read(tail, handle):
                    continue
                break
            os.close(handle)

    def verdict(self, pair: Pair, ended_by: str, status: int) -> dict[str, Any]:
        """The outcome of a command that ended with this status."""
        said = self.stderr.text() or self.stdout.text()
        problem = os.read(pair.failed, 4096).decode(errors="replace")
        exit_code = 128 - status if status < 0 else status
        result = {"exit_code": exit_code, "stdout": self.stdout.text(), "stdout_left_out": self.stdout.left_out}
        if problem:
            return {**result, "outcome": "not_started", "detail": problem}
        if ended_by == "timeout":
            limit_s = self.grant["wake"]["timeout_s"]
            return {**result, "outcome": "timeout", "detail": bounded(f"ended after its limit of {limit_s} s", said)}
        if ended_by:
            return {**result, "outcome": "interrupted", "detail": bounded("ended because the machine stops", said)}
        if status < 0:
            name = signal.Signals(-status).name if -status in list(signal.Signals) else f"signal {-status}"
            return {**result, "outcome": "failed", "detail": bounded(f"the command was ended by {name}", said)}
        if exit_code in NOT_STARTED_EXITS:
            return {**result, "outcome": "not_started", "detail": bounded(f"exit code {exit_code}", said)}
        if exit_code:
            return {**result, "outcome": "failed", "detail": bounded(f"exit code {exit_code}", said)}
        return {**result, "outcome": "ok"}


class Tail:
    """The last bytes of a stream."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.data = b""
        self.left_out = 0

    def add(self, chunk: bytes) -> None:
        """Take in more, letting go of what came first."""
        whole = self.data + chunk
        self.data = whole[-self.size_max :]
        self.left_out += len(whole) - len(self.data)

    def text(self) -> str:
        """What is kept, as text and without the bus's tokens."""
        text = self.data.decode(errors="replace").replace("\0", "")
        if self.left_out:
            text = TOKEN_REST.sub("", text.lstrip("\ufffd"))
        return TOKEN.sub("[token]", text)


def bounded(reason: str, said: str) -> str:
    """A reason, followed by the end of what the command said, within the limit for a detail."""
    said = said.strip()
    room = DETAIL_BYTES_MAX - len(reason.encode()) - 2
    return f"{reason}: {said.encode()[-room:].decode(errors='ignore')}" if said else reason
