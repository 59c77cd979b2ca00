"""Bad input over real sockets: each kind has its status and its stable code, and says where and what to do."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.e2e.foreign import Foreign
from tests.raw import Raw, chunked, connect, exchange, read_answer, request
from tests.support import BusProcess

pytestmark = pytest.mark.e2e

LIMIT = 262_144


@pytest.fixture(scope="module")
def admin(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


@pytest.fixture(scope="module")
def mel(admin: Foreign) -> Foreign:
    """An agent's token, with a message of tony's and one of nobody's concern in the log."""
    admin.send("tony", "not for mel", from_agent="ann")
    return admin.create_token("mel", "agent")


def ask(client: Foreign, method: str, target: str, body: bytes | None = None, *headers: str) -> Raw:
    """One request with this client's token."""
    host = urlsplit(client.url).netloc
    return exchange(client.url, request(method, target, host=host, token=client.token, body=body, headers=headers))


def post(client: Foreign, target: str, value: object) -> Raw:
    return ask(client, "POST", target, json.dumps(value).encode())


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"hello",
            b"{'to_agent': 'mel'}",
            b'{"to_agent": "mel", "payload": "\xff\xfe"}',
            b'{"to_agent": "mel", "payload": "\\ud800"}',
            b'{"to_agent": "mel", "payload": NaN}',
            b'{"to_agent": "mel", "payload": Infinity}',
            b'{"to_agent": "mel", "payload": 1e999}',
            b'{"to_agent": "mel", "payload": ' + b"9" * 5000 + b"}",
            b'{"to_agent": "mel", "payload": ' + b"[" * 101 + b"]" * 101 + b"}",
            b"[" * 100_000,
            b'{"to_agent": "mel", "payload": "a\nb"}',
            b'{"to_agent": "mel"} {"to_agent": "mel"}',
        ],
        ids=[
            "empty", "cut", "text", "quotes", "utf8", "surrogate", "nan", "infinity", "1e999", "digits", "deep",
            "very-deep", "newline", "two",
        ],
    )  # fmt: skip
    def test_what_is_not_json_is_bad_json(self, admin: Foreign, body: bytes) -> None:
        answer = ask(admin, "POST", "/api/send", body)
        assert (answer.status, answer.code) == (400, "bad_json")

    def test_json_that_is_deep_but_allowed_is_kept(self, admin: Foreign) -> None:
        deep = b'{"to_agent": "mel", "payload": ' + b"[" * 99 + b"]" * 99 + b"}"
        assert ask(admin, "POST", "/api/send", deep).status == 201

    @pytest.mark.parametrize("value", [5, "text", None, True])
    def test_a_body_that_is_no_object_is_a_bad_field(self, admin: Foreign, value: object) -> None:
        answer = post(admin, "/api/send", value)
        assert (answer.status, answer.code) == (400, "bad_field")

    def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not(self, admin: Foreign) -> None:
        frame = b'{"to_agent":"mel","payload":"%b"}'
        exact = frame % (b"x" * (LIMIT - len(frame) + 2))
        assert len(exact) == LIMIT
        assert ask(admin, "POST", "/api/send", exact).status == 201
        answer = ask(admin, "POST", "/api/send", frame % (b"x" * (LIMIT - len(frame) + 3)))
        assert (answer.status, answer.code) == (413, "too_large")

    @pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
    def test_a_body_in_chunks_has_the_same_limit(self, admin: Foreign, size: int) -> None:
        head = request("POST", "/api/send", host=urlsplit(admin.url).netloc, token=admin.token)
        head = head[:-2] + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = exchange(admin.url, head + chunked(b'"' + b"x" * (size - 2) + b'"'))
        assert (answer.status, answer.code) == (413, "too_large")

    def test_an_endless_body_is_not_read_to_its_end(self, admin: Foreign) -> None:
        head = request("POST", "/api/send", host=urlsplit(admin.url).netloc, token=admin.token)
        with connect(admin.url) as sock:
            sock.sendall(head[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
            piece = b"%x\r\n%b\r\n" % (65536, b"x" * 65536)
            with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
                for _ in range(100_000):
                    sock.sendall(piece)

    @pytest.mark.parametrize(
        "declared", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "json"]
    )
    def test_a_body_that_is_not_declared_as_json_is_415(self, admin: Foreign, declared: str) -> None:
        sent = request(
            "POST",
            "/api/send",
            host=urlsplit(admin.url).netloc,
            token=admin.token,
            body=b'{"to_agent":"mel"}',
            content_type=declared,
        )
        answer = exchange(admin.url, sent)
        assert (answer.status, answer.code) == (415, "bad_content_type")

    @pytest.mark.parametrize(
        "declared", [None, "application/json", "Application/JSON; charset=UTF-8", "application/cloudevents+json"]
    )
    def test_json_however_declared_is_taken(self, admin: Foreign, declared: str | None) -> None:
        sent = request(
            "POST",
            "/api/send",
            host=urlsplit(admin.url).netloc,
            token=admin.token,
            body=b'{"to_agent":"mel"}',
            content_type=declared,
        )
        assert exchange(admin.url, sent).status == 201


class TestFields:
    @pytest.mark.parametrize(
        ("target", "body", "field", "nearest"),
        [
            ("/api/send", {"to_agent": "mel", "playload": 1}, "playload", "payload"),
            ("/api/send", [{"to_agent": "mel"}, {"to_agent": "mel", "typ": "X"}], "[1].typ", "type"),
            ("/api/inbox/ack", {"agent": "mel", "cursr": 1}, "cursr", "cursor"),
            ("/api/wakes", {"key": "k", "agent": "mel", "timeout": 5}, "timeout", "timeout_s"),
            ("/api/tokens", {"name": "x", "kind": "agent", "agent": ["mel"]}, "agent", "agents"),
        ],
    )
    def test_an_unknown_field_names_the_nearest_one(
        self, admin: Foreign, target: str, body: object, field: str, nearest: str
    ) -> None:
        answer = post(admin, target, body)
        assert (answer.status, answer.code) == (400, "unknown_field")
        assert answer.json["field"] == field
        assert repr(nearest) in answer.json["detail"]

    def test_an_unknown_parameter_names_the_nearest_one(self, admin: Foreign) -> None:
        answer = ask(admin, "GET", "/api/inbox?agnet=mel")
        assert (answer.code, answer.json["field"]) == ("unknown_field", "agnet")
        assert "'agent'" in answer.json["detail"]

    @pytest.mark.parametrize("name", ["", "a b", "-a", ".a", "a/b", "mél", "a" * 65, 'a"b', "a\n", "a\0"])
    def test_a_name_outside_the_grammar_is_bad_name(self, admin: Foreign, name: str) -> None:
        answer = post(admin, "/api/send", {"to_agent": name, "payload": 1})
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_name", "to_agent")
        assert post(admin, "/api/wakes", {"key": "k", "agent": name}).code == "bad_name"
        assert post(admin, "/api/tokens", {"name": name, "kind": "agent"}).code == "bad_name"

    @pytest.mark.parametrize("name", [5, None, ["mel"], {"a": 1}])
    def test_a_name_that_is_no_text_is_bad_name(self, admin: Foreign, name: object) -> None:
        assert post(admin, "/api/inbox/ack", {"agent": name, "cursor": "x"}).code in ("bad_name", "bad_cursor")
        assert post(admin, "/api/wakes", {"key": "k", "agent": name}).code == "bad_name"

    @pytest.mark.parametrize("name", ["admin", "bus", "Admin", "BUS"])
    def test_reserved_names_are_nobodys(self, admin: Foreign, name: str) -> None:
        assert post(admin, "/api/tokens", {"name": name, "kind": "agent"}).code == "bad_name"
        assert post(admin, "/api/tokens", {"name": "x", "kind": "agent", "agents": [name]}).code == "bad_name"

    @pytest.mark.parametrize(
        ("body", "code", "field"),
        [
            ({"payload": 1}, "no_recipient", "to_agent"),
            ({"to_agent": [], "payload": 1}, "no_recipient", "to_agent"),
            ({"to_agent": ["mel", "a b"], "payload": 1}, "bad_name", "to_agent[1]"),
            ({"to_agent": ["mel", "MEL"], "payload": 1}, "bad_field", "to_agent"),
            ({"to_agent": "mel", "payload": 1, "message": 2}, "bad_field", "message"),
            ({"to_agent": "mel", "type": ""}, "bad_field", "type"),
            ({"to_agent": "mel", "type": "a b"}, "bad_field", "type"),
            ({"to_agent": "mel", "type": "x" * 65}, "bad_field", "type"),
            ({"to_agent": "mel", "type": 5}, "bad_field", "type"),
            ({"to_agent": "mel", "expires": "tomorrow"}, "bad_field", "expires"),
            ({"to_agent": "mel", "expires": "2030-01-01T00:00:00"}, "bad_field", "expires"),
            ({"to_agent": "mel", "expires": "2030-02-30T00:00:00Z"}, "bad_field", "expires"),
            ({"to_agent": "mel", "expires": "9999-12-31T23:59:59-23:59"}, "bad_field", "expires"),
            ({"to_agent": "mel", "reply_to": "1"}, "bad_field", "reply_to"),
            ({"to_agent": "mel", "reply_to": 999_999}, "unknown_parent", "reply_to"),
            ({"to_agent": "mel", "reply_to": -1}, "unknown_parent", "reply_to"),
            ({"to_agent": "mel", "reply_to": 2**70}, "unknown_parent", "reply_to"),
            ({"to_agent": "mel", "reply_to": 1}, "unknown_parent", "reply_to"),  # the first event is a token's
            ({"to_agent": "mel", "thread_id": 999_999}, "unknown_parent", "thread_id"),
            ({"to_agent": "mel", "hops": 3}, "unknown_field", "hops"),
            ({"to_agent": "mel", "key": ""}, "bad_field", "Idempotency-Key"),
            ({"to_agent": "mel", "key": "a b"}, "bad_field", "Idempotency-Key"),
            ([], "bad_field", None),
            ([5], "bad_field", "[0]"),
            ([{"to_agent": "mel", "key": "k"}], "bad_field", "[0].key"),
            ([{"to_agent": "mel"}, {"to_agent": "a b"}], "bad_name", "[1].to_agent"),
            (
                [{"to_agent": "mel", "from_agent": "ann"}, {"to_agent": "mel", "from_agent": "bob"}],
                "bad_field",
                "from_agent",
            ),
        ],
    )
    def test_a_message_that_cannot_be_names_its_mistake(
        self, admin: Foreign, body: object, code: str, field: str | None
    ) -> None:
        answer = post(admin, "/api/send", body)
        assert (answer.status, answer.code, answer.json.get("field")) == (400, code, field)

    def test_a_reply_in_another_thread_is_a_contradiction(self, admin: Foreign) -> None:
        first, second = admin.send("mel"), admin.send("mel")
        answer = post(admin, "/api/send", {"to_agent": "mel", "reply_to": first, "thread_id": second})
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_field", "thread_id")

    def test_nothing_of_an_array_is_kept_when_one_message_cannot_be(self, admin: Foreign) -> None:
        before = ask(admin, "GET", "/api/events?limit=1").json["head"]
        assert post(admin, "/api/send", [{"to_agent": "mel"}, {"to_agent": "mel", "reply_to": 999_999}]).status == 400
        assert ask(admin, "GET", "/api/events?limit=1").json["head"] == before

    @pytest.mark.parametrize(
        ("body", "code", "field"),
        [
            ({"agent": "mel"}, "bad_field", "key"),
            ({"key": "k"}, "bad_name", "agent"),
            ({"key": "", "agent": "mel"}, "bad_field", "key"),
            ({"key": "x" * 256, "agent": "mel"}, "bad_field", "key"),
            ({"key": "ü", "agent": "mel"}, "bad_field", "key"),
            ({"key": "k", "agent": "mel", "timeout_s": 0}, "bad_field", "timeout_s"),
            ({"key": "k", "agent": "mel", "timeout_s": -1}, "bad_field", "timeout_s"),
            ({"key": "k", "agent": "mel", "timeout_s": "300"}, "bad_field", "timeout_s"),
            ({"key": "k", "agent": "mel", "timeout_s": 1e12}, "bad_field", "timeout_s"),
            ({"key": "k", "agent": "mel", "timeout_s": 1.0001}, "bad_field", "timeout_s"),
            ({"key": "k", "agent": "mel", "timeout_s": True}, "bad_field", "timeout_s"),
            ({"key": "k", "agent": "mel", "start_within_s": -1}, "bad_field", "start_within_s"),
            ({"key": "k", "agent": "mel", "ack": "maybe"}, "bad_field", "ack"),
            ({"key": "k", "agent": "mel", "ack_within_s": -1}, "bad_field", "ack_within_s"),
            ({"key": "k", "agent": "mel", "max_attempts": 0}, "bad_field", "max_attempts"),
            ({"key": "k", "agent": "mel", "max_attempts": 1.5}, "bad_field", "max_attempts"),
            ({"key": "k", "agent": "mel", "min_interval_s": -1}, "bad_field", "min_interval_s"),
            ({"key": "k", "agent": "mel", "deliver": "some"}, "bad_field", "deliver"),
            ({"key": "k", "agent": "mel", "watcher": "a b"}, "bad_name", "watcher"),
            ({"key": "k", "agent": "mel", "node": "a b"}, "bad_name", "node"),
            ({"key": "k", "agent": "admin"}, "bad_name", "agent"),
        ],
    )
    def test_an_ask_that_cannot_be_names_its_mistake(self, admin: Foreign, body: object, code: str, field: str) -> None:
        answer = post(admin, "/api/wakes", body)
        assert (answer.status, answer.code, answer.json["field"]) == (400, code, field)

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"key": "k", "outcome": "fine"}, "outcome"),
            ({"key": "k"}, "outcome"),
            ({"outcome": "ok"}, "key"),
            ({"key": "k", "outcome": "ok", "exit_code": "0"}, "exit_code"),
            ({"key": "k", "outcome": "ok", "duration_ms": -1}, "duration_ms"),
            ({"key": "k", "outcome": "ok", "detail": 5}, "detail"),
        ],
    )
    def test_a_report_that_cannot_be_names_its_mistake(self, admin: Foreign, body: object, field: str) -> None:
        answer = ask(admin, "PATCH", "/api/wakes/1", json.dumps(body).encode())
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_field", field)

    @pytest.mark.parametrize("wake", ["1", "999999", "x", "-1", "9" * 30])
    def test_a_wake_that_is_not_is_unknown(self, admin: Foreign, wake: str) -> None:
        answer = ask(admin, "PATCH", f"/api/wakes/{wake}", b'{"key":"k","outcome":"ok"}')
        assert (answer.status, answer.code) == (404, "unknown_wake")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"name": "x"}, "kind"),
            ({"name": "x", "kind": "king"}, "kind"),
            ({"name": "x", "kind": "auditor", "agents": ["mel"]}, "agents"),
            ({"name": "x", "kind": "watcher", "peer": "mel"}, "peer"),
            ({"name": "x", "kind": "agent", "agents": ["mel", "Mel"]}, "agents"),
            ({"name": "owner", "kind": "agent"}, "name"),
        ],
    )
    def test_a_token_that_cannot_be_names_its_mistake(self, admin: Foreign, body: object, field: str) -> None:
        answer = post(admin, "/api/tokens", body)
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_field", field)


