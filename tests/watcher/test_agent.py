"""The agent's loop: what happens to a wake when answers, reports, shims or watchers are lost on the way."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from tests.watcher.conftest import Watch, Watching
from tests.watcher.fake_bus import LOST, PROXY_404, TRICKLE, FakeBus, Odd, problem
from tests.watcher.support import pids_in, until
from watcher import logs, processes
from watcher.folder import KeyFolder
from watcher.spawn import Shims
from watcher.state import FOLDERS, State
from watcher.wake import RETRY_S_MIN

pytestmark = pytest.mark.anyio

#: A command that notes each start and runs until it is let go.
HELD = "echo $$ >> pids; while [ ! -e go ]; do sleep 0.02; done"


def starts(tmp_path: Path) -> int:
    """How often the command of HELD was started."""
    return len(pids_in(tmp_path / "pids"))


async def held(bus: FakeBus, tmp_path: Path) -> None:
    """Post a message and wait until the command that it leads to runs."""
    await until(lambda: bus.asks)
    bus.post("mel")
    await until(lambda: starts(tmp_path) == 1)


async def ended_unseen(bus: FakeBus, watch: Watch, tmp_path: Path) -> Path:
    """A wake's folder that was held, and whose command ended while no watcher ran."""
    async with watch(HELD) as watching:
        await held(bus, tmp_path)
        (folder,) = watching.folders()
    (tmp_path / "go").touch()
    await until((folder / "outcome").exists)
    return folder


def damage(folder: Path, bus: FakeBus) -> None:
    """An outcome that says nothing; the lease has run out meanwhile."""
    (folder / "outcome").write_text("")
    next(iter(bus.wakes.values())).outcome = "interrupted"


async def gone(watching: Watching) -> None:
    """Wait until no granted folder is left."""
    await until(lambda: not watching.folders())


async def test_after_a_report_the_folder_goes_the_token_stays_and_it_asks_again(bus: FakeBus, watch: Watch) -> None:
    """R18."""
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: bus.outcomes)
        await gone(watching)
        await until(lambda: len(bus.asks) == 3)
        (wake,) = bus.wakes.values()
        assert watching.state.token_file(wake.id).exists()
        assert watching.agent().last["outcome"] == "ok"
        assert len(watching.state.folders("mel")) == 1, "a key is made ahead"


async def test_a_failed_wake_is_reported_with_its_reason(bus: FakeBus, watch: Watch) -> None:
    async with watch("[ $WAKE_ATTEMPT = 2 ] || { echo no credit >&2; exit 3; }"):
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: bus.outcomes == ["failed", "ok"])
    report = bus.reports[0][1]
    assert (report["exit_code"], report["detail"]) == (3, "exit code 3: no credit")
    assert report["duration_ms"] >= 0
    assert "stdout" not in report


