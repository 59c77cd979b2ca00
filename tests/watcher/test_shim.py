"""The shim: it alone decides what became of a wake, and its command dies with it."""

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from eventlog.capability import reply_token
from eventlog.event import Event
from eventlog.tokens import new_token
from tests.watcher.support import TOKEN, Folder, alive, end, make_folder, pids_in, shell, shim_alone, wait_until
from watcher import processes, shim


def test_a_command_gets_its_request_and_environment_and_ends_ok(tmp_path: Path) -> None:
    request = {"wake": {"id": 7}, "messages": [{"payload": "ü" * 60_000}], "truncated": True}
    script = "cat > request; echo $WAKE_ID $EVENTLOG_TOKEN_FILE > env; pwd > where"
    outcome = make_folder(tmp_path, shell(script), request=request, cwd=tmp_path).run()
    assert outcome["outcome"] == "ok"
    assert outcome["exit_code"] == 0
    assert outcome["duration_ms"] >= 0
    assert json.loads((tmp_path / "request").read_text()) == request
    assert (tmp_path / "env").read_text() == f"7 {tmp_path}/token-7\n"
    assert (tmp_path / "where").read_text() == f"{tmp_path}\n"


def test_an_environment_that_no_pipe_holds_reaches_the_command(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("echo ${#A} ${#B}"))
    grant = json.loads((folder.path / "grant").read_text())
    grant["env"] |= dict.fromkeys("AB", "x" * 100000)
    folder.write("grant", grant)
    assert folder.run()["stdout"] == "100000 100000\n"


def test_no_message_text_is_on_a_command_line(tmp_path: Path) -> None:
    request = {"wake": {}, "messages": ["do-not-show-this"], "truncated": False}
    folder = make_folder(tmp_path, shell("touch up; sleep 60"), request=request)
    with folder.start() as process:
        wait_until((tmp_path / "up").exists)
        lines = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists())
        assert b"do-not-show-this" not in lines
        process.kill()


def test_a_failed_command_is_failed_and_tells_why(tmp_path: Path) -> None:
    outcome = make_folder(tmp_path, shell("echo no such model >&2; exit 3")).run()
    assert (outcome["outcome"], outcome["exit_code"]) == ("failed", 3)
    assert outcome["detail"] == "exit code 3: no such model"


def test_a_command_ended_by_a_signal_is_failed(tmp_path: Path) -> None:
    outcome = make_folder(tmp_path, shell("kill -SEGV $$")).run()
    assert (outcome["outcome"], outcome["exit_code"]) == ("failed", 128 + signal.SIGSEGV)
    assert "SIGSEGV" in outcome["detail"]


@pytest.mark.parametrize("code", [75, 126, 127])
def test_exit_codes_that_say_that_no_turn_began_are_not_started(tmp_path: Path, code: int) -> None:
    outcome = make_folder(tmp_path, shell(f"exit {code}")).run()
    assert (outcome["outcome"], outcome["exit_code"]) == ("not_started", code)


def test_a_missing_program_is_not_started(tmp_path: Path) -> None:
    outcome = make_folder(tmp_path, ["no-such-program"]).run()
    assert (outcome["outcome"], outcome["exit_code"]) == ("not_started", 127)
    assert "no-such-program" in outcome["detail"]


def test_a_program_that_may_not_be_run_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    outcome = make_folder(tmp_path, [str(tmp_path / "plain")]).run()
    assert (outcome["outcome"], outcome["exit_code"]) == ("not_started", 126)


def test_a_missing_folder_to_run_in_is_not_started(tmp_path: Path) -> None:
    outcome = make_folder(tmp_path, ["true"], cwd=tmp_path / "gone").run()
    assert outcome["outcome"] == "not_started"
    assert "gone" in outcome["detail"]


def test_a_flood_of_output_is_read_and_only_its_end_is_kept(tmp_path: Path) -> None:
    flood = "head -c 20000000 /dev/zero | tr '\\0' b"
    script = f"{flood}; {flood} >&2; echo the end >&2; exit 1"
    folder = make_folder(tmp_path, shell(script))
    outcome = folder.run()
    assert outcome["outcome"] == "failed"
    assert outcome["detail"].endswith("bbbthe end")
    assert len(outcome["detail"]) <= shim.DETAIL_BYTES_MAX
    assert (folder.path / "outcome").stat().st_size < shim.STDOUT_BYTES_MAX + 2 * shim.DETAIL_BYTES_MAX


def test_a_command_that_closes_its_streams_is_waited_for(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("exec >&- 2>&- <&-; mkfifo gate; read line < gate; touch done; exit 4"))
    with folder.start() as process:
        wait_until((tmp_path / "gate").exists)
        assert not folder.outcome
        (tmp_path / "gate").write_text("go\n")
        assert process.wait(30) == 0
    assert folder.outcome["exit_code"] == 4


