"""Receipts of real runs: waiting for a reply through restarts, and what a dead run leaves behind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.launch import PAUSES, tuned
from tests.scene import Scene, Watch
from tests.support import DEADLINE_S, BusProcess, Called, clean_environment, run_eventlog, until

pytestmark = pytest.mark.e2e

#: An agent that gets runs and prints the answer.
RUNS: dict[str, Any] = {"deliver": "each", "reply": "stdout"}


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    """A bus whose pauses after failures are short."""
    with BusProcess(tmp_path / "bus", under=tuned(PAUSES)) as running:
        yield running


def script(scene: Scene, text: str, **settings: Any) -> str:
    """The table of `mel`, whose runs are a few lines of shell, in the scene's folder."""
    return scene.agent(command=["/bin/sh", "-c", text], cwd=str(scene.folder), **{**RUNS, **settings})


def eventlog(scene: Scene, *args: str) -> Called:
    """The command line, as the administrator."""
    return run_eventlog(*args, "--data-dir", scene.bus.data_dir, home=scene.bus.home)


def test_waiting_for_a_reply_outlasts_restarts_of_bus_and_watcher(scene: Scene, watch: Watch) -> None:
    held = 'echo begun >>begun; while [ ! -e release ]; do sleep 0.05; done; echo "the answer"'
    watcher = watch(script(scene, held)).start()
    with subprocess.Popen(
        [sys.executable, "-m", "eventlog.cli", "send", "mel", "a question", "--from", "boss", "--wait", "replied"],
        env=clean_environment(scene.bus.home, {"EVENTLOG_URL": scene.bus.url, "EVENTLOG_TOKEN": scene.bus.admin_token}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sending:
        until((scene.folder / "begun").exists)
        (sent,) = [event["id"] for event in scene.events("message")]
        receipt = json.loads(eventlog(scene, "show", str(sent), "--json").out)["receipt"]
        assert (receipt["status"], receipt["running"]) == ("running", receipt["woken"])
        watcher.kill()
        scene.bus.kill()
        scene.bus.start()
        watcher.start()
        scene.release()
        out, err = sending.communicate(timeout=2 * DEADLINE_S)
    assert (sending.returncode, out.rstrip("\n")) == (0, "the answer"), err
    assert (scene.folder / "begun").read_text() == "begun\n"


@pytest.mark.parametrize(
    ("ends", "settings", "outcome"),
    [("exit 3", {}, "failed"), ("sleep 60", {"timeout": 2}, "timeout")],
    ids=["failed", "timeout"],
)
def test_a_run_that_is_given_up_tells_why_and_is_sent_anew_once_it_is_mended(
    scene: Scene, watch: Watch, ends: str, settings: dict[str, Any], outcome: str
) -> None:
    text = f'if [ -e mended ]; then echo good; else echo "no such model: x" >&2; {ends}; fi'
    watch(script(scene, text, max_attempts=2, **settings)).start()
    sent = eventlog(scene, "send", "mel", "a question", "--from", "boss", "--wait", "replied", "--timeout", "60")
    assert sent.code == 3, sent
    (letter,) = eventlog(scene, "dead", "list", "--json").json["dead"]
    (notice,) = [event for event in scene.events("message") if event["type"] == "DEAD_LETTER"]
    assert (notice["to_agent"], notice["reply_to"]) == ("boss", letter["message_id"])
    assert (notice["payload"]["reason"], notice["payload"]["attempts"]) == ("max_attempts", 2)
    for told in (notice["payload"]["detail"], letter["detail"]):
        assert told.startswith(f"the last wake ended {outcome}: ")
        assert "no such model: x" in told
    assert "no such model: x" in eventlog(scene, "dead", "show", str(letter["message_id"])).out

    (scene.folder / "mended").touch()
    again = eventlog(scene, "dead", "retry", str(letter["message_id"]), "--json").json["id"]
    assert eventlog(scene, "show", str(again), "--wait", "replied", "--timeout", "60").code == 0
    assert eventlog(scene, "dead", "list", "--json").json["dead"] == []
    replies = [event for event in scene.events("message") if event["from_agent"] == "mel"]
    assert [(event["to_agent"], event["reply_to"], event["thread_id"]) for event in replies] == [
        ("boss", again, letter["thread_id"])
    ]