async def test_a_lost_answer_is_asked_for_again_with_the_same_key(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    """R5: the bus knows the key, and gives the wake again."""
    async with watch("echo $$ >> pids"):
        await until(lambda: bus.asks)
        bus.odd["ask"].extend([LOST, LOST])
        bus.post("mel")
        await until(lambda: bus.outcomes == ["ok"])
    assert len({ask["key"] for ask in bus.asks[:4]}) == 1
    assert starts(tmp_path) == 1


async def test_a_key_that_was_asked_with_is_asked_with_after_a_restart(bus: FakeBus, watch: Watch) -> None:
    async with watch():
        await until(lambda: bus.asks)
        bus.odd["ask"].extend([LOST] + [problem(503, "unavailable")] * 1000)
        bus.post("mel")
        await until(lambda: bus.wakes)
    bus.odd["ask"].clear()
    async with watch():
        await until(lambda: bus.outcomes == ["ok"])
    assert len(bus.wakes) == 1


def aged(age_s: float) -> Odd:
    """A grant whose answer comes late, or again."""
    wake = {"id": 3, "key": "", "agent": "mel", "after": 0, "through": 1, "attempt": 1, "timeout_s": 300}
    return Odd(200, {"wake": {**wake, "token": "t", "messages": []}, "age_s": age_s})


async def grant_by(bus: FakeBus, watching: Watching, odd: Odd) -> None:
    """Have the next ask answered with this grant, for the key that the watcher will use."""
    (folder,) = watching.state.folders("mel")
    odd.body["wake"]["key"] = folder.key
    bus.odd["ask"].append(odd)
    bus.post("mel")


async def test_the_latest_start_counts_from_the_sending_of_the_ask_less_the_grants_age(
    bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1."""
    stored: list[dict[str, Any]] = []
    monkeypatch.setattr(KeyFolder, "store_grant", lambda _, grant: stored.append(grant))
    async with watch() as watching:
        await until(lambda: bus.asks)
        before = processes.boottime()
        bus.close_gate("ask")
        await grant_by(bus, watching, aged(12.0))
        await until(lambda: stored)
    assert before - 12 + 30 <= stored[0]["latest_start"] <= processes.boottime() - 12 + 30
    assert "t" not in stored[0]["wake"].values()


async def test_a_grant_that_comes_too_late_is_not_started(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    """R1, R2. The fake bus knows nothing of that grant, and so grants the message's wake after it."""
    woken = tmp_path / "woken"
    async with watch("echo $WAKE_ID >> woken") as watching:
        await until(lambda: bus.asks)
        late = aged(31.0)
        await grant_by(bus, watching, late)
        await until(lambda: bus.outcomes == ["ok"])
    assert bus.reports[0][0] == late.body["wake"]["id"]
    assert bus.reports[0][1]["outcome"] == "not_started"
    assert str(late.body["wake"]["id"]) not in woken.read_text().split()


async def test_while_a_wake_runs_its_agent_is_not_asked_for(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    """R21."""
    async with watch(HELD) as watching:
        await held(bus, tmp_path)
        asks = len(bus.asks)
        last = bus.post("mel")
        bus.cut()
        await until(lambda: watching.status.cursor == bus.head and watching.status.connection == "connected")
        assert last == bus.head
        assert len(bus.asks) == asks
        assert watching.agent().state == "running"
        (tmp_path / "go").touch()
        await until(lambda: bus.outcomes == ["ok", "ok"])


@pytest.mark.parametrize(
    "odd",
    [
        PROXY_404,
        problem(503, "unavailable"),
        problem(403, "forbidden"),
        Odd(200, [1]),
        Odd(200, {"status": "maintenance"}),
        Odd(200, {"id": 1_000_000, "agent": "mel", "outcome": "ok"}),
        LOST,
    ],
)
async def test_a_report_is_repeated_until_the_bus_has_taken_it(bus: FakeBus, watch: Watch, odd: Odd) -> None:
    """R13: a proxy's 404 is not the bus's, nor is its 200."""
    bus.odd["report"].extend([odd] * 3)
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: len(bus.reports) == 4)
        await gone(watching)
    assert bus.outcomes == ["ok"]


@pytest.mark.parametrize("route", ["ask", "report"])
async def test_an_answer_that_trickles_is_given_up_and_asked_for_again(
    bus: FakeBus, watch: Watch, tmp_path: Path, route: str
) -> None:
    """Each piece comes in time, and the whole never does."""
    async with watch("echo $$ >> pids", top="timeout = 0.3") as watching:
        await until(lambda: bus.asks)
        bus.odd[route].append(TRICKLE)
        bus.post("mel")
        await until(lambda: bus.trickles == 1)
        await until(lambda: bus.trickling == 0, "its connection is closed")
        await until(lambda: bus.outcomes == ["ok"])
        await gone(watching)
    asked = [ask["key"] for ask in bus.asks] if route == "ask" else [report["key"] for _, report in bus.reports]
    assert asked.count(next(iter(bus.wakes.values())).key) >= 2
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    "odd", [problem(404, "unknown_wake"), problem(409, "already_finished"), problem(409, "superseded")]
)
async def test_a_refused_report_ends_the_folder_too(bus: FakeBus, watch: Watch, odd: Odd) -> None:
    """R13."""
    bus.odd["report"].append(odd)
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: bus.reports)
        await gone(watching)
        asks = len(bus.asks)
        bus.post("mel")
        await until(lambda: len(bus.asks) > asks)
    assert len(bus.reports) == 1


async def test_a_report_that_the_bus_finds_fault_with_is_told_in_its_shortest_form(bus: FakeBus, watch: Watch) -> None:
    bus.odd["report"].append(problem(400, "bad_field"))
    async with watch("exit 3"):
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: len(bus.reports) >= 2)
    assert set(bus.reports[1][1]) == {"key", "outcome"}


async def test_a_closed_key_is_replaced(bus: FakeBus, watch: Watch) -> None:
    async with watch() as watching:
        (ask,) = await until(lambda: bus.asks)
        bus.odd["ask"].append(Odd(200, {"wake": None, "why": "closed", "retry_after_s": 300}))
        bus.post("mel")
        await until(lambda: bus.outcomes)
        assert not (watching.state.path / "agents" / "mel" / ask["key"]).exists()
    assert bus.asks[1]["key"] == ask["key"] != bus.asks[2]["key"]