def test_a_wake_ends_with_its_first_process_and_what_is_left_running_is_left_alone(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("sleep 60 & echo $! > left; exit 0"))
    assert folder.run()["outcome"] == "ok"
    (left,) = pids_in(tmp_path / "left")
    assert alive(left)
    end(left)


def test_the_command_does_not_hold_the_lock(tmp_path: Path) -> None:
    """R4: else the folder could not be removed as long as something is left running."""
    folder = make_folder(tmp_path, shell("sleep 60 & echo $! > left; exit 0"))
    folder.run()
    (left,) = pids_in(tmp_path / "left")
    assert alive(left), "the lock is looked at while something is left running"
    with (folder.path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    end(left)


def test_a_shim_leaves_a_folder_alone_whose_lock_is_taken(tmp_path: Path) -> None:
    """R4."""
    folder = make_folder(tmp_path, shell("touch ran"))
    with (folder.path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert folder.run() == {}
    assert not (tmp_path / "ran").exists()


def test_a_shim_does_not_make_a_lock(tmp_path: Path) -> None:
    """R4: a lock that is not there beforehand could be held by two."""
    folder = make_folder(tmp_path, shell("touch ran"))
    (folder.path / "lock").unlink()
    assert folder.run() == {}
    assert not (folder.path / "lock").exists()
    assert not (tmp_path / "ran").exists()


def test_a_shim_without_a_grant_does_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder.path / "grant").unlink()
    assert folder.run() == {}


def test_a_recorded_outcome_stands(tmp_path: Path) -> None:
    """R3, R7."""
    folder = make_folder(tmp_path, shell("touch ran"))
    folder.write("outcome", {"outcome": "ok"})
    assert folder.run() == {"outcome": "ok"}
    assert not (tmp_path / "ran").exists()


def test_past_its_latest_start_a_command_is_not_started(tmp_path: Path) -> None:
    """R2."""
    folder = make_folder(tmp_path, shell("touch ran"), late_s=0.01)
    assert folder.run()["outcome"] == "not_started"
    assert not (tmp_path / "ran").exists()
    assert not (folder.path / "started").exists()


def test_a_granted_folder_of_an_earlier_boot_is_interrupted_and_never_started(tmp_path: Path) -> None:
    """R23: also if the power was cut before `started` was on the disk."""
    folder = make_folder(tmp_path, shell("touch ran"), boot_id="another-boot")
    assert folder.run()["outcome"] == "interrupted"
    assert not (tmp_path / "ran").exists()


def test_the_command_is_ended_at_its_limit(tmp_path: Path) -> None:
    outcome = make_folder(tmp_path, shell("echo thinking >&2; exec sleep 12"), timeout_s=0.3).run()
    assert outcome["outcome"] == "timeout"
    assert outcome["detail"] == "ended after its limit of 0.3 s: thinking"
    assert 300 <= outcome["duration_ms"] < 10_000


def test_a_command_that_came_to_its_end_in_time_is_ok_even_if_the_shim_looks_late(tmp_path: Path) -> None:
    script = "echo $$ > pids; until [ -e go ]; do sleep 0.01; done"
    folder = make_folder(tmp_path, shell(script), timeout_s=1.0)
    with folder.start() as process:
        [command] = wait_until(lambda: pids_in(tmp_path / "pids"))
        process.send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        wait_until(lambda: not alive(command))
        limit = json.loads((folder.path / "started").read_text())["at"] + 1.0
        wait_until(lambda: processes.boottime() > limit)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0
    assert folder.outcome["outcome"] == "ok"


def test_a_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > pids; while :; do sleep 0.1; done"
    outcome = make_folder(tmp_path, shell(script), timeout_s=0.2).run(grace_s=0.3)
    assert outcome["outcome"] == "timeout"
    assert outcome["exit_code"] == 128 + signal.SIGKILL
    assert not any(map(alive, pids_in(tmp_path / "pids")))


def test_at_the_limit_the_whole_group_ends_also_where_only_its_leader_obeys(tmp_path: Path) -> None:
    script = "(trap '' TERM; while :; do sleep 0.1; done) & echo $! > pids; wait"
    outcome = make_folder(tmp_path, shell(script), timeout_s=0.2).run(grace_s=0.3)
    assert outcome["outcome"] == "timeout"
    assert not any(map(alive, pids_in(tmp_path / "pids")))


def running(folder: Folder, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A shim whose command, a shell with a child and a grandchild, has written three process ids."""
    process = folder.start()
    wait_until(lambda: len(pids_in(tmp_path / "pids")) == 3)
    return process


FAMILY = "echo $$ >> pids; (echo $(exec sh -c 'echo $PPID') >> pids; sh -c 'echo $$ >> pids; exec sleep 60') & wait"


@pytest.mark.fault
def test_the_whole_group_dies_with_a_killed_shim_and_the_wake_is_interrupted(tmp_path: Path) -> None:
    """R6."""
    folder = make_folder(tmp_path, shell(FAMILY))
    with running(folder, tmp_path) as process:
        process.kill()
    wait_until(lambda: not any(map(alive, pids_in(tmp_path / "pids"))))
    assert folder.run()["outcome"] == "interrupted"
    assert len(pids_in(tmp_path / "pids")) == 3, "the command was started again"


@pytest.mark.fault
def test_what_is_left_is_ended_by_the_next_shim_where_the_guard_died_too(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell(FAMILY))
    with running(folder, tmp_path) as process:
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        (guard,) = set(children) - set(pids_in(tmp_path / "pids"))
        os.kill(guard, signal.SIGKILL)
        process.kill()
    assert all(map(alive, pids_in(tmp_path / "pids")))
    assert folder.run()["outcome"] == "interrupted"
    assert not any(map(alive, pids_in(tmp_path / "pids")))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("point", "outcome", "starts"),
    [("started.flushed", "ok", 1), ("started.renamed", "interrupted", 0), ("started.durable", "interrupted", 0)],
)
def test_no_command_begins_before_its_start_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, outcome: str, starts: int
) -> None:
    """Shim and guard die just then: the command has not begun, and begins later only if nothing tells of a start."""
    folder = make_folder(tmp_path, shell("echo $$ >> pids"))
    os.mkfifo(tmp_path / point)
    with monkeypatch.context() as stopping:
        stopping.setenv("EVENTLOG_STOP_AT", str(tmp_path))
        with folder.start() as process:
            wait_until((tmp_path / f"{point}.{process.pid}").exists)
            stored = folder.path / (".started.new" if point == "started.flushed" else "started")
            command = json.loads(stored.read_text())["group"]
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            (guard,) = set(map(int, children)) - {command}
            os.kill(guard, signal.SIGKILL)
            process.kill()
    wait_until(lambda: not alive(command))
    assert pids_in(tmp_path / "pids") == []
    assert folder.run()["outcome"] == outcome
    assert len(pids_in(tmp_path / "pids")) == starts


@pytest.mark.fault
def test_the_guard_of_a_shim_that_began_nothing_leaves_the_next_ones_command_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late it notices that its own shim died: both commands are of one wake, and look alike."""
    folder = make_folder(tmp_path, shell("echo $$ > pids; read line < gate"))
    point = "started.flushed"
    for fifo in (point, "gate"):
        os.mkfifo(tmp_path / fifo)
    with monkeypatch.context() as stopping:
        stopping.setenv("EVENTLOG_STOP_AT", str(tmp_path))
        with folder.start() as first:
            wait_until((tmp_path / f"{point}.{first.pid}").exists)
            command = json.loads((folder.path / ".started.new").read_text())["group"]
            children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            (guard,) = set(map(int, children)) - {command}
            # Stopped before it has let go of what it inherited, it would hold the folder's lock.
            wait_until(lambda: len(os.listdir(f"/proc/{guard}/fd")) == 4, "the guard has three streams and its pipe")
            os.kill(guard, signal.SIGSTOP)
            first.kill()
    with folder.start() as second:
        wait_until(lambda: pids_in(tmp_path / "pids"))
        os.kill(guard, signal.SIGCONT)
        wait_until(lambda: not alive(guard))
        assert all(map(alive, pids_in(tmp_path / "pids")))
        (tmp_path / "gate").write_text("go\n")
        assert second.wait(30) == 0
    assert folder.outcome["outcome"] == "ok"


@pytest.mark.fault
def test_a_child_with_an_emptied_environment_dies_with_the_shim(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("env -i sleep 60 & echo $! > pids; wait"))
    with folder.start() as process:
        (child,) = wait_until(lambda: pids_in(tmp_path / "pids"))
        assert alive(child)
        process.kill()
    wait_until(lambda: not alive(child))


@pytest.mark.fault
def test_a_process_is_never_ended_by_its_number_alone(tmp_path: Path) -> None:
    """The numbers in `started` may be a stranger's by now; so may be the same WAKE_ID, of another bus."""
    folder = make_folder(tmp_path)
    strangers = [
        subprocess.Popen(["sleep", "60"], start_new_session=True, env=env)
        for env in ({}, {"WAKE_ID": "7", "EVENTLOG_TOKEN_FILE": "/elsewhere/tokens/7"})
    ]
    folder.write("started", {"group": strangers[0].pid, "began": processes.began_at(strangers[0].pid) - 1, "at": 0})
    assert folder.run()["outcome"] == "interrupted"
    for stranger in strangers:
        assert stranger.poll() is None
        stranger.kill()
        stranger.wait()


def test_a_shim_that_is_told_to_end_ends_its_command_in_good_order(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("trap 'touch saved; exit 0' TERM; touch up; while :; do sleep 0.05; done"))
    with folder.start() as process:
        wait_until((tmp_path / "up").exists)
        process.terminate()
        assert process.wait(30) == 0
    assert folder.outcome["outcome"] == "interrupted"
    assert (tmp_path / "saved").exists()


def test_the_guard_ends_a_command_whose_shim_is_stopped_for_too_long(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("echo $$ > pids; exec sleep 60"), timeout_s=0.5)
    with folder.start(grace_s=0.2) as process:
        wait_until(lambda: pids_in(tmp_path / "pids"))
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not any(map(alive, pids_in(tmp_path / "pids"))))
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0
    assert folder.outcome["outcome"] in ("failed", "timeout")


def test_a_token_that_a_command_prints_is_not_told_on(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("cat $EVENTLOG_TOKEN_FILE; cat $EVENTLOG_TOKEN_FILE >&2; exit 1"))
    outcome = folder.run()
    assert (outcome["detail"], outcome["stdout"]) == ("exit code 1: [token]", "[token]\n")
    assert TOKEN not in json.dumps(outcome)


def test_every_kind_of_token_is_known_and_nothing_else_taken_for_one() -> None:
    message = Event(12, "message", "mel", "tony", b"{}", None, b"")
    for token in (new_token()[0], TOKEN, reply_token(bytes(32), "log", message, 1_790_000_000)):
        assert shim.TOKEN.sub("[token]", f"see {token}.") == "see [token]."
        # What a cut leaves of it is not told on either: the rest could be guessed.
        tail = shim.Tail(40)
        tail.add(f"{token} and more".encode())
        assert tail.text() == " and more"
    assert not shim.TOKEN.search("evt_1NG8Du2eZvKYlo2CUI79vXWy is an event's id elsewhere")


def test_the_end_of_what_was_printed_is_kept_and_how_much_was_not(tmp_path: Path) -> None:
    outcome = make_folder(
        tmp_path, shell("head -c 5000 /dev/zero | tr '\\0' ' '; head -c 65530 /dev/zero | tr '\\0' .")
    ).run()
    assert outcome["stdout"] == " " * 6 + "." * 65_530
    assert outcome["stdout_left_out"] == 4994
    assert make_folder(tmp_path, shell("echo done"), wake_id=8).run()["stdout_left_out"] == 0


@pytest.mark.parametrize("kind", ["json", "prompt"])
def test_a_run_reads_its_prompt(tmp_path: Path, kind: str) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "prompt.txt").write_bytes("Answer!\r\nü\n".encode())
    run = {"folder": str(private), "message": 5, "input": kind, "reply": "stdout"}
    outcome = make_folder(tmp_path, ["cat"], request={"id": 5}, run=run).run()
    assert outcome["outcome"] == "ok"
    said = outcome["stdout"] if kind == "prompt" else json.loads(outcome["stdout"])
    assert said == ("Answer!\r\nü\n" if kind == "prompt" else {"id": 5, "prompt": "Answer!\r\nü\n"})


