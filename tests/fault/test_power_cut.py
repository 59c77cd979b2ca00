"""The power goes, at any moment and under load: what was acknowledged is there, and no command is started twice."""

import asyncio
import copy
import json
import os
import random
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from eventlog import agents
from eventlog.maintenance import replay, verify
from tests.checkers import log_problems, run_problems
from tests.e2e.foreign import Foreign
from tests.e2e.senders import Sender
from tests.fault.disguise import another_boot
from tests.fault.launch import QUICK, tuned
from tests.fault.power import Disk, Impossible, cut_together, mounted
from tests.logs import opened
from tests.scene import Scene
from tests.support import SOAK, BusProcess, WatcherProcess, until
from tests.watcher.support import shim_alone
from watcher.machine import this_machine
from watcher.state import State

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900 if SOAK else 180)]

#: A run that failed is repeated with the seed that it printed; only the moments come from it, not the load.
SEED = int(os.environ.get("EVENTLOG_SEED", str(random.randrange(2**32))))
#: Loads, and cuts during each; and how many of these are brought back to life with a whole bus and a whole watcher.
LOADS = 5 if SOAK else 1
CUTS = 50 if SOAK else 24
REVIVED = 6 if SOAK else 2
#: Cuts of the control, in which the log does not flush its commits.
CONTROLS = 12
#: The longest time between two cuts, seconds.
PAUSE_S = 0.12
#: Seconds between two messages to each agent; the one that gets each message by itself gets few.
PACE_S = {"mel": 0.01, "tony": 0.03, "bob": 0.4, "ann": 0.05}
#: Those whose commands tell all that the wake checker wants to know; ann's only tells, in no time, that it has begun.
TELLING = ("mel", "tony", "bob")
AT_ONCE = """printf '{"did": "start", "agent": "ann", "wake": %s}\\n' $WAKE_ID >>FOLDER/runs.ndjson; sleep 0.3"""


