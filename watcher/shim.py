"""The shim: runs the command of one wake, outlives the watcher, and alone decides and writes the wake's outcome.

Forked as `main(FOLDER)` by a process that has loaded this file ahead (see watcher/starter.py), or started by `python -I
-S`: standard library only, so that it starts quickly and needs no installed package. FOLDER is the folder of one key;
every file in it is named by its full path:

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
the shim and ends the command's group when the shim dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import signal
import sys
import time

# The type checker takes this for true; at run time `typing` alone would be a tenth of what starting a shim costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final, NoReturn

#: From SIGTERM to SIGKILL; the bus's lease counts on it.
TERM_GRACE_S: Final = 10.0
#: How often the clock is looked at: a timer does not run while a machine is suspended, CLOCK_BOOTTIME does.
TICK_S: Final = 1.0
#: How often a group is looked at while its last processes end.
ENDING_TICK_S: Final = 0.05
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
#: Where the crash tests put what holds a process; unset, as in production, every point is passed at once.
_STOPS: Final = os.environ.get("EVENTLOG_STOP_AT")


def reached(point: str) -> None:
    """Hold this thread if a test has laid a FIFO of the point's name: its first comer waits until it is opened."""
    if _STOPS is None:
        return
    held = f"{_STOPS}/{point}.{os.getpid()}"
    try:
        os.rename(f"{_STOPS}/{point}", held)
    except FileNotFoundError:
        return
    os.close(os.open(held, os.O_RDONLY))


