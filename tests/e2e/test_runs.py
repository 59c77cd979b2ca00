"""Runs with everything real: the pair's programs, runs that fail, kills of watcher and shim, and where secrets are."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkers import reply_problems
from tests.fault.launch import PAUSES, tuned
from tests.scene import CommandLines, Scene, Watch
from tests.support import ROOT, SOAK, BusProcess, until

pytestmark = pytest.mark.e2e

PAIR = ROOT / "tests" / "e2e" / "pair.py"
#: How often the watcher is killed during a run.
KILLS = 30 if SOAK else 4
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


def answers(scene: Scene, message: int) -> list[dict[str, Any]]:
    """The messages that answer this one."""
    return [event for event in scene.events("message") if event.get("reply_to") == message]


def outcomes(scene: Scene) -> list[str]:
    """How all runs ended."""
    return [event["outcome"] for event in scene.events("wake.finished")]


class TestThePair:
    @pytest.fixture
    def secrets(self, scene: Scene, tmp_path: Path) -> dict[str, Path]:
        """The file with each one's secret: a token that has the other as its peer."""
        files = {}
        for name, peer in (("planner", "builder"), ("builder", "planner")):
            body = {"name": name, "kind": "agent", "peer": peer}
            files[name] = tmp_path / f"{name}.secret"
            files[name].touch(0o600)
            files[name].write_text(scene.admin.call("POST", "/api/tokens", body).body["token"])
        return files

    def test_they_talk_and_neither_waits_for_the_others_turn(
        self, scene: Scene, watch: Watch, secrets: dict[str, Path]
    ) -> None:
        tables = [
            scene.agent(name=name, deliver="each", command=[sys.executable, str(PAIR), str(scene.folder), str(secret)])
            for name, secret in secrets.items()
        ]
        watch("".join(tables)).start()
        began = time.monotonic()
        answer = pair_post(scene, {"type": "TASK", "payload": "build it"}, secrets["planner"].read_text())
        took_s = time.monotonic() - began
        assert answer == '{"status":"received"}'
        turns = scene.folder / "turns"
        until(lambda: turns.exists() and turns.read_text() == "builder begins TASK\n")
        # The turn goes on for as long as it likes; who sent its message has long been answered.
        assert scene.events("wake.finished") == []
        assert took_s < 5
        (sent,) = scene.events("message")
        assert scene.admin.call("GET", f"/api/messages/{sent['id']}").body["receipt"]["status"] == "running"
        scene.release()
        until(lambda: turns.read_text().endswith("planner ends PR_READY\n"))
        events = scene.at_rest("planner", "builder")
        assert turns.read_text().split("\n")[:-1] == [
            f"{who} {does} {what}"
            for who, what in (
                ("builder", "TASK"),
                ("planner", "BREAKDOWN"),
                ("builder", "STATUS"),
                ("planner", "PR_READY"),
            )
            for does in ("begins", "ends")
        ]
        said = [(e["from_agent"], e["to_agent"], e["type"]) for e in events if e["event"] == "message"]
        assert said == [
            ("planner", "builder", "TASK"),
            ("builder", "planner", "BREAKDOWN"),
            ("planner", "builder", "STATUS"),
            ("builder", "planner", "PR_READY"),
        ]
        assert outcomes(scene) == ["ok"] * 4


