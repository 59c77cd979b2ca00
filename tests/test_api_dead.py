"""Dead letters and deadlines over HTTP and on the command line, against a real bus."""

from typing import Any

import pytest

from tests.e2e.foreign import Foreign
from tests.support import BusProcess, CommandLine

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def admin(shared_bus: BusProcess) -> Foreign:
    return Foreign(shared_bus.url, shared_bus.admin_token)


def dies(admin: Foreign, agent: str, payload: Any = "hello", said: str = "exit 1:\nno such model") -> int:
    """A message of boss that became a dead letter of the agent."""
    sent = admin.send(agent, payload, from_agent="boss", type="TASK")
    wake = admin.ask(f"key-{sent}", agent, max_attempts=1, ack_within_s=0).body["wake"]
    admin.report(wake["id"], f"key-{sent}", "ok", detail=said)
    assert admin.ask(f"bury-{sent}", agent, max_attempts=1, ack_within_s=0).body["why"] == "nothing_unread"
    return sent


def test_a_dead_letter_is_listed_shown_retried_once_and_then_closed(admin: Foreign) -> None:
    died = dies(admin, "ann", {"n": 1})
    page = admin.call("GET", "/api/dead?agent=ann").body
    assert ([one["message_id"] for one in page["dead"]], page["has_more"]) == ([died], False)
    assert "message" not in page["dead"][0]
    shown = admin.call("GET", f"/api/dead/{died}").body
    assert (shown["message"]["payload"], shown["message"]["receipt"]["status"]) == ({"n": 1}, "dead")
    assert shown["detail"] == "the last wake ended ok: exit 1:\nno such model"
    assert admin.call("GET", "/api/agents/ann").body["dead"] == 1

    first = admin.call("POST", f"/api/dead/{died}/retry")
    assert (first.status, first.body["status"], first.headers["Idempotent-Replayed"]) == (201, "accepted", None)
    again = admin.call("POST", f"/api/dead/{died}/retry")
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (200, first.body, "true")
    assert admin.call("POST", f"/api/dead/{died}/drop", {}).code == "already_closed"
    assert admin.call("GET", "/api/dead?agent=ann").body["dead"] == []
    (listed,) = admin.call("GET", "/api/dead?agent=ann&all=true").body["dead"]
    assert (listed["closed"]["how"], listed["closed"]["retry"]) == ("retried", first.body["id"])
    assert admin.call("GET", "/api/agents/ann").body["dead"] == 0


def test_a_drop_keeps_its_reason(admin: Foreign) -> None:
    died = dies(admin, "ben")
    dropped = admin.call("POST", f"/api/dead/{died}/drop", {"reason": "obsolete"}).body
    assert (dropped["closed"]["how"], dropped["closed"]["reason"]) == ("dropped", "obsolete")
    answer = admin.call("POST", f"/api/dead/{died}/drop", {"reason": "x" * 1001})
    assert (answer.status, answer.body["field"]) == (400, "reason")


def test_auditors_look_administrators_act_and_agents_do_neither(admin: Foreign) -> None:
    died = dies(admin, "cat")
    auditor, agent = admin.create_token("dead-auditor", "auditor"), admin.create_token("boss", "agent")
    for path in ("/api/dead", f"/api/dead/{died}"):
        assert auditor.call("GET", path).status == 200
        assert agent.call("GET", path).code == "forbidden"
    for client in (auditor, agent):
        assert client.call("POST", f"/api/dead/{died}/retry").code == "forbidden"
        assert client.call("POST", f"/api/dead/{died}/drop", {}).code == "forbidden"


@pytest.mark.parametrize("path", ["/api/dead/999999", "/api/dead/x", "/api/dead/1"])
def test_what_is_no_dead_letter_is_404(admin: Foreign, path: str) -> None:
    assert admin.call("GET", path).code == "not_found"
    assert admin.call("POST", f"{path}/retry").code == "not_found"


@pytest.mark.parametrize(("query", "field"), [("all=maybe", "all"), ("limit=0", "limit"), ("agent=*", "agent")])
def test_a_wrong_question_names_its_field(admin: Foreign, query: str, field: str) -> None:
    answer = admin.call("GET", f"/api/dead?{query}")
    assert (answer.status, answer.body["field"]) == (400, field)


# ---- deadlines ------------------------------------------------------------------------------------------------------


def kept(admin: Foreign, **fields: Any) -> dict[str, Any]:
    sent = admin.send("mel", **fields)
    body: dict[str, Any] = admin.call("GET", f"/api/messages/{sent}").body
    return body


def test_a_deadline_is_kept_in_utc_with_what_it_awaits(admin: Foreign) -> None:
    said = kept(admin, deadline="2099-01-01T01:00:00+02:00")
    assert (said["deadline"], said["awaits"]) == ("2098-12-31T23:00:00.000000Z", "read")
    assert kept(admin, deadline="2099-01-01T00:00:00Z", awaits="replied")["awaits"] == "replied"
    assert not {"deadline", "awaits"} & kept(admin).keys()


def test_times_from_now_are_counted_once_however_often_the_request_is_repeated(admin: Foreign) -> None:
    body = {"to_agent": "mel", "deadline_in": 60, "expires_in": 90.5, "from_agent": "relative", "key": "in-1"}
    first, again = (admin.call("POST", "/api/send", body) for _ in range(2))
    assert (first.status, again.status, again.body) == (201, 200, first.body)
    said = admin.call("GET", f"/api/messages/{first.body['id']}").body
    assert said["time"] < said["deadline"] < said["expires"]