def boottime() -> float:
    """Seconds since boot, time spent suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(json.dumps(value).encode())
        file.flush()
        os.fsync(file.fileno())
    reached(f"{name}.flushed")
    os.rename(scratch, f"{folder}/{name}")
    reached(f"{name}.renamed")
    fsync_folder(folder)
    reached(f"{name}.durable")


def main(folder: str) -> int:
    """Bring the wake of one folder to its outcome; 0 also when there was nothing to do."""
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
    outcome = decide(folder, grant, lock)
    while True:
        try:
            write_durably(folder, "outcome", {"detail": "", "stdout": "", **outcome})
            return 0
        except OSError:
            if not os.path.isdir(folder):
                return 0  # it was set aside
            time.sleep(RETRY_S)


def decide(folder: str, grant: dict[str, Any], lock: int) -> dict[str, Any]:
    """What became of the wake: found out from what an earlier shim left, else by running the command."""
    if read_json(f"{folder}/key")["boot_id"] != boot_id():
        return {"outcome": "interrupted", "detail": "the machine was restarted during the wake"}
    if os.path.exists(f"{folder}/started"):
        try:
            started = read_json(f"{folder}/started")
        except ValueError:
            started = {"group": 0, "began": -1}  # a damaged disk: the environment alone has to do
        end_left(Marks(grant, started))
        reached("shim.left.ended")
        return {"outcome": "interrupted", "detail": "the shim of the wake died; what was left of its command was ended"}
    late_s = boottime() - grant["latest_start"]
    if late_s > 0:
        return {"outcome": "not_started", "detail": f"too late by {late_s:.1f} s to start the command"}
    return Run(folder, grant, lock).outcome()


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
    """One start of the wake's command, from fork to outcome."""

    def __init__(self, folder: str, grant: dict[str, Any], lock: int) -> None:
        self.folder = folder
        self.grant = grant
        self.lock = lock
        self.stopped = False
        self.stdout = Tail(STDOUT_BYTES_MAX)
        self.stderr = Tail(DETAIL_BYTES_MAX)

    def outcome(self) -> dict[str, Any]:
        """Run the command and say how it ended; an error of our own before the start is `not_started`."""
        signal.signal(signal.SIGTERM, self.stop)
        try:
            self.fork()
        except OSError as error:
            return {"outcome": "not_started", "detail": f"the shim could not start the command: {error}"}
        detail = self.let_go()
        os.close(self.go)
        if detail:
            os.waitpid(self.pid, 0)
            self.release_guard()
            return {"outcome": "not_started", "detail": detail}
        reached("shim.command.released")
        ended_by = self.supervise()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        reached("shim.command.ended")
        took_ms = round((boottime() - self.start) * 1000)
        self.drain()
        result = {"duration_ms": took_ms, **self.verdict(ended_by, status)}
        self.release_guard()
        reached("shim.guard.released")
        return result

    def let_go(self) -> str:
        """Let the command begin; "" or why it does not."""
        if boottime() > self.grant["latest_start"]:
            return "too late: the disk was slow in storing the start"
        try:
            os.write(self.go, b"g")
        except BrokenPipeError:
            return "the command was ended before it began"
        return ""

    def stop(self, _signal: int, _frame: object) -> None:
        """SIGTERM to the shim (the machine goes down): the command is ended in good order."""
        self.stopped = True

    def fork(self) -> None:
        """Fork the command's process and its guard and store `started`; the command waits for `go`."""
        reached("shim.command.forking")
        request = os.memfd_create("request")
        os.write(request, standard_input(self.grant))
        os.lseek(request, 0, os.SEEK_SET)
        wait, self.go = os.pipe()
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.failed, failed = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for handle in (self.lock, self.go, self.out, self.err, self.failed):
                os.close(handle)
            become_command(self.grant, wait, (request, out, err), failed)
        reached("shim.command.forked")
        for handle in (wait, request, out, err, failed):
            os.close(handle)
        os.setpgid(self.pid, self.pid)
        self.start = boottime()
        latest = self.grant["latest_start"]
        timeout_s = self.grant["wake"]["timeout_s"]
        self.deadline = min(self.start + timeout_s, latest + timeout_s)
        started = {"group": self.pid, "began": began_at(self.pid), "at": self.start}
        self.marks = Marks(self.grant, started)
        try:
            self.fork_guard()
            reached("shim.guard.forked")
            write_durably(self.folder, "started", started)
        except OSError:
            os.close(self.go)
            os.waitpid(self.pid, 0)
            raise

    def fork_guard(self) -> None:
        """Fork the process that ends the command's group when this one dies."""
        watch, self.alive = os.pipe()
        self.guard = os.fork()
        if self.guard == 0:
            guard(watch, self.marks, self.deadline + TERM_GRACE_S + GUARD_SLACK_S)
        os.close(watch)

    def release_guard(self) -> None:
        """Tell the guard that the wake is over, so that it leaves alone what the command left running."""
        try:  # noqa: SIM105 - contextlib costs a shim's start a twentieth
            os.write(self.alive, b"r")
        except BrokenPipeError:
            pass  # it was killed, or has acted: this process was stopped for too long
        os.waitpid(self.guard, 0)

    def supervise(self) -> str:
        """Wait for the first process, ending the group when its time is up: "" or why it was ended."""
        poll = select.poll()
        ended = os.pidfd_open(self.pid)
        for handle in (ended, self.out, self.err):
            poll.register(handle, select.POLLIN)
            os.set_blocking(handle, False)
        over, ended_by, due = False, "", self.deadline
        while True:
            wait_s = ENDING_TICK_S if over else min(TICK_S, max(ENDING_TICK_S, due - boottime()))
            for handle, _ in poll.poll(wait_s * 1000):
                if handle == ended:
                    over = True
                elif self.read(handle):
                    continue
                poll.unregister(handle)
            if over and (not ended_by or not self.marks.group_lives()):
                return ended_by
            # Only after the look at what has ended: what came to its end by itself is not called ended by its limit.
            now = boottime()
            if not ended_by and (now >= due or self.stopped):
                ended_by, due = ("interrupted" if self.stopped else "timeout"), now + TERM_GRACE_S
                # The leader is not reaped before the end, so its number cannot belong to anyone else.
                os.killpg(self.pid, signal.SIGTERM)
            elif ended_by and now >= due:
                os.killpg(self.pid, signal.SIGKILL)

    def read(self, handle: int) -> bool:
        """Take in some output; False when that stream is closed."""
        try:
            chunk = os.read(handle, 65_536)
        except BlockingIOError:
            return True
        (self.stdout if handle == self.out else self.stderr).add(chunk)
        return bool(chunk)

    def drain(self) -> None:
        """Take in what was said before the end; what is left running is not read any more."""
        for handle in (self.out, self.err):
            for _ in range(DRAIN_BYTES_MAX // 65_536):
                if select.select([handle], [], [], 0)[0] and self.read(handle):
                    continue
                break
            os.close(handle)

    def verdict(self, ended_by: str, status: int) -> dict[str, Any]:
        """The outcome of a command that ended with this status."""
        said = self.stderr.text() or self.stdout.text()
        problem = os.read(self.failed, 4096).decode(errors="replace")
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


def become_command(grant: dict[str, Any], wait: int, streams: tuple[int, int, int], failed: int) -> NoReturn:
    """In the forked process: wait until the start is stored, then become the command."""
    try:
        os.setpgid(0, 0)
        if os.read(wait, 1) != b"g":
            os._exit(0)  # the shim died, or decided otherwise
        reached("shim.command.starting")
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for target, handle in enumerate(streams):
            os.dup2(handle, target)
        os.chdir(grant["cwd"])
        environ = {**os.environ, **grant["env"]}
        os.execvpe(grant["argv"][0], grant["argv"], environ)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        where = grant["cwd"] if error.filename == grant["cwd"] else grant["argv"][0]
        os.write(failed, f"cannot run {where}: {error.strerror}".encode()[:2048])
        os._exit(127 if missing else 126)
    finally:
        os._exit(126)


def guard(watch: int, marks: Marks, latest_end: float) -> NoReturn:
    """In the guard's process: end the command's group when the shim dies, or is far beyond the wake's end."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.closerange(3, watch)
    os.closerange(watch + 1, os.sysconf("SC_OPEN_MAX"))
    while boottime() < latest_end:
        if select.select([watch], [], [], TICK_S)[0]:
            if os.read(watch, 1):
                os._exit(0)
            break
    end_left(marks)
    os._exit(0)


class Marks:
    """How the processes of a wake's command are recognised: never by a number alone."""

    def __init__(self, grant: dict[str, Any], started: dict[str, Any]) -> None:
        self.group: int = started["group"]
        self.began: int = started["began"]
        self.wake_id = f"WAKE_ID={grant['wake']['id']}".encode()
        self.token_file = f"EVENTLOG_TOKEN_FILE={grant['env']['EVENTLOG_TOKEN_FILE']}".encode()

    def leader_lives(self) -> bool:
        """Whether the group's number is still that of the process that was started."""
        return began_at(self.group) == self.began

    def group_lives(self) -> bool:
        """Whether a process of the group runs; to be asked only while its leader is not reaped."""
        return any(group == self.group for _, group in processes())

    def found(self) -> Iterator[int]:
        """The running processes that carry this wake's environment, in its group or started with its token."""
        for pid, group in processes():
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environ = file.read().split(b"\0")
            except OSError:
                continue
            if self.wake_id in environ and (group == self.group or self.token_file in environ):
                yield pid


def end_left(marks: Marks) -> None:
    """Kill what is left of a wake's command and wait until it is gone, for as long as the lease allows for it."""
    give_up = boottime() + TERM_GRACE_S
    while boottime() < give_up:
        left = marks.leader_lives()
        if left:
            os.killpg(marks.group, signal.SIGKILL)
        for pid in marks.found():
            left = True
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not left:
            return
        time.sleep(ENDING_TICK_S)


def processes() -> Iterator[tuple[int, int]]:
    """All running processes of the machine, but this one, with their groups; ended ones are left out."""
    for name in os.listdir("/proc"):
        fields = stat_fields(name) if name.isdigit() and int(name) != os.getpid() else []
        if fields and fields[0] not in ("Z", "X"):
            yield int(name), int(fields[2])


def began_at(pid: int) -> int:
    """When a running process began, in clock ticks since boot; 0 if there is none."""
    fields = stat_fields(str(pid))
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else 0


def stat_fields(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself hold spaces and brackets; [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
