"""Reply capabilities: what the token of a run is good for, and everything that it is refused."""

import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from eventlog.auth import Guard
from eventlog.backups import backup, restore
from eventlog.capability import Claim, claimed, reply_token
from eventlog.config import Config
from eventlog.errors import Unauthorized
from eventlog.event import Message
from eventlog.log import EventLog
from tests.e2e.foreign import Answer, Foreign
from tests.raw import exchange, request
from tests.support import BusProcess, CommandLine

WAKE_KEY = bytes(32)


@pytest.fixture(scope="module")
def admin(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


class Run:
    """A message from one agent to another, the run that it led to, and a client with the run's reply capability."""

    def __init__(self, admin: Foreign, name: str) -> None:
        self.sender, self.agent, self.key = f"from-{name}", f"to-{name}", f"key-{name}"
        self.admin = admin
        self.message = admin.send(self.agent, "a question", from_agent=self.sender)
        answer = admin.ask(self.key, self.agent, deliver="each", ack="exit", max_attempts=1)
        assert answer.status == 201, answer
        self.wake: dict[str, Any] = answer.body["wake"]
        self.token: str = self.wake["reply_token"]
        self.client = admin.with_token(self.token)

    def send(self, body: object = None, path: str = "/api/send", **headers: str) -> Answer:
        return self.client.call("POST", path, {"payload": "an answer"} if body is None else body, headers)

    def event(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.call("GET", f"/api/messages/{number}").body
        return found


@pytest.fixture
def run(admin: Foreign) -> Run:
    return Run(admin, uuid.uuid4().hex)


@pytest.mark.e2e
class TestWhatItIsGoodFor:
    def test_an_answer_needs_nothing_but_its_text(self, run: Run) -> None:
        answer = run.send()
        assert answer.status == 201, answer
        told = run.event(answer.body["id"])
        assert (told["from_agent"], told["to_agent"]) == (run.agent, run.sender)
        assert (told["thread_id"], told["reply_to"], told["hops"]) == (run.message, run.message, 1)

    @pytest.mark.parametrize("path", ["/send", "/message"])
    def test_the_pairs_routes_take_it_in_their_header(self, run: Run, path: str) -> None:
        body = b'{"type": "STATUS", "payload": {"done": 1}, "note": "kept"}'
        secret = f"X-Shared-Secret: {run.token}"
        answer = exchange(run.client.url, request("POST", path, host="localhost", body=body, headers=(secret,)))
        assert (answer.status, answer.json) == (200, {"status": {"/send": "sent", "/message": "received"}[path]})
        (told,) = run.admin.inbox(run.sender)["messages"]
        assert (told["from_agent"], told["type"], told["reply_to"]) == (run.agent, "STATUS", run.message)
        assert told["payload"] == {"done": 1, "note": "kept"}

    def test_an_array_is_an_answer_each(self, run: Run) -> None:
        answer = run.send([{"payload": 1}, {"payload": 2, "to_agent": [run.sender, run.agent]}])
        assert [run.event(one["id"])["to_agent"] for one in answer.body] == [run.sender, run.sender, run.agent]

    def test_whoever_takes_part_in_the_thread_can_be_told(self, run: Run) -> None:
        run.admin.send("third", "see this", from_agent=run.sender, thread_id=run.message)
        told = run.event(run.send({"to_agent": "Third", "payload": "for you"}).body["id"])
        assert (told["to_agent"].lower(), told["thread_id"]) == ("third", run.message)

    def test_a_later_message_of_the_thread_can_be_answered(self, run: Run) -> None:
        later = run.admin.send(run.agent, "and this?", from_agent=run.sender, thread_id=run.message)
        told = run.event(run.send({"reply_to": later, "thread_id": run.message}).body["id"])
        assert (told["reply_to"], told["thread_id"]) == (later, run.message)

    def test_a_repeat_with_its_key_is_one_answer(self, run: Run) -> None:
        key = {"Idempotency-Key": f"reply-{run.message}-1"}
        first, again = (run.client.call("POST", "/api/send", {"payload": 1}, key) for _ in range(2))
        assert (first.status, again.status, again.body) == (201, 200, first.body)
        assert run.client.call("POST", "/api/send", {"payload": 2}, key).code == "key_reused"

    @pytest.mark.parametrize("path", ["/api/send", "/send"])
    def test_a_key_that_another_answer_had_is_not_taken_for_a_repeat(self, run: Run, path: str) -> None:
        """The body says nothing of what it answers; two answers in the same words are two."""
        body, key = {"type": "STATUS", "payload": "done"}, {"Idempotency-Key": "mine"}
        assert run.client.call("POST", path, body, key).status in (200, 201)
        assert run.admin.report(run.wake["id"], run.key, "ok").status == 200
        run.admin.send(run.agent, "the next question", from_agent=run.sender)
        wake = run.admin.ask(f"{run.key}-2", run.agent, deliver="each", ack="exit").body["wake"]
        answer = run.admin.with_token(wake["reply_token"]).call("POST", path, body, key)
        assert (answer.status, answer.code) == (422, "key_reused")

    def test_it_is_the_same_when_it_is_asked_for_again_and_goes_on_when_the_run_is_over(self, run: Run) -> None:
        again = run.admin.ask(run.key, run.agent, deliver="each", ack="exit").body["wake"]
        assert again["reply_token"] == run.token
        assert run.admin.report(run.wake["id"], run.key, "ok").status == 200
        assert run.send().status == 201

    def test_a_message_that_was_erased_or_is_dead_can_be_answered_late(self, run: Run) -> None:
        assert run.admin.report(run.wake["id"], run.key, "failed").status == 200
        path = f"/api/messages/{run.message}/redact"
        assert run.admin.call("POST", path, {"reason": "it slipped"}).status == 200
        assert run.send().status == 201

    def test_a_wake_for_all_has_none(self, run: Run) -> None:
        run.admin.send("all-at-once", from_agent=run.sender)
        assert "reply_token" not in run.admin.ask("for-all", "all-at-once").body["wake"]

    def test_the_command_line_needs_nothing_else(
        self, run: Run, eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EVENTLOG_TOKEN", run.token)
        assert eventlog("send", run.sender, "an answer").code == 0
        (told,) = run.admin.inbox(run.sender)["messages"]
        assert (told["from_agent"], told["reply_to"], told["payload"]) == (run.agent, run.message, "an answer")
        assert eventlog("send", "somebody-else", "an answer").code == 77


@pytest.mark.e2e
class TestWhatItIsRefused:
    def test_other_senders_recipients_threads_and_everyone(self, run: Run) -> None:
        other = run.admin.send(run.agent, "another thread", from_agent=run.sender)
        unseen = run.admin.send("third", "not for it", from_agent=run.sender, thread_id=run.message)
        for body, field in (
            ({"from_agent": run.sender}, "from_agent"),
            ({"to_agent": "somebody-else"}, "to_agent"),
            ({"to_agent": [run.sender, "somebody-else"]}, "to_agent"),
            ({"to_agent": "*"}, "to_agent"),
            ({"reply_to": other}, "reply_to"),
            ({"reply_to": unseen}, "reply_to"),
            ({"reply_to": 10**12}, "reply_to"),
            ({"reply_to": 2**63}, "reply_to"),
            ({"reply_to": -1}, "reply_to"),
            ({"reply_to": run.wake["id"]}, "reply_to"),
            ({"thread_id": other}, "thread_id"),
        ):
            answer = run.send(body)
            assert (answer.status, answer.code, answer.body["field"]) == (403, "forbidden", field), body
        answer = run.send([{"payload": 1}, {"thread_id": other}])
        assert (answer.code, answer.body["field"]) == ("forbidden", "[1].thread_id")
        for body in ({"type": "TASK", "to_agent": "somebody-else"}, {"type": "TASK", "from_agent": run.sender}):
            assert run.send(body, "/send").code == "forbidden"
        assert run.admin.inbox("somebody-else")["messages"] == []

    def test_more_than_one_request_may_hold_before_any_of_it_is_looked_at(self, run: Run) -> None:
        """Else a small body of one thread's agent would keep the bus busy for seconds."""
        answer = run.send([{"to_agent": "somebody-else"}] * 1001)
        assert (answer.status, answer.code) == (400, "bad_field")

    def test_everything_but_sending(self, run: Run) -> None:
        for method, path, body in (
            ("GET", f"/api/inbox?agent={run.agent}", None),
            ("POST", "/api/inbox/ack", {"agent": run.agent, "cursor": run.message}),
            ("GET", f"/api/stream?agent={run.agent}", None),
            ("GET", f"/api/messages/{run.message}", None),
            ("GET", f"/api/threads/{run.message}", None),
            ("GET", "/api/agents", None),
        ):
            answer = run.client.call(method, path, body)
            assert (answer.status, answer.code) == (403, "forbidden"), path
        in_query = exchange(run.client.url, request("GET", f"/api/stream?token={run.token}", host="localhost"))
        assert (in_query.status, in_query.code) == (403, "forbidden")
        assert run.admin.inbox(run.agent)["cursor"] == run.message

    def test_one_that_is_altered(self, run: Run) -> None:
        _, number, ends, signature = run.token.split("_", 3)
        other = run.admin.send(run.agent, from_agent=run.sender)
        for token in (
            f"erc_{other}_{ends}_{signature}",
            f"erc_{number}_{int(ends) + 1}_{signature}",
            f"erc_{number}_{ends}_{'A' * 43}",
            f"erc_{10**15}_{ends}_{signature}",
            f"erc_{number}_{ends}",
            "erc_",
        ):
            answer = run.admin.with_token(token).call("POST", "/api/send", {"payload": 1})
            assert (answer.status, answer.code) == (401, "unauthorized"), token

    def test_neither_log_nor_answers_show_it(self, run: Run, shared_bus: BusProcess) -> None:
        said = [repr(run.send()), repr(run.send({"to_agent": "x"})), repr(run.client.call("GET", "/api/agents"))]
        assert run.admin.report(run.wake["id"], run.key, "ok", reply="fine").status == 200
        said += [shared_bus.log_text, repr(run.admin.events())]
        signature = run.token.split("_", 3)[3]
        assert [one for one in said if signature in one or run.token in one] == []


@pytest.mark.e2e
def test_it_says_who_answers_also_where_no_token_is_asked_for(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--no-auth"]) as bus:
        run = Run(Foreign(bus.url, ""), "open")
        told = run.event(run.send().body["id"])
        assert (told["from_agent"], told["reply_to"]) == (run.agent, run.message)
        assert run.client.call("GET", "/api/agents").status == 403


@pytest.mark.e2e
def test_its_time_is_up_after_the_setting(tmp_path: Path) -> None:
    with BusProcess(tmp_path, options=["--reply-token-s", "1"]) as bus:
        run = Run(Foreign(bus.url, bus.admin_token), "late")
        ends = int(run.token.split("_")[2])
        while time.time() < ends:
            time.sleep(0.05)
        answer = run.send()
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert "time is up" in answer.body["detail"]


def test_a_claim_is_read_from_whole_tokens_alone() -> None:
    token = "erc_12_1790000000_" + "x" * 43
    assert claimed(token) == Claim(12, 1790000000)
    assert not Claim(12, int(time.time()) + 60).over()
    assert Claim(12, int(time.time()) - 1).over()
    for other in (token[:-1], token + "y", token.replace("erc_12", "erc_012"), token.replace("erc_", "ewk_")):
        assert claimed(other) is None


@pytest.mark.anyio
class TestAnotherLog:
    async def test_one_of_before_a_restore_is_refused(self, tmp_path: Path) -> None:
        async with EventLog.open(Config(data_dir=tmp_path / "a")) as log:
            sent = await log.send([Message(to_agent="mel")], sender="tony", key=None, request=b"")
            message = await log.store.message(sent.answers[0].id)
            assert message is not None
            token = reply_token(WAKE_KEY, log.log_id, message, int(time.time()) + 60)
            assert (await caller(log, token)).answers == message
            await backup(log.store, tmp_path / "copy.db")
        restore(tmp_path / "copy.db", tmp_path / "b")
        async with EventLog.open(Config(data_dir=tmp_path / "b")) as log:
            with pytest.raises(Unauthorized):
                await caller(log, token)


async def caller(log: EventLog, token: str) -> Any:
    return await Guard(log, WAKE_KEY).caller({"headers": [(b"authorization", f"Bearer {token}".encode())]})
