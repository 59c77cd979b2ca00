"""A short run of the fleet, and that its schedule and its verdict can be trusted. `make soak` makes the long one."""

import dataclasses
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.fault.net import needs_lab
from tests.soak import fleet
from tests.soak.schedule import Kind, schedule
from tests.soak.verdict import Evidence, Window, judge, table

SEED = int(os.environ.get("EVENTLOG_SEED", str(random.randrange(2**32))))
#: As much as about a minute takes, with what comes before and after.
MESSAGES, SECONDS = 900, 36.0


class TestSchedule:
    """A pure function of the seed."""

    def test_the_same_seed_gives_the_same_schedule(self) -> None:
        assert schedule(7, 600, 9) == schedule(7, 600, 9)
        assert schedule(7, 600, 9) != schedule(8, 600, 9)

    @pytest.mark.parametrize("seed", range(20))
    def test_every_kind_every_few_seconds_and_one_at_a_time_at_one_place(self, seed: int) -> None:
        faults = schedule(seed, 600, 9)
        assert len(faults) > 120
        assert {fault.kind for fault in schedule(seed, SECONDS, 9)} == set(Kind)
        ends: dict[int | None, float] = {}
        for fault in faults:
            assert fault.at_s >= ends.get(fault.node, 0.0)
            ends[fault.node] = fault.at_s + fault.lasts_s
            assert ends[fault.node] < 600

    def test_some_cuts_are_longer_than_either_side_takes_to_notice(self) -> None:
        lasts = [fault.lasts_s for fault in schedule(1, 600, 9) if fault.kind is Kind.CUT]
        assert min(lasts) < 3 < 10 < max(lasts)


def told(number: int, kind: str, second: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "event": kind, "time": f"2026-01-01T00:00:{second:02}+00:00", **fields}


#: A run in which mel was asked once, woken once, and answered.
GOOD = Evidence(
    events=[
        told(1, "message", 1, from_agent="boss", to_agent="mel", type="MESSAGE", key="k-1"),
        told(2, "wake.started", 2, agent="mel", key="w-1", after=0, through=1, attempt=1, max_attempts=10, ack="agent",
             ack_within_s=600),
        told(3, "message", 3, from_agent="mel", to_agent="boss", type="MESSAGE", key="re-1", reply_to=1),
        told(4, "ack", 3, agent="mel", cursor=1),
        told(5, "wake.finished", 4, wake=2, agent="mel", outcome="ok", by="watcher"),
    ],
    runs=[
        {"did": "start", "agent": "mel", "wake": 2, "at": 2.5, "alone": True},
        {"did": "read", "agent": "mel", "wake": 2, "at": 2.75, "ids": [1]},
        {"did": "end", "agent": "mel", "wake": 2, "at": 3.5},
    ],
    accepted=[1],
    followers={"f": [1, 3]},
    agents={"mel": 4},
    windows=[],
    wall_ahead_s=1767225600.0,
)  # fmt: skip


class TestVerdict:
    """What is wrong with a run comes out; what is not does not."""

    def test_a_good_run(self) -> None:
        verdict = judge(GOOD)
        assert verdict.good, table(verdict, {})
        assert (verdict.messages, verdict.read, verdict.answered, verdict.wakes) == (1, 1, 1, 1)
        assert (verdict.calm_s, verdict.during_s) == ([1.75], [])

    @pytest.mark.parametrize(("window", "during"), [(Window(1.5, 1.6, None), 1), (Window(1.5, 1.6, 4), 1),
                                                    (Window(1.5, 1.6, 3), 0), (Window(5, 6, None), 0)])  # fmt: skip
    def test_what_a_fault_may_have_delayed_is_counted_apart(self, window: Window, during: int) -> None:
        assert len(judge(dataclasses.replace(GOOD, windows=[window])).during_s) == during

    @pytest.mark.parametrize(
        ("change", "lost", "duplicated"),
        [
            ({"accepted": [1, 9]}, 1, 0),
            ({"runs": [run for run in GOOD.runs if run["did"] != "read"]}, 1, 0),
            ({"events": [event for event in GOOD.events if event["id"] != 3]}, 1, 1),
            ({"followers": {"f": [1]}}, 1, 0),
            ({"followers": {"f": [1, 1, 3]}}, 0, 1),
            ({"runs": [*GOOD.runs, GOOD.runs[0]]}, 0, 1),
            ({"events": [*GOOD.events, {**GOOD.events[2], "id": 6}], "followers": {"f": [1, 3, 6]}}, 0, 2),
        ],
    )
    def test_what_is_lost_or_duplicated_is_counted(self, change: dict[str, Any], lost: int, duplicated: int) -> None:
        verdict = judge(dataclasses.replace(GOOD, **change))
        assert (len(verdict.lost), len(verdict.duplicated), verdict.good) == (lost, duplicated, False)


@needs_lab
@pytest.mark.fault
@pytest.mark.timeout(420)
def test_a_minute_of_the_fleet(tmp_path: Path) -> None:
    verdict, shown = fleet.run(tmp_path, SEED, messages=MESSAGES, seconds=SECONDS)
    assert verdict.good, shown
    assert verdict.messages == MESSAGES
    assert verdict.calm_s
    assert verdict.during_s
