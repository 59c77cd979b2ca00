"""The log as a whole: it survives its process, knows its agents and tokens, and pauses them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eventlog.agents import Limits
from eventlog.errors import BadRequest, NotFound
from eventlog.log import EventLog
from eventlog.views import AgentView
from eventlog.wakes import Ask, Report
from tests.logs import opened, report, send, wake

pytestmark = pytest.mark.anyio


async def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "mel")
        await log.ack("mel", first.id)
        before = (log.log_id, log.head, await log.agent("mel"))
    async with opened(tmp_path) as log:
        assert (log.log_id, log.head, await log.agent("mel")) == before


# ---- agents ----


async def test_an_agents_view_says_what_is_unread_and_that_a_wake_is_due(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        first = await send(log, "Mel")
        await send(log, "mel")
        await send(log, "mel", expires="2020-01-01T00:00:00.000000Z")
        view = await log.agent("mel")
        assert (view.name, view.known, view.unread, view.cursor, view.paused) == ("Mel", False, 2, 0, False)
        assert (view.next_wake.due, view.next_wake.why) == (True, "ready")
        assert (view.wake, view.last_wake, view.last_seen, view.watchers) == (None, None, None, ())
        await log.ack("mel", first.id)
        view = await log.agent("mel")
        assert (view.unread, view.cursor) == (1, first.id)


async def test_an_agents_view_follows_its_wakes(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        message = await send(log, "mel")
        granted = await wake(log, "mel", "k1")
        view = await log.agent("mel")
        assert view.wake is not None
        assert (view.wake.id, view.wake.through, view.wake.node) == (granted.wake.id, message.id, "n1")
        assert (view.next_wake.due, view.next_wake.why, view.last_wake) == (False, "in_flight", None)
        assert 0 < view.next_wake.in_s <= 300

        told = Report(key="k1", outcome="failed", exit_code=3, detail="it broke")
        await log.leases.report(granted.wake.id, told)
        view = await log.agent("mel")
        assert view.wake is None
        assert view.last_wake is not None
        assert (view.last_wake.outcome, view.last_wake.exit_code, view.last_wake.detail) == ("failed", 3, "it broke")
        assert view.next_wake.why == "backoff"


async def test_an_agents_view_says_why_nothing_is_due(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        message = await send(log, "mel")
        await report(log, await wake(log, "mel", "k1"), "ok")
        assert (await log.agent("mel")).next_wake.why == "ack_pending"
        await log.ack("mel", message.id)
        assert (await log.agent("mel")).next_wake.why == "nothing_unread"


async def test_an_agents_view_says_that_its_wakes_are_used_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "mel")
        limits = Limits(max_attempts=1, ack_within_s=0)
        granted: Any = await log.leases.ask(Ask("mel", "k1", "w1", "n1", limits))
        await report(log, granted, "ok")
        assert (await log.agent("mel")).next_wake.why == "max_attempts"


async def test_an_agents_view_names_who_serves_it_and_when_it_was_heard(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        with log.presence.serving("w1", "n1", ("Mel",)):
            log.presence.agent_seen("mel")
            view = await log.agent("mel")
            assert [(one.watcher, one.node) for one in view.watchers] == [("w1", "n1")]
            assert (view.name, view.known) == ("Mel", True)
            assert view.last_seen is not None


async def test_agents_are_listed_by_name_as_far_as_the_caller_may_see(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await send(log, "mel", sender="Tony")
        await send(log, "ann", sender="admin")
        await log.pause("*", by="admin")

        def names(views: list[AgentView]) -> list[str]:
            return [view.name for view in views]

        assert names(await log.agents()) == ["ann", "mel", "Tony"]
        assert names(await log.agents(visible=frozenset({"mel", "bob"}))) == ["mel"]


@pytest.mark.parametrize("name", ["nobody", "admin", "*"])
async def test_what_is_no_agent_is_not_found(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as log:
        await send(log, "mel", sender="admin")
        await log.pause("*", by="admin")
        with pytest.raises(NotFound):
            await log.agent(name)
        with pytest.raises(NotFound):
            await log.agent("mel", visible=frozenset({"ann"}))


# ---- pause ----


@pytest.mark.parametrize("whom", ["Mel", "*"])
async def test_a_paused_agent_is_not_woken_until_it_is_resumed(tmp_path: Path, whom: str) -> None:
    async with opened(tmp_path) as log:
        await send(log, "mel")
        await log.pause(whom, by="admin")
        head = log.head
        await log.pause(whom, by="admin")
        assert log.head == head
        view = await log.agent("mel")
        assert (view.paused, view.next_wake.why) == (True, "paused")
    async with opened(tmp_path) as log:
        assert (await log.agent("mel")).paused
        await log.resume(whom, by="admin")
        view = await log.agent("mel")
        assert (view.paused, view.next_wake.due) == (False, True)


# ---- tokens ----


async def make_token(log: EventLog, name: str, sha256: str) -> None:
    await log.token_created(name, kind="agent", agents=["mel"], sha256=sha256, peer="tony")


async def test_a_token_is_good_until_it_is_revoked_over_restarts_too(tmp_path: Path) -> None:
    digest = "ab" * 32
    async with opened(tmp_path) as log:
        assert log.token(digest) is None
        await make_token(log, "Mels", digest)
        made = log.token(digest)
        assert made is not None
        assert (made.name, made.kind, made.agents, made.peer) == ("Mels", "agent", ("mel",), "tony")
    async with opened(tmp_path) as log:
        assert log.token(digest) == made
        assert log.tokens() == [made]
        await log.token_revoked("MELS")
        assert (log.token(digest), log.tokens()) == (None, [])
    async with opened(tmp_path) as log:
        assert log.token(digest) is None


async def test_a_tokens_name_is_taken_until_it_is_revoked(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await make_token(log, "mels", "ab" * 32)
        with pytest.raises(BadRequest) as caught:
            await make_token(log, "MELS", "cd" * 32)
        assert caught.value.field == "name"
        await log.token_revoked("mels")
        await make_token(log, "mels", "cd" * 32)
        assert log.token("ab" * 32) is None
        assert log.token("cd" * 32) is not None


async def test_of_two_tokens_made_at_once_under_one_name_one_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        made = await asyncio.gather(*(make_token(log, "mels", f"{n:064x}") for n in range(5)), return_exceptions=True)
        assert sum(isinstance(one, BadRequest) for one in made) == 4
        assert len(log.tokens()) == 1


async def test_revoking_a_token_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        with pytest.raises(NotFound):
            await log.token_revoked("mels")
        assert log.head == 0
