"""Runs: one message each, in order, with a private folder; what a run prints is reported as its reply."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventlog.errors import BadRequest, TooLarge
from tests.watcher.conftest import Watch
from tests.watcher.fake_bus import FakeBus, problem
from tests.watcher.support import pids_in, until
from watcher import runs, show
from watcher.prompt import default_template
from watcher.settings import AgentSettings
from watcher.wake import Granted, grant

pytestmark = pytest.mark.anyio

SETTINGS = AgentSettings(name="mel", deliver="each", ack="exit", command=("true",), prompt=default_template())
MESSAGE = {"id": 5, "event": "message", "from_agent": "tony", "to_agent": "mel", "payload": "ü\ud800", "type": "TASK"}


def granted(**changes: Any) -> Granted:
    told = {"id": 7, "key": "0f" * 16, "agent": "mel", "after": 0, "through": 5, "attempt": 1, "timeout_s": 300.0}
    return Granted(**{**told, "token": "the-wakes", "messages": [MESSAGE], "reply_token": "the-replys", **changes})


class TestTheFolder:
    def test_it_is_the_owners_alone_and_holds_the_message_and_the_prompt(self, tmp_path: Path) -> None:
        for _ in range(2):  # the same wake may be granted again, after a crash
            told = runs.store(tmp_path, granted(), SETTINGS, "http://bus")
        private = tmp_path / "run"
        assert told == {"folder": str(private), "message": 5, "input": "json", "reply": "agent"}
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {
            "message.json": 0o600,
            "prompt.txt": 0o600,
        }
        assert json.loads((private / "message.json").read_bytes())["id"] == 5
        assert "the-replys" in (private / "prompt.txt").read_text()

    def test_the_fence_is_of_the_key_and_does_not_tell_it(self, tmp_path: Path) -> None:
        texts = []
        for key in ("0f" * 16, "f0" * 16):
            runs.store(tmp_path, granted(key=key), SETTINGS, "http://bus")
            texts.append((tmp_path / "run" / "prompt.txt").read_text())
            assert key not in texts[-1]
        assert texts[0] != texts[1]

    def test_a_grant_has_the_message_and_the_folder_and_no_secret(self, tmp_path: Path) -> None:
        wake = granted()
        run = runs.store(tmp_path, wake, SETTINGS, "http://bus")
        place = {"folder": tmp_path, "token_file": tmp_path / "token"}
        stored = grant(wake, SETTINGS, latest_start=1.0, url="http://bus", run=run, **place)
        assert stored["request"].items() >= {**MESSAGE, "messages": [MESSAGE], "truncated": False}.items()
        assert stored["env"]["WAKE_FOLDER"] == str(tmp_path / "run")
        assert not {"the-wakes", "the-replys"} & set(json.dumps(stored).replace('"', " ").split())

    def test_a_run_without_a_message_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="without a message"):
            runs.store(tmp_path, granted(messages=[]), SETTINGS, "http://bus")


class TestTheReply:
    def test_it_is_what_a_good_run_printed(self) -> None:
        stored = {"run": {"reply": "stdout"}}
        said = {"outcome": "ok", "stdout": " an answer\n\n", "stdout_left_out": 0}
        assert runs.reply(stored, said) == {"reply": " an answer"}
        cut = runs.reply(stored, {**said, "stdout_left_out": 9})["reply"]
        assert cut == "[the first 9 bytes were left out]\n an answer"
        for outcome in ({**said, "outcome": "failed"}, {**said, "stdout": " \n"}, {"outcome": "ok"}):
            assert runs.reply(stored, outcome) == {}
        assert runs.reply({"run": {"reply": "agent"}}, said) == runs.reply({"run": None}, said) == {}
        assert runs.reply({}, said) == {}, "a wake that an earlier version granted"

    def test_one_that_is_too_large_becomes_less_and_at_last_nothing(self) -> None:
        told: dict[str, Any] = {"detail": "x", "reply": "y" * 5000}
        for _ in range(10):
            told = runs.lessened(told, TooLarge("too much"))
            if "reply" in told:
                assert told["reply"].startswith("[the beginning was left out]\n")
                assert told["detail"] == "x"
        assert told == {}
        assert runs.lessened({"reply": "y" * 5000}, BadRequest("no")) == {}


#: An agent that gets runs; the script may use what it is given.
Table = Callable[..., str]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    def made(script: str, more: str = "") -> str:
        return (
            f"[agents.mel]\ndeliver = 'each'\ncommand = ['/bin/sh', '-c', '''{script}''']\ncwd = '{tmp_path}'\n{more}"
        )

    return made


async def test_each_message_is_a_run_in_order_and_what_it_prints_its_reply(
    bus: FakeBus, watch: Watch, table: Table, tmp_path: Path
) -> None:
    script = "cat $WAKE_FOLDER/message.json >> seen; echo >> seen; cat"
    async with watch(table(script, "reply = 'stdout'\ninput = 'prompt'\n")) as watching:
        await until(lambda: bus.asks)
        texts = ["first", "second", "third"]
        for text in texts:
            bus.post("mel", text)
        await until(lambda: bus.outcomes == ["ok"] * 3)
        await until(lambda: not watching.folders())
    assert next((ask["deliver"], ask["ack"], ask["timeout_s"]) for ask in bus.asks) == ("each", "exit", 300)
    assert [json.loads(line)["payload"] for line in (tmp_path / "seen").read_text().splitlines()] == texts
    assert [f"| {text}\n" in report["reply"] for text, (_, report) in zip(texts, bus.reports, strict=True)] == [
        True
    ] * 3
    await until(
        lambda: not list((tmp_path / "state").glob("agents/mel/*/run")), "the private folder goes with its key's"
    )


async def test_a_reply_that_the_bus_finds_too_large_is_told_in_part(bus: FakeBus, watch: Watch, table: Table) -> None:
    async with watch(table("seq 1000", "reply = 'stdout'\n")):
        await until(lambda: bus.asks)
        bus.odd["report"].append(problem(413, "too_large"))
        bus.post("mel")
        await until(lambda: bus.outcomes == ["ok"])
    first, second = (report["reply"] for _, report in bus.reports)
    assert first.startswith("1\n2\n")
    assert second.endswith("\n999\n1000")
    assert len(second) < len(first)


async def test_status_speaks_of_runs(bus: FakeBus, watch: Watch, table: Table, tmp_path: Path) -> None:
    script = "[ -e go ] && exit 1; echo $$ >> pids; while [ ! -e go ]; do sleep 0.02; done"
    async with watch(table(script)) as watching:
        await until(lambda: bus.asks)
        message = bus.post("mel")
        await until(lambda: pids_in(tmp_path / "pids"))
        (wake,) = bus.wakes
        told = {"running": True, **watching.status.as_dict()}
        text = "\n".join(show.lines(told))
        assert f"mel (command, a run for each message): running, run {wake} of message {message} (attempt 1)" in text
        (tmp_path / "go").touch()
        await until(lambda: watching.agent().last)
        text = "\n".join(show.lines({"running": True, **watching.status.as_dict()}))
        assert f"last run {wake} of message {message}: ok, exit code 0" in text
