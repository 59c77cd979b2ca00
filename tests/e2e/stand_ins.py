"""Stand-ins for the command lines of Claude Code (2.1.330) and Codex (0.169.0): no model, and few of their options.

They know the options that the how-to pages use, and refuse all others, as the real ones refuse what they do not know.
What a model would do is this: it repeats the text of the message; or, if it may, it runs the command `eventlog send`
that is in its prompt. `python -m tests.e2e.stand_ins claude|codex …`; `put` makes programs of them.
"""

import argparse
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

_COMMAND = re.compile(r"^(EVENTLOG_\w+=\S+ )*eventlog send .*?^END-OF-ANSWER-\w+$", re.MULTILINE | re.DOTALL)


def put(folder: Path) -> Path:
    """Makes programs `claude` and `codex` in a folder, for a PATH; returns it."""
    folder.mkdir()
    for name in ("claude", "codex"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.e2e.stand_ins {name} "$@"\n')
        program.chmod(0o700)
    return folder


def claude(words: list[str]) -> int:
    """`claude -p`: the answer on standard output; a command of the model is run only if a rule allows it."""
    options = argparse.ArgumentParser("claude", allow_abbrev=False)
    options.add_argument("-p", "--print", action="store_true", required=True)
    options.add_argument("--allowedTools", "--allowed-tools", nargs="+", default=[])
    given = options.parse_args(words)
    prompt = sys.stdin.read()
    command = _COMMAND.search(prompt)
    if command is None:
        print(answer(prompt))
        return 0
    tool = f"Bash({command[0]})"
    if not any(rule == "Bash" or fnmatch.fnmatchcase(tool, rule) for rule in given.allowedTools):
        print("I was not permitted to answer.")
        return 0
    subprocess.run(["bash", "-c", command[0].replace("YOUR ANSWER", answer(prompt))], check=True)
    print("I have answered.")
    return 0


def codex(words: list[str]) -> int:
    """`codex exec -`: progress on standard error, the last message on standard output."""
    options = argparse.ArgumentParser("codex", allow_abbrev=False)
    options.add_argument("subcommand", choices=["exec"])
    options.add_argument("-s", "--sandbox", choices=["read-only", "workspace-write", "danger-full-access"])
    options.add_argument("--skip-git-repo-check", action="store_true")
    options.add_argument("prompt")
    given = options.parse_args(words)
    if not given.skip_git_repo_check and not Path(".git").exists():
        print("Not inside a trusted directory and --skip-git-repo-check was not specified.", file=sys.stderr)
        return 1
    prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
    print(f"user\n{prompt}\ncodex", file=sys.stderr)
    print(answer(prompt))
    return 0


def answer(prompt: str) -> str:
    """What this model has to say: the text between the fence's lines."""
    return "you said: " + " ".join(line[2:] for line in prompt.splitlines() if line.startswith("| "))


if __name__ == "__main__":
    sys.exit({"claude": claude, "codex": codex}[sys.argv[1]](sys.argv[2:]))
