"""A message posted to a real bus wakes an agent through a real watcher, across restarts of either."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.forgetful import Forgetful
from tests.scene import Scene, Watch
from tests.support import until

pytestmark = pytest.mark.e2e


def kinds_of(events: list[dict[str, Any]], message: int) -> list[str]:
    """What the log holds from a message on, in order."""
    return [event["event"] for event in events if event["id"] >= message]


class TestOneWatcher:
    def test_a_message_wakes_the_agent_which_acknowledges(self, scene: Scene, watch: Watch) -> None:
        watch(scene.agent()).start()
        sent = scene.boss.send("mel", {"do": "this"})
        events = scene.judge()
        assert kinds_of(events, sent) == ["message", "wake.started", "ack", "wake.finished"]
        assert [event["outcome"] for event in events if event["event"] == "wake.finished"] == ["ok"]
        assert [run["did"] for run in scene.runs()] == ["start", "read", "end"]
        assert scene.runs("start")[0]["handed"] == scene.runs("read")[0]["ids"] == [sent]

    def test_a_burst_is_one_wake(self, scene: Scene, watch: Watch) -> None:
        watch(scene.agent()).start()
        body = [{"to_agent": "mel", "payload": number} for number in range(50)]
        sent = scene.boss.call("POST", "/api/send", body).body
        (wake,) = [event for event in scene.judge() if event["event"] == "wake.started"]
        assert (wake["after"], wake["through"]) == (0, sent[-1]["id"])

    def test_what_comes_during_a_run_leads_to_another_wake(self, scene: Scene, watch: Watch) -> None:
        watch(scene.agent("--hold", "--handed", ack="exit")).start()
        first = scene.boss.send("mel")
        until(lambda: scene.runs("start"))
        second = scene.boss.send("mel")
        scene.release()
        wakes = [event for event in scene.judge() if event["event"] == "wake.started"]
        assert [(wake["after"], wake["through"]) for wake in wakes] == [(0, first), (first, second)]
        assert [run["ids"] for run in scene.runs("read")] == [[first], [second]]

    def test_two_agents_hold_a_conversation(self, scene: Scene, watch: Watch) -> None:
        watch(scene.agent("--answer") + scene.agent(name="tony")).start()
        tony = scene.admin.create_token("tony", "agent")
        for number in range(3):
            tony.send("mel", number)
        events = scene.judge("mel", "tony")
        assert sorted(e["to_agent"] for e in events if e["event"] == "message") == ["mel"] * 3 + ["tony"] * 3

    def test_a_watcher_that_was_away_wakes_for_what_it_missed_with_one_wake(self, scene: Scene, watch: Watch) -> None:
        watcher = watch(scene.agent()).start()
        scene.boss.send("mel")
        scene.judge()
        assert watcher.stop() == 0
        missed = [scene.boss.send("mel", number) for number in range(20)]
        watcher.start()
        wakes = [event for event in scene.judge() if event["event"] == "wake.started"]
        assert [wake["through"] for wake in wakes][1:] == [missed[-1]]
        assert scene.runs("read")[1]["ids"] == missed

    def test_a_new_watcher_does_not_wake_for_what_was_read(self, scene: Scene, watch: Watch) -> None:
        watcher = watch(scene.agent()).start()
        scene.boss.send("mel")
        scene.judge()
        watcher.kill()
        (watcher.state_dir / "cursor").unlink(missing_ok=True)
        watcher.start()
        second = scene.boss.send("mel")
        assert [e["through"] for e in scene.judge() if e["event"] == "wake.started"][1:] == [second]

    def test_messages_across_kills_of_the_bus_are_read(self, scene: Scene, watch: Watch) -> None:
        watcher = watch(scene.agent()).start()
        for _ in range(3):
            scene.boss.send("mel")
            scene.bus.kill()
            scene.bus.start()
            scene.boss.send("mel")
            scene.judge()
        assert watcher.process.poll() is None

    def test_a_run_that_ends_while_there_is_no_bus_is_reported_to_the_next(self, scene: Scene, watch: Watch) -> None:
        watch(scene.agent("--hold", "--handed", ack="exit")).start()
        sent = scene.boss.send("mel")
        until(lambda: scene.runs("start"))
        scene.bus.kill()
        scene.release()
        until(lambda: scene.runs("end"))
        scene.bus.start()
        assert kinds_of(scene.judge(), sent) == ["message", "wake.started", "wake.finished", "ack"]

    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
    def test_a_run_outlives_the_watcher_and_is_reported_once(
        self, scene: Scene, watch: Watch, sign: signal.Signals
    ) -> None:
        watcher = watch(scene.agent("--hold")).start()
        scene.boss.send("mel")
        until(lambda: scene.runs("start"))
        watcher.kill(sign)
        assert watcher.shims()
        watcher.start()
        scene.release()
        events = scene.judge()
        assert [e["outcome"] for e in events if e["event"] == "wake.finished"] == ["ok"]
        assert len(scene.runs("start")) == 1

    def test_a_run_that_ended_while_no_watcher_was_there_is_reported(self, scene: Scene, watch: Watch) -> None:
        watcher = watch(scene.agent("--hold")).start()
        scene.boss.send("mel")
        until(lambda: scene.runs("start"))
        watcher.kill()
        scene.release()
        until(lambda: not watcher.shims())
        assert scene.events("wake.finished") == []
        watcher.start()
        assert [e["outcome"] for e in scene.judge() if e["event"] == "wake.finished"] == ["ok"]

    def test_asks_and_reports_are_lost_and_so_are_answers(self, scene: Scene, watch: Watch) -> None:
        calls = [b"POST /api/wakes ", b"PATCH /api/wakes/"]
        with Forgetful(scene.bus.port, unheard=calls, unanswered=calls) as relay:
            sent = scene.boss.send("mel")
            watch(scene.agent(), url=relay.url).start()
            until(lambda: len(relay.lost) == 4)
            assert kinds_of(scene.judge(), sent) == ["message", "wake.started", "ack", "wake.finished"]
            until(lambda: '"event": "reported"' in (scene.folder.parent / "minipc-1" / "watcher.log").read_text())


class TestTwoWatchersOfOneAgent:
    def test_they_share_the_wakes_and_never_run_two_at_once(self, scene: Scene, watch: Watch) -> None:
        watchers = [watch(scene.agent(), name=name).start() for name in ("one", "two")]
        for number in range(10):
            scene.boss.send("mel", number)
            scene.boss.send("mel", number)
            scene.at_rest()
        events = scene.judge()
        assert {event["watcher"] for event in events if event["event"] == "wake.started"} <= {"one", "two"}
        assert all(watcher.process.poll() is None for watcher in watchers)

    def test_the_second_takes_over_when_the_first_is_gone_and_its_command_with_it(
        self, scene: Scene, watch: Watch
    ) -> None:
        table = scene.agent("--hold", timeout=1, start_within=1)
        first, second = (watch(table, name=name).start() for name in ("first", "second"))
        sent = scene.boss.send("mel")
        (run,) = until(lambda: scene.runs("start"))
        holder, heir = (first, second) if first.shims() else (second, first)
        holder.kill()
        holder.kill_shims()
        until(lambda: not Path(f"/proc/{run['pid']}/exe").exists(), 5)
        scene.release()
        # The lease of 17 s has to run out, and then comes the first backoff, of 10 s.
        events = scene.judge(deadline_s=60)
        wakes = [event for event in events if event["event"] == "wake.started"]
        assert [wake["watcher"] for wake in wakes] == [holder.home.name, heir.home.name]
        assert [(e["outcome"], e["by"]) for e in events if e["event"] == "wake.finished"] == [
            ("interrupted", "bus"), ("ok", "watcher"),
        ]  # fmt: skip
        assert scene.runs("read")[0]["ids"] == [sent]
        # What the first had in its state folder is of no use any more, and does no harm.
        holder.start()
        until(lambda: not list(holder.state_dir.glob("agents/*/*/grant")))
        assert len(scene.judge()) == len(events)