class TestCursorsAndLimits:
    @pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "1e3", "", "+1", "%201", "٣", "9007199254740992", "9" * 40])
    @pytest.mark.parametrize("target", ["/api/inbox?agent=mel&after=", "/api/stream?after=", "/api/events?after="])
    def test_a_cursor_that_is_no_id_is_bad_cursor(self, admin: Foreign, target: str, cursor: str) -> None:
        answer = ask(admin, "GET", target + "".join(f"%{b:02X}" for b in cursor.encode()).replace("%25", "%"))
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_cursor", "after")

    @pytest.mark.parametrize("cursor", ["garbage", "-1", "1; drop", "9" * 40, "1,2"])
    def test_garbage_in_last_event_id_is_bad_cursor(self, admin: Foreign, cursor: str) -> None:
        answer = ask(admin, "GET", "/api/stream?after=0", None, f"Last-Event-ID: {cursor}")
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_cursor", "Last-Event-ID")

    @pytest.mark.parametrize("cursor", ["1", None, -1, 1.5, True, 2**60])
    def test_an_acked_cursor_that_is_no_id_is_bad_cursor(self, admin: Foreign, cursor: object) -> None:
        answer = post(admin, "/api/inbox/ack", {"agent": "mel", "cursor": cursor})
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_cursor", "cursor")

    def test_a_cursor_past_the_head_is_409(self, admin: Foreign) -> None:
        for answer in (
            post(admin, "/api/inbox/ack", {"agent": "mel", "cursor": 999_999}),
            ask(admin, "GET", "/api/inbox?agent=mel&after=999999"),
            ask(admin, "GET", "/api/events?after=999999"),
        ):
            assert (answer.status, answer.code) == (409, "cursor_past_head")

    @pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "9" * 40, "1.5", ""])
    @pytest.mark.parametrize("target", ["/api/inbox?agent=mel&limit=", "/api/events?limit="])
    def test_a_limit_out_of_range_is_bad_limit(self, admin: Foreign, target: str, limit: str) -> None:
        answer = ask(admin, "GET", target + limit)
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_limit", "limit")

    @pytest.mark.parametrize(
        ("target", "field"),
        [
            ("/api/stream?heartbeat=0", "heartbeat"),
            ("/api/stream?heartbeat=61", "heartbeat"),
            ("/api/stream?heartbeat=x", "heartbeat"),
            ("/api/stream?heartbeat=5&heartbeat=6", "heartbeat"),
            ("/api/stream?event=nonsense", "event"),
            ("/api/events?event=nonsense", "event"),
            ("/api/inbox?agent=mel&wait=-1", "wait"),
            ("/api/inbox?agent=mel&wait=601", "wait"),
            ("/api/inbox?agent=mel&wait=inf", "wait"),
        ],
    )
    def test_a_parameter_out_of_range_is_named(self, admin: Foreign, target: str, field: str) -> None:
        answer = ask(admin, "GET", target)
        assert (answer.status, answer.code, answer.json["field"]) == (400, "bad_field", field)

    @pytest.mark.parametrize("target", ["/api/inbox?agent=%FF", "/api/inbox?" + "&".join(["agent=a"] * 300)])
    def test_a_query_that_cannot_be_read_is_400(self, admin: Foreign, target: str) -> None:
        answer = ask(admin, "GET", target)
        assert (answer.status, answer.code) == (400, "bad_field")


