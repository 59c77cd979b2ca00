"""The waker of one turn for each message: what the gateway is asked, what counts as a turn, and what as its reply."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.watcher.fake_gateway import SECRET, FakeGateway
from watcher.wakers import NotStarted, openclaw_agent
from watcher.wakers.gateway import Gateway
from watcher.wakers.openclaw_agent import Failed

REQUEST = {"wake": {"id": 7, "agent": "tony", "timeout_s": 60.0}, "prompt": "hello"}
REPLY = "you said hello\n\nand more\n"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as running:
        yield running


@pytest.fixture
def settings(gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(openclaw_agent, "RETRY_S", 0.01)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    return {"url": gateway.url, "token_file": str(tmp_path / "token"), "agent_id": "", "key": "the-key"}


def test_the_reply_of_the_turn_is_printed(
    gateway: FakeGateway, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    openclaw_agent.wake(REQUEST, settings)
    assert capsys.readouterr().out == REPLY
    (_, hello), (_, asked) = gateway.called
    assert (hello["client"]["id"], hello["scopes"]) == ("gateway-client", ["operator.write"])
    assert (asked["agentId"], asked["deliver"], asked["idempotencyKey"]) == ("tony", False, "the-key")
    assert asked["timeout"] == 50, "the gateway ends the turn before the wake's time is over"


def test_the_agent_may_have_another_id(gateway: FakeGateway, settings: dict[str, Any]) -> None:
    openclaw_agent.wake(REQUEST, {**settings, "agent_id": "tony-2"})
    assert gateway.called[1][1]["agentId"] == "tony-2"


def test_an_agent_with_nothing_to_say_gives_no_reply() -> None:
    ended = {"status": "ok", "result": {"payloads": [{"text": "NO_REPLY\n"}]}}
    assert openclaw_agent.outcome(ended) == openclaw_agent.outcome({"status": "ok"}) == ""


@pytest.mark.parametrize("fault", ["drop", "drop early"])
def test_a_lost_connection_leads_to_the_same_turn_and_to_no_other(
    gateway: FakeGateway, settings: dict[str, Any], capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    gateway.faults = [fault]
    openclaw_agent.wake(REQUEST, settings)
    assert capsys.readouterr().out == REPLY
    assert gateway.began == ["hello"]
    assert gateway.methods() == ["connect", "agent", "connect", "agent.wait" if fault == "drop" else "agent"]


def test_a_turn_that_goes_on_is_waited_for_again(
    gateway: FakeGateway, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.faults, gateway.wait_first = ["drop"], True
    openclaw_agent.wake(REQUEST, settings)
    assert capsys.readouterr().out == REPLY
    assert gateway.methods()[-2:] == ["agent.wait", "agent.wait"]


def test_a_gateway_that_was_started_anew_has_lost_the_turn(gateway: FakeGateway, settings: dict[str, Any]) -> None:
    gateway.faults = ["restart"]
    with pytest.raises(Failed, match="started anew"):
        openclaw_agent.wake(REQUEST, settings)
    assert gateway.began == ["hello"]


def test_a_gateway_that_went_away_during_the_turn_is_a_failure(
    gateway: FakeGateway, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openclaw_agent, "AWAY_S", 0.0)
    gateway.faults = ["drop"]
    real = Gateway.connected
    calls: list[str] = []

    def once(url: str, secret: str) -> Any:
        calls.append(url)
        return real(url if len(calls) == 1 else "http://127.0.0.1:1", secret)

    monkeypatch.setattr(Gateway, "connected", once)
    with pytest.raises(Failed, match="went away"):
        openclaw_agent.wake(REQUEST, settings)


def test_a_gateway_that_is_busy_is_asked_again(gateway: FakeGateway, settings: dict[str, Any]) -> None:
    gateway.faults = ["busy"]
    openclaw_agent.wake(REQUEST, settings)
    assert gateway.began == ["hello"]


def test_a_gateway_that_stays_busy_began_no_turn(gateway: FakeGateway, settings: dict[str, Any]) -> None:
    gateway.faults = ["busy"] * 1000
    with pytest.raises(NotStarted, match="starting"):
        openclaw_agent.wake({**REQUEST, "wake": {"agent": "tony", "timeout_s": 0.5}}, settings)


def test_a_turn_that_ends_badly_is_a_failure(gateway: FakeGateway, settings: dict[str, Any]) -> None:
    gateway.faults = ["fail"]
    with pytest.raises(Failed, match="the model is away"):
        openclaw_agent.wake(REQUEST, settings)


def test_a_session_that_does_not_take_the_turn_began_none(gateway: FakeGateway, settings: dict[str, Any]) -> None:
    gateway.faults = ["taken"]
    with pytest.raises(NotStarted, match="SESSION_WORK_START_CHANGED"):
        openclaw_agent.wake(REQUEST, settings)


def test_the_wrong_token_begins_no_turn(gateway: FakeGateway, settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    with pytest.raises(NotStarted, match="token mismatch"):
        openclaw_agent.wake(REQUEST, settings)


def test_an_agent_that_the_gateway_does_not_know_is_a_failure(settings: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="unknown agent id"):
        openclaw_agent.wake(REQUEST, {**settings, "agent_id": "nobody"})


def test_no_gateway_begins_no_turn(settings: dict[str, Any]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(NotStarted, match="no gateway"):
            openclaw_agent.wake(REQUEST, {**settings, "url": url})
