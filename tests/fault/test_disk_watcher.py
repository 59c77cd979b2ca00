"""The watcher's disk fails, fills, turns read-only, is damaged, deleted, copied: no wake is started twice, none lost.

Leases and pauses are short here (tests/fault/launch.py), because a wake whose folder is lost has to run out.
"""

import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkers import log_problems, run_problems
from tests.fault.disguise import another_machine
from tests.fault.launch import QUICK, tuned
from tests.fault.power import Impossible, fill, formatted, memory_disk, mend, mounted, read_only, turn_read_only
from tests.fault.trace import failing, needs_strace
from tests.scene import Scene
from tests.support import BusProcess, WatcherProcess, clean_environment, until

pytestmark = pytest.mark.fault

EXIT_CONFIG = 78
EXIT_TAKEN = 69
#: A lease is one second longer than these two together.
LIMITS: dict[str, Any] = {"timeout": 3, "start_within": 2}

#: What fails in storing something: the file that it is written to, by its key's folder and its name; or the folder.
FILE = "{}/.{}.new"
FOLDER = "{}"

#: Makes a watcher of the scene's bus from agents' tables, a name, and what it is started under.
Make = Callable[..., WatcherProcess]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A bus with short leases and pauses."""
    options = ("--quiet-after-restore-s", "1")
    with BusProcess(tmp_path / "bus", under=tuned(QUICK), options=options) as bus:
        folder = tmp_path / "agents"
        folder.mkdir()
        yield Scene(bus, folder)


@pytest.fixture
def make(scene: Scene, tmp_path: Path) -> Iterator[Make]:
    """Makes watchers; they end, with their wakes, when the test does."""
    made: list[WatcherProcess] = []

    def one(agents: str, name: str = "minipc-1", **more: Any) -> WatcherProcess:
        made.append(WatcherProcess(tmp_path / name, scene.bus.url, scene.watcher_token, agents, name=name, **more))
        return made[-1]

    yield one
    for watcher in made:
        watcher.__exit__()


def key_of(watcher: WatcherProcess, agent: str) -> Path:
    """The folder of the agent's only key."""
    return until(lambda: [path for path in (watcher.state_dir / "agents" / agent).glob("[!.]*") if path.is_dir()])[0]


@needs_strace
class TestStoring:
    """Nothing is done that could not be stored first, and everything is done once it can be."""

    @pytest.mark.parametrize(
        ("call", "error", "name"),
        [
            ("write", "ENOSPC", FILE),
            ("fsync", "EIO", FILE),
            ("fsync", "EIO", FOLDER),
        ],
        ids=["the first call", "the flush", "the last call"],
    )
    def test_grant_start_and_outcome(self, scene: Scene, make: Make, call: str, error: str, name: str) -> None:
        agents = ("grant", "started", "outcome")
        watcher = make("".join(scene.agent(name=agent, **LIMITS) for agent in agents)).start()
        keys = {agent: key_of(watcher, agent) for agent in agents}
        files = [Path(name.format(keys[agent], agent)) for agent in agents]
        with failing(watcher.process.pid, call, error, *files) as struck:
            accepted = [scene.boss.send(agent) for agent in agents]
            # The flush of a folder is first missed by the watcher's grant, then by the shim.
            least = 2 if name == FOLDER else 1
            until(lambda: all(struck.times(key) >= least for key in keys.values()), why=lambda: watcher.log_text)
            until(lambda: scene.runs("end", "outcome") or name == FOLDER)
            assert scene.events_of("outcome", "wake.finished") == []
        scene.judge(*agents, accepted=accepted)
        # What could not be stored was not begun; what had been begun was told when it could be.
        first = {agent: scene.events_of(agent, "wake.finished")[0]["outcome"] for agent in agents}
        begun = "not_started" if name == FOLDER else "ok"
        assert first == {"grant": "not_started", "started": "not_started", "outcome": begun}

    def test_a_key(self, scene: Scene, make: Make) -> None:
        # Without a bus the watcher does not ask, so it has made no key yet.
        scene.bus.kill()
        watcher = make(scene.agent(**LIMITS)).start(wait=False)
        until(lambda: '"watching"' in watcher.log_text)
        with failing(watcher.process.pid, "fsync", "EIO") as struck:
            scene.bus.start()
            accepted = [scene.boss.send("mel")]
            until(lambda: watcher.log_text.count("the ask failed") and struck.times(watcher.state_dir / "agents"))
            assert list(watcher.state_dir.glob("agents/*/*")) == []
            assert scene.events("wake.started") == []
        scene.judge(accepted=accepted)


