"""The wake command of the tests: writes down that it runs, reads its inbox by cursor, acknowledges.

Usage: wake_agent.py FOLDER [--work SECONDS] [--hold] [--answer] [--handed] [--late]. It adds a line of JSON to
FOLDER/runs.ndjson for each thing it does, and holds FOLDER/AGENT.lock while it runs: whether it got the lock at once is
in its first line, so that two commands of one agent at once are seen by the kernel, not by comparing clocks. With
--hold it does not read before FOLDER/release is there; with --answer it answers each message, as a conversation does;
with --handed it reads no inbox but what it is handed, and leaves acknowledging to its exit code; with --late it does
not look at its inbox when it is woken for something the first time. Standard library only.
"""

import fcntl
import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

#: How long a request is repeated while the bus is away, seconds.
GIVE_UP_S = 30.0
AGENT = os.environ["WAKE_AGENT"]


def main(folder: Path, options: list[str]) -> int:
    """One run; 0 if the inbox was read to its end."""
    lock = os.open(folder / f"{AGENT.lower()}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    request = json.load(sys.stdin)
    handed = [message["id"] for message in request["messages"]]
    note(folder, "start", alone=alone, attempt=int(os.environ["WAKE_ATTEMPT"]), handed=handed, pid=os.getpid())
    if "--work" in options:
        time.sleep(float(options[options.index("--work") + 1]))
    while "--hold" in options and not (folder / "release").exists():
        time.sleep(0.02)
    if "--handed" in options:
        note(folder, "read", ids=handed)
    more = "--handed" not in options and not ("--late" in options and os.environ["WAKE_ATTEMPT"] == "1")
    while more:
        page = call("GET", f"/api/inbox?agent={quote(AGENT)}")
        more = bool(page["messages"])
        if more:
            note(folder, "read", ids=[message["id"] for message in page["messages"]])
            for message in page["messages"] if "--answer" in options else ():
                call("POST", "/api/send", {"to_agent": message["from_agent"], "payload": "done"}, f"re-{message['id']}")
            call("POST", "/api/inbox/ack", {"agent": AGENT, "cursor": page["cursor"]})
    note(folder, "end")
    return 0


def note(folder: Path, did: str, **more: Any) -> None:
    """Add a line to the record, in one write."""
    line = {"did": did, "agent": AGENT, "wake": int(os.environ["WAKE_ID"]), "at": time.monotonic(), **more}
    handle = os.open(folder / "runs.ndjson", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, (json.dumps(line) + "\n").encode())
    os.close(handle)


def call(method: str, path: str, body: Any = None, key: str = "") -> Any:
    """One request to the bus with the wake's token, repeated while the bus is away. Exits with 3 if it is refused."""
    token = Path(os.environ["EVENTLOG_TOKEN_FILE"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    headers |= {"Idempotency-Key": key} if key else {}
    give_up = time.monotonic() + GIVE_UP_S
    while True:
        connection = http.client.HTTPConnection(urlsplit(os.environ["EVENTLOG_URL"]).netloc, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
            continue
        finally:
            connection.close()
        if answer.status in (200, 201):
            return json.loads(said)
        if answer.status != 503:
            print(f"{method} {path}: {answer.status} {said.decode(errors='replace')}", file=sys.stderr)
            sys.exit(3)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
