"""What the example agents share: read the inbox by cursor, answer under a key, acknowledge. Standard library only.

A wake gives an agent EVENTLOG_URL and EVENTLOG_TOKEN_FILE, and its name in WAKE_AGENT.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

Message = dict[str, Any]

#: How long a request is repeated while the bus is away, seconds.
GIVE_UP_S = 60.0
#: sysexits.h EX_TEMPFAIL: the watcher reports that no turn began, which costs the messages no attempt.
EXIT_TRY_LATER = 75

# No proxy: the token is for the bus alone.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(
    method: str, path: str, body: Any = None, *, key: str | None = None, url: str = "", token_file: str = ""
) -> dict[str, Any]:
    """One request to the bus, repeated while the bus is away; its JSON answer. Raises HTTPError for a refusal."""
    url = url or os.environ["EVENTLOG_URL"]
    token = Path(token_file or os.environ["EVENTLOG_TOKEN_FILE"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    if key:
        headers["Idempotency-Key"] = key
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, headers, method=method)
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        try:
            with _opener.open(request, timeout=10) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as refusal:
            with refusal:
                if refusal.code not in (429, 503) or time.monotonic() > deadline:
                    raise
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def work(answer: Callable[[Message], Message | None]) -> None:
    """Take each message of the inbox in order: answer it, then acknowledge it.

    If this process dies between the two, the next wake shows the message again; then the key, which follows from the
    message, makes the second answer the same message as the first.
    """
    agent = os.environ["WAKE_AGENT"]
    note_start()
    after = ""
    try:
        while True:
            page = call("GET", f"/api/inbox?agent={quote(agent)}{after}")
            for message in page["messages"]:
                reply = answer(message)
                if reply is not None:
                    post_once(reply | {"reply_to": message["id"]}, key=f"answer-to-{message['id']}")
                call("POST", "/api/inbox/ack", {"agent": agent, "cursor": message["id"]})
            if not page["has_more"]:
                return
            after = f"&after={page['cursor']}"
    except OSError as gone:
        if isinstance(gone, urllib.error.HTTPError) and gone.code not in (429, 503):
            raise
        print(f"the bus is away: {gone}", file=sys.stderr)
        sys.exit(EXIT_TRY_LATER)


def post_once(message: Message, *, key: str) -> None:
    """Send a message; one that was sent under this key before stands, even if it said something else."""
    try:
        call("POST", "/api/send", message, key=key)
    except urllib.error.HTTPError as refusal:
        if refusal.code != 422:
            raise


def note_start() -> None:
    """Add this start to the file that AGENT_RECORD names, if it names one: the demo counts starts by it."""
    if path := os.environ.get("AGENT_RECORD"):
        start = {
            "agent": os.environ["WAKE_AGENT"],
            "wake": int(os.environ["WAKE_ID"]),
            "attempt": int(os.environ["WAKE_ATTEMPT"]),
            "time": time.time(),
        }
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, (json.dumps(start) + "\n").encode())
        os.close(handle)
