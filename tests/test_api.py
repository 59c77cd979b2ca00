"""The HTTP contract as a client sees it: shapes, statuses and headers of good answers."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventlog.api import ROUTES
from eventlog.mail import NEAREST_FOR_MAX
from eventlog.openapi import PARAMETERS, document
from tests.e2e.foreign import Foreign
from tests.raw import connect, exchange, request
from tests.support import BusProcess

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def admin(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


def send(client: Foreign, body: Any, **headers: str) -> Any:
    return client.call("POST", "/api/send", body, {name.replace("_", "-"): value for name, value in headers.items()})


class TestSend:
    def test_a_message_is_accepted_with_its_id_hash_and_thread(self, admin: Foreign) -> None:
        answer = send(admin, {"to_agent": "send-new", "payload": {"a": [1, "ü"]}, "type": "TASK"})
        assert answer.status == 201
        said = answer.body
        assert said.keys() == {"id", "hash", "thread_id", "status", "known", "watched"}
        assert (said["thread_id"], said["status"], said["known"], said["watched"]) == (
            said["id"],
            "accepted",
            False,
            False,
        )
        assert len(bytes.fromhex(said["hash"])) == 32
        kept = admin.call("GET", f"/api/messages/{said['id']}").body
        assert (kept["payload"], kept["type"], kept["event"]) == ({"a": [1, "ü"]}, "TASK", "message")
        assert kept["receipt"]["status"] == "accepted"

    def test_an_unknown_recipient_is_answered_with_the_nearest_names(self, admin: Foreign) -> None:
        admin.create_token("barbara", "agent")
        said = send(admin, {"to_agent": "barbra"}).body
        assert (said["known"], said["nearest"]) == (False, ["barbara"])
        assert "nearest" not in send(admin, {"to_agent": "Barbara"}).body

    def test_the_nearest_names_are_told_for_the_first_unknown_recipients(self, admin: Foreign) -> None:
        admin.create_token("cornelia", "agent")
        unknown = [f"cornelia{i}" for i in range(NEAREST_FOR_MAX + 1)]
        said = send(admin, {"to_agent": ["cornelia", *unknown]}).body
        assert [one.get("nearest") for one in said] == [None, *[["cornelia"]] * NEAREST_FOR_MAX, None]

    @pytest.mark.parametrize("field", ["payload", "message"])
    @pytest.mark.parametrize("text", ["hi", 5, None, ["a"], {"b": 1.5}])
    def test_the_text_may_stand_in_payload_or_message(self, admin: Foreign, field: str, text: Any) -> None:
        sent = send(admin, {"to_agent": "mel", field: text}).body["id"]
        kept = admin.call("GET", f"/api/messages/{sent}").body
        assert (kept["payload"], kept["type"]) == (text, "MESSAGE")

    def test_an_array_is_answered_by_an_array_in_order(self, admin: Foreign) -> None:
        answer = send(admin, [{"to_agent": "mel", "payload": 1}, {"to_agent": "tony", "payload": 2}])
        assert answer.status == 201
        first, second = answer.body
        assert second["id"] == first["id"] + 1
        assert len(send(admin, [{"to_agent": "mel"}]).body) == 1

    def test_a_list_of_recipients_is_one_message_each(self, admin: Foreign) -> None:
        answer = send(admin, {"to_agent": ["list-a", "list-b"], "payload": "x"})
        to = [admin.call("GET", f"/api/messages/{one['id']}").body["to_agent"] for one in answer.body]
        assert to == ["list-a", "list-b"]
        assert isinstance(send(admin, {"to_agent": ["list-a"]}).body, list)

    def test_a_star_is_every_known_agent_but_the_sender(self, bus: BusProcess) -> None:
        admin = Foreign(bus.url, bus.admin_token)
        ann = admin.create_token("ann", "agent")
        admin.create_token("bob", "agent")
        admin.send("stranger", from_agent="cy")
        answer = send(ann, {"to_agent": "*", "payload": "all"})
        to = [admin.call("GET", f"/api/messages/{one['id']}").body["to_agent"] for one in answer.body]
        assert to == ["bob", "cy"]

    def test_expires_is_kept_in_utc(self, admin: Foreign) -> None:
        sent = send(admin, {"to_agent": "mel", "expires": "2099-01-01T01:00:00.1234567+02:00"}).body["id"]
        assert admin.call("GET", f"/api/messages/{sent}").body["expires"] == "2098-12-31T23:00:00.123456Z"

    def test_expires_long_ago_is_an_expired_message(self, admin: Foreign) -> None:
        answer = send(admin, {"to_agent": "mel", "expires": "0999-01-01T00:00:00Z"})
        assert answer.status == 201
        kept = admin.call("GET", f"/api/messages/{answer.body['id']}").body
        assert kept["expires"] == "0999-01-01T00:00:00.000000Z"

    def test_a_reply_takes_its_parents_thread(self, admin: Foreign) -> None:
        first = admin.send("mel", from_agent="ann")
        reply = send(admin, {"to_agent": "ann", "from_agent": "mel", "reply_to": first}).body
        assert reply["thread_id"] == first
        thread = admin.call("GET", f"/api/threads/{first}").body
        assert (thread["thread_id"], [m["id"] for m in thread["messages"]]) == (first, [first, reply["id"]])
        receipt = admin.call("GET", f"/api/messages/{first}").body["receipt"]
        assert receipt["status"] == "replied"


class TestKeys:
    @pytest.mark.parametrize("again", ["key-1", '"key-1"'])
    def test_a_repeat_is_answered_the_same_with_200(self, admin: Foreign, again: str) -> None:
        body = {"to_agent": "mel", "payload": {"n": 1, "m": 2}, "from_agent": f"keys-{len(again)}"}
        first = send(admin, body, Idempotency_Key="key-1")
        assert (first.status, first.headers["Idempotent-Replayed"]) == (201, None)
        answer = send(admin, dict(reversed(body.items())), Idempotency_Key=again)
        assert (answer.status, answer.headers["Idempotent-Replayed"]) == (200, "true")
        assert answer.body == first.body

    def test_another_body_with_the_same_key_is_422(self, admin: Foreign) -> None:
        send(admin, {"to_agent": "mel", "payload": 1}, Idempotency_Key="key-2")
        answer = send(admin, {"to_agent": "mel", "payload": 2}, Idempotency_Key="key-2")
        assert (answer.status, answer.code) == (422, "key_reused")

    def test_a_key_is_its_senders_own(self, admin: Foreign) -> None:
        one = send(admin, {"to_agent": "mel", "from_agent": "key-ann"}, Idempotency_Key="key-3")
        other = send(admin, {"to_agent": "mel", "from_agent": "key-bob"}, Idempotency_Key="key-3")
        assert (one.status, other.status) == (201, 201)

    def test_the_key_may_stand_in_the_body(self, admin: Foreign) -> None:
        body = {"to_agent": "mel", "payload": 1, "key": "key-4"}
        first = send(admin, body)
        assert admin.call("GET", f"/api/messages/{first.body['id']}").body["key"] == "key-4"
        assert (send(admin, body).status, send(admin, body).body) == (200, first.body)
        assert send(admin, {"to_agent": "mel", "payload": 1}, Idempotency_Key="key-4").status == 200
        assert send(admin, body, Idempotency_Key="other").code == "bad_field"

    def test_an_array_is_repeated_whole(self, admin: Foreign) -> None:
        body = [{"to_agent": "mel", "payload": 1}, {"to_agent": "tony", "payload": 2}]
        first = send(admin, body, Idempotency_Key="key-5")
        again = send(admin, body, Idempotency_Key="key-5")
        assert (again.status, again.body) == (200, first.body)


@pytest.fixture(scope="module")
def hermes(admin: Foreign) -> Foreign:
    """One of the pair, with the token that names the other."""
    made = admin.call("POST", "/api/tokens", {"name": "hermes", "kind": "agent", "peer": "claude"})
    return admin.with_token(made.body["token"])


class TestPair:
    """The pair's programs, unchanged but for address and token."""

    @pytest.mark.parametrize(("path", "status"), [("/message", "received"), ("/send", "sent")])
    def test_a_post_goes_to_the_peer_and_is_answered_at_once(
        self, admin: Foreign, hermes: Foreign, path: str, status: str
    ) -> None:
        body = json.dumps({"type": "TASK", "payload": {"text": f"do {status}"}}).encode()
        sent = request(
            "POST", path, host=urlsplit(admin.url).netloc, body=body, headers=(f"X-Shared-Secret: {hermes.token}",)
        )
        answer = exchange(admin.url, sent)
        assert (answer.status, answer.json) == (200, {"status": status})
        kept = admin.inbox("claude", "&limit=1000")["messages"][-1]
        assert (kept["from_agent"], kept["to_agent"], kept["type"], kept["payload"]) == (
            "hermes",
            "claude",
            "TASK",
            {"text": f"do {status}"},
        )

    @pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
    @pytest.mark.parametrize(("path", "status"), [("/message", "received"), ("/send", "sent")])
    def test_their_curl_commands_work(self, hermes: Foreign, path: str, status: str) -> None:
        told = subprocess.run(
            [
                "curl", "-sS", "-X", "POST", f"{hermes.url}{path}", "-H", f"X-Shared-Secret: {hermes.token}",
                "-H", "Content-Type: application/json", "-d", '{"type": "STATUS", "payload": {"text": "done"}}',
            ],
            capture_output=True, check=True, timeout=30,
        ).stdout  # fmt: skip
        assert json.loads(told) == {"status": status}

    @pytest.mark.parametrize("path", ["/message", "/send"])
    def test_errors_are_what_their_own_server_said(self, admin: Foreign, hermes: Foreign, path: str) -> None:
        answer = admin.with_token("wrong").call("POST", path, {"type": "TASK"})
        assert (answer.status, answer.code, answer.body["detail"]) == (401, "unauthorized", "unauthorized")
        answer = hermes.call("POST", path, {"payload": 1})
        assert (answer.status, answer.code, answer.body["detail"]) == (400, "missing_type", "missing type")

    def test_without_a_recipient_or_a_peer_nobody_is_meant(self, admin: Foreign) -> None:
        alone = admin.create_token("alone", "agent")
        answer = alone.call("POST", "/message", {"type": "TASK"})
        assert (answer.status, answer.code) == (400, "no_recipient")
        assert alone.call("POST", "/message", {"type": "TASK", "to_agent": "claude"}).status == 200

    @pytest.mark.parametrize(
        ("body", "kept"),
        [
            ({"payload": "x"}, "x"),
            ({}, None),
            ({"payload": {"a": 1}, "task_id": "t1"}, {"a": 1, "task_id": "t1"}),
            ({"payload": {"a": 1}, "a": 2}, {"payload": {"a": 1}, "a": 2}),
            ({"payload": "x", "task_id": "t1"}, {"payload": "x", "task_id": "t1"}),
            ({"message": "x", "thread_id": "abc"}, {"message": "x", "thread_id": "abc"}),
        ],
    )
    def test_further_fields_are_kept(self, admin: Foreign, hermes: Foreign, body: dict[str, Any], kept: Any) -> None:
        assert hermes.call("POST", "/message", {"type": "TASK", **body}).status == 200
        assert admin.inbox("claude", "&limit=1000")["messages"][-1]["payload"] == kept

    def test_a_key_makes_repeating_harmless_here_too(self, admin: Foreign, hermes: Foreign) -> None:
        before = len(admin.inbox("claude", "&limit=1000")["messages"])
        for _ in range(2):
            answer = hermes.call("POST", "/send", {"type": "TASK"}, {"Idempotency-Key": "pair-1"})
            assert (answer.status, answer.body) == (200, {"status": "sent"})
        assert len(admin.inbox("claude", "&limit=1000")["messages"]) == before + 1


