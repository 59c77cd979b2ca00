"""Agents that would talk for ever, over HTTP and woken by a real watcher: stopped, explained, let go on by a person."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.foreign import Foreign
from tests.scene import Scene, Watch
from tests.support import BusProcess, CommandLine, until

pytestmark = pytest.mark.e2e

#: Few hops, so that real wakes come to their end soon.
HOPS = 3


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    with BusProcess(tmp_path / "bus", options=["--max-hops", str(HOPS)]) as running:
        yield running


def hops(scene: Scene) -> list[int]:
    return [event["hops"] for event in scene.events("message")]


@pytest.fixture
def eventlog(bus: BusProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The administrator's command line."""
    monkeypatch.setenv("EVENTLOG_URL", bus.url)
    monkeypatch.setenv("EVENTLOG_TOKEN", bus.admin_token)
    return CommandLine(capsys)


class TestWokenAgents:
    def test_two_that_answer_each_other_for_ever_are_stopped_until_a_person_lets_them_go_on(
        self, scene: Scene, watch: Watch, eventlog: CommandLine
    ) -> None:
        watch(scene.agent("--answer") + scene.agent("--answer", name="tony")).start()
        tony = scene.admin.create_token("tony", "agent")
        thread = tony.send("mel")
        (stop,) = until(lambda: scene.events("thread.stopped"), why=lambda: str(scene.events()[-3:]))
        assert (stop["thread"], stop["reason"], stop["limit"]) == (thread, "max_hops", HOPS)
        assert sorted(stop["agents"]) == ["mel", "tony"]
        assert hops(scene) == list(range(HOPS + 1))
        told = f"stopped: thread {thread} of "
        assert eventlog("agents").out.count(told) == 2
        assert f"`eventlog thread resume {thread}`" in eventlog("why", "mel").out
        assert told in eventlog("show", "--thread", thread).out

        scene.bus.stop()
        scene.bus.start()
        assert tony.call("POST", "/api/send", {"to_agent": "mel", "thread_id": thread}).code == "loop"
        resumed = eventlog("thread", "resume", thread)
        assert resumed.out == f"thread {thread}: resumed\n"
        assert "what was refused is not sent anew" in resumed.err
        assert told not in eventlog("agents").out
        tony.send("mel", reply_to=scene.events("message")[-1]["id"])
        until(lambda: len(scene.events("thread.stopped")) == 2, why=lambda: str(scene.events()[-3:]))
        assert max(hops(scene)) == 2 * HOPS

    def test_so_are_two_that_never_say_what_they_answer(self, scene: Scene, watch: Watch) -> None:
        watch(scene.agent("--talk") + scene.agent("--talk", name="tony")).start()
        scene.admin.create_token("tony", "agent").send("mel")
        (stop,) = until(lambda: scene.events("thread.stopped"), why=lambda: str(scene.events()[-3:]))
        messages = scene.events("message")
        assert {message["thread_id"] == message["id"] for message in messages} == {True}
        assert [message["hops"] for message in messages] == list(range(HOPS + 1))
        assert (stop["thread"], stop["reason"]) == (messages[-1]["id"], "max_hops")
        scene.at_rest("mel", "tony")
        assert len(scene.events("thread.stopped")) == 1


class TestOverHttp:
    """Every clause that shows over HTTP."""

    def refused(self, client: Foreign, **message: Any) -> str:
        answer = client.call("POST", "/api/send", message)
        assert (answer.status, answer.code) == (429, "loop"), answer
        assert answer.headers["Retry-After"] == "60"
        return str(answer.body["detail"])

    @pytest.fixture
    def pair(self, scene: Scene) -> tuple[Foreign, Foreign]:
        return scene.admin.create_token("tony", "agent"), scene.admin.create_token("mel", "agent")

    def test_the_refusal_names_the_limit_and_the_mend(self, scene: Scene, pair: tuple[Foreign, Foreign]) -> None:
        tony, mel = pair
        first = last = tony.send("mel")
        for number in range(HOPS):
            sender, to = ((mel, "tony"), (tony, "mel"))[number % 2]
            last = sender.send(to, reply_to=last)
        detail = self.refused(mel, to_agent="tony", reply_to=last)
        assert "max_hops" in detail
        assert f"eventlog thread resume {first}" in detail
        for path in ("/api/agents/mel", f"/api/threads/{first}"):
            (stop,) = scene.admin.call("GET", path).body["stopped"]
            assert stop.keys() == {"thread", "reason", "agents", "limit", "time"}
        assert mel.call("POST", f"/api/threads/{first}/resume").code == "forbidden"
        assert scene.admin.call("POST", "/api/threads/999/resume").code == "not_found"
        for _ in range(2):
            answer = scene.admin.call("POST", f"/api/threads/{first}/resume", {})
            assert (answer.status, answer.body) == (200, {"thread_id": first, "stopped": False})
        mel.send("tony", reply_to=last)
        assert "stopped" not in scene.admin.call("GET", "/api/agents/mel").body
        (resumed,) = scene.events("thread.resumed")
        assert (resumed["thread"], resumed["by"]) == (first, "owner")

    def test_pollers_that_never_say_what_they_answer_are_stopped_on_the_pairs_routes_too(
        self, scene: Scene, pair: tuple[Foreign, Foreign]
    ) -> None:
        sent = 0
        statuses: list[int] = []
        while 429 not in statuses and sent < 100:
            sender, to = (pair[sent % 2], ("mel", "tony")[sent % 2])
            statuses.append(sender.call("POST", "/message", {"type": "TASK", "to_agent": to}).status)
            sent += 1
        assert statuses == [200] * 61 + [429]
        (stop,) = scene.events("thread.stopped")
        assert (stop["reason"], stop["limit"], stop["agents"]) == ("pair_rate", 60, ["mel", "tony"])

    def test_the_command_line_does_not_try_again(
        self, pair: tuple[Foreign, Foreign], eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tony, _ = pair
        last = tony.send("mel")
        for _ in range(HOPS):
            last = tony.send("mel", reply_to=last)
        monkeypatch.setenv("EVENTLOG_TOKEN", tony.token)
        done = eventlog("send", "mel", "x", "--reply-to", last)
        assert (done.code, done.out) == (65, "")
        assert done.err.startswith("eventlog: thread ")
        assert done.err.endswith("[loop]\n")

    def test_what_is_no_thread_is_said_to_be_none(self, pair: tuple[Foreign, Foreign], eventlog: CommandLine) -> None:
        assert eventlog("thread", "resume", 999_999).code == 1
        number = pair[0].send("mel")
        assert eventlog("thread", "resume", number, "--json").json == {"thread_id": number, "stopped": False}
