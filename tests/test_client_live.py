"""The client against a real bus: every method, and a follower through restarts, filters and a restore."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop

from eventlog import errors
from eventlog.client import Bus
from eventlog.sse import Frame
from tests.support import BusProcess, run_eventlog
from watcher.config import AGENTS_MAX, NAMES_MAX

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(shared_bus: BusProcess) -> AsyncIterator[Bus]:
    """The administrator of the module's bus."""
    async with Bus(shared_bus.url, shared_bus.admin_token) as made:
        yield made


async def test_mail_goes_out_is_read_answered_and_acknowledged(client: Bus) -> None:
    sent = await client.send("ann", {"n": 1}, type="TASK", from_agent="bob")
    assert (sent["status"], sent["thread_id"]) == ("accepted", sent["id"])
    page = await client.inbox("ann")
    assert [(m["id"], m["from_agent"], m["payload"]) for m in page["messages"]] == [(sent["id"], "bob", {"n": 1})]
    reply = await client.send("bob", "done", from_agent="ann", reply_to=sent["id"])
    assert reply["thread_id"] == sent["id"]
    assert [m["id"] for m in (await client.thread(sent["id"]))["messages"]] == [sent["id"], reply["id"]]
    assert await client.ack("ann", page["cursor"]) == {"agent": "ann", "cursor": sent["id"]}
    assert (await client.message(sent["id"]))["receipt"]["status"] == "replied"
    assert (await client.inbox("ann"))["messages"] == []


async def test_an_inbox_is_waited_for(client: Bus) -> None:
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(client.inbox("cat", wait_s=15))
        await client.healthz()  # its answer comes after the waiting request has gone out
        await client.send("cat", "now")
        assert [m["payload"] for m in (await waiting)["messages"]] == ["now"]


async def test_everyone_and_several_get_a_message_each(client: Bus) -> None:
    answers = await client.send(["dan", "eve"], "both")
    assert len(answers) == 2
    assert answers[0]["id"] < answers[1]["id"]


async def test_history_is_read_in_pages_and_as_one(client: Bus) -> None:
    ids = [(await client.send("fay", n))["id"] for n in range(5)]
    page = await client.events(agent="fay", limit=2)
    assert [event["id"] for event in page["events"]] == ids[:2]
    assert page["has_more"]
    async with aclosing(client.replay(agent="fay", after=ids[1], before=ids[4])) as events:
        assert [event["id"] async for event in events] == ids[2:4]
    head, digest = await client.anchor()
    assert head == ids[-1]
    assert (await client.verify((head, digest)))["ok"]


async def test_a_wake_is_asked_for_given_again_and_reported_once(client: Bus) -> None:
    sent = await client.send("gus", "work", from_agent="hal")
    granted = await client.ask("key-1", "gus", watcher="w", node="n", timeout_s=60)
    wake = granted["wake"]
    assert (wake["after"] < sent["id"], wake["through"], wake["attempt"]) == (True, sent["id"], 1)
    assert [m["id"] for m in wake["messages"]] == [sent["id"]]
    assert (await client.ask("key-1", "gus", watcher="w", node="n", timeout_s=60))["wake"]["id"] == wake["id"]
    refused = await client.ask("key-2", "gus", watcher="w", node="n")
    assert (refused["wake"], refused["why"]) == (None, "in_flight")
    assert (await client.agent("gus"))["wake"]["id"] == wake["id"]

    async with Bus(client.url, wake["token"]) as agent:
        assert (await agent.ack("gus", sent["id"]))["cursor"] == sent["id"]
        with pytest.raises(errors.Forbidden):
            await agent.inbox("hal")
    done = await client.report(wake["id"], "key-1", "ok", exit_code=0, duration_ms=12, reply="finished")
    assert done["outcome"] == "ok"
    with pytest.raises(errors.Conflict) as caught:
        await client.report(wake["id"], "key-1", "failed")
    assert caught.value.code == "already_finished"
    with pytest.raises(errors.NotFound) as unknown:
        await client.report(wake["id"], "another", "ok")
    assert unknown.value.code == "unknown_wake"
    assert [m["payload"] for m in (await client.inbox("hal"))["messages"]] == ["finished"]


async def test_agents_are_paused_and_resumed(client: Bus) -> None:
    await client.send("ida", "x", from_agent="ida")
    await client.pause("ida")
    assert (await client.ask("key-3", "ida"))["why"] == "paused"
    await client.resume("ida")
    assert (await client.ask("key-3", "ida"))["wake"] is not None
    assert "ida" in {agent["name"] for agent in (await client.agents())["agents"]}


async def test_a_tokens_streams_end_when_it_is_revoked(client: Bus) -> None:
    made = await client.token_create("jan", "agent", ["jan"])
    assert "jan" in {token["name"] for token in (await client.tokens())["tokens"]}
    async with asyncio.timeout(20), Bus(client.url, made["token"]) as jan:
        with pytest.raises(errors.Unauthorized):
            async for frame in jan.follow(id_only=True):
                assert frame.data is None
                await client.token_revoke("jan")


