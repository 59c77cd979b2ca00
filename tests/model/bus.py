"""Bus: the real decisions over a log in memory, with asks, reports, the sweep, restarts and restores around them."""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from eventlog.agents import AgentState, Limits, Wake
from eventlog.event import Event
from eventlog.wakes import Dead, Grant, Nothing, RanOut
from tests.model.broken import log_without
from tests.model.harms import Ledger

AGENT = "mel"
#: How far a restored log's first own id is beyond any id of the log that it was restored from.
ID_GAP = 1000
#: More decisions than this in a row, without one that grants or gives nothing, never end.
DECISIONS_MAX = 100


@dataclass(frozen=True)
class Ask:
    """A watcher's ask."""

    key: str
    node: str


@dataclass(frozen=True)
class Report:
    """A watcher's report."""

    wake: int
    key: str
    outcome: str


@dataclass(frozen=True)
class Granted:
    """A wake for the asker; `number` is how many wakes there were with it."""

    wake: int
    number: int
    through: int
    age_s: float
    again: bool


@dataclass(frozen=True)
class Backup:
    """A copy of the log as it stood."""

    events: list[Event]
    states: dict[str, AgentState]
    left_out: int
    ledger: Ledger
    numbers: dict[int, int]


class Bus:
    """One bus. `without` are the rules that it does not keep; `quiet_s` is the least quiet time after a restore."""

    def __init__(self, limits: Limits, without: Collection[str], quiet_s: float) -> None:
        self.limits = limits
        self.without = without
        self.log = log_without(without)
        self.ledger = Ledger(AGENT)
        self.true_now = 0.0
        self._quiet_s = quiet_s
        #: Kept in the database: how long it was quiet since the restore, as last noted; None without a restore.
        self.quiet_kept_s: float | None = None
        #: Known to this process: the least quiet time and its beginning, and the longest lease that was asked for.
        self._keeps_quiet_s = 0.0
        self._quiet_since = 0.0
        self._asked_lease_s = 0.0
        self._told = 0
        self._numbers: dict[int, int] = {}
        self._backup: Backup | None = None

    @property
    def state(self) -> AgentState:
        """What the log says of the agent."""
        return self.log.state(AGENT)

    @property
    def messages(self) -> int:
        """How many messages the agent ever got."""
        return len(self.log.messages(AGENT))

    @property
    def over(self) -> bool:
        """Whether every message is read, dead or settled."""
        return all(fate.over for fate in self.ledger.fates.values())

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self, seconds: float) -> None:
        """Time goes on."""
        self.log.now += seconds
        self.true_now += seconds

    def jump(self, seconds: float) -> None:
        """The wall clock is set; without R15 the bus goes by it."""
        self.log.wall_ahead += timedelta(seconds=seconds)
        if "R15" in self.without:
            self.log.now += seconds

    # ---- what agents and people do ----------------------------------------------------------------------------------

    def message(self, *, sender: str = "tony", to: str = AGENT) -> None:
        """A message is sent."""
        self.log.message(to=to, sender=sender)
        self._tell()

    def ack(self, cursor: int) -> None:
        """The agent acks."""
        self.log.ack(cursor, AGENT)
        self._tell()

    def pause(self, paused: bool) -> None:
        """The agent's wakes are held back, or no longer."""
        if self.state.paused != paused:
            self.log.append("agent.paused" if paused else "agent.resumed", agent=AGENT, by="admin")
            self._tell()

    # ---- wakes ------------------------------------------------------------------------------------------------------

    def ask(self, ask: Ask) -> Granted | Nothing:
        """What eventlog.leases.Leases.ask does."""
        if self._keeps_quiet_s:
            self._asked_lease_s = max(self._asked_lease_s, self.limits.lease_s)
        decision = self._settled(self.limits)
        wake = self.state.in_flight
        used = self._by_key(ask.key)
        if used is not None:
            if wake is None or wake.id != used.id:
                return Nothing("closed", 0)
            return self._granted(wake, again=True)
        if "R5" in self.without and wake is not None and wake.node == ask.node:
            return self._granted(wake, again=True)
        if isinstance(decision, Nothing):
            return decision
        self.log.grant(decision, self.limits, ask.key, AGENT, ask.node)
        self._tell()
        wake = self.state.in_flight
        assert wake is not None
        return self._granted(wake, again=False)

    def report(self, report: Report) -> str:
        """What eventlog.leases.Leases.report does; it answers `ok` or a code."""
        started = next((e for e in self.log.events if e.event == "wake.started" and e.id == report.wake), None)
        if started is None or started.fields["key"] != report.key:
            return "unknown_wake"
        latest = self.state.wake is not None and self.state.wake.id == report.wake
        ends = [e.fields for e in self.log.events if e.event == "wake.finished" and e.fields["wake"] == report.wake]
        outcome = ends[-1]["outcome"] if ends else None
        reported = bool(ends) and ends[-1]["by"] != "bus"
        if outcome == report.outcome and (reported or not latest):
            return "ok"
        if reported and "R7" not in self.without:
            return self._refused(report, "already_finished")
        if not latest or ("R12" in self.without and outcome is not None):
            return self._refused(report, "superseded")
        self.log.finish(report.wake, report.outcome, agent=AGENT)
        self._tell()
        if report.outcome == "ok" and started.fields["ack"] == "exit":
            self.ack(started.fields["through"])
        return "ok"

    def sweep(self) -> None:
        """What eventlog.leases.Leases.sweep does: close what ran out, bury what is dead, grant nothing."""
        self._settled(self.state.limits)
        if self.quiet_kept_s is not None:
            longest_s = max(2 * self.quiet_kept_s, self._keeps_quiet_s, self.state.lease_max_s, self._asked_lease_s)
            kept_s = self.log.now - self._quiet_since
            self.quiet_kept_s = kept_s if kept_s > longest_s else self.quiet_kept_s

    def _settled(self, limits: Limits) -> Grant | Nothing:
        for _ in range(DECISIONS_MAX):
            quiet = {"quiet_s": self._keeps_quiet_s, "quiet_since": self._quiet_since}
            decision = self.log.decide(limits, AGENT, **quiet)
            if isinstance(decision, RanOut):
                self.log.finish(decision.wake.id, "interrupted", by="bus", agent=AGENT)
            elif isinstance(decision, Dead):
                for i in self.log.living(AGENT):
                    if decision.first <= i <= decision.last:
                        letter = {"message_id": i, "agent": AGENT, "attempts": decision.attempts}
                        self.log.append("dead_letter", reason="max_attempts", **letter)
            else:
                return decision
            self._tell()
        raise AssertionError("the decisions never end")

    def _granted(self, wake: Wake, *, again: bool) -> Granted:
        age_s = max(0.0, self.log.now - self.log.clock.at(self.state, wake.id)) if again else 0.0
        number = self._numbers.setdefault(wake.id, len(self._numbers) + 1)
        return Granted(wake.id, number, wake.through, age_s, again)

    def _by_key(self, key: str) -> Event | None:
        return next((e for e in self.log.events if e.event == "wake.started" and e.fields["key"] == key), None)

    def _refused(self, report: Report, code: str) -> str:
        self.ledger.refused(report.wake, report.outcome)
        return code

    def closed(self, wake: int) -> bool:
        """Whether this wake stands closed as interrupted: its token is refused then."""
        ends = [e.fields for e in self.log.events if e.event == "wake.finished" and e.fields["wake"] == wake]
        return bool(ends) and ends[-1]["outcome"] == "interrupted"

    # ---- faults -----------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """The process dies and another one begins."""
        self.log.restart()
        restored = self.quiet_kept_s is not None and "R16" not in self.without
        self._keeps_quiet_s = self._quiet_s if restored else 0
        self._quiet_since = self.log.clock.boot - (self.quiet_kept_s or 0)
        self._asked_lease_s = 0

    @property
    def has_backup(self) -> bool:
        """Whether a backup was taken."""
        return self._backup is not None

    def back_up(self) -> None:
        """Keep a copy of the log."""
        log = self.log
        ledger = copy.deepcopy(self.ledger)
        self._backup = Backup(list(log.events), dict(log.states), log.left_out, ledger, dict(self._numbers))

    def restore(self) -> None:
        """Serve the backup from here on, as another log."""
        assert self._backup is not None
        kept = self._backup
        ids = len(self.log.events) + self.log.left_out
        self.log.events, self.log.states = list(kept.events), dict(kept.states)
        self.log.left_out = kept.left_out if "R21a" in self.without else ids + ID_GAP - len(kept.events)
        self.ledger, self._numbers = copy.deepcopy(kept.ledger), dict(kept.numbers)
        self._told = len(self.log.events)
        self.quiet_kept_s = 0
        self.restart()
        wake = self.state.in_flight
        if wake is not None and "R16a" not in self.without:
            self.log.finish(wake.id, "interrupted", by="bus", agent=AGENT)
        self._tell()

    def _tell(self) -> None:
        """Let the ledger read what was appended. Raises Harm."""
        new, self._told = self.log.events[self._told :], len(self.log.events)
        for event in new:
            self.ledger.take(event, self.true_now)
