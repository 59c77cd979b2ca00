"""A log of 100,000 events: what one agent asks is answered from an index, and one flipped byte is found and named."""

import http.client
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.foreign import Foreign
from tests.support import BusProcess, run_eventlog

pytestmark = pytest.mark.e2e

FEW, MANY = 1_000, 100_000
#: Messages of one request.
BATCH = 1_000
#: Messages to mel, all among the first few; the others are to these.
TO_MEL = 10
OTHERS = [f"agent-{n}" for n in range(50)]
#: How often a request is timed; the shortest counts, for the machine may be busy with something else.
TIMES = 20
#: How much longer a request may take when there are a hundred times as many events. A scan takes twenty times as long.
RATIO_MAX = 4.0

ASKED = {
    "inbox": "/api/inbox?agent=mel&limit=1000",
    "replay": "/api/events?agent=mel&limit=1000",
    "replay of one kind": "/api/events?agent=mel&event=ack&limit=1000",
    "thread": "/api/events?thread={thread}&limit=1000",
    "agent": "/api/agents/mel",
}


@dataclass
class Scale:
    """A stopped bus with many events, and how long requests took with few of them and with many, seconds."""

    bus: BusProcess
    thread: int = 0
    to_mel: list[int] = field(default_factory=list)
    took_s: dict[int, dict[str, float]] = field(default_factory=dict)
    replayed: list[dict[str, Any]] = field(default_factory=list)
    head: int = 0


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scale]:
    with BusProcess(tmp_path_factory.mktemp("scale"), options=["--body-limit-bytes", "1000000"]) as bus:
        admin = Foreign(bus.url, bus.admin_token)
        made = Scale(bus)
        recipients = ["mel" if n % (FEW // TO_MEL) == 7 else OTHERS[n % len(OTHERS)] for n in range(FEW)]
        ids = append(admin, recipients)
        made.to_mel = [id_ for id_, name in zip(ids, recipients, strict=True) if name == "mel"]
        made.thread = made.to_mel[0]
        made.took_s[FEW] = measure(admin, made.thread)
        for _ in range((MANY - FEW) // BATCH):
            append(admin, [OTHERS[n % len(OTHERS)] for n in range(BATCH)])
        made.took_s[MANY] = measure(admin, made.thread)
        said = run_eventlog(
            "replay", "--agent", "mel", home=bus.home, env={"EVENTLOG_URL": bus.url, "EVENTLOG_TOKEN": admin.token}
        )
        made.replayed = [json.loads(line) for line in said.out.splitlines()]
        made.head = admin.call("GET", "/api/events?limit=1").body["head"]
        assert bus.stop() == 0
        yield made


def append(admin: Foreign, recipients: list[str]) -> list[int]:
    """One message to each, in one request; their ids."""
    messages = [{"to_agent": name, "payload": f"to {name}, number {n}"} for n, name in enumerate(recipients)]
    answer = admin.call("POST", "/api/send", messages)
    assert answer.status == 201, answer
    return [one["id"] for one in answer.body]


def measure(admin: Foreign, thread: int) -> dict[str, float]:
    """How long each request takes at best, seconds, and how long a follower needs to reach the head."""
    took_s = {name: best_of(lambda path=path: get(admin, path.format(thread=thread))) for name, path in ASKED.items()}  # type: ignore[misc]
    return took_s | {"follow": best_of(lambda: follow_to_head(admin))}


def best_of(work: Callable[[], object]) -> float:
    took_s = []
    for _ in range(TIMES):
        began = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - began)
    return min(took_s)


def get(admin: Foreign, path: str) -> None:
    answer = admin.call("GET", path)
    assert answer.status == 200, answer


def follow_to_head(admin: Foreign) -> None:
    """Follows mel from the beginning until told of the head."""
    connection = http.client.HTTPConnection(urlsplit(admin.url).netloc, timeout=30)
    with closing(connection):
        connection.request("GET", "/api/stream?agent=mel&after=0", headers={"Authorization": f"Bearer {admin.token}"})
        answer = connection.getresponse()
        last = f"id: {answer.headers['Eventlog-Head']}\n".encode()
        while answer.readline() != last:
            pass


@pytest.mark.parametrize("what", [*ASKED, "follow"])
def test_what_one_agent_asks_takes_no_longer_in_a_large_log(scale: Scale, what: str) -> None:
    few, many = (scale.took_s[count][what] for count in (FEW, MANY))
    assert many < RATIO_MAX * few, f"{few * 1000:.2f} ms with few events, {many * 1000:.2f} ms with many"


def test_a_replay_tells_all_that_is_of_the_agent(scale: Scale) -> None:
    assert scale.head >= MANY
    assert [event["id"] for event in scale.replayed] == scale.to_mel


class TestFlippedByte:
    """One byte of the file is another; it is put back afterwards."""

    @pytest.mark.parametrize("where", ["payload", "header", "index", "hash"])
    def test_verify_names_the_event(self, scale: Scale, where: str) -> None:
        path = scale.bus.data_dir / "eventlog.db"
        id_ = MANY // 2
        at = place_of(path, id_, where)
        flip(path, at)
        try:
            said = run_eventlog("verify", "--data-dir", path.parent, "--json", home=scale.bus.home)
        finally:
            flip(path, at)
        assert said.code == 1, said
        assert (said.json["ok"], said.json["id"]) == (False, id_), said

    def test_verify_finds_nothing_once_all_is_put_back(self, scale: Scale) -> None:
        said = run_eventlog("verify", "--data-dir", scale.bus.data_dir, "--json", home=scale.bus.home)
        assert (said.code, said.json["ok"], said.json["head"]) == (0, True, scale.head), said


def flip(path: Path, at: int) -> None:
    """The other value of one bit."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def place_of(path: Path, id_: int, where: str) -> int:
    """The offset in the file of a byte of this event's payload, header, hash, or entry in the index of agents."""
    with closing(sqlite3.connect(path)) as connection:
        agent, header, payload, hash_ = connection.execute(
            "SELECT agent, header, payload, hash FROM events WHERE id = ?", (id_,)
        ).fetchone()
    content = path.read_bytes()
    if where == "index":
        # The last byte of the id in its key in the b-tree: the agent, the id in three bytes, the kind.
        return content.index(agent.encode() + id_.to_bytes(3, "big") + b"message") + len(agent) + 2
    # The row in its b-tree page: the header stands before the hash, the payload after it.
    hashed = content.index(hash_)
    places: dict[str, int] = {
        "hash": hashed,
        "header": content.rindex(header.encode(), 0, hashed) + header.index('"time"') + 10,
        "payload": content.index(payload.encode(), hashed) + 2,
    }
    return places[where]
