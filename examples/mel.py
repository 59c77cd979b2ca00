"""mel, an example agent: breaks a task into steps, hands them to tony one by one, and tells whoever asked when done.

Nothing is kept between wakes: all that mel needs to go on stands in the messages.
"""

from agent import Message, work

STEPS = ("outline", "draft", "check")


def answer(message: Message) -> Message | None:
    """The reply to one message; None if it needs none."""
    payload = message["payload"]
    if message["from_agent"] == "bus":
        return None
    if message["type"] != "STATUS":
        task = payload if isinstance(payload, dict) else {"text": str(payload)}
        return step({"text": "something", **task, "for": message["from_agent"], "left": task.get("steps", STEPS)})
    if payload["left"]:
        return step(payload)
    return {"to_agent": payload["for"], "type": "DONE", "payload": f"{payload['text']}: done"}


def step(task: Message) -> Message:
    """The next step of a task, for tony."""
    first, *left = task["left"]
    return {"to_agent": "tony", "type": "TASK", "payload": {**task, "step": first, "left": left}}


if __name__ == "__main__":
    work(answer)
