"""tony, an example agent: does the step that it is given (it only takes its time) and reports back."""

import time

from agent import Message, work


def answer(message: Message) -> Message | None:
    """The reply to one message; None if it needs none."""
    if message["type"] in ("STATUS", "DONE", "DEAD_LETTER"):
        return None
    payload = message["payload"]
    if not isinstance(payload, dict) or "step" not in payload:
        return {"to_agent": message["from_agent"], "type": "STATUS", "payload": f"noted: {payload}"}
    time.sleep(payload.get("seconds", 0.2))
    return {"to_agent": message["from_agent"], "type": "STATUS", "payload": payload}


if __name__ == "__main__":
    work(answer)
