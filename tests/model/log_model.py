"""LogInMemory: a whole log as plain lists, which says what every read of the real one must answer."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta

import msgspec

from eventlog.agents import EVERYONE, AgentState, Limits
from eventlog.engine import Append, Appended, Replayed, Stale
from eventlog.event import KINDS, RESERVED, Draft, Event, fold
from eventlog.reads import DeadLetter, TokenRow, WakeRow
from eventlog.wakes import Dead, Grant, Nothing, RanOut, Report, Span, decide
from tests.pure_log import PureLog

#: The scope of the keys of asks.
WAKE_SCOPE = "wake:"


class LogInMemory(PureLog):
    """Events in a list, keys in a dictionary, and every question answered by going through all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: dict[int, bytes | None] = {}
        self.keys: dict[tuple[str, str], tuple[bytes, tuple[int, ...]]] = {}

    # ---- appending --------------------------------------------------------------------------------------------------

    def put(self, request: Append) -> str:
        """What an engine must answer, by the name of its answer, having done the same."""
        key = request.key
        if key is not None and (key.scope, key.key) in self.keys:
            return Replayed.__name__
        for name, version in request.expect.items():
            if self.state(name).version != version:
                return Stale.__name__
        ids = tuple(self._draft(draft) for draft in request.drafts)
        if key is not None:
            self.keys[key.scope, key.key] = (key.request, ids)
        return Appended.__name__

    def _draft(self, draft: Draft) -> int:
        fields = dict(draft.fields)
        if draft.event == "message":
            fields.setdefault("thread_id", len(self.events) + 1)
        id_ = self.append(draft.event, **fields)
        self.payloads[id_] = (draft.payload or b"null") if draft.event == "message" else None
        if draft.event == "redacted":
            self.payloads[fields["message_id"]] = None
        return id_

    # ---- deciding ---------------------------------------------------------------------------------------------------

    def ask_for(self, agent: str, key: str, limits: Limits) -> tuple[str, int | str]:
        """What an ask must be told: ("granted" or "again", the wake's id), or ("nothing", why)."""
        decision = self._settled(agent, limits)
        wake = self.state(agent).in_flight
        used = self.keys.get((WAKE_SCOPE, key))
        if used is not None:
            same = wake is not None and wake.id == used[1][0]
            return ("again", used[1][0]) if same else ("nothing", "closed")
        if isinstance(decision, Nothing):
            return "nothing", decision.why
        id_ = self.grant(decision, limits, key, agent)
        self.keys[WAKE_SCOPE, key] = (hashlib.sha256(key.encode()).digest(), (id_,))
        return "granted", id_

    def sweep(self, agents: Collection[str]) -> None:
        """What the bus's own sweep must do, in this order."""
        for name in agents:
            self._settled(name, self.state(name).limits)

    def told(self, wake: int, report: Report) -> str:
        """What a report must be answered: the recorded outcome, or a code."""
        row = self.wake_row(wake)
        if row is None or row.key != report.key:
            return "unknown_wake"
        last = self.state(row.agent).wake
        latest = last is not None and last.id == wake
        if row.outcome == report.outcome and (row.reported or not latest):
            return report.outcome
        if row.reported:
            return "already_finished"
        if not latest:
            return "superseded"
        cursor = self.state(row.agent).cursor
        self.finish(wake, report.outcome, agent=row.agent)
        if report.outcome == "ok" and row.limits.ack == "exit" and row.through > cursor:
            self.append("ack", agent=row.agent, cursor=row.through)
        return report.outcome

    def _settled(self, agent: str, limits: Limits) -> Grant | Nothing:
        while True:
            state = self.state(agent)
            paused = self.state(EVERYONE).paused
            starts = self.starts(agent) if limits.max_wakes_per_hour else ()
            decision = decide(state, self.spans(agent), limits, self.now, self.clock, paused=paused, starts=starts)
            if isinstance(decision, RanOut):
                end = {"wake": decision.wake.id, "agent": state.name, "outcome": "interrupted", "by": "bus"}
                self.append("wake.finished", **end, detail="the lease ran out")
            elif isinstance(decision, Dead):
                self._bury(state, decision)
            else:
                return decision

    def _bury(self, state: AgentState, dead: Dead) -> None:
        letter = {"agent": state.name, "reason": "max_attempts", "attempts": dead.attempts}
        for message in self.alive(state.name, dead.first - 1, dead.last):
            self._draft(Draft("dead_letter", {"message_id": message.id, **letter}))
            if message.sender in RESERVED:
                continue
            told = message.fields
            row = [r for r in self.wake_rows() if r.agent == state.name and r.after < message.id <= r.through][-1]
            detail = f"the last wake ended {row.outcome}" + (f": {row.detail}" if row.detail else "")
            fields = {
                "from_agent": "bus",
                "to_agent": told["from_agent"],
                "type": "DEAD_LETTER",
                "thread_id": told["thread_id"],
                "reply_to": message.id,
                "hops": told["hops"] + 1,
                "cause": message.id,
            }
            payload = msgspec.json.encode({"message_id": message.id, **letter, "detail": detail})
            self._draft(Draft("message", fields, payload))

    # ---- what reads must answer -------------------------------------------------------------------------------------

    def select(self, wanted: Callable[[Event], bool]) -> list[int]:
        """The ids of the events that are wanted."""
        return [event.id for event in self.events if wanted(event)]

    def page(
        self,
        after: int,
        limit: int,
        before: int | None,
        agents: Collection[str] | None,
        events: Collection[str] | None,
        thread: int | None,
    ) -> list[int]:
        """The ids of a page."""

        def wanted(event: Event) -> bool:
            return (
                after < event.id < (before or len(self.events) + 1)
                and (agents is None or event.agent in agents)
                and event.event in (events or KINDS)
                and (thread is None or event.fields.get("thread_id") == thread)
            )

        return self.select(wanted)[:limit]

    def alive(self, agent: str, after: int, through: int | None = None) -> list[Event]:
        """The agent's messages that are neither dead nor expired."""
        wall = self.wall_text()
        gone = set(self.dead())
        return [
            event
            for event in self.events
            if event.event == "message"
            and event.agent == fold(agent)
            and after < event.id <= (through or len(self.events))
            and event.id not in gone
            and event.fields.get("expires", "~") > wall
        ]

    def wall_text(self, later_s: float = 0) -> str:
        """The wall clock as events show it."""
        return (self.wall() + timedelta(seconds=later_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def spans(self, agent: str = "mel") -> tuple[Span, ...]:
        """The agent's living messages past its cursor, put together where they lie in the same stretch."""
        state = self.state(agent)
        found: list[tuple[object, Span]] = []
        for message in self.alive(agent, state.cursor):
            i = message.id
            segment = next((s for s in state.segments if s.after < i <= s.through), None)
            stretch = segment or sum(s.through < i for s in state.segments)
            if segment is not None and segment.dead:
                continue
            if found and found[-1][0] == stretch:
                last = found[-1][1]
                found[-1] = (stretch, Span(segment, last.first, i, last.before))
            else:
                earlier = [m for m in self.messages(agent) if m < i]
                found.append((stretch, Span(segment, i, i, max([state.cursor, *earlier[-1:]]))))
        return tuple(span for _, span in found)

    def wake_rows(self) -> Iterator[WakeRow]:
        """Every wake, as the real log must tell of it."""
        for event in self.events:
            if event.event != "wake.started":
                continue
            told = event.fields
            limits = msgspec.convert(told, Limits)
            place = {name: told[name] for name in ("key", "agent", "after", "through", "attempt", "watcher", "node")}
            request = hashlib.sha256(told["key"].encode()).digest()
            row = WakeRow(id=event.id, **place, limits=limits, time=told["time"], request=request)
            ends = [e for e in self.events if e.event == "wake.finished" and e.fields["wake"] == event.id]
            if ends:
                end = next((e for e in ends if e.fields["by"] != "bus"), ends[0])
                row = msgspec.structs.replace(
                    row,
                    outcome=end.fields["outcome"],
                    reported=end.fields["by"] != "bus",
                    finished=end.id,
                    finished_time=end.fields["time"],
                    detail=end.fields.get("detail"),
                )
            yield row

    def wake_row(self, wake: int) -> WakeRow | None:
        """One wake."""
        return next((row for row in self.wake_rows() if row.id == wake), None)

    def letter(self, message: int) -> DeadLetter | None:
        """What is known of a dead message."""
        for event in self.events:
            if event.event == "dead_letter" and event.fields["message_id"] == message:
                told = event.fields
                ends = (
                    (e.id, e.fields["how"])
                    for e in self.events
                    if e.event == "dead_letter.closed" and e.fields["message_id"] == message
                )
                closed, how = next(ends, (None, None))
                return DeadLetter(message, event.id, told["agent"], told["reason"], told["attempts"], closed, how)
        return None

    def open_letters(self, agent: str | None = None) -> list[int]:
        """The dead messages that nobody has dealt with, in order."""
        letters = [letter for letter in map(self.letter, sorted(self.dead())) if letter is not None]
        return [one.message_id for one in letters if one.closed is None and agent in (None, one.agent)]

    def overdue(self) -> list[int]:
        """The messages whose deadline has passed and that nothing since has made good, by definition."""
        return [
            event.id
            for event in self.events
            if event.event == "message"
            and event.fields.get("deadline", "~") <= self.wall_text()
            and not any(self._made_good(event, later) for later in self.events[event.id :])
        ]

    @staticmethod
    def _made_good(message: Event, later: Event) -> bool:
        """Whether `later` is what the message's deadline awaits, or its dead letter."""
        told = later.fields
        if later.event == "ack":
            read = later.agent == message.agent and told["cursor"] >= message.id
            return read and message.fields["awaits"] == "read"
        if later.event == "message":
            between = (message.agent, message.sender)
            return told.get("reply_to") == message.id and (later.sender, later.agent) == between
        return later.event == "dead_letter" and told["message_id"] == message.id

    def token_rows(self) -> list[TokenRow]:
        """Every token whose name was not taken again, oldest first."""
        rows: dict[str, TokenRow] = {}
        for event in self.events:
            told = event.fields
            if event.event == "token.created":
                rows.pop(fold(told["name"]), None)
                place = (told["name"], told["kind"], tuple(told["agents"]), None, told["sha256"])
                rows[fold(told["name"])] = TokenRow(*place, created=event.id, revoked=None)
            elif event.event == "token.revoked":
                rows[fold(told["name"])] = msgspec.structs.replace(rows[fold(told["name"])], revoked=event.id)
        return list(rows.values())

    def known(self) -> list[str]:
        """The agents that a token, a watcher or a message of their own named, in order."""
        found = {event.sender for event in self.events if event.event == "message"} - RESERVED
        for event in self.events:
            if event.event == "token.created":
                found |= {fold(name) for name in event.fields["agents"]}
            elif event.event == "wake.started":
                found.add(event.agent)
        return sorted(found)
