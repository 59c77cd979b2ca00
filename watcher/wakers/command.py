"""The `command` waker: the person's own program, run as it is."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from eventlog.homes import expanded

#: A way to wake an agent of OpenClaw that ends with exit code 1 since its version 2026.9.6.
_GONE: Final = re.compile(r"\bopenclaw\b[^\n;|&]*\scron\s+wake\b")
#: A longer file is no script that somebody wrote by hand.
_SCRIPT_BYTES_MAX: Final = 65_536


def argv(words: Sequence[str]) -> list[str]:
    """The command with a leading `~/` of each word resolved: there is no shell that would do it. Raises ConfigError."""
    return [str(expanded(word)) if word.startswith("~/") else word for word in words]


def missing(words: Sequence[str], cwd: str, env: Mapping[str, str]) -> str:
    """Why the command could not be run as things are, in words; "" if it could. Raises ConfigError."""
    folder = expanded(cwd)
    if not folder.is_dir():
        return f"there is no folder {cwd}"
    program = argv(words)[0]
    found = shutil.which(
        str(folder / program) if "/" in program else program, path=env.get("PATH", os.environ.get("PATH"))
    )
    return "" if found else f"{words[0]} is not a program that can be run, or not on PATH"


def gone(words: Sequence[str], cwd: str) -> str:
    """Where the command, or a script that it names, uses `openclaw cron wake`, which is gone; "" if nowhere.

    Raises ConfigError as `argv` does.
    """
    if _GONE.search(" ".join(words)):
        return "the command"
    folder = expanded(cwd)
    for word in argv(words):
        try:
            found = shutil.which(word) if word == words[0] and "/" not in word else str(folder / word)
            if found and os.path.isfile(found) and os.path.getsize(found) <= _SCRIPT_BYTES_MAX:
                text = Path(found).read_bytes()
                if text.startswith(b"#!") and _GONE.search(text.decode(errors="replace")):
                    return found
        except (OSError, ValueError):
            continue  # the word is too long, or nobody may read what it names
    return ""
