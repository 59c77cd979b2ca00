"""Views: the shapes of what the log answers, ready to be encoded as JSON; nothing here looks anything up."""

import msgspec


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a sender is told of one message. `hash` is hexadecimal: with the id it is an anchor of the chain.

    `known` tells whether a token, a watcher or a message of its own ever named the recipient; `nearest` are known names
    like it, where it is not. `watched` tells whether a watcher that serves the recipient is connected now.
    """

    id: int
    hash: str
    thread_id: int
    status: str
    known: bool
    watched: bool
    nearest: tuple[str, ...] = ()


class Sent(msgspec.Struct, frozen=True):
    """One answer for each message, in order. `replayed`: the key had made them before, and nothing was appended."""

    answers: tuple[Accepted, ...]
    replayed: bool


class InboxPage(msgspec.Struct, frozen=True):
    """Messages after a cursor, oldest first: flat objects, `"dead": true` or `"expired": true` where they are.

    `cursor` is the id of the last one shown, else the cursor that was asked for.
    """

    agent: str
    messages: tuple[msgspec.Raw, ...]
    cursor: int
    has_more: bool


class Covered(msgspec.Struct, frozen=True, omit_defaults=True):
    """One wake that covered a message; `outcome` and `finished`, its end's time, are left out while it is in flight."""

    wake: int
    time: str
    attempt: int
    watcher: str
    node: str
    outcome: str | None = None
    finished: str | None = None


class Passed(msgspec.Struct, frozen=True):
    """One event that took a message further."""

    id: int
    time: str


class Died(Passed, frozen=True):
    """The event that made a message a dead letter."""

    reason: str
    attempts: int


class Closed(Passed, frozen=True, omit_defaults=True):
    """How a dead letter was closed (`retried`, `dropped`), and by whom; `retry` is the new message, `reason` what was
    given for dropping it.
    """

    how: str
    by: str
    retry: int | None = None
    reason: str | None = None


class Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dead letter: the message's own words but its payload, why and when it died, and how its last wake ended
    (`detail`). Times are RFC 3339. `message` is the message itself with its receipt, where one letter is asked for.
    """

    message_id: int
    agent: str
    from_agent: str
    type: str
    thread_id: int
    sent: str
    died: str
    reason: str
    attempts: int
    detail: str
    closed: Closed | None = None
    message: msgspec.Raw | None = None


class LettersPage(msgspec.Struct, frozen=True):
    """Dead letters in the order of their messages; the next page begins at `cursor`."""

    dead: tuple[Letter, ...]
    cursor: int
    has_more: bool


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a message has come. `status` is the furthest of accepted, woken, running, dead, read, replied: a dead
    message stays in the inbox, and may be read all the same.

    `woken` is the first wake that covered it, but for such as did not start; `running` the one in flight that was
    handed it alone; `read` the ack that passed it, `replies` what its recipient answered. Where somebody waited,
    `waited` says why that is over: `reached`, `dead`, `expired`, `time_over`, or `stopping` (the bus; ask again).
    """

    status: str
    accepted: Passed
    woken: Passed | None = None
    running: Passed | None = None
    wakes: tuple[Covered, ...] = ()
    read: Passed | None = None
    replies: tuple[Passed, ...] = ()
    dead: Died | None = None
    expired: bool = False
    waited: str | None = None


class Stopped(msgspec.Struct, frozen=True):
    """What is stopped because it might have gone on for ever. `reason` is `max_hops`, `thread_messages` or
    `thread_wakes`: the thread takes no message; or `pair_rate` (two agents) or `cycle` (a ring, in order): nothing goes
    between these agents. Resuming `thread` lifts it. `limit` is what was passed, `time` (RFC 3339) when.
    """

    thread: int
    reason: str
    agents: tuple[str, ...]
    limit: int
    time: str


class Thread(msgspec.Struct, frozen=True, omit_defaults=True):
    """A conversation in order, and what is stopped of it."""

    thread_id: int
    messages: tuple[msgspec.Raw, ...]
    stopped: tuple[Stopped, ...] = ()


class EventsPage(msgspec.Struct, frozen=True):
    """Events strictly between the cursors, oldest first, each with its `hash`; the next page begins at `cursor`."""

    events: tuple[msgspec.Raw, ...]
    cursor: int
    has_more: bool
    head: int


class WakeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A wake as its agent's view shows it; `outcome` is left out while it is in flight. Times are RFC 3339."""

    id: int
    after: int
    through: int
    attempt: int
    watcher: str
    node: str
    time: str
    outcome: str | None = None
    finished: str | None = None
    exit_code: int | None = None
    detail: str | None = None


class NextWake(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the bus would do now: `due` (a wake would be granted), or why not and in how many seconds to look again."""

    due: bool
    why: str
    in_s: float = 0


class WatcherView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A watcher on one node: how many streams it holds now, and when it was last heard (RFC 3339)."""

    watcher: str
    node: str
    connected: bool
    last_seen: str
    agents: tuple[str, ...] = ()


class AgentView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One agent: its inbox, its wakes, who serves it. `dead` counts its open dead letters.

    `last_seen` is its last request, as far as this process knows.
    """

    name: str
    known: bool
    unread: int
    dead: int
    cursor: int
    paused: bool
    next_wake: NextWake
    watchers: tuple[WatcherView, ...]
    wake: WakeView | None = None
    last_wake: WakeView | None = None
    last_seen: str | None = None
    stopped: tuple[Stopped, ...] = ()
