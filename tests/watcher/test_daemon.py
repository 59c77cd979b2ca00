"""The daemon: first the stream and then the asking, hints, timers, and coming back (WAKES.md R17 to R20)."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.watcher.conftest import Watch
from tests.watcher.fake_bus import PROXY_404, FakeBus, problem
from tests.watcher.support import until
from watcher.state import Cursor

pytestmark = pytest.mark.anyio


async def test_a_message_wakes_its_agent(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    async with watch("cat > request; env > env"):
        await until(lambda: bus.asks)
        message_id = bus.post("mel", "do it")
        await until(lambda: bus.outcomes)
    (wake,) = bus.wakes.values()
    ((wake_id, report),) = bus.reports
    assert (wake_id, report["key"], report["outcome"], report["exit_code"]) == (wake.id, wake.key, "ok", 0)
    request = json.loads((tmp_path / "request").read_text())
    assert [message["payload"] for message in request["messages"]] == ["do it"]
    told = {"id": wake.id, "agent": "mel", "after": 0, "through": message_id, "attempt": 1, "timeout_s": 300}
    assert request["wake"] == told
    env = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert {name: env[name] for name in env if name.startswith("WAKE_")} == {
        "WAKE_ID": str(wake.id),
        "WAKE_AGENT": "mel",
        "WAKE_AFTER": "0",
        "WAKE_THROUGH": str(message_id),
        "WAKE_ATTEMPT": "1",
    }
    assert env["EVENTLOG_URL"] == bus.url
    assert Path(env["EVENTLOG_TOKEN_FILE"]).read_text().strip() == f"token-of-{wake.id}"


async def test_an_ask_tells_the_limits_and_who_asks(bus: FakeBus, watch: Watch) -> None:
    settings = "ack = 'exit'\nmax_attempts = 3\nmin_interval = 4\ndeliver = 'each'\ntimeout = 50\nack_within = 70"
    settings += "\nmax_wakes_per_hour = 9"
    async with watch(f"[agents.mel]\ncommand = ['true']\nstart_within = 20\n{settings}") as watching:
        (ask,) = await until(lambda: bus.asks)
        node = watching.state.node
    assert {name: value for name, value in ask.items() if name != "key"} == {
        "agent": "mel",
        "watcher": "minipc",
        "node": node,
        "timeout_s": 50,
        "start_within_s": 20,
        "ack": "exit",
        "ack_within_s": 70,
        "max_attempts": 3,
        "min_interval_s": 4,
        "max_wakes_per_hour": 9,
        "deliver": "each",
    }


async def test_it_asks_only_when_the_stream_stands(bus: FakeBus, watch: Watch) -> None:
    """R17."""
    async with watch():
        await until(lambda: bus.asks)
        bus.cut()
        await until(lambda: len(bus.streams) == 2 and len(bus.asks) == 2)
    assert [stream["asks_before"] for stream in bus.streams] == [0, 1]


async def test_during_a_replay_it_asks_when_the_head_of_the_start_is_reached(bus: FakeBus, watch: Watch) -> None:
    """R17: a burst is one wake."""
    async with watch() as watching:
        await until(lambda: bus.asks)
    asks = len(bus.asks)
    messages = [bus.post("mel", told=False) for _ in range(3)]
    bus.opening = lambda after: after
    (watching.state.path / "cursor").write_text(json.dumps({"log": "log-1", "cursor": 0}))
    async with watch() as watching:
        await until(lambda: watching.status.connection == "replaying")
        for message_id in messages[:2]:
            bus.tell(f'id: {message_id}\ndata: {{"id": {message_id}, "to_agent": "mel"}}\n\n')
        await until(lambda: watching.status.cursor == messages[1])
        assert len(bus.asks) == asks
        bus.tell(f"id: {messages[2]}\n\n")
        await until(lambda: bus.outcomes)
    assert [wake.through for wake in bus.wakes.values()] == [messages[2]]


async def test_it_says_who_follows_and_comes_back_to_its_cursor(bus: FakeBus, watch: Watch) -> None:
    bus.head = 40
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: bus.outcomes)
        cursor = watching.status.cursor
        bus.cut()
        await until(lambda: len(bus.streams) == 2)
        node = watching.state.node
    first, second = bus.streams
    assert first["last-event-id"] is None
    assert (first["agent"], first["watcher"], first["node"], first["heartbeat"]) == (["mel"], ["minipc"], [node], ["1"])
    assert (second["last-event-id"], second["log"]) == (str(cursor), ["log-1"])


async def test_the_cursor_outlives_the_watcher(bus: FakeBus, watch: Watch) -> None:
    async with watch() as watching:
        await until(lambda: bus.asks)
        last = bus.post("tony")
        await until(lambda: watching.status.cursor == last)
    async with watch():
        await until(lambda: len(bus.streams) == 2)
    assert bus.streams[1]["last-event-id"] == str(last)


async def test_it_goes_on_where_a_reset_says(bus: FakeBus, watch: Watch) -> None:
    """A backup was restored under it: another log, with another head."""
    bus.head = 1000
    async with watch() as watching:
        await until(lambda: watching.status.cursor == 1000 and bus.asks)
        bus.log_id, bus.head = "log-2", 50
        bus.opening = lambda after: 20
        asks = len(bus.asks)
        bus.cut()
        await until(lambda: len(bus.streams) == 2)
        bus.tell('id: 20\nevent: reset\ndata: {"reason": "other log", "log": "log-2", "cursor": 1000}\n\n')
        await until(lambda: watching.status.cursor == 20)
        assert len(bus.asks) == asks
        bus.tell("id: 50\n\n")
        await until(lambda: len(bus.asks) > asks)
        await until(lambda: watching.state.read_cursor() == Cursor("log-2", 50))


async def test_a_hint_during_an_ask_leads_to_another_one(bus: FakeBus, watch: Watch) -> None:
    """R19: the answer may have been decided before the message came."""
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.close_gate("ask")
        bus.tell('id: 1\ndata: {"to_agent": "MEL"}\n\n')
        await until(lambda: len(bus.asks) == 2)
        bus.post("mel")
        await until(lambda: watching.status.cursor == bus.head)
        bus.gates["ask"].set()
        await until(lambda: bus.outcomes)
    assert len(bus.asks) >= 3


async def test_it_asks_again_on_the_timer_that_an_answer_set(bus: FakeBus, watch: Watch) -> None:
    bus.retry_after_s = 0.1
    async with watch():
        await until(lambda: bus.asks)
        bus.post("mel", told=False)
        await until(lambda: bus.outcomes)
    assert len(bus.streams) == 1


async def test_a_resumed_agent_is_asked_for(bus: FakeBus, watch: Watch) -> None:
    async with watch():
        await until(lambda: len(bus.asks) == 1)
        bus.tell('id: 5\nevent: agent.resumed\ndata: {"agent": "mel"}\n\n')
        await until(lambda: len(bus.asks) == 2)
    assert bus.asks[0]["key"] == bus.asks[1]["key"]


async def test_frames_that_are_none_of_its_business_do_no_harm(bus: FakeBus, watch: Watch) -> None:
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.tell(
            'id: 5\ndata: {"to_agent": "nobody-here"}\n\nid: 6\ndata: not json\n\nid: 7\ndata: {"to_agent": 3}\n\n'
        )
        await until(lambda: watching.status.cursor == 7)
        bus.post("mel")
        await until(lambda: bus.outcomes)
    assert {ask["agent"] for ask in bus.asks} == {"mel"}


async def test_it_comes_back_to_a_bus_that_was_away(bus: FakeBus, watch: Watch) -> None:
    async with watch() as watching:
        await until(lambda: bus.asks)
        await bus.stop()
        await until(lambda: watching.status.connection == "connecting")
        bus.post("mel", told=False)
        await bus.start()
        await until(lambda: bus.outcomes)
    assert len(bus.streams) == 2


async def test_a_bus_that_was_never_there_is_waited_for(bus: FakeBus, watch: Watch) -> None:
    await bus.stop()
    bus.post("mel", told=False)
    async with watch() as watching:
        await until(lambda: "no bus answers" in watching.status.detail)
        await bus.start()
        await until(lambda: bus.outcomes)
    assert bus.outcomes == ["ok"]


async def test_a_silent_stream_is_taken_for_dead(bus: FakeBus, watch: Watch) -> None:
    bus.heartbeats = False
    async with watch():
        await until(lambda: len(bus.streams) == 2)
    assert bus.streams[1]["last-event-id"] == str(bus.head)


@pytest.mark.parametrize("odd", [PROXY_404, problem(503, "unavailable"), problem(400, "bad_cursor")])
async def test_a_refused_stream_is_asked_for_again(bus: FakeBus, watch: Watch, odd: object) -> None:
    bus.odd["stream"].extend([odd] * 3)  # type: ignore[list-item]
    async with watch():
        await until(lambda: bus.asks)
    assert len(bus.streams) == 1


async def test_a_renewed_token_is_taken_up(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.tokens = {"the-next-token"}
        bus.cut()
        await until(lambda: "unauthorized" in watching.status.detail)
        (tmp_path / "token").write_text("the-next-token\n")
        bus.post("mel")
        await until(lambda: bus.outcomes)
    assert bus.outcomes == ["ok"]


@pytest.mark.parametrize("junk", [b"eventlog: no bus answers\n", b"\xff\xfe\n", None], ids=["words", "bytes", "folder"])
async def test_what_is_no_token_is_told_of_once_and_the_old_one_kept_until_a_good_one_is_there(
    bus: FakeBus, watch: Watch, tmp_path: Path, junk: bytes | None
) -> None:
    token, refused = tmp_path / "token", "no stream; trying again"
    with capture_logs() as lines:
        async with watch() as watching:
            await until(lambda: bus.asks)
            token.unlink()
            token.mkdir() if junk is None else token.write_bytes(junk)
            bus.tokens = {"the-next-token"}
            bus.cut()
            await until(lambda: [line["event"] for line in lines].count(refused) > 3 or watching.task.done())
            bus.tokens = {"the-watchers-token"}
            await until(lambda: len(bus.streams) == 2 or watching.task.done())
            token.rmdir() if junk is None else token.unlink()
            token.write_text("the-next-token\n")
            bus.tokens = {"the-next-token"}
            bus.cut()
            bus.post("mel")
            await until(lambda: bus.outcomes or watching.task.done())
    (told,) = [line for line in lines if line["event"].startswith("the token is refused")]
    assert str(token) in told["reason"]


async def test_no_more_wakes_run_at_once_than_allowed(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    script = "echo $WAKE_AGENT >> begun; while [ ! -e go ]; do sleep 0.02; done"
    command = f"command = ['/bin/sh', '-c', '''{script}''']\ncwd = '{tmp_path}'\n"
    agents = "".join(f"[agents.{name}]\n{command}" for name in ("a", "b", "c"))
    async with watch(agents, top="[limits]\nmax_wakes = 2") as watching:
        await until(lambda: len(bus.asks) == 3)
        for name in ("a", "b", "c"):
            bus.post(name)
        await until(lambda: any("max_wakes" in watching.agent(name).why for name in ("a", "b", "c")))
        await until(lambda: (tmp_path / "begun").exists() and len((tmp_path / "begun").read_text().split()) == 2)
        (tmp_path / "go").touch()
        await until(lambda: bus.outcomes == ["ok"] * 3)
    assert sorted((tmp_path / "begun").read_text().split()) == ["a", "b", "c"]


async def test_the_tasks_end_together(bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that has lost one of its tasks would look alive and leave agents asleep."""

    async def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("watcher.daemon.Watcher._sweep_tokens", fail)
    with pytest.raises(AssertionError, match="the watcher ended"):
        async with watch() as watching:
            await until(watching.task.done)
