"""A reader who does what a page of the documentation says: types its blocks as they stand, in a home folder apart.

What becomes of a block is told by the words after its three backticks:

- `sh` is typed into one shell, in order, and must not fail; `sh terminal` into a terminal of its own, where it goes on;
- `… file=PATH` is saved there, `… add-to=PATH` is added to what is there; PATH begins in the home folder;
- `text` is what the `sh` before it says: its lines in this order, among others; `…` stands for anything. For what a
  terminal says there is time;
- all others are for looking at.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support import DEADLINE_S, ROOT, BusProcess, clean_environment, shims, until

_HEADING_OR_BLOCK = re.compile(
    r"^#+ (?P<heading>[^\n]*)$|^```(?P<how>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
#: A block that sets up what the tests have: it is not typed.
SETUP = "pip install agent-eventlog"
#: The address that the pages give for a bus.
ADDRESS = "127.0.0.1:8091"


@dataclass(frozen=True)
class Block:
    """One block of a page: the heading that it stands under, the words after its backticks, and its text."""

    heading: str
    how: list[str]
    text: str

    @property
    def target(self) -> tuple[str, str]:
        """`file` or `add-to` and the path; two empty texts if it is not to be saved."""
        for word in self.how:
            kind, _, path = word.partition("=")
            if path:
                return kind, path
        return "", ""


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks of a page, given by its path in docs/, in order."""
    heading = ""
    for found in _HEADING_OR_BLOCK.finditer((ROOT / "docs" / page).read_text()):
        heading = found["heading"] or heading
        if found["heading"] is None:
            yield Block(heading, found["how"].split(), found["text"])


class Reader:
    """Does what a page says, heading by heading; a context manager that ends whatever was started.

    `swaps` are texts of the page that are other ones here: addresses, for the most part. `path` is a folder of programs
    that come before all others.
    """

    def __init__(
        self,
        page: str,
        home: Path,
        swaps: Mapping[str, str],
        *,
        env: Mapping[str, str] | None = None,
        path: Path | None = None,
    ) -> None:
        self.home = home
        self._blocks = list(blocks_of(page))
        assert any(block.how == ["sh"] for block in self._blocks), f"there is nothing to do on {page}"
        self._swaps = dict(swaps)
        self._env = clean_environment(home, env)
        before = [str(path)] if path else []
        self._env["PATH"] = os.pathsep.join([*before, str(Path(sys.executable).parent), self._env["PATH"]])
        self._terminals: list[subprocess.Popen[bytes]] = []
        self._says: Callable[[], str] = str
        self._patience_s = 0.0
        self._typed = 0

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=self.home,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._terminals, self._shell):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            assert pipe is not None
            pipe.close()
        for pid in shims(str(self.home)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def headings(self) -> list[str]:
        """The page's headings that have blocks, in order."""
        return list(dict.fromkeys(block.heading for block in self._blocks))

    def do_all(self) -> str:
        """Everything from here to the end of the page; what was said."""
        return "".join(self.do(heading) for heading in self.headings)

    def do(self, heading: str) -> str:
        """What stands under one heading; what was said."""
        blocks = [block for block in self._blocks if block.heading == heading]
        assert blocks, f"no block stands under {heading!r}"
        return "".join(self._do(block) for block in blocks)

    def interrupt(self, number: int) -> None:
        """Ctrl-C in the terminal of this number, from 1."""
        terminal = self._terminals[number - 1]
        os.killpg(terminal.pid, signal.SIGINT)
        terminal.wait(DEADLINE_S)

    def type(self, text: str) -> str:
        """One block, as if it stood on the page; what it said."""
        return self._do(Block("", ["sh"], text))

    def _do(self, block: Block) -> str:
        text = block.text
        for there, here in self._swaps.items():
            text = text.replace(there, here)
        kind, path = block.target
        if kind:
            place = self.home / path.removeprefix("~/")
            with place.open("a" if kind == "add-to" else "w") as file:
                file.write(text)
        elif block.how == ["sh", "terminal"]:
            self.open_terminal(text)
        elif block.how == ["sh"] and SETUP not in text:
            said = self._type(text)
            self._says, self._patience_s = lambda: said, 0.0
            return said
        elif block.how == ["text"]:
            self._compare(text)
        return ""

    def _compare(self, told: str) -> None:
        """What was said last must be what the page tells; a terminal goes on saying things."""
        lines = (".*".join(map(re.escape, line.split("…"))) for line in told.splitlines())
        wanted = re.compile(".*".join(lines), re.DOTALL)
        why = f"the page says:\n{told}\nbut it was:\n"
        until(lambda: wanted.search(self._says()), self._patience_s, why=lambda: why + self._says() + self._told())

    def open_terminal(self, text: str) -> None:
        """Type this into a terminal of its own."""
        path = self.home / f"terminal-{len(self._terminals) + 1}.out"
        self._says, self._patience_s = path.read_text, DEADLINE_S
        with path.open("wb") as said:
            process = subprocess.Popen(
                ["bash", "-c", text],
                cwd=self.home,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._terminals.append(process)

    def _type(self, text: str) -> str:
        self._typed += 1
        block, end = self.home.parent / f"typed-{self._typed}.sh", f"== {self._typed} is over =="
        block.write_text(text)
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"set -e; . {block} < /dev/null; echo; echo '{end}'\n".encode())
        self._shell.stdin.flush()
        said = self._read_until(end)
        assert end in said, f"it failed, or took too long:\n{text}\n{said}{self._told()}"
        return said.partition(f"\n{end}")[0]

    def _read_until(self, end: str) -> str:
        assert self._shell.stdout is not None
        deadline, said = time.monotonic() + DEADLINE_S * 2, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._shell.stdout, selectors.EVENT_READ)
            while end.encode() not in said and selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(self._shell.stdout.fileno(), 65536)
                if not chunk:
                    break
                said += chunk
        return said.decode(errors="replace")

    def _told(self) -> str:
        return "".join(f"\n== {path.name}\n{path.read_text()}" for path in sorted(self.home.glob("terminal-*.out")))


def settled(home: Path, bus: BusProcess) -> Path:
    """A home folder as the tutorial leaves it: it knows the bus, and the tutorial's own configuration of a watcher.

    Adds a token to the log, of a watcher for all agents. Returns `home`.
    """
    known, watcher = home / ".config" / "eventlog", home / ".config" / "bus-watcher"
    known.mkdir(parents=True)
    watcher.mkdir()
    token_file = bus.data_dir / "admin.token"
    (known / "config.toml").write_text(f'url = "{bus.url}"\ntoken_file = "{token_file}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "eventlog.cli", "token", "create", "my-machine", "--kind", "watcher"],
        env=clean_environment(home),
        capture_output=True,
        check=True,
        timeout=DEADLINE_S,
    )
    (watcher / "token").touch(0o600)
    (watcher / "token").write_bytes(done.stdout)
    (text,) = (block.text for block in blocks_of("tutorial.md") if block.target[1].endswith("bus-watcher/config.toml"))
    (watcher / "config.toml").write_text(text.replace(f"http://{ADDRESS}", bus.url))
    (home / "talk").mkdir()
    return home