def test_a_message_that_expired_wakes_nobody_and_is_shown_as_expired(admin: Foreign) -> None:
    sent = admin.send("ttl", from_agent="boss", expires_in=0.3)
    assert admin.ask("ttl-1", "ttl").body["wake"]["through"] == sent
    admin.report(admin.call("GET", "/api/agents/ttl").body["wake"]["id"], "ttl-1", "not_started")
    shown = admin.call("GET", f"/api/messages/{sent}?wait=read&timeout=20").body
    assert (shown["receipt"]["waited"], shown["receipt"]["expired"]) == ("expired", True)
    assert admin.ask("ttl-2", "ttl").body["why"] == "nothing_unread"
    assert admin.inbox("ttl")["messages"][0]["expired"] is True


def test_lists_and_arrays_have_deadlines_too(admin: Foreign) -> None:
    two = admin.call("POST", "/api/send", {"to_agent": ["ann", "ben"], "deadline_in": 3600, "payload": 1}).body
    array = admin.call("POST", "/api/send", [{"to_agent": "ann", "deadline_in": 3600}, {"to_agent": "ann"}]).body
    has = ["deadline" in admin.call("GET", f"/api/messages/{one['id']}").body for one in [*two, *array]]
    assert has == [True, True, True, False]


def test_the_pairs_routes_keep_such_fields_without_a_meaning(admin: Foreign) -> None:
    body = {"type": "TASK", "to_agent": "mel", "from_agent": "pair", "deadline_in": 1, "awaits": "x"}
    assert admin.call("POST", "/message", body).status == 200
    said = admin.inbox("mel", "&limit=1000")["messages"][-1]
    assert said["payload"] == {"deadline_in": 1, "awaits": "x"}
    assert "deadline" not in said


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": "2099-01-01T00:00:00Z", "deadline_in": 5}, "deadline_in"),
        ({"expires": "2099-01-01T00:00:00Z", "expires_in": 5}, "expires_in"),
        ({"deadline_in": 0}, "deadline_in"),
        ({"deadline_in": -1}, "deadline_in"),
        ({"deadline_in": "5"}, "deadline_in"),
        ({"deadline_in": 1e12}, "deadline_in"),
        ({"awaits": "read"}, "awaits"),
        ({"deadline_in": 5, "awaits": "woken"}, "awaits"),
    ],
)
def test_a_time_that_is_none_is_refused(admin: Foreign, fields: dict[str, Any], field: str) -> None:
    answer = admin.call("POST", "/api/send", {"to_agent": "mel", **fields})
    assert (answer.status, answer.code, answer.body["field"]) == (400, "bad_field", field)


def test_a_deadline_that_passed_is_told_to_its_sender(admin: Foreign) -> None:
    sent = admin.send("dan", from_agent="eve", deadline_in=0.1, awaits="replied")
    (told,) = admin.inbox("eve", "&wait=20")["messages"]
    assert (told["from_agent"], told["type"], told["reply_to"]) == ("bus", "DEADLINE", sent)
    assert told["payload"]["awaited"] == "replied"


# ---- the command line -----------------------------------------------------------------------------------------------


def test_the_command_line_lists_shows_retries_and_drops(admin: Foreign, eventlog: CommandLine) -> None:
    retried, dropped = dies(admin, "fay", "first"), dies(admin, "fay", "second")
    listed = eventlog("dead", "list", "--agent", "fay")
    assert [line.split()[0] for line in listed.out.splitlines()] == [str(retried), str(dropped)]
    assert "boss -> fay  TASK  max_attempts after 1 attempt  the last wake ended ok: exit 1:\\nno such" in listed.out
    assert "2 dead" in eventlog("agents").out
    assert "2 dead" in eventlog("why", "fay").out
    shown = eventlog("dead", "show", retried).out
    assert shown.endswith("the last wake ended ok: exit 1:\nno such model\n")
    assert "status: dead" in shown
    again = eventlog("dead", "retry", retried, "--json").json
    assert eventlog("dead", "retry", retried).out == (
        f"message {retried} was sent anew: id {again['id']}, thread {again['thread_id']}\n"
    )
    assert eventlog("dead", "drop", dropped, "--reason", "obsolete").out == f"message {dropped}: dropped\n"
    refused = eventlog("dead", "drop", retried)
    assert (refused.code, "[already_closed]" in refused.err) == (65, True)
    assert eventlog("dead", "list", "--agent", "fay").err == "eventlog: there is no dead letter\n"
    every = eventlog("dead", "list", "--agent", "fay", "--all").out
    assert f"[retried as {again['id']}]" in every
    assert "[dropped: obsolete]" in every
    more = eventlog("dead", "list", "--agent", "fay", "--all", "--limit", "1")
    assert f"--after {retried}" in more.err
    assert eventlog("dead", "show", 10**9).code == 1
    assert eventlog("replay", "--event", "dead_letter.closed", "--json").code == 0


def test_durations_and_times_are_understood_on_the_command_line(eventlog: CommandLine) -> None:
    said = eventlog("send", "gus", "x", "--deadline", "1.5h", "--awaits", "replied", "--expires", "2d", "--json").json
    shown = eventlog("show", said["id"], "--json").json
    assert shown["time"] < shown["deadline"] < shown["expires"]
    assert shown["awaits"] == "replied"
    said = eventlog("send", "gus", "x", "--deadline", "2099-01-01T00:00:00Z", "--json").json
    assert eventlog("show", said["id"], "--json").json["deadline"] == "2099-01-01T00:00:00.000000Z"
    refused = eventlog("send", "gus", "x", "--expires", "10 minutes")
    assert (refused.code, "--expires is 90s, 10m" in refused.err) == (2, True)
