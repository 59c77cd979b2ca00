"""The measuring itself: answers are told apart, ratios are taken round by round, and floors do the bus's work."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import build
from benchmarks.contenders.bare_sqlite import commits_per_s
from benchmarks.goals import GOALS
from benchmarks.load.wire import STAMP, Said, http, nats, resp
from benchmarks.plot import bars
from benchmarks.report import table
from benchmarks.sample import Sample, Samples
from benchmarks.workloads.base import Column
from tests.support import BusProcess

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("parse", "data", "said", "end"),
    [
        pytest.param(http, b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}more", Said.GOOD, 45, id="http"),
        pytest.param(http, b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", Said.GOOD, 33, id="http without a body"),
        pytest.param(http, b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{", Said.PARTIAL, 0, id="half a body"),
        pytest.param(http, b"HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n", Said.LATER, 37, id="refused"),
        pytest.param(http, b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", Said.BAD, 37, id="failed"),
        pytest.param(resp, b"$3\r\n1-0\r\n$3", Said.GOOD, 9, id="redis"),
        pytest.param(resp, b"$3\r\n1-", Said.PARTIAL, 0, id="half of redis"),
        pytest.param(resp, b"-ERR no\r\n", Said.BAD, 9, id="redis's error"),
        pytest.param(nats, b'MSG ack.0 1 9\r\n{"seq":1}\r\nPING\r\n', Said.GOOD, 26, id="jetstream"),
        pytest.param(nats, b'MSG ack.0 1 12\r\n{"error":{}}', Said.PARTIAL, 0, id="half of jetstream"),
        pytest.param(nats, b'MSG ack.0 1 12\r\n{"error":{}}\r\n', Said.BAD, 30, id="jetstream's error"),
        pytest.param(nats, b"PING\r\n", Said.NOISE, 6, id="a sign of life"),
    ],
)
def test_an_answer_is_told_from_half_a_one_and_good_from_bad(parse: object, data: bytes, said: Said, end: int) -> None:
    assert callable(parse)
    assert parse(data) == (said, end)


def samples() -> Samples:
    rates = {"bus": (10, 30, 20), "peer": (5, 10, 40)}
    return Samples(
        Sample("append", "1 sender", name, turn, {"per_s": rate})
        for name, of in rates.items()
        for turn, rate in enumerate(of)
    )


def test_a_ratio_is_the_median_of_each_round_against_its_own() -> None:
    ratio = samples().ratio("append", "1 sender", "bus", "peer", "per_s")
    assert ratio is not None
    assert (ratio.median, ratio.least, ratio.most) == (2, 0.5, 3)


def test_a_table_is_markdown_with_its_columns_in_line() -> None:
    lines = table(["who", "n"], [["bus", "1,000"], ["a peer", "7"]]).splitlines()
    assert lines == ["| who    |     n |", "| ------ | ----: |", "| bus    | 1,000 |", "| a peer |     7 |"]


def test_a_plot_shows_every_contender() -> None:
    plot = bars(samples(), "append", "Append", Column("per_s", "messages/s", 0, "more"), [], {"peer": "none"})
    assert plot.count("<rect") == 3
    assert "peer: none" in plot


def test_a_goal_that_was_not_measured_says_so() -> None:
    assert {goal.verdict(samples()) for goal in GOALS} == {("", "not measured")}


def test_bare_sqlite_stores_the_same_rows_in_either_way(tmp_path: Path) -> None:
    def stored(name: str, *, ours: bool) -> list[object]:
        assert commits_per_s(tmp_path / name, 10, 0.02, ours=ours) > 0
        with closing(sqlite3.connect(tmp_path / name / "bare.db")) as connection:
            shown = "id, agent, sender, thread_id, reply_to, expires, scope, key, part, request, payload"
            columns = f"{shown}, typeof(header), typeof(salt), typeof(digest), typeof(hash)"
            return connection.execute(f"SELECT {columns} FROM events WHERE id <= 10 ORDER BY id").fetchall()

    assert stored("plain", ours=False) == stored("ours", ours=True)


def test_a_built_log_is_kept_and_verifies(tmp_path: Path) -> None:
    said: list[str] = []
    log = build.built(tmp_path, 2500, said.append)
    assert build.built(tmp_path, 2500, said.append) == log
    assert len(said) == 1
    log.copy_to(tmp_path / "copy")
    command = [sys.executable, "-m", "eventlog.cli", "verify", "--data-dir", str(tmp_path / "copy"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["events"] == 2500


def test_the_load_generators_count_what_the_bus_takes_and_delivers(tmp_path: Path) -> None:
    load = ROOT / "benchmarks" / "load"
    assert load.is_dir()
    with BusProcess(tmp_path) as bus:
        port, key = bus.port, f"Authorization: Bearer {bus.admin_token}\r\n"
        body = json.dumps({"to_agent": "mel", "from_agent": "bench", "payload": STAMP.decode()})
        post = f"POST /api/send HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {len(body)}\r\n\r\n{body}"
        stream = f"GET /api/stream?after=earliest HTTP/1.1\r\nHost: localhost\r\n{key}\r\n"
        place = {"host": "127.0.0.1", "port": port}
        follow = generator("follow")
        assert follow.stdin is not None
        assert follow.stdout is not None
        follow.stdin.write(json.dumps({**place, "request": stream, "followers": 3, "ready": "id: "}) + "\n")
        follow.stdin.flush()
        assert follow.stdout.readline() == "ready\n"
        plan = {**place, "protocol": "http", "request": post, "connections": 2, "seconds": 0.3, "warm_s": 0.0}
        sent = json.loads(generator("send").communicate(json.dumps(plan), timeout=60)[0].splitlines()[-1])
        follow.stdin.write("count\n")
        follow.stdin.flush()
        counted = json.loads(follow.stdout.readline())
        follow.communicate(timeout=60)
    assert sent["bad"] == 0
    assert sent["sent"] > 0
    # What was under way when the time was up is delivered, too; of the last few the followers may not have read yet.
    assert 0 < counted["least"] <= sent["sent"] + 2
    assert counted["events"] >= 3 * counted["least"]
    assert 0 < counted["p50_ms"] <= counted["max_ms"]


def generator(kind: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"benchmarks.load.{kind}"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
