"""The wake command of the tests: writes down that it runs, reads its inbox by cursor, acknowledges.

Usage: wake_agent.py FOLDER [--work SECONDS] [--hold] [--answer|--talk] [--handed] [--print] [--late]. It adds a line
of JSON to FOLDER/runs.ndjson for each thing it does, and holds FOLDER/AGENT.lock while it runs: whether it got the lock
at once is in its first line, so that two commands of one agent at once are seen by the kernel, not by comparing clocks.
With --hold it does not read before FOLDER/release is there; with --answer it answers each message, as a conversation
does, as long as the bus takes it; with --talk, too, but it never says what it answers; with --handed it reads no inbox
but what it is handed, and leaves acknowledging to its exit code; with --print it says which attempt this is, for
whoever takes that for the answer; with --late it does not look at its inbox when it is woken for something the first
time. Standard library only.
"""

import fcntl
import json
import os
import socket
import sys
import time

#: How long a request is repeated while the bus is away, seconds.
GIVE_UP_S = 30.0
AGENT = os.environ["WAKE_AGENT"]


def main(folder: str, options: list[str]) -> int:
    """One run; 0 if the inbox was read to its end."""
    lock = os.open(f"{folder}/{AGENT.lower()}.lock", os.O_RDWR | os.O_CREAT, 0o600)
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
    while "--hold" in options and not os.path.exists(f"{folder}/release"):
        time.sleep(0.02)
    if "--handed" in options:
        note(folder, "read", ids=handed)
    more = "--handed" not in options and not ("--late" in options and os.environ["WAKE_ATTEMPT"] == "1")
    bus = Bus()
    while more:
        page = json.loads(bus.call("GET", f"/api/inbox?agent={AGENT}"))
        more = bool(page["messages"])
        if more:
            note(folder, "read", ids=[message["id"] for message in page["messages"]])
            for message in page["messages"] if "--answer" in options or "--talk" in options else ():
                answer = {"to_agent": message["from_agent"], "payload": "done"}
                answer |= {"reply_to": message["id"]} if "--answer" in options else {}
                bus.call("POST", "/api/send", answer, f"re-{message['id']}")
            bus.call("POST", "/api/inbox/ack", {"agent": AGENT, "cursor": page["cursor"]})
    if "--print" in options:
        print(f"done in attempt {os.environ['WAKE_ATTEMPT']}", flush=True)
    note(folder, "end")
    return 0


def note(folder: str, did: str, **more: object) -> None:
    """Add a line to the record, in one write."""
    line = {"did": did, "agent": AGENT, "wake": int(os.environ["WAKE_ID"]), "at": time.monotonic(), **more}
    handle = os.open(f"{folder}/runs.ndjson", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, (json.dumps(line) + "\n").encode())
    os.close(handle)


class Bus:
    """The bus, spoken to with the wake's token: as much of HTTP as this needs. The library's takes longer to import
    than all that is done here."""

    def __init__(self) -> None:
        self.where = os.environ["EVENTLOG_URL"].partition("://")[2].rstrip("/")
        with open(os.environ["EVENTLOG_TOKEN_FILE"], encoding="ascii") as file:
            self.token = file.read().strip()
        self.socket: socket.socket | None = None

    def call(self, method: str, path: str, body: object = None, key: str = "") -> bytes:
        """One request, repeated while the bus is away; what is answered, also that this would go on for ever. Exits
        with 3 if it is refused for anything else."""
        give_up = time.monotonic() + GIVE_UP_S
        while True:
            try:
                status, said = self.once(method, path, body, key)
            except OSError:
                self.socket = None
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
                continue
            if status in (200, 201) or b'"loop"' in said:
                return said
            if status != 503:
                print(f"{method} {path}: {status} {said.decode(errors='replace')}", file=sys.stderr)
                sys.exit(3)
            time.sleep(0.1)

    def once(self, method: str, path: str, body: object, key: str) -> tuple[int, bytes]:
        """One request; the answer's status and body. Raises OSError if the connection is, or breaks."""
        if self.socket is None:
            host, _, port = self.where.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
            self.answers = self.socket.makefile("rb")
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.where}\r\nAuthorization: Bearer {self.token}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        head += f"Idempotency-Key: {key}\r\n" if key else ""
        self.socket.sendall(head.encode() + b"\r\n" + content)
        first = self.answers.readline()
        size = 0
        while (line := self.answers.readline()).strip():
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        said = self.answers.read(size)
        if not first or not line or len(said) < size:
            raise ConnectionError("the answer was cut")
        return int(first.split()[1]), said


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