@pytest.mark.parametrize(
    "odd",
    [
        problem(503, "unavailable"),
        problem(403, "forbidden"),
        problem(429, "too_many_requests"),
        PROXY_404,
        Odd(200, {"wake": {"id": "x"}}),
        Odd(200, {"nothing": "expected"}),
        Odd(201, {"wake": {**aged(0).body["wake"], "key": "of-another"}, "age_s": 0}),
    ],
)
async def test_an_ask_that_goes_wrong_is_repeated(bus: FakeBus, watch: Watch, odd: Odd) -> None:
    """R20: a watcher never stops asking for good."""
    bus.odd["ask"].extend([odd] * 4)
    bus.post("mel", told=False)
    async with watch():
        await until(lambda: bus.outcomes == ["ok"])
    assert len({ask["key"] for ask in bus.asks[:5]}) == 1


async def test_an_answer_without_a_sane_time_is_asked_again_in_time(bus: FakeBus, watch: Watch) -> None:
    bus.retry_after_s = -1
    began = monotonic()
    async with watch():
        await until(lambda: len(bus.asks) >= 3)
    assert monotonic() - began >= 2 * RETRY_S_MIN


async def test_a_grant_that_cannot_be_stored_is_given_back(
    bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, failures = KeyFolder.store_grant, iter([OSError(28, "No space left on device")])

    def store_or_fail(folder: KeyFolder, grant: dict[str, Any]) -> None:
        for error in failures:
            raise error
        store(folder, grant)

    monkeypatch.setattr(KeyFolder, "store_grant", store_or_fail)
    async with watch("echo $$ >> pids"):
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: bus.outcomes == ["not_started", "ok"])
    assert starts(tmp_path) == 1


