"""Run: a wake for one message; its private folder, which holds the message and the prompt, and the reply it printed."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eventlog.errors import EventlogError, TooLarge
from watcher.crashpoint import reached
from watcher.prompt import prompt
from watcher.settings import AgentSettings
from watcher.wake import Granted

#: The private folder of a run, in the folder of its wake's key.
FOLDER: Final = "run"
MESSAGE_FILE: Final = "message.json"
PROMPT_FILE: Final = "prompt.txt"
#: A reply that a bus finds too large is halved, but not to less than this, characters.
REPLY_CHARS_MIN: Final = 512


def store(folder: Path, wake: Granted, settings: AgentSettings, url: str) -> dict[str, Any]:
    """Make the private folder of a run, in the folder of its key; what the grant says of it.

    The prompt holds the reply capability, the grant does not. Raises OSError, also if the bus named no message.
    """
    if not wake.messages:
        raise OSError(errno.ENOMSG, "the bus granted a run without a message")
    message = wake.messages[0]
    text = prompt(
        settings.prompt,
        message,
        attempt=wake.attempt,
        nonce=hashlib.sha256(f"fence:{wake.key}".encode()).hexdigest()[:16],
        reply=settings.reply,
        url=url,
        token=wake.reply_token,
    )
    private = folder / FOLDER
    private.mkdir(mode=0o700, exist_ok=True)
    reached("watcher.run.made")
    _write(private / MESSAGE_FILE, json.dumps(message, ensure_ascii=False))
    reached("watcher.run.told")
    _write(private / PROMPT_FILE, text)
    reached("watcher.run.prompted")
    return {"folder": str(private), "message": message["id"], "input": settings.input, "reply": settings.reply}


def _write(path: Path, text: str) -> None:
    """A file that only its owner may read. It need not outlast a power cut: no run does."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8", "replace"))


def reply(grant: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, str]:
    """What a run that ended well printed, as the report's `reply`; nothing where that is no reply, or blank."""
    text = outcome.get("stdout", "")
    run = grant.get("run") or {}
    if run.get("reply") != "stdout" or outcome["outcome"] != "ok" or not text.strip():
        return {}
    return {"reply": _marked(text.rstrip("\n"), outcome.get("stdout_left_out", 0))}


def lessened(told: Mapping[str, Any], error: EventlogError) -> dict[str, Any]:
    """What to tell the bus that did not take all of it: less of the reply, in the end nothing but the outcome."""
    text = told.get("reply", "")
    if not isinstance(error, TooLarge) or len(text) < REPLY_CHARS_MIN:
        return {}
    rest = text[len(text) // 2 :]
    return {**told, "reply": f"[the beginning was left out]\n{rest}"}


def _marked(text: str, left_out: int) -> str:
    return f"[the first {left_out} bytes were left out]\n{text}" if left_out else text
