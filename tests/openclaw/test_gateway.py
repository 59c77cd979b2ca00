"""Waking the agents of a real OpenClaw gateway; its model is a test double (tests/openclaw/model.py)."""

import socket
import time
from pathlib import Path

import pytest

from tests.openclaw.conftest import TURN_S, OpenClawScene
from tests.openclaw.relay import Relay
from tests.scene import Scene, Watch
from tests.support import until
from watcher import cli as watcher_cli

pytestmark = pytest.mark.openclaw

#: How soon a warm gateway's agent has its turn after the POST, on a machine with nothing else to do.
TURN_WITHIN_S = 2.0


def test_a_message_makes_a_turn_of_its_agent_and_of_no_other(
    openclaw: OpenClawScene, scene: Scene, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the configuration that `bus-watcher init openclaw` writes; each message comes when the last one is read."""
    made = tmp_path / "made" / "config.toml"
    for name in ("OPENCLAW_CONFIG_PATH", "OPENCLAW_STATE_DIR", "OPENCLAW_HOME", "OPENCLAW_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(openclaw.gateway.home))
    watcher_cli.bus_watcher.main(["init", "openclaw", "--config", str(made)], standalone_mode=False)
    defaults = made.read_text().partition("[defaults]\n")[2]
    tonys = len(openclaw.model.turns("tony"))
    took_s = []
    with watch(f"[defaults]\nmin_interval = 0\n{defaults}"):
        for number in range(3):
            before = len(openclaw.model.turns("mel"))
            posted = time.time()
            scene.boss.send("mel", f"word {number}, kept out of the pointer")
            until(lambda: len(openclaw.model.turns("mel")) > before, TURN_S, why=lambda: openclaw.gateway.log_text)  # noqa: B023
            turn = openclaw.model.turns("mel")[before]
            took_s.append(turn.at - posted)
            assert "You have 1 unread message on the message bus. Read: `EVENTLOG_URL=" in turn.text
            assert "eventlog inbox mel`" in turn.text
            assert f"word {number}" not in turn.text
            scene.at_rest("mel", deadline_s=TURN_S)
    print(f"from POST to the model's first request: {', '.join(f'{one:.2f} s' for one in took_s)}")
    assert any("word 2" in one.text for one in openclaw.model.seen), "the agent read its inbox"
    assert len(openclaw.model.turns("tony")) == tonys
    assert len(scene.events_of("mel", "wake.started")) == 3
    assert min(took_s) < TURN_WITHIN_S


def test_a_burst_of_thirty_messages_makes_one_or_two_turns(openclaw: OpenClawScene, scene: Scene, watch: Watch) -> None:
    before = len(openclaw.model.turns("tony"))
    with watch(openclaw.table("tony", min_interval=15)):
        for number in range(30):
            scene.boss.send("tony", f"burst {number}.")
        scene.at_rest("tony", deadline_s=TURN_S)
    turns = openclaw.model.turns("tony")[before:]
    print(f"30 messages made {len(turns)} turn(s)")
    assert 1 <= len(turns) <= 2
    read = "\n".join(one.text for one in openclaw.model.seen if one.model == "tony")
    assert [number for number in range(30) if f"burst {number}." not in read] == []
    assert not scene.events("dead_letter")


def test_one_turn_for_each_message_whose_reply_goes_back(openclaw: OpenClawScene, scene: Scene, watch: Watch) -> None:
    before = len(openclaw.model.turns("mel"))
    with watch(openclaw.table("mel", waker="openclaw-agent", reply="stdout")):
        sent = [scene.boss.send("mel", f"question {number}") for number in range(2)]
        scene.at_rest("mel", deadline_s=TURN_S)
    assert len(openclaw.model.turns("mel")) == before + 2
    replies = {reply["reply_to"]: reply["payload"] for reply in scene.boss.inbox("boss")["messages"]}
    assert list(replies) == sent
    for number, message_id in enumerate(sent):
        assert replies[message_id].startswith("Test double: ")
        assert f"question {number}" in replies[message_id]


def test_a_connection_cut_in_a_turn_leads_to_no_second_turn(
    openclaw: OpenClawScene, scene: Scene, watch: Watch
) -> None:
    before = len(openclaw.model.turns("mel"))
    table = {"waker": "openclaw-agent", "reply": "stdout", "max_attempts": 1}
    with Relay(openclaw.gateway.url) as relay, openclaw.model.holding() as release:
        with watch(openclaw.table("mel", url=relay.url, **table)):
            scene.boss.send("mel", "a long question")
            until(lambda: len(openclaw.model.turns("mel")) > before, TURN_S)
            relay.cut()
            until(lambda: relay.made == 2, TURN_S)
            release()
            scene.at_rest("mel", deadline_s=TURN_S)
    assert len(openclaw.model.turns("mel")) == before + 1
    (reply,) = scene.boss.inbox("boss")["messages"]
    assert "a long question" in reply["payload"]


def test_what_is_wrong_is_told_and_tried_again_as_it_deserves(
    openclaw: OpenClawScene, scene: Scene, watch: Watch, tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("not-the-token-of-this-gateway")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    unused.close()
    faults = {
        "hook": (openclaw.table("hook", agent_id="mel", token_file=str(tmp_path / "wrong")), "not_started", "401"),
        "turn": (
            openclaw.table("turn", waker="openclaw-agent", agent_id="mel", token_file=str(tmp_path / "wrong")),
            "not_started",
            "token mismatch",
        ),
        "nobody": (
            openclaw.table("nobody", max_attempts=1),
            "failed",
            '400 Bad Request: {"ok":false,"error":"unknown agentId',
        ),
        "noone": (
            openclaw.table("noone", waker="openclaw-agent", max_attempts=1),
            "failed",
            'unknown agent id "noone"',
        ),
        "down": (openclaw.table("down", agent_id="mel", url=closed), "not_started", "no connection"),
        "away": (
            openclaw.table("away", waker="openclaw-agent", agent_id="mel", url=closed),
            "not_started",
            "no gateway",
        ),
    }
    before = len(openclaw.model.turns())
    with watch("".join(table for table, _, _ in faults.values())) as watcher:
        for name in faults:
            scene.boss.send(name)
        for name, (_, outcome, said) in faults.items():
            shown = until(lambda: watcher.status().json["agents"][name]["last"], TURN_S)  # noqa: B023
            assert (shown["outcome"], said in shown["detail"]) == (outcome, True), (name, shown)
        # The message is not why: it is kept, however often the way in is broken.
        assert not [event for event in scene.events("dead_letter") if event["agent"] not in ("nobody", "noone")]
        until(lambda: len(scene.events("dead_letter")) == 2, TURN_S)
    assert len(openclaw.model.turns()) == before


def test_a_gateway_killed_after_its_200_still_leads_to_turns_by_new_wakes(
    openclaw: OpenClawScene, scene: Scene, watch: Watch
) -> None:
    """The pointer is lost with the gateway: the ack deadline brings it again. A run that was cut off fails and is tried
    again."""
    tables = openclaw.table("tony", ack_within=15) + openclaw.table("mel", waker="openclaw-agent", reply="stdout")
    with openclaw.model.holding() as release, watch(tables):
        before = len(openclaw.model.turns("mel"))
        scene.boss.send("mel", "a question")
        until(lambda: len(openclaw.model.turns("mel")) > before, TURN_S)
        scene.boss.send("tony", "a word")
        until(lambda: scene.events_of("tony", "wake.finished"), TURN_S)
        openclaw.gateway.kill()
        release()
        assert [event["outcome"] for event in scene.events_of("tony", "wake.finished")] == ["ok"]
        back = time.time()
        openclaw.gateway.start()
        scene.at_rest("tony", "mel", deadline_s=2 * TURN_S)
    finished = {
        name: [event["outcome"] for event in scene.events_of(name, "wake.finished")] for name in ("tony", "mel")
    }
    print(f"wakes around the kill: {finished}")
    for event in scene.events("wake.finished"):
        print(f"  {event['agent']} {event['outcome']} {event.get('detail') or ''}")
    assert len(finished["tony"]) >= 2
    assert any("unread message" in turn.text for turn in openclaw.model.turns("tony") if turn.at > back)
    assert (finished["mel"][0], finished["mel"][-1]) == ("failed", "ok")
    assert len(scene.boss.inbox("boss")["messages"]) == 1, "one reply"
