"""The simulation of a fleet: it repeats itself, loses nothing, and agrees with the formula where there is one."""

import random
import statistics

import pytest

from benchmarks import simulate
from benchmarks.sample import quantile
from benchmarks.simulate import APPEND_S, FSYNC_S, START_S, STEP_S, Bus, Fleet, Result

FLEET = Fleet("a small one", 20, 2, 200_000)
#: A message to an agent that sleeps: both its append and the ask are answered after a commit; then the command starts.
AT_ONCE_S = APPEND_S + FSYNC_S + STEP_S + FSYNC_S + START_S


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "COUNTED_MESSAGES", 5_000)
    monkeypatch.setattr(simulate, "COUNTED_S_MOST", 600.0)


def run(fleet: Fleet = FLEET, seed: int = 1) -> Result:
    return simulate.simulate(fleet, seed)


def appends_s(bus: Bus, rate: float, number: int) -> list[float]:
    """How long each of so many appends took that came at random, so many a second."""
    chance, now, took = random.Random(1), 0.0, []
    for _ in range(number):
        now += chance.expovariate(rate)
        took.append(bus.append(now, APPEND_S) - now)
    return took


def test_a_seed_gives_the_same_run_again_and_another_one_another() -> None:
    assert run() == run()
    assert run(seed=2) != run()


def test_every_message_is_covered_by_a_wake_and_every_counted_one_has_a_wait() -> None:
    result = run()
    assert result.messages == result.covered > 0
    assert result.counted_messages == len(result.turn_waits_s) > 0
    assert 0 < result.wakes < result.messages


def test_a_fleet_that_does_next_to_nothing_waits_for_nothing() -> None:
    # Three messages a minute, nearly none of them for an agent whose turn has not ended.
    waits = run(Fleet("idle", 2_000, 1_000, 20_000, turn_s=0.01)).turn_waits_s
    assert waits
    assert quantile(waits, 0.5) == pytest.approx(AT_ONCE_S, abs=1e-6)


def test_messages_to_an_agent_whose_turn_goes_on_share_the_next_wake() -> None:
    fast, slow = (run(Fleet("x", 20, 20, 200_000, turn_s=turn_s)) for turn_s in (0.01, 100))
    assert fast.covered / fast.wakes < 1.1
    assert slow.covered / slow.wakes > 10


def test_agents_share_the_places_of_their_machine() -> None:
    one, all_of_them = run(Fleet("x", 40, 1, 200_000)), run(Fleet("x", 40, 5, 200_000))
    # 40 agents and 8 places: a fifth of the wakes, and waits of several turns instead of the rest of one.
    assert one.counted_wakes < all_of_them.counted_wakes / 2
    assert quantile(one.turn_waits_s, 0.5) > 2 * quantile(all_of_them.turn_waits_s, 0.5)
    assert one.counted_wakes / one.counted_s <= simulate.MAX_WAKES / 30


def test_twice_the_load_never_waits_less() -> None:
    of_the_bus = [statistics.fmean(appends_s(Bus(), rate, 20_000)) for rate in (500, 1000, 2000, 4000, 8000)]
    assert of_the_bus == sorted(of_the_bus)
    loads = (5_000, 10_000, 20_000, 40_000)
    for_turns = [statistics.fmean(run(Fleet("x", 20, 20, load, turn_s=3)).turn_waits_s) for load in loads]
    assert for_turns == sorted(for_turns)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_without_a_disk_the_bus_is_a_queue_whose_mean_wait_is_known(load: float) -> None:
    waited = statistics.fmean(appends_s(Bus(fsync_s=0), load / APPEND_S, 200_000)) - APPEND_S
    assert waited == pytest.approx(load * APPEND_S / (2 * (1 - load)), rel=0.05)


def test_appends_that_wait_for_one_commit_share_the_next() -> None:
    bus = Bus(fsync_s=1.0)
    assert [bus.append(0.0, 0.25) for _ in range(3)] == [1.25, 2.25, 2.25]
    assert bus.append(2.5, 0.25) == 3.75


def test_deliveries_hold_up_the_next_append_but_not_their_own() -> None:
    bus = Bus(fsync_s=0.0)
    assert bus.append(0.0, 1.0, delivery_s=5.0) == 1.0
    assert bus.append(2.0, 1.0) == 7.0
    assert bus.busy_s == 7.0


def test_the_command_prints_a_table_for_the_fleet_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    simulate.main(["--agents", "5", "--machines", "2", "--messages-a-day", "9000", "--turn-s", "3", "--seed", "4"])
    heading, _, line = capsys.readouterr().out.strip().splitlines()
    assert [cell.strip() for cell in heading.strip("|").split("|")] == list(simulate.HEADINGS)
    assert [cell.strip() for cell in line.strip("|").split("|")][:4] == ["as asked", "5", "2", "9,000"]