class TestInbox:
    def test_pages_go_on_from_the_cursor(self, admin: Foreign) -> None:
        ids = [admin.send("pages", n) for n in range(5)]
        page = admin.inbox("pages", "&limit=2")
        assert (page["agent"], [m["id"] for m in page["messages"]]) == ("pages", ids[:2])
        assert (page["cursor"], page["has_more"]) == (ids[1], True)
        page = admin.inbox("pages", f"&limit=3&after={page['cursor']}")
        assert ([m["payload"] for m in page["messages"]], page["has_more"]) == ([2, 3, 4], False)
        page = admin.inbox("pages", f"&after={ids[4]}")
        assert (page["messages"], page["cursor"], page["has_more"]) == ([], ids[4], False)

    def test_an_ack_never_moves_backwards(self, admin: Foreign) -> None:
        first, second = admin.send("acks"), admin.send("acks")
        for cursor, stands in ((second, second), (first, second), (0, second)):
            answer = admin.call("POST", "/api/inbox/ack", {"agent": "acks", "cursor": cursor})
            assert (answer.status, answer.body) == (200, {"agent": "acks", "cursor": stands})
        assert admin.inbox("acks")["messages"] == []

    def test_a_token_of_one_agent_need_not_say_which(self, admin: Foreign) -> None:
        only = admin.create_token("only", "agent")
        sent = admin.send("only")
        assert only.call("GET", "/api/inbox").body["cursor"] == sent
        assert only.call("POST", "/api/inbox/ack", {"cursor": sent}).body == {"agent": "only", "cursor": sent}

    def test_a_waiting_request_is_answered_by_the_message(self, admin: Foreign) -> None:
        with connect(admin.url) as sock:
            sock.sendall(request("GET", "/api/inbox?agent=waits&wait=30", host="localhost", token=admin.token))
            sent = admin.send("waits")
            answer = sock.recv(65536)
            while not answer.endswith(b"}"):
                answer += sock.recv(65536)
        assert f'"id":{sent}'.encode() in answer

    def test_a_wait_that_nothing_ends_is_empty(self, admin: Foreign) -> None:
        assert admin.inbox("nobody", "&wait=0.05")["messages"] == []


