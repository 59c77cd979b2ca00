"""Tokens over HTTP: what each kind may do, route by route; who speaks for whom; tokens that end."""

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventlog.api import ROUTES
from eventlog.auth import load_wake_key
from eventlog.errors import BadRequest, ConfigError
from eventlog.tokens import check_token, digest_of, new_token, write_secret
from tests.e2e.foreign import Answer, Foreign
from tests.raw import DEADLINE_S, Raw, connect, exchange, read_answer, receive, request
from tests.support import BusProcess

#: Every route, a request to it that each of its callers may make, and the kinds of token that may (None: everyone).
MATRIX: tuple[tuple[str, str, object, str | None], ...] = (
    ("POST", "/api/send", {"to_agent": "mel", "payload": 1}, "agent wake reply admin"),
    ("GET", "/api/inbox?agent=mel", None, "agent wake auditor admin"),
    ("POST", "/api/inbox/ack", {"agent": "mel", "cursor": 0}, "agent wake admin"),
    ("GET", "/api/stream?agent=mel", None, "agent wake watcher auditor admin"),
    ("POST", "/api/wakes", {"key": "matrix", "agent": "mel"}, "watcher admin"),
    ("PATCH", "/api/wakes/{wake}", {"key": "k1", "outcome": "nonsense"}, "watcher admin"),
    ("GET", "/api/messages/{message}", None, "agent wake auditor admin"),
    ("GET", "/api/threads/{message}", None, "agent wake auditor admin"),
    ("POST", "/api/threads/{message}/resume", {}, "admin"),
    ("GET", "/api/events", None, "auditor admin"),
    ("GET", "/api/dead", None, "auditor admin"),
    ("GET", "/api/dead/{message}", None, "auditor admin"),
    ("POST", "/api/dead/{message}/retry", {}, "admin"),
    ("POST", "/api/dead/{message}/drop", {}, "admin"),
    ("GET", "/api/agents", None, "agent wake watcher auditor admin"),
    ("GET", "/api/agents/mel", None, "agent wake watcher auditor admin"),
    ("POST", "/api/agents/bob/pause", {}, "admin"),
    ("POST", "/api/agents/bob/resume", {}, "admin"),
    ("GET", "/api/tokens", None, "admin"),
    ("POST", "/api/tokens", {"name": "matrix", "kind": "nonsense"}, "admin"),
    ("DELETE", "/api/tokens/nobody", None, "admin"),
    ("POST", "/api/messages/999999/redact", {"reason": "test"}, "admin"),
    ("POST", "/api/verify", {}, "auditor admin"),
    ("POST", "/api/backup", {"path": "relative"}, "admin"),
    ("POST", "/message", {"type": "TASK", "to_agent": "mel"}, "agent wake reply admin"),
    ("POST", "/send", {"type": "TASK", "to_agent": "mel"}, "agent wake reply admin"),
    ("GET", "/healthz", None, None),
    ("GET", "/readyz", None, None),
    ("GET", "/openapi.json", None, None),
)
CALLERS = ("agent", "wake", "reply", "watcher", "auditor", "admin")


