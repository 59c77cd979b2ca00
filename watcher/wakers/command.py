"""The `command` waker: the person's own program, run as it is."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path


def argv(words: Sequence[str]) -> list[str]:
    """The command with a leading `~/` of each word resolved: there is no shell that would do it."""
    return [str(Path(word).expanduser()) if word.startswith("~/") else word for word in words]


def missing(words: Sequence[str], cwd: str, env: Mapping[str, str]) -> str:
    """Why the command could not be run as things are, in words; "" if it could."""
    folder = Path(cwd).expanduser()
    if not folder.is_dir():
        return f"there is no folder {cwd}"
    program = argv(words)[0]
    found = shutil.which(
        str(folder / program) if "/" in program else program, path=env.get("PATH", os.environ.get("PATH"))
    )
    return "" if found else f"{words[0]} is not a program that can be run, or not on PATH"