class Frames:
    """A stream's bytes as they come, without their chunks."""

    def __init__(self, client: Foreign, target: str, *headers: str) -> None:
        self.sock = connect(client.url)
        self.sock.sendall(request("GET", target, host="localhost", token=client.token, headers=headers))
        self._seen = b""
        head = self._until(b"\r\n\r\n")
        self.status = int(head.split()[1])
        lines = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
        self.headers = {name.decode(): value.strip().decode() for name, _, value in lines}
        self._text = b""

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._seen:
            chunk = self.sock.recv(65536)
            assert chunk, "the stream was cut"
            self._seen += chunk
        found, _, self._seen = self._seen.partition(mark)
        return found

    def next(self) -> bytes:
        """The next frame, comments left out."""
        while True:
            while b"\n\n" not in self._text:
                size = int(self._until(b"\r\n"), 16)
                assert size, "the stream ended"
                while len(self._seen) < size + 2:
                    self._seen += self.sock.recv(65536)
                self._text += self._seen[:size]
                self._seen = self._seen[size + 2 :]
            frame, _, self._text = self._text.partition(b"\n\n")
            if not frame.startswith(b":"):
                return frame

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()


class TestStream:
    def test_the_first_frames_are_byte_for_byte_the_contract(self, admin: Foreign) -> None:
        before = admin.send("anyone")
        sent = admin.send("bytes", "héllo\nworld")
        with Frames(admin, f"/api/stream?agent=bytes&after={before}") as stream:
            assert stream.status == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-store", "no")
            assert stream.headers["eventlog-head"] == str(sent)
            assert len(stream.headers["eventlog-id"]) >= 16
            assert stream.next() == f"retry: 2000\nid: {before}".encode()
            id_line, data_line = stream.next().split(b"\n")
            assert id_line == f"id: {sent}".encode()
            assert data_line.startswith(b"data: {")
            event = json.loads(data_line[6:])
            assert (event["id"], event["payload"], event["to_agent"]) == (sent, "héllo\nworld", "bytes")

    def test_without_a_cursor_it_begins_now_and_messages_come_as_they_are_sent(self, admin: Foreign) -> None:
        head = admin.send("live")
        with Frames(admin, "/api/stream?agent=live") as stream:
            assert stream.next() == f"retry: 2000\nid: {head}".encode()
            sent = admin.send("live")
            assert stream.next().startswith(f"id: {sent}\ndata: {{".encode())

    def test_last_event_id_wins_over_after_and_an_empty_one_is_none(self, admin: Foreign) -> None:
        first, second = admin.send("again"), admin.send("again")
        with Frames(admin, "/api/stream?agent=again&after=0", f"Last-Event-ID: {first}") as stream:
            assert stream.next() == f"retry: 2000\nid: {first}".encode()
            assert stream.next().startswith(f"id: {second}\n".encode())
        with Frames(admin, f"/api/stream?agent=again&after={first}", "Last-Event-ID: ") as stream:
            assert stream.next() == f"retry: 2000\nid: {first}".encode()

    def test_other_kinds_carry_their_name_and_messages_none(self, admin: Foreign) -> None:
        sent = admin.send("kinds")
        admin.call("POST", "/api/inbox/ack", {"agent": "kinds", "cursor": sent})
        with Frames(admin, "/api/stream?agent=kinds&event=ack&event=message&after=earliest") as stream:
            assert stream.next() == b"retry: 2000\nid: 0"
            assert stream.next().startswith(f"id: {sent}\ndata: ".encode())
            lines = stream.next().split(b"\n")
            assert lines[1] == b"event: ack"
            assert json.loads(lines[2][6:])["cursor"] == sent

    def test_a_filtered_follower_is_told_when_it_has_reached_the_head(self, admin: Foreign) -> None:
        shown = admin.send("filtered")
        head = [admin.send("hidden") for _ in range(3)][-1]
        with Frames(admin, f"/api/stream?agent=filtered&after={shown - 1}") as stream:
            assert stream.next() == f"retry: 2000\nid: {shown - 1}".encode()
            assert stream.next().startswith(f"id: {shown}\ndata: ".encode())
            assert stream.next() == f"id: {head}".encode()

    def test_a_cursor_past_the_head_or_of_another_log_is_said_aloud(self, admin: Foreign) -> None:
        with Frames(admin, "/api/stream?agent=reset&after=999999") as stream:
            assert stream.next() == b"retry: 2000\nid: 0"
            lines = stream.next().split(b"\n")
            assert lines[:2] == [b"id: 0", b"event: reset"]
            said = json.loads(lines[2][6:])
            assert said == {"reason": "past_head", "log": stream.headers["eventlog-id"], "cursor": 0}
        with Frames(admin, "/api/stream?agent=reset&after=1&log=someothers") as stream:
            stream.next()
            assert b'"reason":"other_log"' in stream.next()

    def test_an_idle_stream_shows_that_it_lives(self, admin: Foreign) -> None:
        with Frames(admin, "/api/stream?agent=idle&heartbeat=1") as stream:
            stream.sock.settimeout(10)
            seen = b""
            while b"\n: \n" not in seen and b"\n:\n" not in seen:
                seen += stream.sock.recv(65536)
        assert b"data:" not in seen

    def test_a_watchers_stream_tells_the_bus_who_serves_whom(self, admin: Foreign) -> None:
        with Frames(admin, "/api/stream?agent=served&watcher=mini-9&node=n1") as stream:
            stream.next()
            assert send(admin, {"to_agent": "served"}).body["watched"] is True
            (watcher,) = admin.call("GET", "/api/agents/served").body["watchers"]
            assert (watcher["watcher"], watcher["node"], watcher["connected"]) == ("mini-9", "n1", True)

    def test_head_answers_the_head_alone(self, admin: Foreign) -> None:
        with connect(admin.url) as sock:
            sock.sendall(
                request("HEAD", "/api/stream", host="localhost", token=admin.token, headers=("Connection: close",))
            )
            seen = b""
            while chunk := sock.recv(65536):
                seen += chunk
        assert seen.startswith(b"HTTP/1.1 200")
        assert b"eventlog-head:" in seen
        assert seen.endswith(b"\r\n\r\n")


