"""The wall clock is set, back and forward, by an hour and by ten years: no lease ends early, and nothing is lost."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.checkers import follower_problems
from tests.e2e.readers import BusReader
from tests.fault.launch import tuned
from tests.scene import Scene
from tests.support import WAKE_AGENT, BusProcess, WatcherProcess, until

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)

pytestmark = [pytest.mark.fault, pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")]

#: How the clock is set, one after the other, always reckoned from the true time.
SHIFTS = ("+1h", "-1h", "-10y", "+10y", "+0")
#: A backoff goes on by the wall clock when the bus is started again, so here, and after, it is over.
BACKOFF_OVER = "+10y, restarted"
#: All of it is over long before any of these is.
LIMITS = {"timeout_s": 200, "start_within_s": 5, "ack_within_s": 250}
LEASE_S = 200 + 5 + 15
BACKOFF_S = 100
#: So that the bus looks many times at each.
SWEEPS = ["--sweep-interval-s", "0.05"]


class WallClock:
    """The wall clock of processes that are started with `env`; their monotonic clocks, and files' times, stay true."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+0")
        self.env = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Threads that wait for each other by the monotonic clock would otherwise spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }

    def set(self, shift: str) -> None:
        """Set it, as far from the true time as is said."""
        scratch = self._file.with_suffix(".new")
        scratch.write_text(shift)
        scratch.rename(self._file)


@dataclass
class Run:
    """What was asked and answered while the clock was set again and again, and the evidence at the end."""

    told: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    held: int = 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """mel's wake runs all the while, tony's ended ok without an ack, ann's failed; bob is woken at each time."""
    folder = tmp_path_factory.mktemp("clock")
    clock = WallClock(folder)
    found = Run()
    with ExitStack() as stack:
        under = tuned({"wakes.BACKOFF_FIRST_S": BACKOFF_S, "wakes.BACKOFF_MAX_S": BACKOFF_S})
        bus = stack.enter_context(BusProcess(folder / "bus", env=clock.env, options=SWEEPS, under=under))
        (folder / "agents").mkdir()
        scene = Scene(bus, folder / "agents")
        # The commands themselves keep the true time: faketime does not let them sleep while the clock is set.
        command = ["env", "-u", "LD_PRELOAD", *WAKE_AGENT, str(scene.folder)]
        tables = scene.agent(name="mel", command=[*command, "--hold"], timeout=LIMITS["timeout_s"])
        tables += scene.agent(name="bob", command=command)
        watcher = WatcherProcess(folder / "watcher", bus.url, scene.watcher_token, tables, env=clock.env)
        stack.enter_context(watcher)
        follower = stack.enter_context(BusReader(bus.url, bus.admin_token))
        accepted = [scene.boss.send(agent) for agent in ("mel", "tony", "ann")]
        (start,) = until(lambda: scene.runs("start", "mel"))
        found.held = start["wake"]
        for agent, outcome in (("tony", "ok"), ("ann", "failed")):
            granted = scene.admin.ask(f"{agent}-1", agent, **LIMITS)
            assert granted.status == 201, granted
            assert scene.admin.report(granted.body["wake"]["id"], f"{agent}-1", outcome).status == 200
        for shift in SHIFTS:
            clock.set(shift)
            look(scene, found, shift)
            accepted.append(scene.boss.send("bob", shift))
            scene.at_rest("bob")
            if "y" in shift:
                bus.kill()
                bus.start()
                look(scene, found, f"{shift}, restarted")
        scene.release()
        for agent in ("tony", "ann"):
            scene.admin.call("POST", "/api/inbox/ack", {"agent": agent, "cursor": accepted[2]})
        found.events = scene.judge("mel", "bob", accepted=accepted)
        assert scene.at_rest("tony", "ann")
        until(lambda: accepted[-1] in follower.ids[-1:])
        found.seen = list(follower.ids)
        assert follower.failure is None
        yield found


def look(scene: Scene, found: Run, when: str) -> None:
    """Ask for each of the three; nothing may be due for any of them."""
    over = BACKOFF_OVER in (when, *(then for _, then in found.told))
    for agent in ("mel", "tony") if over else ("mel", "tony", "ann"):
        answer = scene.admin.ask(f"{agent}-2", agent, **LIMITS)
        assert answer.status == 200, (when, answer)
        found.told[agent, when] = answer.body


#: At which of these times each is asked for.
TIMES = [when for shift in SHIFTS for when in ((shift, f"{shift}, restarted") if "y" in shift else (shift,))]


@pytest.mark.parametrize("when", TIMES)
class TestAnAskAt:
    """What the bus says while a lease, an ack deadline and a backoff run, each by the time that has really gone by."""

    def test_a_lease_runs_on(self, run: Run, when: str) -> None:
        told = run.told["mel", when]
        assert (told["wake"], told["why"]) == (None, "in_flight")
        assert 0 < told["retry_after_s"] <= LEASE_S

    def test_an_ack_deadline_runs_on(self, run: Run, when: str) -> None:
        told = run.told["tony", when]
        assert told["why"] == "ack_pending"
        assert 0 < told["retry_after_s"] <= LIMITS["ack_within_s"]

    def test_a_backoff_runs_on_and_no_longer_than_it_may(self, run: Run, when: str) -> None:
        if TIMES.index(when) < TIMES.index(BACKOFF_OVER):
            told = run.told["ann", when]
            assert told["why"] == "backoff"
            assert 0 < told["retry_after_s"] <= BACKOFF_S * 1.1


def test_the_clock_was_set(run: Run) -> None:
    times = [datetime.fromisoformat(event["time"]) for event in run.events if event["event"] == "message"]
    assert max(times).year - min(times).year >= 19
    assert times != sorted(times)


def test_the_wake_that_ran_all_the_while_ended_ok_and_was_the_only_one(run: Run) -> None:
    wakes = [event for event in run.events if event["event"] == "wake.started" and event["agent"] == "mel"]
    assert [wake["id"] for wake in wakes] == [run.held]
    ends = [event["outcome"] for event in run.events if event["event"] == "wake.finished" and event["agent"] == "mel"]
    assert ends == ["ok"]


def test_a_follower_saw_every_message_once_and_in_order(run: Run) -> None:
    assert follower_problems(run.seen, run.events) == []
