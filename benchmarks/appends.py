"""Durable appends a second: the bus over HTTP with 1 and 64 senders, beside bare sqlite3 with the same commits."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

#: How long each measurement takes, seconds.
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
SENDERS = (1, 64)
PAYLOAD = {"text": "x" * 200}
ROW = """
CREATE TABLE events (id INTEGER PRIMARY KEY, agent TEXT, sender TEXT, body BLOB, hash BLOB) STRICT;
CREATE INDEX by_agent ON events (agent, id);
CREATE INDEX by_sender ON events (sender, id);
"""


def main() -> int:
    """Measure, print the table, exit 0."""
    with tempfile.TemporaryDirectory(prefix="eventlog-bench-") as folder:
        print(f"{SECONDS:g} s each, every append durable before its answer")
        print("senders  bus, appends/s   p50 ms   p99 ms  bare sqlite3, rows/s   ratio")
        bus, url = start_bus(Path(folder))
        try:
            token = (Path(folder) / "bus" / "admin.token").read_text().strip()
            for senders in SENDERS:
                waits = asyncio.run(send_all(url, token, senders))
                rate = len(waits) / SECONDS
                bare = bare_sqlite(Path(folder) / f"bare-{senders}.db", senders)
                waits.sort()
                p50, p99 = (1000 * waits[int(len(waits) * part)] for part in (0.5, 0.99))
                print(f"{senders:>7}  {rate:>14,.0f}  {p50:>7.2f}  {p99:>7.2f}  {bare:>20,.0f}  {rate / bare:>6.2f}")
        finally:
            bus.send_signal(signal.SIGTERM)
            bus.wait(15)
    return 0


def start_bus(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A bus on a free port, and its address."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EVENTLOG_")}
    environ["XDG_CONFIG_HOME"] = str(folder / "config")
    arguments = ["serve", "--data-dir", str(folder / "bus"), "--port", "0", "--log-level", "warning"]
    bus = subprocess.Popen(
        [sys.executable, "-m", "eventlog.cli", *arguments], env=environ, stdout=subprocess.PIPE, text=True
    )
    assert bus.stdout is not None
    found = re.search(r"http://[^\s,]+", bus.stdout.readline())
    if found is None:
        bus.kill()
        raise SystemExit("the bus did not start")
    return bus, found[0].rstrip("/")


async def send_all(url: str, token: str, senders: int) -> list[float]:
    """How long each append of all senders took, in seconds."""
    end = time.perf_counter() + SECONDS
    results = await asyncio.gather(*(send_one_after_another(url, token, end) for _ in range(senders)))
    return [wait for waits in results for wait in waits]


async def send_one_after_another(url: str, token: str, end: float) -> list[float]:
    """One sender: the next message when the last one was accepted."""
    place = urlsplit(url)
    body = json.dumps({"to_agent": "mel", "from_agent": "bench", "payload": PAYLOAD}).encode()
    head = (
        f"POST /api/send HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    waits: list[float] = []
    while (sent := time.perf_counter()) < end:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 201"):
            raise SystemExit(f"the bus refused: {answer.decode()}")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        assert length is not None
        await reader.readexactly(int(length[1]))
        waits.append(time.perf_counter() - sent)
    writer.close()
    return waits


def bare_sqlite(path: Path, group: int) -> float:
    """Rows a second of sqlite3 alone, `group` rows a commit: what a perfect bus with so many senders could reach."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(ROW)
    body = json.dumps(PAYLOAD).encode()
    rows = 0
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO events (agent, sender, body, hash) VALUES ('mel', 'bench', ?, ?)",
            [(body, os.urandom(32))] * group,
        )
        connection.execute("COMMIT")
        rows += group
    connection.close()
    return rows / SECONDS


if __name__ == "__main__":
    sys.exit(main())
