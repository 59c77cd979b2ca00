"""SIGKILL of the watcher, its shims and the bus, at any moment and under load: nothing is lost, nothing runs twice."""

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.foreign import Foreign
from tests.scene import Scene, Watch
from tests.support import SOAK, until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(3600 if SOAK else 300)]


#: A run that failed is repeated with the seed that it printed.
SEED = int(os.environ.get("EVENTLOG_SEED", str(random.randrange(2**32))))
AGENTS = ("mel", "tony", "ann", "bob", "sue")
#: Between two messages, seconds.
PACE_S = 0.05


class Load:
    """Sends messages to all agents until stopped, each until it is accepted; `accepted` are their ids."""

    def __init__(self, sender: Foreign) -> None:
        self.accepted: list[int] = []
        self._sender = sender
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PACE_S):
            number += 1
            body = {"to_agent": AGENTS[number % len(AGENTS)], "payload": number}
            self.accepted.append(self._send(body, f"load-{number}"))

    def _send(self, body: dict[str, object], key: str) -> int:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self._sender.call("POST", "/api/send", body, {"Idempotency-Key": key})
                if answer.status in (200, 201):
                    return int(answer.body["id"])
            time.sleep(PACE_S)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


def tables(scene: Scene, *, tony_works_s: float) -> str:
    """Two that acknowledge, one whose exit does, one that gets each message by itself, one that needs a reminder."""
    limits = {"timeout": 20, "start_within": 60, "ack_within": 2}
    return (
        scene.agent("--work", "0.3", name="mel", **limits)
        + scene.agent("--work", str(tony_works_s), name="tony", **limits)
        + scene.agent("--work", "0.3", "--handed", name="ann", ack="exit", **limits)
        + scene.agent(name="bob", deliver="each", **limits)
        + scene.agent("--late", name="sue", **limits)
    )


def starts(scene: Scene) -> list[dict[str, Any]]:
    """The starts of those whose command works for a while."""
    return [run for run in scene.runs("start", "") if run["agent"] in ("mel", "tony", "ann")]


def test_kills_of_the_watcher_under_load(scene: Scene, watch: Watch) -> None:
    chance = random.Random(SEED)
    print(f"EVENTLOG_SEED={SEED}")
    # Longer than a watcher takes to start: it finds the run of an earlier one.
    watcher = watch(tables(scene, tony_works_s=3))
    load = Load(scene.boss)
    with load.running():
        for _ in range(50 if SOAK else 12):
            early = chance.random() < 0.3
            watcher.start(wait=not early)
            if not early:
                until(watcher.shims)
            time.sleep(chance.uniform(0, 0.5))
            watcher.kill()
    watcher.start()
    events = scene.judge(*AGENTS, accepted=load.accepted, deadline_s=120)
    # Nothing but the watcher died, so every wake that was granted ended well, and none was needed twice.
    assert {event["outcome"] for event in events if event["event"] == "wake.finished"} == {"ok"}
    attempts = {(event["agent"], event["attempt"]) for event in events if event["event"] == "wake.started"}
    assert attempts == {*((name, 1) for name in AGENTS), ("sue", 2)}


def test_kills_of_watcher_shims_and_bus_under_load(scene: Scene, watch: Watch) -> None:
    chance = random.Random(SEED)
    print(f"EVENTLOG_SEED={SEED}")
    watcher = watch(tables(scene, tony_works_s=0.4)).start()
    load = Load(scene.boss)
    with load.running():
        for round_ in range(25 if SOAK else 4):
            # One while its command works, and whichever is there at any moment of its life.
            began = len(starts(scene))
            victim = until(lambda: starts(scene)[began:], 120)[0]["agent"]  # noqa: B023
            if round_ > 1:  # often late enough that a run ends well, and its agent's backoff does not grow and grow
                time.sleep(chance.uniform(0, 0.6))
            for shim in (*watcher.shims(victim), *watcher.shims()[-1:]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(shim, signal.SIGKILL)
                time.sleep(chance.uniform(0, 0.2))
            victims = [watcher.kill, scene.bus.kill] if round_ % 2 else [scene.bus.kill, watcher.kill]
            for kill in victims:
                kill()
                time.sleep(chance.uniform(0, 0.2))
            scene.bus.start()
            watcher.start()
    events = scene.judge(*AGENTS, accepted=load.accepted, deadline_s=300)
    assert "interrupted" in {event["outcome"] for event in events if event["event"] == "wake.finished"}