@pytest.fixture(autouse=True)
def judged_with_the_constants_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake whose key the power took must run out; how long leases are is part of what a log is judged by."""
    monkeypatch.setattr(agents, "STOP_S", QUICK["agents.STOP_S"])


class Paced(Sender):
    """A sender that lets some time pass between two messages, and keeps what it sent, by key."""

    def __init__(self, sender: Foreign, agent: str) -> None:
        super().__init__(sender.url, sender.token, name=f"to-{agent}", to_agent=agent)
        self.sender = sender
        self.bodies: dict[str, str] = {}
        self._pause_s = PACE_S[agent]

    def _post(self, body: str, key: str) -> Any:
        self.bodies[key] = body
        return super()._post(body, key)

    def _send(self, key: str, payload: Any) -> None:
        super()._send(key, payload)
        time.sleep(self._pause_s)


@dataclass(frozen=True)
class Cut:
    """What the bus's disk (`log`) and the watcher's (`state`) held at one moment, and what was known then.

    `accepted`: the ids that each sender had been told, by key. `begun`: what the wake commands had written of
    themselves before that moment; `written`: what they had a little later.
    """

    log: Path
    state: Path
    accepted: Mapping[str, int]
    begun: str
    written: str


@dataclass(frozen=True)
class Aftermath:
    """A load that is over: its cuts, and what is needed to bring one of them back to life."""

    cuts: list[Cut]
    scene: Scene
    senders: list[Paced]


@dataclass(frozen=True)
class Found:
    """What is wrong at one cut, and how many wakes it interrupted."""

    problems: list[str]
    interrupted: int


@contextmanager
def loaded(place: Path, chance: random.Random, cuts: int, *, synchronous: str = "") -> Iterator[Aftermath]:
    """So many cuts while a bus and a watcher are busy, each on its disk; they are there while the block lasts."""
    place.mkdir()
    with ExitStack() as mounts:
        try:
            disks = [mounts.enter_context(Disk(place / name)) for name in ("watcher", "bus")]
        except Impossible as why:
            pytest.skip(f"this machine cannot mount an image: {why}")
        states, logs = disks
        folder = place / "agents"
        folder.mkdir()
        under = tuned(QUICK, synchronous=synchronous)
        with BusProcess(place / "home", data_dir=logs.path / "data", under=under) as bus:
            scene = Scene(bus, folder)
            senders = [Paced(scene.admin.create_token(f"to-{name}", "agent"), name) for name in PACE_S]
            watcher = WatcherProcess(place / "minipc", bus.url, scene.watcher_token, tables(scene))
            watcher.state_dir = states.path / "state"
            with watcher, ExitStack() as stack:
                for sender in senders:
                    stack.enter_context(sender)
                until(lambda: all(scene.runs("start", name) for name in PACE_S))
                made = [cut(disks, scene, senders, chance) for _ in range(cuts)]
                watcher.stop()
                until(lambda: not watcher.shims(), why=lambda: watcher.log_text)
        final = runs_file(folder)
        yield Aftermath(made, scene, senders)
        assert runs_file(folder) == final, "a command was started after the power was cut"


def tables(scene: Scene) -> str:
    """An agent that acknowledges, two whose exit does, and one that gets each message by itself."""
    limits: dict[str, Any] = {"timeout": 3, "start_within": 2, "ack_within": 2}
    at_once = AT_ONCE.replace("FOLDER", str(scene.folder))
    return (
        scene.agent("--work", "0.05", name="mel", **limits)
        + scene.agent("--handed", name="tony", ack="exit", **limits)
        + scene.agent(name="bob", deliver="each", **limits)
        + scene.agent(name="ann", ack="exit", command=["sh", "-c", at_once], **limits)
    )


def cut(disks: list[Disk], scene: Scene, senders: list[Paced], chance: random.Random) -> Cut:
    """One cut, after a while."""
    time.sleep(chance.uniform(0, PAUSE_S))
    begun = runs_file(scene.folder)
    accepted = {key: ids[0] for sender in senders for key, ids in list(sender.accepted.items())}
    # The watcher's first: all that it stored follows from what the log had stored before.
    state, log = cut_together(*disks)
    return Cut(log, state, accepted, begun, runs_file(scene.folder))


def runs_file(folder: Path) -> str:
    path = folder / "runs.ndjson"
    return path.read_text() if path.exists() else ""


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def lost(one: Cut, events: list[dict[str, Any]]) -> list[str]:
    """What a sender was told and the log does not have under that id."""
    kept = {event["key"]: event["id"] for event in events if event["event"] == "message" and "key" in event}
    return [f"{key} was accepted as {id_}, the log has {kept.get(key)}" for key, id_ in one.accepted.items()
            if kept.get(key) != id_]  # fmt: skip


def check_log(one: Cut, data: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """What is wrong with the log that was left, and its events."""
    report = asyncio.run(open_and_verify(data))
    events = list(replay(data))
    keys = Counter((e["from_agent"], e["key"]) for e in events if e["event"] == "message" and "key" in e)
    twice = [f"{key} is in the log {times} times" for key, times in keys.items() if times > 1]
    return report + lost(one, events) + twice + log_problems(events, accepted=one.accepted.values()), events


async def open_and_verify(data: Path) -> list[str]:
    async with opened(data) as log:
        head = log.head
    report = verify(data)
    if report.ok and report.head == head:
        return []
    return [f"the log opens at {head}, is good up to {report.head}, then: {report.detail}"]


def check_state(one: Cut, state_dir: Path, events: list[dict[str, Any]], boot: str) -> Found:
    """What is wrong with the state folder that was left, as the watcher's next start finds it, after another boot."""
    problems: list[str] = []
    interrupted = 0
    wakes = {event["id"]: event for event in events if event["event"] == "wake.started"}
    over = {event["wake"] for event in events if event["event"] == "wake.finished"}
    with State(state_dir, this_machine()._replace(boot_id=boot)) as state:
        folders = {folder.key: folder for folder in state.folders()}
        problems += [
            f"wake {number} was granted to the key {wake['key']}, which is not there"
            for number, wake in wakes.items()
            if number not in over and wake["key"] not in folders
        ]
        granted = {folder.grant()["wake"]["id"]: folder for folder in folders.values() if folder.granted}
        problems += [
            f"wake {number} is in the state folder, not in the log" for number in granted.keys() - wakes.keys()
        ]
        for run in lines(one.begun):
            number = run["wake"]
            stored = number in granted and (granted[number].path / "started").exists()
            if number not in wakes or (number not in over and not stored):
                problems.append(f"wake {number} had started, and nothing says so")
        problems += state.recover().said
        for number, folder in granted.items():
            before = folder.outcome()
            run_shim(folder.path, boot)
            after = folder.outcome()
            if (before or {"outcome": "interrupted"})["outcome"] != (after or {}).get("outcome"):
                problems.append(f"the outcome of wake {number} was {before}; after the next boot it is {after}")
            interrupted += before is None
    return Found(problems, interrupted)


def run_shim(folder: Path, boot: str) -> None:
    under = another_boot(folder.parent.parent.parent / "shown", boot)
    subprocess.run([*under, *shim_alone(folder)], check=True, timeout=30)