class TestHistory:
    def test_a_page_has_every_event_with_its_hash(self, admin: Foreign) -> None:
        sent = admin.send("history")
        page = admin.call("GET", f"/api/events?after={sent - 1}&limit=1").body
        assert page.keys() == {"events", "cursor", "has_more", "head"}
        (event,) = page["events"]
        assert (event["id"], event["to_agent"], len(event["hash"])) == (sent, "history", 64)
        assert page["cursor"] == sent

    def test_filters_and_before(self, admin: Foreign) -> None:
        first = admin.send("past")
        second = send(admin, {"to_agent": "past", "thread_id": first}).body["id"]
        admin.call("POST", "/api/inbox/ack", {"agent": "past", "cursor": second})

        def ids(query: str) -> list[int]:
            return [event["id"] for event in admin.call("GET", f"/api/events?limit=1000&{query}").body["events"]]

        assert ids("agent=past&event=message") == [first, second]
        assert len(ids("agent=past")) == 3
        assert ids(f"thread={first}") == [first, second]
        assert ids(f"thread={first}&before={second}") == [first]
        assert ids(f"after={first - 1}&before={first + 1}") == [first]

    def test_ndjson_is_one_event_a_line(self, admin: Foreign) -> None:
        ids = [admin.send("lines", n) for n in range(3)]
        lines = b""
        with connect(admin.url) as sock:
            wanted = ("Accept: application/x-ndjson", "Connection: close")
            target = "/api/events?agent=lines&event=message"
            sock.sendall(request("GET", target, host="localhost", token=admin.token, headers=wanted))
            while chunk := sock.recv(65536):
                lines += chunk
        assert b"content-type: application/x-ndjson" in lines
        assert [json.loads(line)["id"] for line in lines.split(b"\r\n")[-4].splitlines()] == ids