def test_a_run_whose_prompt_is_gone_is_not_started(tmp_path: Path) -> None:
    run = {"folder": str(tmp_path / "gone"), "message": 5, "input": "prompt", "reply": "stdout"}
    folder = make_folder(tmp_path, shell("touch ran"), run=run, cwd=tmp_path)
    assert folder.run()["outcome"] == "not_started"
    assert not (tmp_path / "ran").exists()


def test_a_command_has_the_signals_of_a_new_program(tmp_path: Path) -> None:
    """Python ignores SIGPIPE; a program that inherits this writes into closed pipes for ever."""
    folder = make_folder(tmp_path, shell("grep SigIgn /proc/self/status > signals"), cwd=tmp_path)
    folder.run()
    ignored = int((tmp_path / "signals").read_text().split()[1], 16)
    pythons_own = {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM}
    assert [name for name in pythons_own if ignored & 1 << (name - 1)] == []


def test_an_outcome_is_written_as_soon_as_the_disk_allows(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ["true"])
    (folder.path / ".outcome.new").mkdir()
    with folder.start() as process:
        wait_until((folder.path / "started").exists)
        assert not folder.outcome
        (folder.path / ".outcome.new").rmdir()
        assert process.wait(30) == 0
    assert folder.outcome["outcome"] == "ok"


def test_what_cannot_be_stored_as_started_is_not_started(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, shell("touch ran"))
    (folder.path / ".started.new").mkdir()
    assert folder.run()["outcome"] == "not_started"
    assert not (tmp_path / "ran").exists()


def test_it_needs_nothing_but_the_standard_library() -> None:
    """It must start quickly, and also while the package is being upgraded."""
    assert subprocess.run(shim_alone(Path("/nonexistent")), check=False).returncode == 0
