"""Waiting for a receipt over HTTP: what is asked and answered, and what ends the request."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.foreign import Answer, Foreign
from tests.raw import connect, read_answer, request
from tests.support import BusProcess, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def admin(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


@contextlib.contextmanager
def asking(client: Foreign, target: str) -> Iterator[list[Answer]]:
    """A request in a thread of its own; its answer is in the list when the block has ended."""
    answers: list[Answer] = []

    def ask() -> None:
        while (answer := client.call("GET", target)).status == 429:
            pass  # a look of `taken` had the only seat just then
        answers.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        thread.join()


def test_a_wait_is_answered_with_the_step_that_ended_it(admin: Foreign) -> None:
    sent = admin.send("ann", from_agent="bob")
    with asking(admin, f"/api/messages/{sent}?wait=replied&timeout=60") as answers:
        reply = admin.send("bob", from_agent="ann", reply_to=sent)
    receipt = answers[0].body["receipt"]
    assert (receipt["waited"], receipt["status"], receipt["replies"][0]["id"]) == ("reached", "replied", reply)


def test_a_wait_without_a_timeout_is_a_look(admin: Foreign) -> None:
    sent = admin.send("ann", from_agent="bob")
    answer = admin.call("GET", f"/api/messages/{sent}?wait=read")
    assert (answer.status, answer.body["receipt"]["waited"]) == (200, "time_over")
    assert "waited" not in admin.call("GET", f"/api/messages/{sent}").body["receipt"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("wait=soon", "wait"),
        ("wait=read&timeout=-1", "timeout"),
        ("wait=read&timeout=601", "timeout"),
        ("wit=1", "wit"),
    ],
)
def test_what_cannot_be_waited_for_is_refused(admin: Foreign, query: str, field: str) -> None:
    answer = admin.call("GET", f"/api/messages/{admin.send('ann')}?{query}")
    assert (answer.status, answer.body["field"]) == (400, field)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[BusProcess]:
    """A bus at which one may wait at a time: so it can be told whether somebody does."""
    with BusProcess(tmp_path / "bus", options=["--followers-max", "1"]) as running:
        yield running


def taken(admin: Foreign, message_id: int) -> bool:
    """Whether the only seat is taken."""
    return admin.call("GET", f"/api/messages/{message_id}?wait=read").status == 429


def test_a_wait_ends_with_its_client_and_with_its_token(small: BusProcess) -> None:
    admin = Foreign(small.url, small.admin_token)
    doomed = admin.create_token("doomed", "agent")
    sent = doomed.send("ann")
    asked = request("GET", f"/api/messages/{sent}?wait=read&timeout=60", host="localhost", token=doomed.token)
    with connect(small.url) as sock:
        sock.sendall(asked)
        until(lambda: taken(admin, sent))
        assert admin.call("GET", f"/api/messages/{sent}").status == 200, "a look takes no seat"
    until(lambda: not taken(admin, sent))
    with connect(small.url) as sock:
        sock.sendall(asked)
        until(lambda: taken(admin, sent))
        admin.call("DELETE", "/api/tokens/doomed")
        answer = read_answer(sock)
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert not taken(admin, sent)


def test_a_bus_that_stops_answers_first(small: BusProcess) -> None:
    admin = Foreign(small.url, small.admin_token)
    sent = admin.send("ann")
    with asking(admin, f"/api/messages/{sent}?wait=read&timeout=60") as answers:
        until(lambda: taken(admin, sent))
        assert small.stop() == 0
    assert answers[0].body["receipt"]["waited"] == "stopping"
