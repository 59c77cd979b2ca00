"""What whoever runs the fleet does on the command line, against a real bus."""

from pathlib import Path

import pytest

from tests.support import BusProcess, CommandLine, run_eventlog


def test_agents_lists_what_is_known(eventlog: CommandLine) -> None:
    eventlog("send", "ann", "x", "--from", "bob")
    listed = eventlog("agents")
    assert any(line.split()[:3] == ["bob", "0", "unread"] for line in listed.out.splitlines())
    assert "bob" in {agent["name"] for agent in eventlog("agents", "--json").json["agents"]}


def test_why_says_what_comes_next_in_one_screen(eventlog: CommandLine) -> None:
    eventlog("send", "cat", "x", "--from", "cat")
    said = eventlog("why", "cat")
    assert said.out.startswith("cat: 1 unread after cursor 0")
    assert "never woken" in said.out
    assert "watcher: none serves this agent" in said.out
    assert len(said.out.splitlines()) < 24
    assert eventlog("why", "cat", "--json").json["unread"] == 1


def test_why_of_an_agent_that_nothing_named_exits_1(eventlog: CommandLine) -> None:
    assert eventlog("why", "never-named").code == 1


def test_a_paused_agent_says_so_until_it_is_resumed(eventlog: CommandLine) -> None:
    eventlog("send", "dan", "x", "--from", "dan")
    assert eventlog("pause", "dan").out == "dan: paused\n"
    assert "paused" in eventlog("why", "dan").out
    assert eventlog("resume", "dan", "--json").json["paused"] is False
    assert "paused" not in eventlog("why", "dan").out


def test_pausing_an_agent_that_nobody_knows_is_pointed_out(eventlog: CommandLine) -> None:
    eventlog("send", "dora", "x", "--from", "dora")
    assert eventlog("pause", "dora").err == ""
    assert "no agent doar is known yet" in eventlog("pause", "doar").err


def test_everyone_can_be_paused_at_once(eventlog: CommandLine) -> None:
    eventlog("send", "eve", "x", "--from", "eve")
    assert eventlog("pause", "*").code == 0
    assert "next: paused" in eventlog("why", "eve").out
    assert eventlog("resume", "*").code == 0
    assert "next: paused" not in eventlog("why", "eve").out


def test_a_token_is_printed_once_alone_and_works_until_it_is_revoked(
    eventlog: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = eventlog("token", "create", "fay", "--kind", "agent", "--agent", "fay", "--peer", "gus")
    assert made.err == ""
    token = made.out.strip()
    assert made.out == f"{token}\n"
    assert " " not in token
    listed = eventlog("token", "list")
    assert any(line.split() == ["fay", "agent", "fay", "peer", "gus"] for line in listed.out.splitlines())
    assert token not in listed.out

    with monkeypatch.context() as patch:
        patch.setenv("EVENTLOG_TOKEN", token)
        assert eventlog("send", "gus", "hi").code == 0
        assert eventlog("inbox", "gus").code == 77
        assert eventlog("token", "list").code == 77
    assert eventlog("token", "revoke", "fay").out == "fay: revoked\n"
    with monkeypatch.context() as patch:
        patch.setenv("EVENTLOG_TOKEN", token)
        assert eventlog("send", "gus", "hi").code == 77


def test_revoking_what_is_not_there_exits_1(eventlog: CommandLine) -> None:
    assert eventlog("token", "revoke", "never-made").code == 1


def test_an_anchor_is_the_newest_events_id_and_hash(eventlog: CommandLine) -> None:
    number = eventlog("send", "hal", "x", "--json").json["id"]
    anchor = eventlog("anchor").out.strip()
    assert anchor.split(":")[0] == str(number)
    assert len(anchor.split(":")[1]) == 64
    assert eventlog("anchor", "--json").json == {"id": number, "hash": anchor.split(":")[1]}


def test_an_empty_logs_anchor_is_the_chains_beginning(tmp_path: Path) -> None:
    with BusProcess(tmp_path / "bus") as fresh:
        done = run_eventlog("anchor", "--data-dir", fresh.data_dir, home=fresh.home)
    number, _, digest = done.out.strip().partition(":")
    assert (number, digest) == ("0", "0" * 64) or int(number) > 0


def test_a_backup_is_written_once(eventlog: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    assert eventlog("backup", file).out.startswith("backup of the log up to id ")
    assert file.stat().st_size > 0
    again = eventlog("backup", file)
    assert again.code != 0
    assert str(file) in again.err
