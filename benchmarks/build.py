"""Builds logs of many events through the engine's own append, and keeps them: what is built is a log like any other."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.contenders.base import TEXT
from eventlog.engine import Append, Appended
from eventlog.event import Draft
from eventlog.migrate import available
from eventlog.sqlite_engine import SqliteEngine
from eventlog.store import Store

AGENTS = tuple(f"agent-{n:02}" for n in range(100))
#: Messages of one thread, and of one transaction.
THREAD, GROUP = 20, 1000
_PAYLOAD = b'{"text":"' + TEXT.encode() + b'"}'


@dataclass(frozen=True)
class Built:
    """A log: where it is, how many events it has (all but `acks` are messages), and a thread and a cursor inside it.

    The cursor leaves more than a page of messages to the first of AGENTS where there are as many.
    """

    folder: str
    events: int
    acks: int
    thread: int
    cursor: int

    def copy_to(self, target: Path) -> None:
        """A copy to work on."""
        target.mkdir(parents=True)
        shutil.copy2(Path(self.folder) / "eventlog.db", target / "eventlog.db")


def built(cache: Path, events: int, say: Callable[[str], None]) -> Built:
    """The log of so many events: the one that is kept, or a new one."""
    made_of = TEXT + "".join(m.sha256 for m in available())
    folder = cache / "logs" / f"{events}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"
    told = folder / "built.json"
    if not told.exists():
        say(f"building a log of {events:,} events; it is kept for the next time")
        shutil.rmtree(folder, ignore_errors=True)
        acks = asyncio.run(_build(folder, events))
        middle = events // 2 // GROUP * GROUP
        one = Built(str(folder), events, acks, thread=middle + 1, cursor=middle)
        told.write_text(json.dumps(asdict(one)))
    return Built(**json.loads(told.read_text()))


async def _build(folder: Path, events: int) -> int:
    """Append them in groups; how many of them are acks."""
    acks = 0
    async with Store.open(folder) as store, SqliteEngine.open(store, group_max=GROUP) as engine:
        head = 0
        while head < events:
            drafts = tuple(_drafts(head, min(GROUP, events - head)))
            done = await engine.append(Append(drafts))
            assert isinstance(done, Appended)
            assert done.events[0].id == head + 1
            acks += sum(draft.event == "ack" for draft in drafts)
            head += len(drafts)
    return acks


def _drafts(head: int, count: int) -> Iterator[Draft]:
    """The events after `head`: messages in threads, and an ack as each group's last event."""
    for id_ in range(head + 1, head + count + 1):
        place = (id_ - 1) % THREAD
        thread = id_ - place
        if id_ % GROUP == 0:
            agent = AGENTS[id_ // GROUP % len(AGENTS)]
            yield Draft("ack", {"agent": agent, "cursor": id_ - GROUP // 2})
            continue
        fields = {
            "from_agent": AGENTS[(id_ + 1) % len(AGENTS)],
            "to_agent": AGENTS[id_ % len(AGENTS)],
            "type": "MESSAGE",
            "hops": place,
        }
        if place:
            fields |= {"thread_id": thread, "reply_to": id_ - 1, "cause": id_ - 1}
        yield Draft("message", fields, _PAYLOAD)