def pair_post(scene: Scene, body: dict[str, str], secret: str) -> str:
    """Their `POST /message`, by curl, which reads the secret's header; the answer's body."""
    command = ["curl", "-sS", "-X", "POST", f"{scene.bus.url}/message", "-H", "@-"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    header = f"X-Shared-Secret: {secret}"
    return subprocess.run(command, input=header, capture_output=True, text=True, check=True, timeout=30).stdout


class TestRuns:
    def test_one_that_fails_twice_and_then_succeeds_leads_to_one_reply(self, scene: Scene, watch: Watch) -> None:
        text = "echo attempt $WAKE_ATTEMPT >> attempts; echo answer $WAKE_ATTEMPT; [ $WAKE_ATTEMPT = 3 ]"
        watch(script(scene, text)).start()
        first, second = scene.boss.send("mel", "one"), scene.boss.send("mel", "two")
        until(lambda: scene.events("wake.started")[3:], 60)
        # The first has been answered before the second was begun.
        (answer,) = answers(scene, first)
        assert (answer["from_agent"], answer["to_agent"], answer["payload"]) == ("mel", "boss", "answer 3")
        assert (answer["thread_id"], answer["reply_to"]) == (first, first)
        assert scene.admin.call("GET", f"/api/messages/{first}").body["receipt"]["status"] == "replied"
        events = scene.at_rest(deadline_s=60)
        assert outcomes(scene) == ["failed", "failed", "ok"] * 2
        through = [event["through"] for event in events if event["event"] == "wake.started"]
        assert through == [first] * 3 + [second] * 3
        assert reply_problems(events, ["mel"]) == []

    def test_the_commands_of_the_prompt_answer_once_however_often_it_is_run(self, scene: Scene, watch: Watch) -> None:
        """Each attempt answers in its own words; what it was told in the prompt is all that it uses."""
        text = f"""
            cat > prompt; export PATH="{Path(sys.executable).parent}:$PATH"
            sed -n '/^{{}}/,/^END-OF-ANSWER/p' prompt | sed "s/YOUR ANSWER/it's done $WAKE_ATTEMPT/" > answer.sh
            unset EVENTLOG_URL EVENTLOG_TOKEN_FILE
            sh answer.sh >> said 2>&1; [ $WAKE_ATTEMPT = 2 ]
        """
        tables = [
            script(scene, text.replace("{}", begin), name=name, reply="agent", input="prompt")
            for name, begin in (("mel", "curl"), ("cli", "EVENTLOG_URL="))
        ]
        watch("".join(tables)).start()
        for name in ("mel", "cli"):
            sent = scene.boss.send(name, "well?")
            scene.at_rest(name, deadline_s=60)
            (answer,) = answers(scene, sent)
            assert (answer["from_agent"], answer["to_agent"]) == (name, "boss")
            assert (answer["payload"].strip(), answer["key"]) == ("it's done 1", f"reply-{sent}-1")
        assert outcomes(scene) == ["failed", "ok"] * 2
        assert (scene.folder / "said").read_text().count("used before") == 2, "the second answer was refused"

    def test_a_dead_one_is_told_of_and_its_successor_has_its_turn(self, scene: Scene, watch: Watch) -> None:
        text = 'grep -q good "$WAKE_FOLDER/message.json" && echo fine && exit 0; echo no credit >&2; exit 3'
        watch(script(scene, text, max_attempts=2)).start()
        bad, good = scene.boss.send("mel", "bad"), scene.boss.send("mel", "good")
        until(lambda: answers(scene, good), 60)
        (notice,) = answers(scene, bad)
        assert (notice["from_agent"], notice["type"], notice["thread_id"]) == ("bus", "DEAD_LETTER", bad)
        assert notice["payload"]["detail"] == "the last wake ended failed: exit code 3: no credit"
        assert reply_problems(scene.at_rest(), ["mel"]) == []
        assert scene.admin.inbox()["messages"] == []

    def test_a_time_limit_ends_all_of_a_run(self, scene: Scene, watch: Watch) -> None:
        watch(script(scene, "sleep 300 & echo $! > child; wait", timeout=1, max_attempts=1)).start()
        sent = scene.boss.send("mel")
        until(lambda: answers(scene, sent), 60)
        assert outcomes(scene) == ["timeout"]
        child = int((scene.folder / "child").read_text())
        until(lambda: not Path(f"/proc/{child}/exe").exists())


class TestKills:
    def test_of_the_watcher_during_runs_leave_one_good_run_and_one_reply_each(self, scene: Scene, watch: Watch) -> None:
        watcher = watch(scene.agent("--hold", "--handed", "--print", **RUNS)).start()
        for number in range(KILLS):
            sent = scene.boss.send("mel", number)
            until(lambda: len(scene.runs("start")) == number + 1)  # noqa: B023
            watcher.kill()
            if number % 2:  # before or after the run is over
                watcher.start(wait=False)
            scene.release()
            until(lambda: len(scene.runs("end")) == number + 1)  # noqa: B023
            if not number % 2:
                watcher.start(wait=False)
            until(lambda: answers(scene, sent))  # noqa: B023
            (scene.folder / "release").unlink()
        events = scene.judge()
        assert outcomes(scene) == ["ok"] * KILLS
        assert reply_problems(events, ["mel"]) == []
        assert len(scene.runs("start")) == KILLS

    def test_of_the_shim_lead_to_another_run_and_one_reply(self, scene: Scene, watch: Watch) -> None:
        watcher = watch(scene.agent("--hold", "--handed", "--print", **RUNS)).start()
        sent = scene.boss.send("mel")
        until(lambda: scene.runs("start"))
        watcher.kill_shims()
        until(lambda: len(scene.runs("start")) == 2, 60)
        scene.release()
        events = scene.judge()
        assert outcomes(scene) == ["interrupted", "ok"]
        assert [answer["payload"] for answer in answers(scene, sent)] == ["done in attempt 2"]
        assert reply_problems(events, ["mel"]) == []


class TestSecrets:
    def test_none_is_in_a_prompt_a_log_a_command_line_or_the_database(self, scene: Scene, watch: Watch) -> None:
        """The run does its worst: it prints all that it was given, and fails."""
        text = """
            cat "$EVENTLOG_TOKEN_FILE" > token; cat > input; env > env
            [ $WAKE_ATTEMPT = 1 ] && { touch held; while [ ! -e release ]; do sleep 0.02; done; }
            cat token; cat token input "$WAKE_FOLDER/prompt.txt" >&2; [ $WAKE_ATTEMPT = 2 ]
        """
        body = {"name": "pair", "kind": "agent", "peer": "mel"}
        shared = scene.admin.call("POST", "/api/tokens", body).body["token"]
        with CommandLines() as lines:
            watcher = watch(script(scene, text, reply="agent")).start()
            planted = f"planted-{os.urandom(8).hex()}"
            pair_post(scene, {"type": "TASK", "payload": planted}, shared)
            until((scene.folder / "held").exists)
            prompts = {str(path): path.read_bytes() for path in watcher.state_dir.rglob("run/*")}
            grants = {str(path): path.read_bytes() for path in watcher.state_dir.rglob("grant")}
            scene.release()
            scene.at_rest(deadline_s=60)
        assert outcomes(scene) == ["failed", "ok"]
        assert len(prompts) == 2
        wake = (scene.folder / "token").read_text().strip()
        capability = re.findall(rb"erc_[\w-]+", prompts[next(name for name in prompts if name.endswith(".txt"))])[0]
        secrets = [scene.bus.admin_token, scene.watcher_token, shared, wake]
        assert wake.startswith("ewk_")
        assert len(set(secrets)) == 4
        logs = {"bus.log": scene.bus.log_text.encode(), "watcher.log": watcher.log_text.encode()}
        commands = {line.decode(errors="replace"): line for line in lines.seen}
        database = dump(scene.bus.data_dir)
        for secret in secrets:
            for place in (prompts, grants, logs, commands, database):
                assert [name for name, text in place.items() if secret.encode() in text] == []
        # The capability is in the prompt, for the agent, and nowhere else.
        for place in (grants, logs, commands, database):
            assert [name for name, text in place.items() if capability in text] == []
        # The same search finds what is there.
        known = [(prompts, planted), (grants, planted), (database, planted), (database, "[token]")]
        known += [(logs, scene.bus.url), (logs, '"outcome": "failed"'), (commands, str(watcher.state_dir))]
        for place, text in known:
            assert [name for name, found in place.items() if text.encode() in found], text


def dump(folder: Path) -> dict[str, bytes]:
    """All of a bus's database: its files as they are, and its rows as SQL."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("eventlog.db")}
    connection = sqlite3.connect(f"file:{folder / 'eventlog.db'}?mode=ro", uri=True)
    try:
        rows = "\n".join(connection.iterdump())
    finally:
        connection.close()
    return {**files, "dump": rows.encode()}