class TestTokensAndRoutes:
    @pytest.mark.parametrize(
        "header",
        ["X-None: 1", "Authorization: Bearer nonsense", "Authorization: Basic abc", "Authorization: Bearer",
         "Authorization: Bearer ewk_1_" + "A" * 43, "Authorization: Bearer ewk_x", "X-Shared-Secret: nonsense",
         "Authorization: Bearer t\xfcr"],
    )  # fmt: skip
    def test_no_token_or_a_wrong_one_is_401(self, shared_bus: BusProcess, header: str) -> None:
        sent = request("GET", "/api/agents", host=urlsplit(shared_bus.url).netloc, headers=(header,))
        answer = exchange(shared_bus.url, sent)
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_the_right_token_for_the_wrong_agent_is_403(self, mel: Foreign) -> None:
        for answer in (
            ask(mel, "GET", "/api/inbox?agent=tony"),
            ask(mel, "GET", "/api/stream?agent=tony"),
            post(mel, "/api/inbox/ack", {"agent": "tony", "cursor": 1}),
            post(mel, "/api/send", {"to_agent": "ann", "from_agent": "tony"}),
        ):
            assert (answer.status, answer.code) == (403, "forbidden")

    def test_what_a_token_may_not_see_is_404_as_if_it_were_not_there(self, admin: Foreign, mel: Foreign) -> None:
        theirs = admin.send("tony", "secret", from_agent="ann")
        for target in (f"/api/messages/{theirs}", f"/api/threads/{theirs}", "/api/messages/999999"):
            answer = ask(mel, "GET", target)
            assert (answer.status, answer.code) == (404, "not_found")
        assert post(mel, "/api/send", {"to_agent": "ann", "reply_to": theirs}).code == "unknown_parent"

    @pytest.mark.parametrize("target", ["/", "/api", "/api/nope", "/api/send/", "/API/send", "/api/messages/x/y"])
    def test_an_unknown_route_is_404(self, admin: Foreign, target: str) -> None:
        answer = ask(admin, "GET", target)
        assert (answer.status, answer.code) == (404, "not_found")

    @pytest.mark.parametrize("place", ["x", "-1", "1.0", "9" * 30, "%2e%2e"])
    def test_a_message_whose_id_is_none_is_404(self, admin: Foreign, place: str) -> None:
        assert ask(admin, "GET", f"/api/messages/{place}").code == "not_found"
        assert ask(admin, "GET", f"/api/threads/{place}").code == "not_found"

    @pytest.mark.parametrize(
        ("method", "target", "allowed"),
        [
            ("GET", "/api/send", "POST"),
            ("DELETE", "/api/inbox", "GET, HEAD"),
            ("PUT", "/api/tokens", "GET, HEAD, POST"),
            ("POST", "/api/wakes/1", "PATCH"),
            ("OPTIONS", "/api/send", "POST"),
            ("BREW", "/api/send", None),
        ],
    )
    def test_a_wrong_method_is_405_and_says_the_right_ones(
        self, admin: Foreign, method: str, target: str, allowed: str | None
    ) -> None:
        answer = ask(admin, method, target)
        if allowed is None:  # no method of HTTP at all
            assert (answer.status, answer.code) == (400, "bad_field")
        else:
            assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method_not_allowed", allowed)