async def test_a_wake_whose_home_folder_is_gone_is_given_back(
    bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was there when the configuration was read."""
    users = {"ghost": SimpleNamespace(pw_dir=str(tmp_path))}
    monkeypatch.setattr("pwd.getpwnam", users.__getitem__)
    async with watch("[agents.mel]\ncommand = ['true']\ncwd = '~ghost'") as watching:
        await until(lambda: bus.asks)
        ghost = users.pop("ghost")
        bus.post("mel")
        await until(lambda: bus.outcomes or watching.task.done())
        users["ghost"] = ghost
        await until(lambda: "ok" in bus.outcomes or watching.task.done())
    assert bus.outcomes[0] == "not_started"
    assert "~ghost is in a home folder that is not there" in bus.reports[0][1]["detail"]


async def test_a_folder_that_cannot_be_removed_is_reported_again_before_the_next_ask(
    bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """R21: an agent with a granted folder is not asked for, whatever the reason."""
    remove, failures = KeyFolder.remove, iter([OSError(5, "Input/output error")] * 2)

    def remove_or_fail(folder: KeyFolder) -> None:
        for error in failures:
            raise error
        remove(folder)

    monkeypatch.setattr(KeyFolder, "remove", remove_or_fail)
    async with watch("echo $$ >> pids") as watching:
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: len(bus.asks) == 3)
        await gone(watching)
    assert [report["outcome"] for _, report in bus.reports] == ["ok"] * 3
    assert starts(tmp_path) == 1


async def test_a_wake_outlives_its_watcher_and_is_reported_once(
    bus: FakeBus, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: the next watcher starts a shim again, which finds the lock taken, and ends well without an outcome."""
    fails = f"{HELD}; exit 3"
    async with watch(fails):
        await held(bus, tmp_path)
    assert bus.reports == []
    ended: list[int | None] = []
    run = Shims.run

    async def noted(shims: Shims, folder: Path) -> int | None:
        ended.append(await run(shims, folder))
        return ended[-1]

    monkeypatch.setattr(Shims, "run", noted)
    async with watch(fails):
        await until(lambda: len(bus.streams) == 2)
        await until(lambda: ended == [0])
        assert starts(tmp_path) == 1
        (tmp_path / "go").touch()
        await until(lambda: bus.outcomes)
    # A failed wake is followed by others, soon.
    assert set(bus.outcomes) == {"failed"}
    reported = [number for number, _ in bus.reports]
    assert len(reported) == len(set(reported))


async def test_a_wake_that_ended_without_its_watcher_is_reported_by_the_next(
    bus: FakeBus, watch: Watch, tmp_path: Path
) -> None:
    await ended_unseen(bus, watch, tmp_path)
    async with watch(HELD):
        await until(lambda: bus.outcomes == ["ok"])
    assert starts(tmp_path) == 1


async def test_an_agent_that_left_the_configuration_is_reported_for(bus: FakeBus, watch: Watch, tmp_path: Path) -> None:
    async with watch(HELD):
        await held(bus, tmp_path)
    async with watch("[agents.tony]\ncommand = ['true']") as watching:
        await until(lambda: "mel" in watching.status.agents)
        (tmp_path / "go").touch()
        await until(lambda: bus.outcomes == ["ok"])
        await until(lambda: "mel" not in watching.status.agents)
    assert starts(tmp_path) == 1


@pytest.mark.fault
async def test_a_killed_shim_is_reported_once_and_its_command_is_dead(
    bus: FakeBus, watch: Watch, tmp_path: Path
) -> None:
    """R6."""
    async with watch(HELD) as watching:
        await held(bus, tmp_path)
        (command,) = pids_in(tmp_path / "pids")
        parent = int(processes.stat_fields(str(command))[1])
        os.kill(parent, signal.SIGKILL)
        await until(lambda: bus.reports)
        assert processes.began_at(command) == 0
        (tmp_path / "go").touch()
        await until(lambda: bus.outcomes == ["interrupted", "ok"])
        await gone(watching)
    assert starts(tmp_path) == 2


async def test_an_unreadable_outcome_sets_the_folder_aside_and_the_agent_lives_on(
    bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damage(await ended_unseen(bus, watch, tmp_path), bus)
    async with watch(HELD) as watching:
        await until(lambda: bus.outcomes == ["interrupted", "ok"])
        assert len(list((watching.state.path / "broken").iterdir())) == 1


async def test_a_folder_that_someone_removed_does_not_stop_the_agent(
    bus: FakeBus, watch: Watch, tmp_path: Path
) -> None:
    async with watch(HELD) as watching:
        await held(bus, tmp_path)
        (folder,) = watching.folders()
        folder.rename(tmp_path / "moved")
        next(iter(bus.wakes.values())).outcome = "interrupted"
        (tmp_path / "go").touch()
        await until(lambda: bus.outcomes == ["interrupted", "ok"])
    assert starts(tmp_path) == 2


@pytest.mark.fault
async def test_a_folder_is_set_aside_though_nothing_is_there_to_take_it(
    bus: FakeBus, watch: Watch, tmp_path: Path
) -> None:
    """A person has looked at what was set aside before, and removed all of it."""
    async with watch(HELD) as watching:
        await held(bus, tmp_path)
        (folder,) = watching.folders()
        aside = watching.state.path / "broken"
        aside.rmdir()
        damage(folder, bus)
        (tmp_path / "go").touch()
        (command,) = pids_in(tmp_path / "pids")
        os.kill(int(processes.stat_fields(str(command))[1]), signal.SIGKILL)
        await until(lambda: bus.outcomes == ["interrupted", "ok"])
        assert [kept.name for kept in aside.iterdir()] == [f"mel-{folder.name}"]


async def test_a_folder_that_cannot_be_set_aside_is_tried_again_after_a_pause(
    bus: FakeBus, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_aside, failures = State.set_aside, iter([FileNotFoundError(2, "No such file or directory")] * 3)

    def set_aside_or_fail(state: State, folder: KeyFolder) -> Path:
        for error in failures:
            raise error
        return set_aside(state, folder)

    damage(await ended_unseen(bus, watch, tmp_path), bus)
    monkeypatch.setattr(State, "set_aside", set_aside_or_fail)
    with structlog.testing.capture_logs() as said:
        async with watch(HELD):
            await until(lambda: bus.outcomes == ["interrupted", "ok"])
    events = [line["event"] for line in said]
    assert [event for event in events if "failed; trying again" in event] == ["the wake failed; trying again"] * 3
    assert "a wake's folder is gone; its lease must run out" not in events


@pytest.mark.parametrize("name", FOLDERS)
async def test_a_part_of_the_state_folder_that_someone_removed_costs_no_agent_its_wakes(
    bus: FakeBus, watch: Watch, name: str
) -> None:
    async with watch() as watching:
        await until(lambda: bus.asks)
        bus.post("mel")
        await until(lambda: bus.outcomes == ["ok"])
        await until(lambda: watching.agent().why == "nothing_unread")
        shutil.rmtree(watching.state.path / name)
        bus.post("mel")
        await until(lambda: bus.outcomes == ["ok", "ok"])
        assert (watching.state.path / name).is_dir()


async def test_no_log_line_holds_a_secret(
    bus: FakeBus, watch: Watch, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    logs.configure("debug")
    request.addfinalizer(structlog.reset_defaults)
    async with watch("cat $EVENTLOG_TOKEN_FILE >&2; exit 1"):
        await until(lambda: bus.asks)
        bus.post("mel", "a confidential text")
        await until(lambda: len(bus.outcomes) >= 2)
        bus.tokens = set()
        bus.cut()
        await asyncio.sleep(0)
        await until(lambda: len(bus.reports) >= 2)
    said = "".join(capfd.readouterr())
    assert "granted" in said
    for secret in ("token-of-", "the-watchers-token", "a confidential text"):
        assert secret not in said