async def test_a_redacted_payload_is_gone_and_the_chain_holds(client: Bus) -> None:
    sent = await client.send("kim", "secret")
    await client.redact(sent["id"], "asked for")
    message = await client.message(sent["id"])
    assert "payload" not in message
    assert message["redacted"] is True
    assert (await client.verify())["ok"]


async def test_a_backup_is_written_to_a_new_file(client: Bus, tmp_path: Path) -> None:
    told = await client.backup(tmp_path / "copy.db")
    assert Path(told["path"]).stat().st_size > 0
    with pytest.raises(errors.BadRequest):
        await client.backup(tmp_path / "copy.db")


@pytest.mark.parametrize("token", [None, "evt_wrong"])
async def test_without_a_good_token_nothing_is_told(client: Bus, token: str | None) -> None:
    async with Bus(client.url, token) as stranger:
        assert (await stranger.healthz()).status == 200
        for work in (
            stranger.agents,
            stranger.tokens,
            lambda: stranger.send("ann", "x"),
            lambda: stranger.inbox("ann"),
        ):
            with pytest.raises(errors.Unauthorized):
                await work()


async def collect(frames: AsyncIterator[Frame], until: int) -> list[Frame]:
    """Frames up to and with the one whose id is `until`."""
    seen: list[Frame] = []
    async for frame in frames:
        seen.append(frame)
        if frame.cursor is not None and frame.cursor >= until:
            break
    return seen


async def test_a_stream_can_name_as_many_agents_as_a_watcher_may_have(bus: BusProcess) -> None:
    agents = [f"{n:0{NAMES_MAX // AGENTS_MAX}}" for n in range(AGENTS_MAX)]
    kinds = ("message", "ack", "wake.started", "wake.finished", "agent.paused", "agent.resumed")
    async with Bus(bus.url, bus.admin_token) as client:
        sent = (await client.send(agents[-1], "x", from_agent="bob"))["id"]
        last, name = sent - 1, "n" * 64
        async with client.follow_once(
            last_event_id=last, agents=agents, events=kinds, watcher=name, node=name, log="0" * 32
        ) as stream:
            assert stream.head >= sent


async def test_a_follower_sees_every_id_once_through_kills_of_the_bus(bus: BusProcess) -> None:
    async with asyncio.timeout(60), Bus(bus.url, bus.admin_token) as client:
        start, _ = await client.anchor()
        sent: list[int] = []

        async def send_all() -> None:
            for n in range(60):
                answer = await client.send("ann", n, from_agent="bob")
                sent.append(answer["id"])

        async def kill_often() -> None:
            for after in (10, 25, 40):
                while len(sent) < after:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(bus.kill)
                await asyncio.to_thread(bus.start)

        frames = client.follow(after=start, agents=["ann"], heartbeat_s=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_often())
            group.create_task(send_all())
            async with aclosing(frames):
                seen: list[Frame] = []
                async for frame in frames:
                    seen.append(frame)
                    if frame.fields()["payload"] == 59:
                        break
    assert [frame.cursor for frame in seen] == sent
    assert [frame.fields()["payload"] for frame in seen] == list(range(60))


async def test_a_filtered_followers_cursor_passes_what_it_is_not_shown(client: Bus) -> None:
    async with asyncio.timeout(20):
        for n in range(20):
            await client.send("lea", n)
        head, _ = await client.anchor()
        async with client.follow_once(after="earliest", agents=["nobody"]) as stream:
            assert stream.head == head
            seen = await collect(aiter(stream), head)
    assert all(frame.data is None for frame in seen)
    assert len(seen) <= 4


async def test_a_follower_is_told_that_its_log_was_restored(bus: BusProcess, tmp_path: Path) -> None:
    async with asyncio.timeout(60), Bus(bus.url, bus.admin_token) as client:
        first = (await client.send("ann", "kept"))["id"]
        await client.backup(tmp_path / "copy.db")
        lost = (await client.send("ann", "lost"))["id"]
        async with aclosing(client.follow(after=first, heartbeat_s=1)) as frames:
            assert (await anext(frames)).cursor == lost
            bus.stop()
            done = run_eventlog("restore", tmp_path / "copy.db", "--replace", "--data-dir", bus.data_dir, home=bus.home)
            assert done.code == 0, done.err
            bus.start()
            reset = await anext(frames)
            new = (await client.send("ann", "new"))["id"]
            after = await anext(frames)
    assert reset.kind == "reset"
    assert reset.cursor is not None
    assert reset.cursor < lost
    assert reset.fields()["cursor"] == reset.cursor
    assert (after.kind, after.cursor) == ("message", new)


def test_the_client_works_with_another_loop_than_asyncios_own(shared_bus: BusProcess) -> None:
    async def work() -> None:
        async with Bus(shared_bus.url, shared_bus.admin_token) as bus:
            await bus.send("uve", "by uvloop")
            assert [message["payload"] for message in (await bus.inbox("uve"))["messages"]] == ["by uvloop"]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