def test_a_full_disk_costs_wakes_no_more_than_time(scene: Scene, make: Make, tmp_path: Path) -> None:
    try:
        with memory_disk(tmp_path / "disk", "1m") as disk:
            watcher = make(scene.agent(**LIMITS))
            watcher.state_dir = disk / "state"
            watcher.start()
            key_of(watcher, "mel")
            fill(disk / "ballast")
            accepted = [scene.boss.send("mel")]
            until(lambda: len(scene.events("wake.finished")) > 2)
            assert scene.runs() == []
            (disk / "ballast").unlink()
            events = scene.judge(accepted=accepted)
            watcher.stop()
    except Impossible as why:
        pytest.skip(f"this machine cannot mount a file system: {why}")
    # It costs no attempt, either.
    assert {event["attempt"] for event in events if event["event"] == "wake.started"} == {1}
    *before, last = [event["outcome"] for event in events if event["event"] == "wake.finished"]
    assert (set(before), last) == ({"not_started"}, "ok")


def test_a_first_start_on_a_full_disk_is_one_that_systemd_tries_again(scene: Scene, make: Make, tmp_path: Path) -> None:
    try:
        with memory_disk(tmp_path / "disk", "256k") as disk:
            fill(disk / "ballast")
            watcher = make(scene.agent(**LIMITS))
            watcher.state_dir = disk / "state"
            assert watcher.start(wait=False).process.wait(30) == EXIT_TAKEN
            assert watcher.log_text.count("\n") == 1
            assert all(said in watcher.log_text for said in (str(watcher.state_dir), "No space", "mend its disk first"))
            (disk / "ballast").unlink()
            accepted = [scene.boss.send("mel")]
            watcher.start()
            scene.judge(accepted=accepted)
            watcher.stop()
    except Impossible as why:
        pytest.skip(f"this machine cannot mount a file system: {why}")


class TestReadOnly:
    """A state folder that cannot be written is named; one that turns so keeps nobody from being woken later."""

    def test_at_the_start(self, scene: Scene, make: Make, tmp_path: Path) -> None:
        watcher = make(scene.agent(**LIMITS))
        watcher.state_dir.mkdir()
        try:
            with read_only(watcher.state_dir, tmp_path / "shown") as shown:
                watcher.state_dir = shown
                assert watcher.start(wait=False).process.wait(30) == EXIT_CONFIG
        except Impossible as why:
            pytest.skip(f"this machine cannot mount a folder: {why}")
        assert watcher.log_text.count("\n") == 1
        assert all(said in watcher.log_text for said in (str(shown), "Read-only", "choose one that is yours"))

    def test_during_a_wake(self, scene: Scene, make: Make, tmp_path: Path) -> None:
        image = tmp_path / "disk.img"
        place = tmp_path / "disk"
        watcher = make(scene.agent("--hold", **LIMITS) + scene.agent(name="tony", **LIMITS))
        watcher.state_dir = place / "state"
        try:
            with mounted(formatted(image, 64), place):
                watcher.start()
                accepted = [scene.boss.send("mel")]
                until(lambda: scene.runs("start"))
                key_of(watcher, "tony")
                turn_read_only(place)
                accepted.append(scene.boss.send("tony"))
                scene.release()
                until(lambda: scene.runs("end"))
                until(lambda: "the ask failed" in watcher.log_text)
                assert watcher.process.poll() is None
                assert scene.events_of("mel", "wake.finished") == []
                # The machine is started again: nothing of the wakes lives on.
                watcher.kill()
                watcher.kill_shims()
            with mounted(mend(image), place):
                watcher.start()
                scene.judge("mel", "tony", accepted=accepted)
                watcher.stop()
        except Impossible as why:
            pytest.skip(f"this machine cannot mount an image: {why}")