def check(one: Cut) -> Found:
    """What is wrong with what was left at this cut."""
    with mounted(one.log, one.log.with_suffix("")) as disk:
        problems, events = check_log(one, disk / "data")
    with mounted(one.state, one.state.with_suffix("")) as disk:
        state = check_state(one, disk / "state", events, str(uuid.uuid4()))
    return Found([f"{one.log.name}: {what}" for what in problems + state.problems], state.interrupted)


def revive(one: Cut, load: Aftermath) -> list[str]:
    """Start a bus and, after another boot, a watcher on what was left at this cut; what is wrong in the end."""
    home = one.log.with_suffix(".revived")
    with ExitStack() as stack:
        log = stack.enter_context(mounted(one.log, home / "log"))
        state = stack.enter_context(mounted(one.state, home / "state"))
        bus = stack.enter_context(BusProcess(home / "bus", data_dir=log / "data", under=tuned(QUICK)))
        scene = copy.copy(load.scene)
        scene.admin, scene.folder = Foreign(bus.url, bus.admin_token), home / "agents"
        scene.folder.mkdir()
        known = {event["id"] for event in scene.events("wake.started")}
        kept = [line for line in lines(one.written) if line["wake"] in known]
        (scene.folder / "runs.ndjson").write_text("".join(json.dumps(line) + "\n" for line in kept))
        problems = [what for sender in load.senders for what in repeated(one, bus.url, sender)]
        under = another_boot(home, str(uuid.uuid4()))
        watcher = WatcherProcess(home / "minipc", bus.url, scene.watcher_token, tables(scene), under=under)
        watcher.state_dir = state / "state"
        with watcher:
            events = scene.at_rest(*PACE_S, deadline_s=60)
            watcher.stop()
        runs = [run for agent in TELLING for run in scene.runs(agent=agent)]
        problems += log_problems(events, accepted=one.accepted.values(), read_by=PACE_S)
        problems += lost(one, events) + run_problems(events, runs, TELLING)
        return [f"{one.log.name}, revived: {what}" for what in problems]


def repeated(one: Cut, url: str, sender: Paced) -> list[str]:
    """The sender's last message that was acknowledged, sent again: what is wrong with the answer."""
    id_, key = max((id_, key) for key, id_ in one.accepted.items() if key in sender.bodies)
    answer = Foreign(url, sender.sender.token).call(
        "POST", "/api/send", json.loads(sender.bodies[key]), {"Idempotency-Key": key}
    )
    return [] if answer.status == 200 and answer.body["id"] == id_ else [f"message {id_} sent again: {answer}"]


def test_nothing_acknowledged_is_lost_and_nothing_is_started_twice(tmp_path: Path) -> None:
    print(f"EVENTLOG_SEED={SEED}")
    chance = random.Random(SEED)
    interrupted = 0
    for number in range(LOADS):
        with loaded(tmp_path / str(number), chance, CUTS) as load:
            # Copies, because who looks at an image writes to it.
            chosen = [copied(one) for one in chance.sample(load.cuts, REVIVED)]
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(check, load.cuts))
            assert [what for one in found for what in one.problems] == []
            interrupted += sum(one.interrupted for one in found)
            with ThreadPoolExecutor(REVIVED) as pool:
                assert [what for problems in pool.map(revive, chosen, repeat(load)) for what in problems] == []
    print(f"{LOADS * CUTS} cuts, {interrupted} wakes interrupted by them, {LOADS * REVIVED} brought back to life")
    assert interrupted, "no cut came during a wake"


def test_the_same_cuts_lose_messages_where_commits_are_not_flushed(tmp_path: Path) -> None:
    print(f"EVENTLOG_SEED={SEED}")
    with loaded(tmp_path / "normal", random.Random(SEED), CONTROLS, synchronous="NORMAL") as load:
        gone = [len(gone_from(one)) for one in load.cuts]
    print(f"{sum(map(bool, gone))} of {CONTROLS} cuts lost something acknowledged; {max(gone)} messages at most")
    assert any(gone)


def gone_from(one: Cut) -> list[str]:
    with mounted(one.log, one.log.with_suffix("")) as disk:
        return lost(one, list(replay(disk / "data")))


def copied(one: Cut) -> Cut:
    images = [image.with_suffix(".copy.img") for image in (one.log, one.state)]
    for image, to in zip((one.log, one.state), images, strict=True):
        subprocess.run(["cp", "--sparse=always", image, to], check=True)
    return replace(one, log=images[0], state=images[1])
