"""The `openclaw` waker: a short pointer to the inbox, posted to the gateway's `/hooks/wake`."""

import json
import os
import shlex
from typing import Any

from watcher.wakers.post import post, read_secret


def wake(request: dict[str, Any], settings: dict[str, Any]) -> None:
    """Queue a wake at the gateway. 200 means queued, no more: only the inbox's cursor shows that it was read."""
    agent = request["wake"]["agent"]
    body = {"text": pointer(request), "mode": "now", "agentId": settings["agent_id"] or agent}
    token = read_secret(settings["token_file"])
    url = f"{settings['url'].rstrip('/')}/hooks/wake"
    post(url, json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})


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