class TestAgents:
    def test_an_agents_view_says_how_it_stands(self, admin: Foreign) -> None:
        admin.send("view")
        view = admin.call("GET", "/api/agents/View").body
        assert (view["name"], view["unread"], view["cursor"], view["paused"]) == ("view", 1, 0, False)
        assert view["next_wake"]["due"] is True
        assert "view" in [agent["name"] for agent in admin.call("GET", "/api/agents").body["agents"]]
        assert admin.call("GET", "/api/agents/never-named").code == "not_found"

    def test_a_paused_agent_is_not_woken_until_it_is_resumed(self, admin: Foreign) -> None:
        admin.send("naps")
        paused = admin.call("POST", "/api/agents/naps/pause", {}).body
        assert paused == {"agent": "naps", "paused": True, "known": False}
        answer = admin.ask("naps-1", "naps").body
        assert (answer["wake"], answer["why"]) == (None, "paused")
        assert 0 < answer["retry_after_s"] <= 300
        resumed = admin.call("POST", "/api/agents/naps/resume").body
        assert resumed == {"agent": "naps", "paused": False, "known": False}
        assert admin.ask("naps-1", "naps").status == 201

    def test_a_star_pauses_everyone(self, bus: BusProcess) -> None:
        admin = Foreign(bus.url, bus.admin_token)
        admin.send("mel")
        assert admin.call("POST", "/api/agents/%2A/pause", {}).status == 200
        assert admin.ask("k", "mel").body["why"] == "paused"
        assert admin.call("POST", "/api/agents/*/resume", {}).status == 200
        assert admin.ask("k", "mel").status == 201

    def test_limits_stand_in_the_log_as_they_were_asked_for(self, admin: Foreign) -> None:
        admin.send("limits")
        wake = admin.ask("limits-1", "limits", timeout_s=60.0, start_within_s=1.25, deliver="each").body["wake"]
        assert wake["timeout_s"] == 60
        (event,) = admin.call("GET", "/api/events?agent=limits&event=wake.started").body["events"]
        assert (json.dumps(event["timeout_s"]), event["start_within_s"], event["deliver"]) == ("60", 1.25, "each")
        assert (event["ack"], event["ack_within_s"], event["max_attempts"], event["min_interval_s"]) == (
            "agent",
            600,
            10,
            0,
        )


