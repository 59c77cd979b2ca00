"""Presence knows which node serves whom while its streams last, and who was heard when."""

import time

import pytest

from eventlog import presence as presence_module
from eventlog.presence import Presence
from eventlog.seal import utc_now


def test_an_agent_is_watched_while_a_stream_of_a_watcher_lasts() -> None:
    presence = Presence()
    assert not presence.watched("mel")
    with presence.serving("w1", "n1", ("Mel", "ann")):
        assert presence.watched("MEL")
        assert presence.watched("ann")
        assert not presence.watched("bob")
    assert not presence.watched("mel")


def test_two_streams_of_one_node_serve_until_both_have_ended() -> None:
    presence = Presence()
    with presence.serving("w1", "n1", ("mel",)):
        with presence.serving("w1", "n1", ("mel", "ann")):
            pass
        assert presence.watched("mel")
        assert not presence.watched("ann")
        (one,) = presence.watchers("mel")
        assert (one.watcher, one.node, one.connected, one.agents) == ("w1", "n1", True, ("mel",))
    assert presence.watchers("mel") == ()


def test_two_nodes_with_one_watchers_name_are_two() -> None:
    presence = Presence()
    with presence.serving("w1", "n1", ("mel",)), presence.serving("W1", "n2", ("mel",)):
        assert [(one.watcher, one.node) for one in presence.watchers("mel")] == [("w1", "n1"), ("W1", "n2")]
    assert [one.connected for one in presence.watchers()] == [False, False]


def test_a_stream_that_breaks_serves_no_longer() -> None:
    presence = Presence()
    with pytest.raises(ConnectionError), presence.serving("w1", "n1", ("mel",)):
        raise ConnectionError
    assert not presence.watched("mel")
    (gone,) = presence.watchers()
    assert not gone.connected
    assert gone.last_seen


def test_an_agent_that_a_watcher_named_stays_known_after_it_left() -> None:
    presence = Presence()
    with presence.serving("w1", "n1", ("Mel",)):
        pass
    assert presence.knows("mel")
    assert presence.named() == {"mel": "Mel"}
    assert not presence.knows("ann")


def test_a_watcher_that_only_asks_is_heard_too() -> None:
    presence = Presence()
    presence.watcher_seen("w1", "n1")
    (heard,) = presence.watchers()
    assert (heard.watcher, heard.connected) == ("w1", False)


def test_an_agents_last_request_is_remembered() -> None:
    presence = Presence()
    assert presence.agent_last_seen("mel") is None
    presence.agent_seen("Mel")
    first = presence.agent_last_seen("mel")
    assert first is not None
    presence.agent_seen("mel")
    assert (presence.agent_last_seen("MEL") or "") >= first


def test_what_is_remembered_is_bounded_and_never_forgets_who_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "REMEMBERED_MAX", 3)
    presence = Presence()
    with presence.serving("w0", "n", ("mel",)):
        for n in range(1, 10):
            presence.watcher_seen(f"w{n}", "n")
            presence.agent_seen(f"a{n}")
        assert [one.watcher for one in presence.watchers()] == ["w0", "w8", "w9"]
        assert presence.watched("mel")
    assert [name for name in (f"a{n}" for n in range(1, 10)) if presence.agent_last_seen(name)] == ["a7", "a8", "a9"]


def test_an_agent_that_reads_a_stream_is_seen_until_the_last_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    presence = Presence()
    with presence.following(("Mel",)):
        with presence.following(("mel", "ann")):
            clock[0] += 10
        clock[0] += 10
        assert (presence.agent_last_seen("MEL"), presence.agent_last_seen("ann")) == (at(20), at(10))
    clock[0] += 10
    assert presence.agent_last_seen("mel") == at(20)


def at(seconds: float) -> str:
    return utc_now(1_800_000_000.0 + seconds)