#: Files of a key's folder; whether the wake has an outcome when the damage is done.
FILES = {"key": False, "grant": False, "lock": False, "started": False, "outcome": True}
HOW: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "garbage": lambda data: random.Random(7).randbytes(len(data)),
}


class TestDamaged:
    """A file of a key's folder is not what was written: the folder is set aside, and another wake comes in time."""

    def test_each_file(self, scene: Scene, make: Make) -> None:
        agents = {f"{file}-{how}": file for file in FILES for how in HOW if (file, how) != ("lock", "garbage")}
        tables = "".join(
            scene.agent("--handed", "--work", "0.5", name=agent, ack="exit", **LIMITS)
            if FILES[file]
            else scene.agent("--hold", name=agent, **LIMITS)
            for agent, file in agents.items()
        )
        watcher = make(f"[limits]\nmax_wakes = 30\n{tables}").start()
        accepted = [scene.boss.send(agent) for agent in agents]
        until(lambda: all(scene.runs("start", agent) for agent in agents))
        granted = {agent: scene.runs("start", agent)[0]["wake"] for agent in agents}
        scene.bus.kill()
        keys = {agent: self.granted(watcher, agent) for agent in agents}
        until(lambda: all((keys[agent] / "outcome").exists() for agent, file in agents.items() if FILES[file]))
        until(lambda: (watcher.state_dir / "cursor").exists())
        watcher.kill()
        watcher.kill_shims()
        scene.release()
        for agent, file in agents.items():
            self.damage(keys[agent] / file, agent.partition("-")[2])
        self.damage(watcher.state_dir / "node", "garbage")
        self.damage(watcher.state_dir / "cursor", "cut")
        self.damage(watcher.state_dir / "status.json", "garbage")
        scene.bus.start()
        watcher.start()
        events = scene.judge(*agents, accepted=accepted)
        ended = {event["wake"]: event for event in events if event["event"] == "wake.finished"}
        for agent, file in agents.items():
            first = ended[granted[agent]]
            # Only a damaged `started` leaves a folder that tells what it has to tell.
            by, kept = ("watcher", 0) if file == "started" else ("bus", 1)
            assert (first["outcome"], first["by"]) == ("interrupted", by), agent
            assert len(list((watcher.state_dir / "broken").glob(f"{agent}-*"))) == kept, agent
            assert [ended[run["wake"]]["outcome"] for run in scene.runs("start", agent)] == ["interrupted", "ok"], agent

    def granted(self, watcher: WatcherProcess, agent: str) -> Path:
        home = watcher.state_dir / "agents" / agent
        return next(path.parent for path in home.glob("*/grant"))

    def damage(self, path: Path, how: str) -> None:
        if path.name == "lock":
            path.unlink()
        else:
            path.write_bytes(HOW[how](path.read_bytes()))