class TestHostsAndOrigins:
    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8091", "127.0.0.1.evil.example", "localhost.evil.example", "a b", "", "["],
    )
    def test_a_host_that_is_not_the_bus_is_421(self, admin: Foreign, host: str) -> None:
        answer = exchange(admin.url, request("GET", "/healthz", host=host))
        assert (answer.status, answer.code) == (421, "bad_host")

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8091", "192.168.1.5:8091"])
    def test_addresses_and_localhost_are_the_bus(self, admin: Foreign, host: str) -> None:
        assert exchange(admin.url, request("GET", "/healthz", host=host)).status == 200

    def test_the_machines_name_is_the_bus(self, admin: Foreign) -> None:
        assert exchange(admin.url, request("GET", "/healthz", host=socket.gethostname())).status == 200

    def test_two_hosts_are_none(self, admin: Foreign) -> None:
        sent = request("GET", "/healthz", host="localhost", headers=("Host: evil.example",))
        assert exchange(admin.url, sent).status == 400

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
    def test_a_page_from_elsewhere_is_403(self, admin: Foreign, origin: str) -> None:
        answer = ask(admin, "GET", "/api/agents", None, f"Origin: {origin}")
        assert (answer.status, answer.code) == (403, "forbidden")

    def test_a_page_of_the_bus_itself_is_welcome(self, admin: Foreign) -> None:
        assert ask(admin, "GET", "/api/agents", None, f"Origin: {admin.url}").status == 200


