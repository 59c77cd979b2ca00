"""Leases on a real log: what is decided becomes events, once, however many ask at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from eventlog.agents import Limits
from eventlog.covered import FIRST_MAX, MESSAGES_BYTES_MAX
from eventlog.engine import Append, Appended
from eventlog.errors import Conflict, NotFound
from eventlog.event import Draft
from eventlog.leases import DEAD_LETTERS_MAX, QUIET_S, Leases
from eventlog.maintenance import backup
from eventlog.sqlite_engine import SqliteEngine
from eventlog.stops import Stops
from eventlog.store import Store
from eventlog.wakes import Ask, Granted, Nothing, Report

pytestmark = pytest.mark.anyio

LIMITS = Limits(timeout_s=100, start_within_s=10, max_attempts=2)


class Bench:
    """A log, its leases, and a monotonic clock that moves only when told to."""

    def __init__(self, store: Store, engine: SqliteEngine) -> None:
        self.store = store
        self.engine = engine
        self.now = 5000.0
        self.leases = Leases(store, engine, Stops(store, engine), quiet_s=QUIET_S, monotonic=lambda: self.now)
        engine.listeners.append(self.leases.saw)

    async def message(self, to: str = "mel", sender: str = "tony", payload: bytes = b'"hi"') -> int:
        draft = Draft("message", {"from_agent": sender, "to_agent": to, "type": "MESSAGE", "hops": 0}, payload)
        return await self.append(draft)

    async def ack(self, cursor: int, agent: str = "mel") -> int:
        return await self.append(Draft("ack", {"agent": agent, "cursor": cursor}))

    async def append(self, *drafts: Draft) -> int:
        done = await self.engine.append(Append(drafts))
        assert isinstance(done, Appended)
        return done.events[-1].id

    async def ask(
        self, key: str, agent: str = "mel", limits: Limits = LIMITS, *, node: str = "n1"
    ) -> Granted | Nothing:
        return await self.leases.ask(Ask(agent, key, "w1", node, limits))

    async def granted(self, key: str, agent: str = "mel", limits: Limits = LIMITS) -> Granted:
        answer = await self.ask(key, agent, limits)
        assert isinstance(answer, Granted), answer
        return answer

    async def why(self, key: str, agent: str = "mel", limits: Limits = LIMITS) -> str:
        answer = await self.ask(key, agent, limits)
        assert isinstance(answer, Nothing), answer
        return answer.why

    async def kinds(self) -> list[str]:
        return [event.event for event in await self.store.page(0, 10_000)]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Bench]:
    async with Store.open(folder) as store, SqliteEngine.open(store) as engine:
        yield Bench(store, engine)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path / "data") as made:
        yield made


async def test_many_who_ask_at_once_get_one_wake(bench: Bench) -> None:
    await bench.message()
    answers = await asyncio.gather(*(bench.ask(f"k{n}") for n in range(20)))
    assert sum(isinstance(answer, Granted) for answer in answers) == 1
    assert (await bench.kinds()).count("wake.started") == 1


async def test_one_key_asked_with_many_times_at_once_is_one_wake(bench: Bench) -> None:
    await bench.message()
    answers = await asyncio.gather(*(bench.ask("k1") for _ in range(20)))
    assert {answer.wake.id for answer in answers if isinstance(answer, Granted)} == {2}
    assert sum(isinstance(a, Granted) and a.again for a in answers) == 19


async def test_two_deciders_on_one_log_get_one_wake(bench: Bench) -> None:
    """What holds between two nodes: the append's condition, not this process's lock, keeps a wake single."""
    other = Leases(bench.store, bench.engine, Stops(bench.store, bench.engine), monotonic=lambda: bench.now)
    bench.engine.listeners.append(other.saw)
    await bench.message()
    answers = await asyncio.gather(
        *(
            side.ask(Ask("mel", f"{n}-{i}", "w", "n", LIMITS))
            for n in range(5)
            for i, side in enumerate((bench.leases, other))
        )
    )
    assert sum(isinstance(answer, Granted) for answer in answers) == 1


RUNS = Limits(timeout_s=100, start_within_s=10, deliver="each", ack="exit")


async def test_a_run_is_given_its_message_whole_and_again_whatever_became_of_it(bench: Bench) -> None:
    large = b'"' + b"x" * (MESSAGES_BYTES_MAX + 1) + b'"'
    sent, _ = await bench.message(payload=large), await bench.message()
    first = await bench.granted("k1", limits=RUNS)
    assert ([m.id for m in first.messages], first.messages[0].payload, first.truncated) == ([sent], large, False)
    await bench.ack(sent)
    assert (await bench.granted("k1", limits=RUNS)).messages == first.messages


@pytest.mark.parametrize("waiting", [1, FIRST_MAX - 1, FIRST_MAX, FIRST_MAX + 1, 3 * FIRST_MAX])
async def test_a_wake_has_all_it_covers_however_many_were_read_first(bench: Bench, waiting: int) -> None:
    sent = [await bench.message() for _ in range(waiting)]
    granted = await bench.granted("k1")
    assert ([m.id for m in granted.messages], granted.wake.through, granted.truncated) == (sent, sent[-1], False)
    again = await bench.granted("k1")
    assert (again.messages, again.again) == (granted.messages, True)


async def test_a_run_for_what_the_bus_said_answers_nobody(bench: Bench) -> None:
    for sender in ("bus", "tony"):
        sent = await bench.message(sender=sender)
        run = await bench.granted(sender, limits=RUNS)
        await bench.leases.report(run.wake.id, Report(sender, "ok", reply=b'"done"'))
        page = await bench.store.page(0, 100, events=["message"])
        assert [e.fields["to_agent"] for e in page if e.fields.get("reply_to") == sent] == ["tony"] * (sender == "tony")
        assert (await bench.kinds())[-1] == "ack"


@pytest.mark.parametrize("node", ["n1", "n2"])
async def test_until_its_lease_runs_out_a_wake_keeps_every_other_from_its_agent(bench: Bench, node: str) -> None:
    """Whoever asks, the node that has it or another: that node may be cut off, and its command runs."""
    await bench.message()
    await bench.granted("k1")
    bench.now += LIMITS.lease_s - 0.001
    answer = await bench.ask("k2", node=node)
    assert isinstance(answer, Nothing), answer
    assert answer.why == "in_flight"
    assert (await bench.kinds()).count("wake.finished") == 0
    bench.now += 0.001
    answer = await bench.ask("k2", node=node)
    assert isinstance(answer, Nothing), answer
    assert answer.why == "backoff", "only now it is over, and it failed"
    assert (await bench.kinds())[-1] == "wake.finished"


async def test_age_counts_from_the_grant(bench: Bench) -> None:
    await bench.message()
    assert (await bench.granted("k1")).age_s == 0
    bench.now += 7.5
    again = await bench.granted("k1")
    assert (again.again, again.age_s) == (True, 7.5)


async def test_a_key_is_of_no_use_once_its_lease_ran_out(bench: Bench) -> None:
    await bench.message()
    await bench.granted("k1")
    bench.now += LIMITS.lease_s
    assert await bench.why("k1") == "closed"
    assert (await bench.kinds())[-1] == "wake.finished"


async def test_the_sweep_closes_what_ran_out_without_anyone_asking(bench: Bench) -> None:
    await bench.message()
    await bench.granted("k1")
    bench.now += LIMITS.lease_s - 0.001
    await bench.leases.sweep()
    assert (await bench.kinds())[-1] == "wake.started"
    bench.now += 0.001
    await bench.leases.sweep()
    assert (await bench.kinds())[-1] == "wake.finished"


async def test_the_sweep_buries_by_the_last_limits(bench: Bench) -> None:
    await bench.message()
    for n in range(2):
        granted = await bench.granted(f"k{n}")
        await bench.leases.report(granted.wake.id, Report(f"k{n}", "ok"))
        bench.now += LIMITS.ack_within_s
    await bench.leases.sweep()
    assert (await bench.kinds())[-2:] == ["dead_letter", "message"]
    await bench.leases.sweep()
    assert (await bench.kinds()).count("dead_letter") == 1


async def test_many_dead_letters_take_several_transactions_and_each_is_told(bench: Bench) -> None:
    count = DEAD_LETTERS_MAX + 50
    limits = Limits(max_attempts=1, ack_within_s=1)
    for _ in range(count):
        await bench.message()
    granted = await bench.granted("k1", limits=limits)
    await bench.leases.report(granted.wake.id, Report("k1", "ok"))
    bench.now += 1
    assert await bench.why("k2", limits=limits) == "nothing_unread"
    kinds = await bench.kinds()
    assert kinds.count("dead_letter") == count
    assert kinds.count("message") == 2 * count
    assert len(bench.store.agent("mel").segments) == 1


async def test_an_unknown_wake_and_a_wrong_key(bench: Bench) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    for wake_id, key in ((granted.wake.id, "k2"), (1, "k1"), (99, "k1")):
        with pytest.raises(NotFound) as caught:
            await bench.leases.report(wake_id, Report(key, "ok"))
        assert caught.value.code == "unknown_wake"


async def test_reports_race_and_the_first_stands(bench: Bench) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    outcomes = ["ok", "failed", "timeout", "ok", "failed"]
    answers = await asyncio.gather(
        *(bench.leases.report(granted.wake.id, Report("k1", outcome)) for outcome in outcomes), return_exceptions=True
    )
    recorded = [a.outcome for a in answers if not isinstance(a, BaseException)]
    refused = [a.code for a in answers if isinstance(a, Conflict)]
    assert len(set(recorded)) == 1
    assert recorded == [o for o in outcomes if o == recorded[0]]
    assert refused == ["already_finished"] * (len(outcomes) - len(recorded))
    assert (await bench.kinds()).count("wake.finished") == 1


async def test_an_interruption_that_was_reported_stands_too(bench: Bench) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    bench.now += LIMITS.lease_s
    await bench.leases.sweep()
    await bench.leases.report(granted.wake.id, Report("k1", "interrupted"))
    with pytest.raises(Conflict) as caught:
        await bench.leases.report(granted.wake.id, Report("k1", "ok"))
    assert caught.value.code == "already_finished"


@pytest.mark.parametrize("ack", ["agent", "none", "exit"])
async def test_an_ok_acknowledges_nothing_unless_the_exit_code_is_the_ack(bench: Bench, ack: str) -> None:
    last = await bench.message()
    limits = msgspec.structs.replace(LIMITS, ack=ack)
    wake = (await bench.granted("k1", limits=limits)).wake
    await bench.leases.report(wake.id, Report("k1", "ok", exit_code=0))
    assert bench.store.agent("mel").cursor == (last if ack == "exit" else 0)
    bench.now += limits.ack_within_s
    assert isinstance(await bench.ask("k2", limits=limits), Granted) == (ack == "agent")


async def test_a_report_of_a_wake_that_a_newer_one_followed_is_refused_and_changes_nothing(bench: Bench) -> None:
    await bench.message()
    first = (await bench.granted("k1")).wake.id
    bench.now += LIMITS.lease_s
    await bench.why("k1")
    bench.now += 20
    await bench.granted("k2")
    before = await bench.kinds()
    for outcome in ("ok", "failed", "not_started"):
        with pytest.raises(Conflict) as refused:
            await bench.leases.report(first, Report("k1", outcome))
        assert refused.value.code == "superseded"
    assert await bench.kinds() == before


async def test_a_late_not_started_gives_the_attempt_back(bench: Bench) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    bench.now += LIMITS.lease_s
    await bench.leases.sweep()
    await bench.leases.report(granted.wake.id, Report("k1", "not_started"))
    bench.now += 60
    assert (await bench.granted("k2")).wake.attempt == 1


async def test_cause_is_what_the_latest_wake_covered_while_it_can_still_be_its_doing(bench: Bench) -> None:
    assert bench.leases.cause("mel") is None
    covered = await bench.message()
    granted = await bench.granted("k1")
    assert bench.leases.cause("mel") == covered
    await bench.leases.report(granted.wake.id, Report("k1", "ok"))
    assert bench.leases.cause("MEL") == covered
    bench.now += LIMITS.ack_within_s
    assert bench.leases.cause("mel") is None


async def test_cause_ends_with_a_wake_that_failed(bench: Bench) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    await bench.leases.report(granted.wake.id, Report("k1", "failed"))
    assert bench.leases.cause("mel") is None


async def test_a_wakes_token_ends_after_lease_and_four_deadlines(bench: Bench) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    bench.now += LIMITS.lease_s + 4 * LIMITS.ack_within_s - 0.5
    assert await bench.leases.token_agent(granted.wake.id) == "mel"
    bench.now += 0.5
    assert await bench.leases.token_agent(granted.wake.id) is None


async def test_after_a_restore_wakes_are_closed_and_nothing_is_granted_until_it_has_been_quiet(
    bench: Bench, tmp_path: Path
) -> None:
    await bench.message()
    granted = await bench.granted("k1")
    (tmp_path / "copy").mkdir()
    await backup(bench.store, tmp_path / "copy" / "eventlog.db")
    async with opened(tmp_path / "copy") as restored:
        assert restored.store.agent("mel").in_flight is None
        assert await restored.leases.token_agent(granted.wake.id) is None
        assert await restored.why("k2") == "quiet"
        restored.now += QUIET_S - 1
        await restored.leases.sweep()
        assert restored.store.quiet_kept_s == 0
        assert await restored.why("k2") == "quiet"
        restored.now += 1.5
        assert (await restored.granted("k2")).wake.id > 10**15
        await restored.leases.sweep()
        assert restored.store.quiet_kept_s == QUIET_S + 0.5
    async with opened(tmp_path / "copy") as again:
        assert await again.why("k3") == "in_flight", "quiet only once"


async def test_a_lease_longer_than_the_quiet_time_so_far_is_waited_for_after_a_restart_too(
    bench: Bench, tmp_path: Path
) -> None:
    await bench.message()
    (tmp_path / "copy").mkdir()
    await backup(bench.store, tmp_path / "copy" / "eventlog.db")
    async with opened(tmp_path / "copy") as restored:
        restored.now += QUIET_S + 1
        await restored.leases.sweep()
    async with opened(tmp_path / "copy") as again:
        long = Limits(timeout_s=3600)
        assert await again.why("k1", limits=long) == "quiet"
        again.now += long.lease_s - QUIET_S - 2
        assert await again.why("k1", limits=long) == "quiet"
        again.now += 2
        await again.granted("k1", limits=long)


async def test_quiet_counts_anew_when_the_bus_restarts_meanwhile(bench: Bench, tmp_path: Path) -> None:
    await bench.message()
    (tmp_path / "copy").mkdir()
    await backup(bench.store, tmp_path / "copy" / "eventlog.db")
    for _ in range(2):
        async with opened(tmp_path / "copy") as restored:
            restored.now += QUIET_S - 1
            await restored.leases.sweep()
            assert await restored.why("k1") == "quiet"
