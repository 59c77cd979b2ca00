"""Prompt: what an agent is told of one message, from a template; the message's text is fenced as another's data."""

import json
import re
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

#: What a template may hold, each as `$name` or `${name}`, and what stands there then. The how-to lists the same ones.
NAMES: Final = {
    "agent": "the agent's name",
    "sender": "the name of the agent that sent the message",
    "id": "the message's id",
    "thread": "the id of the conversation's first message",
    "type": "the message's type, in quotes: it is the sender's own word",
    "time": "when the message was accepted (RFC 3339, UTC)",
    "attempt": "the number of this run for the message, from 1 up",
    "message": "the message's text, fenced",
    "answer": "how to answer",
    "end": "a word that the sender cannot know, to end the agent's own text with in a shell command",
}
#: What every line of a message's text begins with, so that none can pass for a line of the prompt.
MARK: Final = "| "
#: What stands in the commands where the agent's own words go.
PLACEHOLDER: Final = "YOUR ANSWER"

#: Characters that are drawn as nothing though Unicode calls them letters, marks or symbols: fillers, and selectors that
#: can carry any hidden text (Unicode 16, property Default_Ignorable_Code_Point; and the blank Braille pattern).
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

_OUTPUT: Final = """\
What you print on standard output is sent to $sender as your answer, as it stands. Print nothing if none is needed."""
_COMMANDS: Final = """\
To answer, put your own words in place of $placeholder in one of these two commands. They can do nothing but answer in
this conversation, and only for some hours.

eventlog:

EVENTLOG_URL=$url EVENTLOG_TOKEN=$token eventlog send --key reply-$id-1 $sender - <<'$end'
$placeholder
$end

curl, with the answer as JSON:

curl -sS $route -H 'Authorization: Bearer $token' -H 'Content-Type: application/json' \\
  -H 'Idempotency-Key: reply-$id-1' --data-binary @- <<'$end'
{"payload": "$placeholder"}
$end

For a second or third message of your own, end the key with -2 or -3. The error key_reused says that an earlier attempt
has sent that one already: leave it at that."""
_NOBODY: Final = "It comes from the message bus itself, which reads no answers."


def default_template() -> str:
    """The template that is used where none is named."""
    return Path(__file__).with_name("prompt.txt").read_text("utf-8")


def template_fault(text: str) -> str:
    """What is wrong with a template, in words; "" if it can be used."""
    if not text.strip():
        return "is empty, so that the agent would be told nothing"
    template = Template(text)
    if not template.is_valid():
        return "has a $ that begins no name; write $$ for a dollar sign"
    unknown = sorted(set(template.get_identifiers()) - NAMES.keys())
    if unknown:
        return f"names ${unknown[0]}, not one of {', '.join('$' + name for name in NAMES)}"
    return ""


def prompt(
    template: str, message: Mapping[str, Any], *, attempt: int, nonce: str, reply: str, url: str, token: str
) -> str:
    """The text for the agent that `message` (its flat JSON object) is for.

    `nonce` is what the sender cannot know; `reply` is who sends the answer: the `agent`, by the commands that are shown
    with `token`, or the watcher, which takes what the agent prints (`stdout`). Raises ValueError or KeyError if the
    template is none (see `template_fault`).
    """
    sender, number = str(message["from_agent"]), int(message["id"])
    # An agent may quote the message in its answer: no line of that may end the answer and begin a command.
    known = {"sender": sender, "id": number, "end": f"END-OF-ANSWER-{nonce}"}
    if sender == "bus":
        answer = _NOBODY
    elif reply == "stdout":
        answer = Template(_OUTPUT).substitute(known)
    else:
        shown = {"url": shlex.quote(url), "route": shlex.quote(f"{url.rstrip('/')}/api/send"), "token": token}
        answer = Template(_COMMANDS).substitute(known, placeholder=PLACEHOLDER, **shown)
    return Template(template).substitute(
        known,
        agent=message["to_agent"],
        thread=message.get("thread_id", number),
        type=json.dumps(message.get("type", "MESSAGE")),
        time=message.get("time", ""),
        attempt=attempt,
        message=fenced(message.get("payload"), f"agent {sender}, message {number}", nonce),
        answer=answer,
    )


def fenced(payload: Any, whose: str, nonce: str) -> str:
    """A payload between two lines that its sender cannot write, every line of it marked."""
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, indent=2)
    lines = visible("" if payload is None else text).split("\n")
    marked = "\n".join(f"{MARK}{line}" for line in lines)
    return f"----- data from {whose} begins {nonce} -----\n{marked}\n----- data from {whose} ends {nonce} -----"


def visible(text: str) -> str:
    """The text with nothing in it that a reader would not see: `\\u{202e}` stands for what has no shape.

    Only a line feed ends a line; spaces and tabs stay.
    """
    return "".join(char if _is_shown(char) else f"\\u{{{ord(char):x}}}" for char in text.replace("\r\n", "\n"))


def _is_shown(char: str) -> bool:
    if char in "\n\t" or unicodedata.category(char) == "Zs":
        return True
    return char.isprintable() and not _BLANK.match(char)
