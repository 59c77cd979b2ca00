"""Every clause of the wake protocol that shows over HTTP, asked by a client that is not the project's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.foreign import Answer, Foreign
from tests.support import BusProcess, until

pytestmark = pytest.mark.e2e

#: The shortest lease that can be had: only the time to stop is left of it.
SHORT: dict[str, Any] = {"timeout_s": 0.1, "start_within_s": 0.1}
SHORT_LEASE_S = 15.2


@pytest.fixture
def admin(bus: BusProcess) -> Foreign:
    return Foreign(bus.url, bus.admin_token)


@pytest.fixture
def watcher(admin: Foreign) -> Foreign:
    return admin.create_token("minipc-1", "watcher", "mel", "tony")


@pytest.fixture
def tony(admin: Foreign) -> Foreign:
    return admin.create_token("tony", "agent")


def granted(answer: Answer) -> dict[str, Any]:
    assert answer.status == 201, answer
    wake = answer.body["wake"]
    assert isinstance(wake, dict)
    return wake


def refused(answer: Answer) -> tuple[str, float]:
    assert answer.status == 200, answer
    assert answer.body["wake"] is None, answer
    assert isinstance(answer.body["retry_after_s"], int | float)
    assert 0 <= answer.body["retry_after_s"] <= 300
    return answer.body["why"], answer.body["retry_after_s"]


class TestAsking:
    def test_a_grant_says_everything_a_watcher_needs(self, tony: Foreign, watcher: Foreign) -> None:
        first, second = tony.send("mel", {"do": "this"}), tony.send("mel", "and that")
        answer = watcher.ask("k1", timeout_s=20)
        wake = granted(answer)
        assert answer.body["age_s"] == 0
        assert wake["id"] > second
        assert (wake["key"], wake["agent"], wake["after"], wake["through"], wake["attempt"]) == (
            "k1",
            "mel",
            0,
            second,
            1,
        )
        assert wake["timeout_s"] == 20
        assert [m["id"] for m in wake["messages"]] == [first, second]
        assert wake["messages"][0]["payload"] == {"do": "this"}
        assert wake["truncated"] is False
        assert wake["token"]

    def test_it_is_durable_before_the_answer(self, bus: BusProcess, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        bus.kill()
        bus.start()
        started = [e for e in watcher_events(bus) if e["event"] == "wake.started"]
        assert [(e["id"], e["key"]) for e in started] == [(wake["id"], "k1")]

    def test_a_lost_answer_is_given_again_to_its_key(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        again = watcher.ask("k1")
        assert again.status == 200
        assert again.body["age_s"] >= 0
        assert {**again.body["wake"], "token": ""} == {**wake, "token": ""}
        assert watcher.with_token(again.body["wake"]["token"]).inbox()["messages"]

    def test_also_after_the_bus_was_killed(self, bus: BusProcess, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        bus.kill()
        bus.start()
        again = watcher.ask("k1")
        assert (again.status, again.body["wake"]["id"]) == (200, wake["id"])
        assert refused(watcher.ask("k2"))[0] == "in_flight"

    def test_no_other_key_gets_it_whatever_node_it_says(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        granted(watcher.ask("k1", node="n1", watcher="minipc-1"))
        for node, name in (("n1", "minipc-1"), ("n2", "minipc-1"), ("n2", "minipc-2")):
            why, retry_after_s = refused(watcher.ask("k2", node=node, watcher=name))
            assert why == "in_flight", node
            assert 300 >= retry_after_s > 295

    def test_a_key_is_good_for_one_wake(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        watcher.report(wake["id"], "k1", "ok")
        tony.send("mel")
        assert refused(watcher.ask("k1"))[0] == "closed"
        assert granted(watcher.ask("k2"))["after"] == wake["through"]

    def test_a_key_of_another_agents_wake_is_closed(self, tony: Foreign, watcher: Foreign, admin: Foreign) -> None:
        tony.send("mel")
        admin.send("tony")
        granted(watcher.ask("k1"))
        assert refused(watcher.ask("k1", "tony"))[0] == "closed"

    def test_nothing_unread(self, watcher: Foreign) -> None:
        assert refused(watcher.ask("k1")) == ("nothing_unread", 300)

    def test_ack_pending_until_the_deadline(self, tony: Foreign, watcher: Foreign) -> None:
        covered = tony.send("mel")
        wake = granted(watcher.ask("k1"))
        assert watcher.report(wake["id"], "k1", "ok").status == 200
        why, retry_after_s = refused(watcher.ask("k2", ack_within_s=200))
        assert (why, 195 < retry_after_s <= 200) == ("ack_pending", True)
        new = tony.send("mel")
        wake = granted(watcher.ask("k3"))
        assert (wake["after"], wake["through"], wake["attempt"]) == (covered, new, 1)
        assert [m["id"] for m in wake["messages"]] == [new]

    def test_unread_past_its_deadline_it_is_covered_again(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1", ack_within_s=0.05))
        watcher.report(wake["id"], "k1", "ok")
        again = until(lambda: watcher.ask("k2", ack_within_s=0.05).body["wake"])
        assert again["attempt"] == 2

    def test_backoff_after_a_failure(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        watcher.report(wake["id"], "k1", "failed", exit_code=3, detail="no model")
        why, retry_after_s = refused(watcher.ask("k2"))
        assert (why, 8 < retry_after_s <= 11) == ("backoff", True)

    def test_paused_and_resumed(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        for name in ("mel", "*"):
            assert admin.call("POST", f"/api/agents/{name}/pause").status == 200
            assert refused(watcher.ask("k1"))[0] == "paused"
            assert admin.call("POST", f"/api/agents/{name}/resume").status == 200
        granted(watcher.ask("k1"))

    def test_min_interval(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        watcher.report(wake["id"], "k1", "ok")
        tony.send("mel")
        assert refused(watcher.ask("k2", min_interval_s=100))[0] == "min_interval"
        granted(watcher.ask("k2"))

    def test_each_message_by_itself_and_in_order(self, tony: Foreign, watcher: Foreign) -> None:
        sent = [tony.send("mel", n) for n in range(3)]
        seen = []
        for n in range(3):
            wake = granted(watcher.ask(f"k{n}", deliver="each", ack="exit"))
            seen += [m["id"] for m in wake["messages"]]
            watcher.report(wake["id"], f"k{n}", "ok")
        assert seen == sent

    def test_at_most_64_kib_of_messages_go_along(self, tony: Foreign, watcher: Foreign) -> None:
        for _ in range(4):
            tony.send("mel", "x" * 20_000)
        wake = granted(watcher.ask("k1"))
        assert (len(wake["messages"]), wake["truncated"]) == (3, True)

    def test_an_expired_message_wakes_nobody(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel", expires="2020-01-01T00:00:00Z")
        assert refused(watcher.ask("k1"))[0] == "nothing_unread"

    @pytest.mark.parametrize(
        ("limit", "value"),
        [
            ("timeout_s", 0),
            ("timeout_s", "300"),
            ("start_within_s", -1),
            ("ack", "maybe"),
            ("ack_within_s", -1),
            ("max_attempts", 0),
            ("max_attempts", 1.5),
            ("min_interval_s", -1),
            ("deliver", "some"),
        ],
    )
    def test_a_limit_out_of_range_is_named(self, watcher: Foreign, limit: str, value: Any) -> None:
        answer = watcher.ask("k1", **{limit: value})
        assert (answer.status, answer.code, answer.body["field"]) == (400, "bad_field", limit)

    def test_only_for_the_agents_of_the_token(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        for caller, status in ((watcher, 403), (tony, 403), (admin.with_token("wrong"), 401)):
            assert caller.ask("k1", "somebody").status == status


class TestReporting:
    def test_the_outcome_recorded_first_stands(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))["id"]
        assert watcher.report(wake, "k1", "not_started").status == 200
        assert watcher.report(wake, "k1", "not_started").status == 200
        answer = watcher.report(wake, "k1", "ok")
        assert (answer.status, answer.code) == (409, "already_finished")

    def test_a_wrong_id_or_key_is_an_unknown_wake(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))["id"]
        for answer in (watcher.report(wake, "k2", "ok"), watcher.report(wake + 1000, "k1", "ok")):
            assert (answer.status, answer.code) == (404, "unknown_wake")
        assert watcher.report(wake, "k1", "ok").status == 200

    def test_a_repeat_appends_nothing(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))["id"]
        for _ in range(3):
            watcher.report(wake, "k1", "ok", duration_ms=12, exit_code=0)
        finished = [e for e in admin.events("&event=*") if e["event"] == "wake.finished"]
        assert [(e["wake"], e["outcome"], e["duration_ms"], e["exit_code"]) for e in finished] == [(wake, "ok", 12, 0)]

    def test_exit_acknowledges_and_replies_with_the_ok(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        asked = tony.send("mel", "what is 2 + 2?")
        wake = granted(watcher.ask("k1", ack="exit"))["id"]
        assert watcher.report(wake, "k1", "ok", reply="4").status == 200
        assert watcher.report(wake, "k1", "ok", reply="4").status == 200
        (reply,) = tony.inbox("tony")["messages"]
        assert (reply["payload"], reply["from_agent"], reply["reply_to"], reply["thread_id"]) == (
            "4",
            "mel",
            asked,
            asked,
        )
        assert (reply["hops"], reply["cause"]) == (1, asked)
        assert admin.call("GET", f"/api/messages/{asked}").body["receipt"]["status"] == "replied"
        assert refused(watcher.ask("k2"))[0] == "nothing_unread"

    def test_a_failed_wake_acknowledges_nothing(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1", ack="exit"))["id"]
        watcher.report(wake, "k1", "failed", reply="never mind")
        assert len(admin.inbox()["messages"]) == 1
        assert tony.inbox("tony")["messages"] == []

    @pytest.mark.parametrize("outcome", ["OK", "", None, "running", 1])
    def test_an_unknown_outcome_is_refused(self, tony: Foreign, watcher: Foreign, outcome: Any) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))["id"]
        answer = watcher.report(wake, "k1", outcome)
        assert (answer.status, answer.code, answer.body["field"]) == (400, "bad_field", "outcome")


class TestToken:
    def test_it_speaks_for_its_agent_alone(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        asked = tony.send("mel")
        mel = admin.with_token(granted(watcher.ask("k1"))["token"])
        assert [m["id"] for m in mel.inbox()["messages"]] == [asked]
        reply = mel.send("tony", "done", reply_to=asked)
        assert tony.inbox("tony")["messages"][0]["id"] == reply
        assert mel.call("POST", "/api/inbox/ack", {"agent": "mel", "cursor": asked}).status == 200
        assert mel.call("GET", "/api/inbox?agent=tony").code == "forbidden"
        assert mel.call("POST", "/api/send", {"to_agent": "x", "payload": 1, "from_agent": "tony"}).code == "forbidden"
        assert mel.ask("k2").code == "forbidden"
        assert mel.call("GET", "/api/tokens").code == "forbidden"

    def test_it_outlives_the_wake_and_the_bus(self, bus: BusProcess, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        watcher.report(wake["id"], "k1", "ok")
        bus.kill()
        bus.start()
        assert watcher.with_token(wake["token"]).inbox()["messages"]

    def test_it_is_refused_while_the_wake_stands_as_interrupted(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        watcher.report(wake["id"], "k1", "interrupted")
        mel = watcher.with_token(wake["token"])
        assert mel.call("POST", "/api/inbox/ack", {"agent": "mel", "cursor": wake["through"]}).status == 401

    def test_it_ends(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1", **SHORT, ack_within_s=0.1))
        watcher.report(wake["id"], "k1", "ok")
        mel = watcher.with_token(wake["token"])
        assert mel.call("GET", "/api/inbox?agent=mel").status == 200
        until(lambda: mel.call("GET", "/api/inbox?agent=mel").status == 401, SHORT_LEASE_S + 10)

    def test_a_forged_one_is_refused(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        token = granted(watcher.ask("k1"))["token"]
        forged = token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")
        assert watcher.with_token(forged).call("GET", "/api/inbox?agent=mel").status == 401


class TestLease:
    def test_it_runs_out_and_a_late_report_still_counts(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1", **SHORT))
        until(lambda: closed_by_the_bus(admin), SHORT_LEASE_S + 10)
        assert refused(watcher.ask("k1"))[0] == "closed"
        assert refused(watcher.ask("k2"))[0] == "backoff"
        mel = admin.with_token(wake["token"])
        assert mel.call("GET", "/api/inbox?agent=mel").status == 401
        assert watcher.report(wake["id"], "k1", "ok").status == 200
        assert mel.call("GET", "/api/inbox?agent=mel").status == 200
        assert refused(watcher.ask("k2"))[0] == "ack_pending"
        answer = watcher.report(wake["id"], "k1", "interrupted")
        assert (answer.status, answer.code) == (409, "already_finished")

    def test_a_report_for_a_superseded_wake_is_refused(self, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        old = granted(watcher.ask("k1", **SHORT))
        new = until(lambda: watcher.ask("k2").body["wake"], SHORT_LEASE_S + 20)
        assert (new["after"], new["through"], new["attempt"]) == (old["after"], old["through"], 2)
        answer = watcher.report(old["id"], "k1", "ok")
        assert (answer.status, answer.code) == (409, "superseded")
        assert watcher.report(old["id"], "k1", "interrupted").status == 200, "the outcome that is already recorded"
        assert watcher.report(new["id"], "k2", "ok").status == 200

    def test_it_counts_anew_after_a_restart_of_the_bus(self, bus: BusProcess, tony: Foreign, watcher: Foreign) -> None:
        tony.send("mel")
        granted(watcher.ask("k1", timeout_s=50))
        bus.kill()
        bus.start()
        why, retry_after_s = refused(watcher.ask("k2"))
        assert (why, 90 < retry_after_s <= 95) == ("in_flight", True)


class TestDeadLetters:
    def test_the_sender_is_told_once(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        lost = tony.send("mel", "important")
        for n in range(2):
            wake = until(lambda n=n: watcher.ask(f"k{n}", max_attempts=2, ack_within_s=0.05).body["wake"])  # type: ignore[misc]
            assert wake["attempt"] == n + 1
            watcher.report(wake["id"], f"k{n}", "ok")
        (notice,) = until(lambda: tony.inbox("tony")["messages"])
        assert (notice["from_agent"], notice["type"], notice["reply_to"]) == ("bus", "DEAD_LETTER", lost)
        assert {k: notice["payload"][k] for k in ("message_id", "agent", "attempts")} == {
            "message_id": lost,
            "agent": "mel",
            "attempts": 2,
        }
        assert {"reason", "detail"} <= set(notice["payload"])
        (message,) = admin.inbox()["messages"]
        assert message["dead"] is True
        assert refused(watcher.ask("k9", max_attempts=2, ack_within_s=0.05))[0] == "nothing_unread"
        assert admin.call("GET", f"/api/messages/{lost}").body["receipt"]["status"] == "dead"
        assert len(tony.inbox("tony")["messages"]) == 1
        new = tony.send("mel")
        wake = granted(watcher.ask("k9", max_attempts=2))
        assert [m["id"] for m in wake["messages"]] == [new], "a dead message is not handed to a wake"

    def test_a_message_of_admin_gets_no_notice(self, admin: Foreign, watcher: Foreign) -> None:
        lost = admin.send("mel")
        wake = granted(watcher.ask("k1", max_attempts=1, ack_within_s=0.05))
        watcher.report(wake["id"], "k1", "ok")
        until(lambda: [e for e in admin.events("&event=dead_letter") if e["message_id"] == lost])
        assert admin.inbox("admin")["messages"] == []

    def test_an_ack_in_time_saves_what_it_covers(self, admin: Foreign, tony: Foreign, watcher: Foreign) -> None:
        first, second = tony.send("mel"), tony.send("mel")
        wake = granted(watcher.ask("k1", max_attempts=2))
        watcher.report(wake["id"], "k1", "ok")
        assert admin.call("POST", "/api/inbox/ack", {"agent": "mel", "cursor": first}).body == {
            "agent": "mel",
            "cursor": first,
        }
        again = until(lambda: watcher.ask("k2", max_attempts=2, ack_within_s=0.05).body["wake"])
        assert (again["after"], again["through"], again["attempt"]) == (first, second, 1)


class TestRestore:
    def test_a_restore_closes_wakes_and_keeps_quiet(
        self, bus: BusProcess, admin: Foreign, tony: Foreign, watcher: Foreign, tmp_path: Path
    ) -> None:
        tony.send("mel")
        wake = granted(watcher.ask("k1"))
        assert admin.call("POST", "/api/backup", {"path": str(tmp_path / "copy.db")}).status == 200
        bus.stop()
        restored = BusProcess(tmp_path / "restored")
        restored.data_dir.mkdir(parents=True)
        (tmp_path / "copy.db").rename(restored.data_dir / "eventlog.db")
        with restored:
            there = Foreign(restored.url, watcher.token)
            assert refused(there.ask("k1"))[0] == "closed"
            why, retry_after_s = refused(there.ask("k2"))
            assert (why, retry_after_s) == ("quiet", 300)
            assert there.with_token(wake["token"]).call("GET", "/api/inbox?agent=mel").status == 401
            assert there.report(wake["id"], "k1", "ok").status == 200, "work that ended ok counts even if told late"
            new = there.with_token(tony.token).send("mel")
            assert new > 10**15, "no id is ever used for two things"


def closed_by_the_bus(admin: Foreign) -> bool:
    """Whether the bus has closed a wake as interrupted."""
    return any(e["outcome"] == "interrupted" for e in admin.events("&event=wake.finished"))


def watcher_events(bus: BusProcess) -> list[dict[str, Any]]:
    """All events, seen with the administrator's token."""
    return Foreign(bus.url, bus.admin_token).events("&event=*")


@pytest.fixture(autouse=True)
def _bus_ends_well(bus: BusProcess) -> Iterator[None]:
    """Whatever a test asked, the bus has met nothing that it did not expect."""
    yield
    assert "Traceback" not in bus.log_text