class TestConnections:
    def test_what_is_not_http_is_400(self, admin: Foreign) -> None:
        assert exchange(admin.url, b"\x16\x03\x01\x00\x00 nonsense\r\n\r\n").code == "bad_field"

    @pytest.mark.parametrize(
        "headers",
        [["X-Big: " + "x" * 40_000], ["X-Many: 1234567890"] * 4000],
        ids=["one", "many"],
    )
    def test_a_header_over_the_limit_is_413(self, admin: Foreign, headers: list[str]) -> None:
        answer = exchange(admin.url, request("GET", "/healthz", host="localhost", headers=tuple(headers)))
        assert (answer.status, answer.code) == (413, "too_large")

    def test_a_header_without_end_is_not_read_to_its_end(self, admin: Foreign) -> None:
        with connect(admin.url) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Big: ")
            with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
                for _ in range(10_000):
                    sock.sendall(b"x" * 65536)

    def test_requests_may_follow_each_other_at_once(self, admin: Foreign) -> None:
        one = request("GET", "/healthz", host="localhost")
        with connect(admin.url) as sock:
            sock.sendall(one * 3)
            seen = b""
            while seen.count(b'"status":"ok"') < 3:
                seen += sock.recv(65536)
        assert seen.count(b"HTTP/1.1 200") == 3

    def test_a_slow_header_and_a_slow_body_have_a_deadline(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        options = ["--header-timeout-s", "0.3", "--body-timeout-s", "0.3"]
        with BusProcess(tmp_path_factory.mktemp("slow"), options=options) as bus:
            with connect(bus.url) as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
                assert read_answer(sock).code == "bad_field"
            with connect(bus.url) as sock:
                assert sock.recv(1) == b""  # nothing was asked: it is closed without a word
            with connect(bus.url) as sock:
                sent = request("POST", "/api/send", host="localhost", token=bus.admin_token, body=b'{"to_agent":"mel"}')
                sock.sendall(sent[:-5])
                answer = read_answer(sock)
                assert (answer.status, answer.code) == (400, "bad_json")


def test_none_of_it_was_the_bus_own_failure(shared_bus: BusProcess, admin: Foreign) -> None:
    assert ask(admin, "GET", "/readyz").status == 200
    assert "Traceback" not in shared_bus.log_text
    assert "failed" not in shared_bus.log_text