@pytest.fixture(scope="module")
def admin(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


def granted(answer: Answer) -> dict[str, Any]:
    """The wake that was granted."""
    assert answer.status == 201, answer
    wake: dict[str, Any] = answer.body["wake"]
    return wake


class Place:
    """A log with one message to mel, woken for it, and a client for each kind of caller."""

    def __init__(self, admin: Foreign) -> None:
        self.message = admin.send("mel", "hello", from_agent="ann")
        watcher = admin.create_token("mini", "watcher")
        wake = granted(watcher.ask("k1", deliver="each"))
        self.wake = wake["id"]
        self.clients = {
            "admin": admin,
            "watcher": watcher,
            "agent": admin.create_token("mel", "agent"),
            "auditor": admin.create_token("eve", "auditor"),
            "wake": admin.with_token(wake["token"]),
            "reply": admin.with_token(wake["reply_token"]),
        }

    def path(self, pattern: str) -> str:
        return pattern.format(message=self.message, wake=self.wake)


@pytest.fixture(scope="module")
def place(admin: Foreign) -> Place:
    return Place(admin)


def ask(url: str, method: str, target: str, body: object, *headers: str) -> Raw:
    """One request on a connection of its own; of a stream, its beginning."""
    content = None if body is None else json.dumps(body).encode()
    return exchange(url, request(method, target, host=urlsplit(url).netloc, body=content, headers=headers))


def test_the_matrix_holds_every_route() -> None:
    patterns = {(method, target.partition("?")[0]) for method, target, _, _ in MATRIX}
    assert len(patterns) == len(MATRIX) == len(ROUTES)


@pytest.mark.e2e
class TestMatrix:
    @pytest.mark.parametrize("caller", CALLERS)
    @pytest.mark.parametrize(("method", "target", "body", "may"), MATRIX, ids=[f"{m} {t}" for m, t, _, _ in MATRIX])
    def test_a_token_may_do_what_its_kind_may(
        self, place: Place, caller: str, method: str, target: str, body: object, may: str | None
    ) -> None:
        client = place.clients[caller]
        answer = ask(client.url, method, place.path(target), body, f"Authorization: Bearer {client.token}")
        if may is None or caller in may.split():
            assert answer.status not in (401, 403, 405, 503), answer
        else:
            assert (answer.status, answer.code) == (403, "forbidden")

    @pytest.mark.parametrize(("method", "target", "body", "may"), MATRIX, ids=[f"{m} {t}" for m, t, _, _ in MATRIX])
    def test_without_a_token_nothing_is_done(
        self, place: Place, method: str, target: str, body: object, may: str | None
    ) -> None:
        answer = ask(place.clients["admin"].url, method, place.path(target), body)
        if may is None:
            assert answer.status == 200
        else:
            assert (answer.status, answer.code) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.e2e
class TestSender:
    def test_the_sender_is_the_tokens_agent_in_its_own_spelling(self, admin: Foreign) -> None:
        one = admin.create_token("one", "agent", "Tony")
        for body in ({"to_agent": "mel"}, {"to_agent": "mel", "from_agent": "TONY"}):
            sent = one.call("POST", "/api/send", body)
            assert admin.call("GET", f"/api/messages/{sent.body['id']}").body["from_agent"] == "Tony"

    def test_a_token_of_several_agents_must_say_which(self, admin: Foreign) -> None:
        both = admin.create_token("both", "agent", "ann", "bob")
        answer = both.call("POST", "/api/send", {"to_agent": "mel"})
        assert (answer.status, answer.code, answer.body["field"]) == (400, "sender_required", "from_agent")
        assert both.call("POST", "/api/send", {"to_agent": "mel", "from_agent": "bob"}).status == 201

    @pytest.mark.parametrize("sender", ["ann", "admin", "bus"])
    def test_nobody_speaks_for_an_agent_that_the_token_is_not_for(self, admin: Foreign, sender: str) -> None:
        name = f"cy-{sender}"
        answer = admin.create_token(name, "agent").call("POST", "/api/send", {"to_agent": "mel", "from_agent": sender})
        assert (answer.status, answer.code) == (403, "forbidden")

    def test_an_administrator_is_admin_or_whoever_it_says_but_never_the_bus(self, admin: Foreign) -> None:
        for body, sender in (({}, "admin"), ({"from_agent": "Admin"}, "admin"), ({"from_agent": "zoe"}, "zoe")):
            sent = admin.call("POST", "/api/send", {"to_agent": "mel", **body})
            assert admin.call("GET", f"/api/messages/{sent.body['id']}").body["from_agent"] == sender
        assert admin.call("POST", "/api/send", {"to_agent": "mel", "from_agent": "bus"}).code == "bad_name"

    def test_answers_to_the_administrator_reach_it(self, admin: Foreign) -> None:
        sent = admin.create_token("polite", "agent").send("admin", "done")
        assert sent in [message["id"] for message in admin.inbox("admin", "&limit=1000")["messages"]]


@pytest.mark.e2e
class TestReach:
    def test_a_watcher_for_some_agents_wakes_and_follows_only_those(self, admin: Foreign) -> None:
        admin.send("kim")
        watcher = admin.create_token("small", "watcher", "kim")
        assert granted(watcher.ask("reach", "Kim"))["agent"]
        assert watcher.ask("reach-2", "lou").code == "forbidden"
        admin.send("lou")
        wake = granted(admin.ask("reach-lou", "lou"))
        answer = watcher.report(wake["id"], "reach-lou", "ok")
        assert (answer.status, answer.code) == (404, "unknown_wake")
        assert [agent["name"] for agent in watcher.call("GET", "/api/agents").body["agents"]] == ["kim"]

    def test_an_agent_sees_messages_and_threads_that_it_is_part_of(self, admin: Foreign) -> None:
        ann, mel = (admin.create_token(f"see-{name}", "agent") for name in ("ann", "mel"))
        first = ann.send("see-mel", "question")
        reply = mel.send("see-ann", "answer", reply_to=first)
        apart = ann.send("see-else", "other business", thread_id=first)
        for client in (ann, mel):
            assert client.call("GET", f"/api/messages/{reply}").status == 200
            thread = client.call("GET", f"/api/threads/{first}").body
            assert [message["id"] for message in thread["messages"]] == [first, reply, apart]
        assert mel.call("GET", f"/api/messages/{apart}").code == "not_found"

    def test_events_about_tokens_are_the_auditors(self, admin: Foreign) -> None:
        watcher = admin.create_token("curious", "watcher")
        url, header = admin.url, f"Authorization: Bearer {watcher.token}"
        assert ask(url, "GET", "/api/stream?event=token.created", None, header).status == 403

    def test_a_token_in_the_query_string_must_be_able_to_read_only(self, admin: Foreign) -> None:
        reader, writer = admin.create_token("panel", "auditor"), admin.create_token("panel-2", "agent")
        assert ask(admin.url, "GET", f"/api/stream?token={reader.token}", None).status == 200
        assert ask(admin.url, "GET", f"/api/stream?token={writer.token}", None).status == 403
        assert ask(admin.url, "GET", "/api/stream?token=wrong", None).status == 401
        assert ask(admin.url, "GET", f"/api/agents?token={reader.token}", None).status == 401

    def test_the_pairs_header_is_as_good(self, admin: Foreign) -> None:
        answer = exchange(
            admin.url,
            request("GET", "/api/agents", host="localhost", headers=(f"X-Shared-Secret: {admin.token}",)),
        )
        assert answer.status == 200


@pytest.mark.e2e
class TestWakeTokens:
    def test_it_speaks_for_its_agent_alone_and_is_the_same_when_asked_again(self, admin: Foreign) -> None:
        message = admin.send("wim", from_agent="ann")
        wake = granted(admin.ask("wake-1", "wim"))
        assert admin.ask("wake-1", "wim").body["wake"]["token"] == wake["token"]
        run = admin.with_token(wake["token"])
        sent = run.call("POST", "/api/send", {"to_agent": "ann"})
        assert admin.call("GET", f"/api/messages/{sent.body['id']}").body["from_agent"] == "wim"
        assert run.call("GET", "/api/inbox?agent=ann").code == "forbidden"
        assert run.call("POST", "/api/inbox/ack", {"cursor": message}).body == {"agent": "wim", "cursor": message}

    def test_it_is_refused_while_its_wake_stands_closed_as_interrupted(self, admin: Foreign) -> None:
        admin.send("ida")
        wake = granted(admin.ask("wake-2", "ida"))
        run = admin.with_token(wake["token"])
        assert run.call("GET", "/api/inbox").status == 200
        assert admin.report(wake["id"], "wake-2", "interrupted").status == 200
        answer = run.call("GET", "/api/inbox")
        assert (answer.status, answer.code) == (401, "unauthorized")

    def test_a_stream_opened_with_it_ends_with_it(self, admin: Foreign) -> None:
        admin.send("max")
        wake = granted(admin.ask("wake-5", "max"))
        with connect(admin.url) as sock:
            sock.sendall(request("GET", "/api/stream?heartbeat=1", host="localhost", token=wake["token"]))
            seen = receive(sock)
            admin.report(wake["id"], "wake-5", "interrupted")
            while not seen.endswith(b"\r\n0\r\n\r\n"):
                seen += receive(sock)

    def test_an_agent_that_follows_is_seen_and_a_watcher_that_does_is_not_it(self, admin: Foreign) -> None:
        clients = {kind: admin.create_token(f"seen-{kind}", kind, f"seen-{kind}") for kind in ("agent", "watcher")}
        for kind, client in clients.items():
            with connect(admin.url) as sock:
                sock.sendall(
                    request("GET", f"/api/stream?agent=seen-{kind}&heartbeat=1", host="localhost", token=client.token)
                )
                receive(sock)
                seen = admin.call("GET", f"/api/agents/seen-{kind}").body.get("last_seen")
            assert (seen is not None) == (kind == "agent")

    def test_it_goes_on_while_the_ack_is_awaited(self, admin: Foreign) -> None:
        admin.send("jo")
        wake = granted(admin.ask("wake-3", "jo"))
        assert admin.report(wake["id"], "wake-3", "ok").status == 200
        assert admin.with_token(wake["token"]).call("GET", "/api/inbox").status == 200

    def test_one_that_is_forged_for_another_wake_is_refused(self, admin: Foreign) -> None:
        admin.send("lia")
        wake = granted(admin.ask("wake-4", "lia"))
        forged = wake["token"].replace(f"ewk_{wake['id']}_", f"ewk_{wake['id'] + 1}_")
        assert admin.with_token(forged).call("GET", "/api/inbox").status == 401


@pytest.mark.e2e
class TestEnding:
    def test_a_revoked_token_is_refused_and_its_open_stream_ends_with_a_whole_frame(self, admin: Foreign) -> None:
        doomed = admin.create_token("doomed", "watcher")
        with connect(admin.url) as sock:
            header = f"Authorization: Bearer {doomed.token}"
            sock.sendall(request("GET", "/api/stream", host="localhost", headers=(header,)))
            seen = b""
            while b"retry: 2000\n" not in seen:
                seen += receive(sock)
            assert admin.call("DELETE", "/api/tokens/Doomed").status == 200
            while not seen.endswith(b"\r\n0\r\n\r\n"):
                seen += receive(sock)
        answer = doomed.call("GET", "/api/agents")
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert admin.call("DELETE", "/api/tokens/doomed").code == "not_found"

    def test_a_request_that_waits_does_not_outlive_its_token(self, admin: Foreign) -> None:
        waiting = admin.create_token("waiting", "agent")
        with connect(admin.url) as sock:
            sock.sendall(request("GET", "/api/inbox?wait=60", host="localhost", token=waiting.token))
            deadline = time.monotonic() + DEADLINE_S
            while "last_seen" not in admin.call("GET", "/api/agents/waiting").body:
                assert time.monotonic() < deadline
            admin.call("DELETE", "/api/tokens/waiting")
            admin.send("waiting", "for its next token alone")
            answer = read_answer(sock)
        assert (answer.status, answer.code) == (401, "unauthorized")

    @pytest.mark.parametrize(("target", "detail"), [("/api/send", "no token"), ("/message", "unauthorized")])
    def test_a_body_that_comes_late_does_not_outlive_its_token(self, admin: Foreign, target: str, detail: str) -> None:
        slow = admin.create_token("slow", "agent")
        head = request("POST", target, host="localhost", token=slow.token, body=b"", headers=("Expect: 100-continue",))
        body = b'{"to_agent":"ann","type":"LATE"}'
        with connect(admin.url) as sock:
            sock.sendall(head.replace(b"Content-Length: 0", b"Content-Length: %d" % len(body)))
            assert read_answer(sock).status == 100  # its token was looked at; the body is awaited
            admin.call("DELETE", "/api/tokens/slow")
            sock.sendall(body)
            answer = read_answer(sock)
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.json["detail"].startswith(detail)

    def test_its_name_can_be_taken_again(self, admin: Foreign) -> None:
        first = admin.create_token("again", "agent")
        admin.call("DELETE", "/api/tokens/again")
        second = admin.create_token("again", "auditor")
        assert first.call("GET", "/api/agents").status == 401
        assert second.call("GET", "/api/agents").status == 200
        listed = [token for token in admin.call("GET", "/api/tokens").body["tokens"] if token["name"] == "again"]
        assert [token["kind"] for token in listed] == ["auditor"]

    def test_no_answer_but_the_first_holds_the_token_and_the_log_holds_its_digest(self, admin: Foreign) -> None:
        made = admin.create_token("quiet", "agent")
        events = admin.call("GET", "/api/events?event=token.created&limit=1000").body["events"]
        assert digest_of(made.token) in [event["sha256"] for event in events]
        assert made.token not in repr(events)
        assert made.token not in repr(admin.call("GET", "/api/tokens").body)


@pytest.fixture(scope="module")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """A client without a good token, of a bus that asks for none."""
    with BusProcess(tmp_path_factory.mktemp("open"), options=["--no-auth"]) as bus:
        yield Foreign(bus.url, "whatever")


@pytest.mark.e2e
class TestWithoutTokens:
    def test_everyone_is_an_administrator_and_any_sender(self, anyone: Foreign) -> None:
        assert anyone.call("POST", "/api/send", {"to_agent": "mel", "from_agent": "ann"}).status == 201
        assert anyone.call("GET", "/api/tokens").status == 200

    def test_whoever_reads_an_inbox_is_taken_for_its_agent(self, anyone: Foreign) -> None:
        anyone.send("reader", from_agent="ann")
        assert "last_seen" not in anyone.call("GET", "/api/agents/reader").body
        anyone.inbox("reader")
        assert "last_seen" in anyone.call("GET", "/api/agents/reader").body

    def test_a_web_page_is_kept_out_all_the_same(self, anyone: Foreign) -> None:
        answer: Answer = anyone.call("GET", "/api/tokens", headers={"Origin": "https://evil.example"})
        assert answer.status == 403
        assert anyone.call("GET", "/api/tokens", headers={"Host": "evil.example"}).status == 421


def test_a_token_is_long_and_new_each_time_and_known_by_its_digest() -> None:
    (one, digest), (other, _) = new_token(), new_token()
    assert one != other
    assert len(one) >= 43
    assert digest == digest_of(one)


@pytest.mark.parametrize(
    ("name", "kind", "agents", "expected"),
    [
        ("mel", "agent", (), ("mel",)),
        ("desk", "agent", ("mel", "tony"), ("mel", "tony")),
        ("mini", "watcher", (), ()),
        ("eve", "auditor", (), ()),
    ],
)
def test_an_agents_token_is_for_the_agent_of_its_name_unless_it_names_some(
    name: str, kind: str, agents: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert check_token(name, kind, agents) == expected


def test_a_peer_is_an_agents_alone() -> None:
    with pytest.raises(BadRequest):
        check_token("mini", "watcher", (), "tony")


def test_a_secret_is_its_owners_alone(tmp_path: Path) -> None:
    write_secret(tmp_path / "secret", "one")
    write_secret(tmp_path / "secret", "two")
    assert (tmp_path / "secret").read_text() == "two\n"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_key_of_wakes_tokens_is_made_once(tmp_path: Path) -> None:
    key = load_wake_key(tmp_path / "wake.key")
    assert len(key) == 32
    assert load_wake_key(tmp_path / "wake.key") == key


def test_a_key_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "wake.key").write_text("abcd\n")
    with pytest.raises(ConfigError, match="remove it"):
        load_wake_key(tmp_path / "wake.key")


@pytest.mark.e2e
def test_no_token_is_in_any_log_line(shared_bus: BusProcess, admin: Foreign, place: Place) -> None:
    assert ask(admin.url, "GET", f"/api/stream?token={admin.token}", None).status == 403
    for client in place.clients.values():
        assert client.token not in shared_bus.log_text