class TestAdministration:
    def test_a_redacted_message_has_no_payload_any_more(self, admin: Foreign) -> None:
        sent = admin.send("redacted", "a secret")
        for _ in range(2):
            answer = admin.call("POST", f"/api/messages/{sent}/redact", {"reason": "leaked"})
            assert (answer.status, answer.body) == (200, {"id": sent, "redacted": True})
        kept = admin.call("GET", f"/api/messages/{sent}").body
        assert "payload" not in kept
        assert kept["redacted"] is True
        assert admin.call("POST", "/api/messages/999999/redact", {"reason": "x"}).code == "not_found"

    def test_a_backup_is_a_new_file(self, admin: Foreign, tmp_path: Path) -> None:
        answer = admin.call("POST", "/api/backup", {"path": str(tmp_path / "copy.db")})
        assert answer.status == 200
        assert (tmp_path / "copy.db").stat().st_size > 0
        assert answer.body["head"] > 0
        assert admin.call("POST", "/api/backup", {"path": str(tmp_path / "copy.db")}).code == "bad_field"
        assert admin.call("POST", "/api/backup", {"path": "copy.db"}).code == "bad_field"

    def test_health_needs_no_token(self, admin: Foreign) -> None:
        assert exchange(admin.url, request("GET", "/healthz", host="localhost")).json["status"] == "ok"
        assert exchange(admin.url, request("GET", "/readyz", host="localhost")).json["status"] == "ready"


def test_the_description_lists_every_route_with_its_parameters_and_body(admin: Foreign) -> None:
    described = admin.call("GET", "/openapi.json").body
    assert {(m.upper(), path) for path, methods in described["paths"].items() for m in methods} == {
        (route.method, route.path) for route in ROUTES
    }
    assert described == json.loads(json.dumps(document(ROUTES, described["info"]["version"])))
    stream = described["paths"]["/api/stream"]["get"]
    assert {p["name"] for p in stream["parameters"]} >= {"agent", "event", "after", "heartbeat", "Last-Event-ID"}
    assert set(PARAMETERS) == {name for route in ROUTES for name in route.params}
    schemas = described["components"]["schemas"]
    for reference in _references(described):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for one in value.values() for found in _references(one)]
    return [found for one in value for found in _references(one)] if isinstance(value, list) else []
