"""The client against servers that answer oddly: what each failure means, and where a follower comes back to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from eventlog import client, errors, sse
from eventlog.client import Bus
from eventlog.sse import Frame

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff is tested by its numbers; here it would only cost time."""
    monkeypatch.setattr(client, "BACKOFF_S_MAX", 0.01)


class Script:
    """A server that answers each request with the next entry, the last one for ever, and remembers the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self.hold = asyncio.Event()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
            self.requests.append(head + (await reader.readexactly(length)).decode())
            said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            writer.write(said.removesuffix(HOLD))
            await writer.drain()
            if said.endswith(HOLD):
                await self.hold.wait()
        finally:
            writer.close()


HOLD = b"<hold>"


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[Script]:
    script = Script(*answers)
    server = await asyncio.start_server(script.answer, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        script.hold.set()
        server.close()


def answer(body: object, status: str = "200 OK", kind: str = "application/json", extra: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = f"Content-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{extra}"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + content


def problem(code: str, status: int, extra: str = "") -> bytes:
    body = {"type": "about:blank", "code": code, "detail": f"it is {code}", "field": "key"}
    return answer(body, f"{status} X", "application/problem+json", extra)


def stream(*frames: bytes, log_id: str = "L1", head: int = 0) -> bytes:
    named = f"Eventlog-Id: {log_id}\r\nEventlog-Head: {head}\r\n"
    headers = f"Content-Type: text/event-stream\r\n{named}Connection: close\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + headers.encode() + b"".join(frames)


def refused_url() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def test_a_problem_becomes_the_error_of_its_code() -> None:
    async with serving(problem("key_reused", 422)) as script, Bus(script.url, "t") as bus:
        with pytest.raises(errors.KeyReused, match="it is key_reused") as caught:
            await bus.request("POST", "/api/send", json={})
    assert (caught.value.code, caught.value.field) == ("key_reused", "key")
    assert "authorization: bearer t\r\n" in script.requests[0].lower()


async def test_retry_after_is_told() -> None:
    async with serving(problem("unavailable", 503, "Retry-After: 7\r\n")) as script, Bus(script.url) as bus:
        with pytest.raises(errors.Unavailable) as caught:
            await bus.agents()
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(answer({"code": "not_found"}, "404 Not Found"), id="a proxy's 404 with a code"),
        pytest.param(answer({"detail": "no"}, "404 X", "application/problem+json"), id="a problem without code"),
        pytest.param(answer(b"<html>", "502 Bad Gateway", "text/html"), id="a proxy's 502"),
        pytest.param(answer(b"<html>", kind="text/html"), id="a web page"),
        pytest.param(answer([1]), id="another service's JSON"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", id="a redirect"),
        pytest.param(b"", id="no answer at all"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", id="half an answer"),
        pytest.param(b"SSH-2.0-x\r\n", id="another protocol"),
        pytest.param(HOLD, id="silence"),
    ],
)
async def test_an_answer_that_is_not_the_bus_own_is_unreachable(said: bytes) -> None:
    async with serving(said) as script, Bus(script.url, timeout_s=0.3) as bus:
        with pytest.raises(errors.Unreachable) as caught:
            await bus.agent("mel")
    assert (caught.value.code, caught.value.sent) == ("unreachable", True)


async def test_a_refused_connection_is_known_not_to_have_been_sent() -> None:
    async with Bus(refused_url()) as bus:
        with pytest.raises(errors.Unreachable) as caught:
            await bus.agents()
    assert caught.value.sent is False


async def test_send_repeats_with_one_key_until_accepted() -> None:
    accepted = answer({"id": 4, "status": "accepted"}, "201 Created")
    async with serving(b"", problem("unavailable", 503), problem("too_many_requests", 429), accepted) as script:
        async with Bus(script.url) as bus:
            assert (await bus.send("mel", "hi"))["id"] == 4
    keys = {
        line
        for request in script.requests
        for line in request.split("\r\n")
        if line.lower().startswith("idempotency-key")
    }
    assert len(script.requests) == 4
    assert len(keys) == 1


async def test_send_uses_the_key_it_is_given() -> None:
    async with serving(answer({"id": 1}, "201 Created")) as script, Bus(script.url) as bus:
        await bus.send("mel", {"n": 1}, type="TASK", key="mine")
    assert "idempotency-key: mine\r\n" in script.requests[0].lower()
    assert json.loads(script.requests[0].partition("\r\n\r\n")[2]) == {
        "to_agent": "mel",
        "payload": {"n": 1},
        "type": "TASK",
    }


async def test_send_gives_up_saying_that_nothing_was_accepted() -> None:
    async with Bus(refused_url()) as bus:
        with pytest.raises(errors.NotAccepted, match="was not accepted"):
            await bus.send("mel", "hi", give_up_s=0.05)


async def test_send_says_once_that_it_tries_again() -> None:
    said: list[str] = []
    async with Bus(refused_url()) as bus:
        with pytest.raises(errors.NotAccepted, match=r"last of (?!1 )\d+ attempts"):
            await bus.send("mel", "hi", give_up_s=1, trying_again=lambda error: said.append(error.code))
    assert said == ["unreachable"]


async def test_send_gives_up_saying_that_it_does_not_know() -> None:
    async with serving(b"") as script, Bus(script.url) as bus:
        with pytest.raises(errors.OutcomeUnknown, match="with the key k1"):
            await bus.send("mel", "hi", key="k1", give_up_s=0.05)


async def test_a_refusal_after_an_unknown_attempt_stays_unknown() -> None:
    async with serving(b"", problem("unauthorized", 401)) as script, Bus(script.url) as bus:
        with pytest.raises(errors.OutcomeUnknown):
            await bus.send("mel", "hi")


async def test_a_bad_message_is_refused_at_once() -> None:
    async with serving(problem("bad_field", 400)) as script, Bus(script.url) as bus:
        with pytest.raises(errors.BadRequest):
            await bus.send("mel", "hi")
    assert len(script.requests) == 1


async def test_replay_reads_line_by_line_whatever_the_payload_holds() -> None:
    lines = '{"id":1,"payload":"a\u2028b"}\n{"id":2}\n'
    async with serving(answer(lines.encode(), kind="application/x-ndjson")) as script, Bus(script.url) as bus:
        assert [event["id"] async for event in bus.replay(agent="mel", after=0)] == [1, 2]
    assert script.requests[0].startswith("GET /api/events?after=0&agent=mel ")
    assert "accept: application/x-ndjson" in script.requests[0].lower()


@pytest.mark.parametrize("cut", [b'{"id":1}\n{"id"', b'{"id":1}\n'])
async def test_a_replay_that_breaks_off_is_said_so(cut: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(cut), cut)
    async with serving(said) as script, Bus(script.url) as bus:
        with pytest.raises(errors.Unreachable, match="broke off"):
            assert [event["id"] async for event in bus.replay()] == [1]


async def test_a_key_that_no_header_carries_is_refused() -> None:
    async with Bus(refused_url()) as bus:
        with pytest.raises(errors.BadRequest, match="a key is"):
            await bus.send("mel", "hi", key="clé")


async def take(frames: AsyncIterator[Frame], count: int) -> list[Frame]:
    """The first frames of an endless iterator."""
    taken: list[Frame] = []
    async with asyncio.timeout(10):
        async for frame in frames:
            taken.append(frame)
            if len(taken) == count:
                break
    return taken


def event(event_id: int) -> bytes:
    return sse.encode_event(event_id, b'{"id":%d}' % event_id)


def asked_after(request: str) -> str | None:
    lines = [line for line in request.split("\r\n") if line.lower().startswith("last-event-id: ")]
    return lines[0].partition(": ")[2] if lines else None


async def test_a_stream_names_its_log_and_head_and_shows_every_frame() -> None:
    said = stream(sse.encode_opening(3), event(4), sse.encode_id(7), sse.encode_comment(), log_id="L9", head=7)
    async with serving(said) as script, Bus(script.url) as bus:
        async with bus.follow_once(after=3, agents=["mel", "tony"], watcher="w", node="n") as following:
            assert (following.log_id, following.head) == ("L9", 7)
            frames = [frame async for frame in following]
            assert following.retry_s == 2.0
    assert [(frame.cursor, frame.data is not None) for frame in frames] == [
        (3, False),
        (4, True),
        (7, False),
        (7, False),
    ]
    assert script.requests[0].startswith("GET /api/stream?after=3&agent=mel&agent=tony&heartbeat=5&watcher=w&node=n ")


async def test_a_silent_stream_is_taken_for_dead() -> None:
    async with serving(stream(sse.encode_opening(3)) + HOLD) as script, Bus(script.url) as bus:
        with pytest.raises(errors.Unreachable, match="the stream broke"):
            async with bus.follow_once(heartbeat_s=0.1) as following:
                assert [frame.cursor async for frame in following] == [3]


async def test_a_page_instead_of_a_stream_is_unreachable() -> None:
    async with serving(answer({})) as script, Bus(script.url) as bus:
        with pytest.raises(errors.Unreachable, match="no event stream"):
            async with bus.follow_once():
                pass


async def test_follow_comes_back_where_it_was_whatever_broke_the_stream() -> None:
    async with serving(
        stream(sse.encode_opening(3), event(4), b"id: 5\ndata: {"),
        problem("unavailable", 503),
        b"",
        stream(sse.encode_opening(4), event(5), sse.encode_id(9)),
        stream(sse.encode_opening(9), event(10)) + HOLD,
    ) as script:
        async with Bus(script.url) as bus:
            frames = await take(bus.follow(after=3), 3)
    assert [frame.cursor for frame in frames] == [4, 5, 10]
    assert [asked_after(request) for request in script.requests] == [None, "4", "4", "4", "9"]
    assert "log=L1" in script.requests[1]


async def test_follow_tells_once_of_failures_in_a_row_to_get_a_stream() -> None:
    told: list[str] = []
    broken = stream(sse.encode_opening(3), event(4), b"id: 5\ndata: {")
    refused = problem("unavailable", 503)
    last = stream(sse.encode_opening(4), event(5)) + HOLD
    async with serving(refused, refused, broken, refused, refused, last) as script, Bus(script.url) as bus:
        frames = await take(bus.follow(after=3, trying_again=lambda error: told.append(error.code)), 2)
    assert [frame.cursor for frame in frames] == [4, 5]
    assert told == ["unavailable"] * 2


@pytest.mark.parametrize(
    ("payload", "code"),
    [(float("nan"), "bad_json"), ({"x": [1e999]}, "bad_json"), ("\udce9", "bad_json"), (["\ud800"], "bad_json")],
    ids=["no number", "infinite", "no UTF-8", "half a character"],
)
async def test_what_json_cannot_say_is_refused_before_it_is_sent(payload: object, code: str) -> None:
    async with serving(b"") as script, Bus(script.url) as bus:
        with pytest.raises(errors.BadRequest) as refused:
            await bus.send("mel", payload, give_up_s=0)
    assert refused.value.code == code
    assert script.requests == []


@pytest.mark.parametrize("name", ["", "a/b", "\udce9"])
async def test_what_can_be_no_name_is_refused_before_it_is_sent(name: str) -> None:
    async with serving(b"") as script, Bus(script.url) as bus:
        with pytest.raises(errors.BadRequest) as refused:
            await bus.agent(name)
        with pytest.raises(errors.BadRequest):
            await bus.inbox("\udce9")
    assert refused.value.code == "bad_name"
    assert script.requests == []


async def test_follow_can_show_what_only_moves_the_cursor() -> None:
    said = stream(sse.encode_opening(3), sse.encode_id(7), sse.encode_comment(), event(8)) + HOLD
    async with serving(said) as script, Bus(script.url) as bus:
        frames = await take(bus.follow(id_only=True), 3)
    assert [(frame.cursor, frame.data is None) for frame in frames] == [(3, True), (7, True), (8, False)]


async def test_a_reset_cut_off_after_its_opening_frame_is_asked_for_again() -> None:
    reset = sse.encode_reset(0, reason="other_log", log_id="L2")
    async with serving(
        stream(sse.encode_opening(3), event(4), log_id="L1"),
        stream(sse.encode_opening(0), log_id="L2"),
        stream(sse.encode_opening(0), reset, event(1), log_id="L2"),
        stream(sse.encode_opening(1), event(2), log_id="L2") + HOLD,
    ) as script:
        async with Bus(script.url) as bus:
            frames = await take(bus.follow(after=3), 4)
    assert [(frame.kind, frame.cursor) for frame in frames] == [
        ("message", 4),
        ("reset", 0),
        ("message", 1),
        ("message", 2),
    ]
    assert [asked_after(request) for request in script.requests] == [None, "4", "4", "1"]
    assert ["log=L1" in request for request in script.requests] == [False, True, True, False]


async def test_follow_ends_with_what_no_reconnect_mends() -> None:
    async with serving(stream(event(1)), problem("unauthorized", 401)) as script, Bus(script.url) as bus:
        with pytest.raises(errors.Unauthorized):
            await take(bus.follow(), 2)


def test_backoff_doubles_to_its_limit_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_S_MAX", 30.0)
    for failures, longest in [(1, 2.0), (2, 4.0), (4, 16.0), (5, 30.0), (500, 30.0)]:
        waits = [client.backoff_s(failures, 2.0) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        tried = [client.backoff_s(failures, 2.0, tried_s=60.0) for _ in range(50)]
        assert longest / 8 <= min(tried) < max(tried) <= longest / 4, "a try that took long was a wait itself"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Bus("127.0.0.1:8091"), id="no scheme"),
        pytest.param(lambda: Bus("http://x", "a\nb"), id="a token of two lines"),
        pytest.param(lambda: Bus("http://x", ""), id="an empty token"),
    ],
)
def test_an_impossible_address_or_token_is_a_configuration_error(make: Callable[[], Bus]) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        make()
    assert "a\nb" not in caught.value.detail


def waited(how: str) -> bytes:
    return answer({"id": 7, "receipt": {"status": "accepted", "waited": how}})


async def test_waiting_asks_again_until_it_is_decided_or_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SEND_BACKOFF_S", 0.01)
    monkeypatch.setattr(client, "WAIT_ONCE_S", 0.1)
    said = [b"", waited("time_over"), problem("unavailable", 503), waited("stopping"), waited("reached")]
    async with serving(*said) as script, Bus(script.url) as bus:
        told = await bus.wait(7, "read", 60)
    assert told["receipt"]["waited"] == "reached"
    assert len(script.requests) == len(said)
    assert script.requests[0].startswith("GET /api/messages/7?wait=read&timeout=0.1 ")


@pytest.mark.parametrize("how", ["time_over", "dead", "expired", "stopping"])
async def test_waiting_ends_with_what_the_bus_said_last(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(client, "SEND_BACKOFF_S", 0.01)
    async with serving(waited(how)) as script, Bus(script.url) as bus:
        assert (await bus.wait(7, "read", 0.05))["receipt"]["waited"] == how


async def test_waiting_for_a_bus_that_never_answers_ends_with_the_reason() -> None:
    async with Bus(refused_url()) as bus:
        with pytest.raises(errors.Unreachable):
            await bus.wait(7, "read", 0.1)


async def test_waiting_does_not_repeat_what_no_repeat_mends() -> None:
    async with serving(problem("not_found", 404)) as script, Bus(script.url) as bus:
        with pytest.raises(errors.NotFound):
            await bus.wait(7, "read", 60)
    assert len(script.requests) == 1