def test_the_state_folder_is_deleted(scene: Scene, make: Make) -> None:
    """Under a watcher that runs (mel, ann), and under one that does not (tony); only ann had no wake in flight."""
    running = make(scene.agent("--hold", **LIMITS) + scene.agent("--hold", name="ann", **LIMITS)).start()
    stopped = make(scene.agent("--hold", name="tony", **LIMITS), "minipc-2").start()
    accepted = [scene.boss.send("mel"), scene.boss.send("tony")]
    until(lambda: scene.runs("start") and scene.runs("start", "tony"))
    stopped.kill()
    for watcher in (running, stopped):
        shutil.rmtree(watcher.state_dir)
    scene.release()
    stopped.start()
    accepted += [scene.boss.send(agent) for agent in ("mel", "tony", "ann")]
    events = scene.judge("mel", "tony", "ann", accepted=accepted)
    assert running.process.poll() is None
    assert running.status().json["running"]
    ended = [(event["agent"], event["outcome"]) for event in events if event["event"] == "wake.finished"]
    assert sorted(ended) == [
        ("ann", "ok"),
        ("mel", "interrupted"),
        ("mel", "ok"),
        ("tony", "interrupted"),
        ("tony", "ok"),
    ]


@pytest.mark.parametrize(
    "differs", [{"machine_id": "f" * 32}, {"hardware": "02:00:5e:10:00:01"}], ids=["machine id", "hardware address"]
)
def test_the_state_folder_is_copied_to_another_machine(
    scene: Scene, make: Make, tmp_path: Path, differs: dict[str, str]
) -> None:
    # Nothing of it is to run out, however slowly the second starts.
    table = scene.agent("--hold", timeout=60, start_within=30)
    first = make(table).start()
    accepted = [scene.boss.send("mel")]
    until(lambda: scene.runs("start"))
    under = another_machine(tmp_path / "shown", boot_id=str(uuid.uuid4()), **differs)
    second = make(table, under=under, name="minipc-2")
    subprocess.run(["cp", "-a", first.state_dir, second.state_dir], check=True)
    second.start()
    assert "copied from another machine" in second.log_text
    assert second.status().json["node"] != first.status().json["node"]
    assert list(second.state_dir.glob("agents/mel/*/grant")) == []
    scene.release()
    events = scene.judge(accepted=accepted)
    assert [event["outcome"] for event in events if event["event"] == "wake.finished"] == ["ok"]
    # Both go on waking, and the one is enough when the other is gone.
    first.stop()
    accepted.append(scene.boss.send("mel"))
    scene.judge(accepted=accepted)


def test_an_old_backup_is_restored_under_live_watchers(scene: Scene, make: Make, tmp_path: Path) -> None:
    table = scene.agent(timeout=1, start_within=2)
    watchers = [make(table).start(), make(table, "minipc-2").start()]
    kept = scene.boss.send("mel")
    scene.judge()
    before = scene.admin.call("POST", "/api/backup", {"path": str(tmp_path / "backup.db")})
    assert before.status == 200, before
    log = watchers[0].status().json["log"]
    for _ in range(3):
        scene.boss.send("mel")
    newest = scene.judge()[-1]["id"]
    scene.bus.stop()
    # Judged by the same constants as the log was made with.
    program: list[str | Path] = [
        *tuned(QUICK),
        sys.executable,
        "-m",
        "eventlog.cli",
        "restore",
        tmp_path / "backup.db",
        "--replace",
    ]
    restored = subprocess.run(
        [*program, "--data-dir", scene.bus.data_dir],
        env=clean_environment(scene.bus.home),
        capture_output=True,
        text=True,
    )
    assert restored.returncode == 0, restored
    scene.bus.start()
    until(lambda: all("the bus has another log" in watcher.log_text for watcher in watchers))
    accepted = [kept, scene.boss.send("mel")]
    assert accepted[1] > newest
    assert scene.admin.call("GET", "/api/agents/mel").body["next_wake"]["why"] == "quiet"
    events = scene.at_rest()
    assert scene.events("wake.started")[-1]["id"] > accepted[1]
    known = {event["id"] for event in events if event["event"] == "wake.started"}
    runs = [run for run in scene.runs() if run["wake"] in known]
    assert log_problems(events, accepted=accepted, read_by=["mel"]) + run_problems(events, runs, ["mel"]) == []
    until(lambda: all(watcher.status().json["log"] != log for watcher in watchers))
    assert all(watcher.status().json["connection"] == "connected" for watcher in watchers)
