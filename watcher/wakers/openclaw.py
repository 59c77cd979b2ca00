"""The `openclaw` waker: a short pointer to the inbox, posted to the gateway's `/hooks/wake`."""

import json
import os
import shlex
import time
from typing import Any, Final
from urllib.parse import urlsplit

from watcher.wakers.post import Busy, post, read_secret

#: Where a gateway's hooks are if the address names no other path.
HOOKS_PATH: Final = "/hooks"
#: What is left of a wake's time when it comes again the last time.
SPARE_S: Final = 5.0


def wake(request: dict[str, Any], settings: dict[str, Any]) -> None:
    """Queue a wake at the gateway. 200 means queued, no more: only the inbox's cursor shows that it was read.

    If the gateway says when to come again, and the wake lasts so long, it is asked again then. Raises as `post` does.
    """
    give_up = time.monotonic() + request["wake"]["timeout_s"] - SPARE_S
    agent = request["wake"]["agent"]
    body = json.dumps({"text": pointer(request), "mode": "now", "agentId": settings["agent_id"] or agent}).encode()
    base = settings["url"].rstrip("/")
    url = f"{base}{'' if urlsplit(base).path else HOOKS_PATH}/wake"
    token = read_secret(settings["token_file"])
    while True:
        try:
            post(url, body, {"Authorization": f"Bearer {token}"})
            return
        except Busy as busy:
            if time.monotonic() + busy.retry_after_s > give_up:
                raise
            time.sleep(busy.retry_after_s)


def pointer(request: dict[str, Any]) -> str:
    """What the agent is told: how many messages wait, and how to read them. Never a message's text."""
    agent = request["wake"]["agent"]
    count = len(request["messages"])
    some = f"{'more than ' if request['truncated'] else ''}{count} unread message{'' if count == 1 else 's'}"
    told = {name: os.environ[name] for name in ("EVENTLOG_URL", "EVENTLOG_TOKEN_FILE") if name in os.environ}
    how = "".join(f"{name}={shlex.quote(value)} " for name, value in told.items())
    return (
        f"You have {some} on the message bus. Read: `{how}eventlog inbox {agent}`. "
        f"When you have taken them over: `{how}eventlog ack {agent} CURSOR`."
    )
