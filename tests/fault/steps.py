"""Where the code changes what outlasts it: each such step must have a point of the crash matrix after it.

Two ways to look, because neither sees all: the source, also of what seldom runs; and the system calls of a real run,
also of what a library does.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.support import ROOT

#: Calls that make, rename, remove or flush something, or that commit.
CALLS: Final = frozenset(
    {
        *("fsync", "fdatasync", "sync", "rename", "renames", "replace", "link", "symlink", "unlink", "remove"),
        *("mkdir", "makedirs", "rmdir", "rmtree", "touch", "write_text", "write_bytes", "truncate", "ftruncate"),
        *("move", "copyfile", "copy", "copytree", "executescript"),
    }
)
#: Functions that are one such step, and have no points of their own.
STEPS: Final = frozenset({"fsync_folder", "write_flushed", "_replace", "fold_wal", "put"})
#: Functions that have points of their own, up to their end.
NAMED: Final = frozenset({"write_durably", "write_secret", "KeyFolder.remove"})
#: What the matrix leaves alone, and why.
ELSEWHERE: Final = {
    "eventlog/backups.py": "backup and restore work on new files that nobody uses before they are complete",
    "eventlog/cli_offline.py": "a person's tool, on a log that no bus serves",
    "eventlog/discovery.py": "where clients find a bus; written anew at each start",
    "eventlog/install.py": "units are written by a person's call",
    "eventlog/lock.py": "who owns the folder; void when the process is gone",
    "eventlog/maintenance.py": "a person's tool, on a log that no bus serves",
    "watcher/init.py": "a configuration is written by a person's call",
    "watcher/install.py": "units are written by a person's call",
    "eventlog/systemd.py": "units are written by a person's call",
    "eventlog/crashpoint.py": "the switch itself",
    "watcher/crashpoint.py:reached": "the switch itself",
    "eventlog/api_admin.py:verify": "works on a copy, which it removes",
    "eventlog/reads.py:snapshot": "a transaction that only reads",
    "watcher/shim.py:rehearse": "a file in memory",
    "watcher/state.py:_take_lock": "who owns the folder; void when the process is gone",
    "watcher/state.py:_new_key": "what a failing disk left behind is removed; each start does the same",
    "watcher/state.py:_make": "empty folders, which each start makes if they are missing",
    "watcher/state.py:set_aside": "an empty folder, which each start makes if it is missing",
    "eventlog/database.py:make_private": "an empty folder and file, which each start makes if they are missing",
    "eventlog/lineage.py:adopt": "its notes are part of its transaction, which has its points",
}


class Step(NamedTuple):
    """A step in the source, or a point (`name` is then the point's)."""

    line: int
    name: str
    point: bool


def in_source() -> Iterator[str]:
    """Each step of bus, watcher and shim that has no point between it and the next one, in words."""
    for path in sorted([*(ROOT / "eventlog").rglob("*.py"), *(ROOT / "watcher").rglob("*.py")]):
        where = str(path.relative_to(ROOT))
        if where in ELSEWHERE:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{where}:{function.name}"
                if function.name not in STEPS and name not in ELSEWHERE:
                    yield from (f"{name}, line {step.line}: {step.name}" for step in unnamed(list(steps(function))))


def unnamed(found: Sequence[Step]) -> Iterator[Step]:
    """The steps that are not followed by a point before the next step."""
    for step, after in zip(found, [*found, None][1:], strict=True):
        if not step.point and (after is None or not after.point):
            yield step


def steps(function: ast.AST) -> Iterator[Step]:
    """The steps and points of a function, in the order in which they are written; not those of functions within it."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            found += list(_call(node))
    yield from sorted(found)


def _call(node: ast.Call) -> Iterator[Step]:
    name = _name(node.func)
    if name == "remove" and not node.args:
        name = "KeyFolder.remove"
    if name == "replace" and ast.unparse(node.func) != "os.replace" and (len(node.args) != 1 or node.keywords):
        return  # a text's, a moment's or a value's; a path's takes one other path
    where = node.end_lineno or node.lineno
    first = node.args[0] if node.args else None
    if name == "reached":
        yield Step(where, ast.unparse(node.args[0]), True)
    elif name in NAMED:
        yield Step(where, name, True)
    elif name in STEPS or name in CALLS:
        yield Step(where, name, False)
    elif name == "execute" and isinstance(first, ast.Constant) and first.value == "COMMIT":
        yield Step(where, "COMMIT", False)
    # A function that another thread is to run.
    yield from (Step(where, _name(arg), False) for arg in node.args if _name(arg) in STEPS)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


#: Points before which there may be several system calls that change names, and why.
MANY_BEFORE: Final = {
    "watcher.state.made": "empty folders and the lock's file, which each start makes if they are missing",
    "watcher.folder.deleted": "the folder has a name by then under which nobody looks for it",
    "watcher.scratch.removed": "the same",
}
_CALL: Final = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")
#: Traced: what changes or flushes names and files, and what runs a program.
SYSCALLS: Final = (
    "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,openat,execve"
)


def in_run(trace: Path, state_dir: Path, stops: Path) -> tuple[list[str], list[str]]:
    """From strace's record of a run: each step that has no point between it and the next one of its thread, in words;
    and the points and started programs, in the order of time.
    """
    threads: defaultdict[str, list[Step]] = defaultdict(list)
    order: list[str] = []
    begun: dict[str, str] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        match = _CALL.match(line)
        if match is None:
            continue
        thread, call, rest = match.groups()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>")
            continue
        said = begun.pop(thread, "") + rest
        point = re.search(rf'"{re.escape(str(stops))}/([^"]+)"', said)
        if point is not None:
            threads[thread].append(Step(number, point[1], True))
            order.append(point[1])
        elif call == "execve":
            order.append(said)
        elif str(state_dir) in said and " = -1 " not in said and not _harmless(call, said):
            threads[thread].append(Step(number, f"{call}({said}", False))
    loose = [step.name for found in threads.values() for step in unnamed(_merged(found))]
    return loose, order


def _harmless(call: str, said: str) -> bool:
    """Opening changes something only where it makes a file, and one that somebody looks at: no scratch file."""
    made = re.search(r'"[^"]*/([^"/]+)", [A-Z_|]*O_CREAT', said)
    return call == "openat" and (made is None or made[1].startswith("."))


def _merged(found: Sequence[Step]) -> list[Step]:
    """The steps before a point that may have many before it count as one."""
    merged: list[Step] = []
    for step in found:
        if step.name in MANY_BEFORE:
            while len(merged) > 1 and not merged[-1].point and not merged[-2].point:
                merged.pop()
        merged.append(step)
    return merged


def points_in_source() -> set[str]:
    """The names of all points, with what `write_durably` is given in place of its `{name}`."""
    text = "".join(path.read_text() for folder in ("eventlog", "watcher") for path in (ROOT / folder).rglob("*.py"))
    files = set(re.findall(r"write_durably\([^,\n]+, \"(\w+)\"", text))
    names = set(re.findall(r"reached\(f?\"([^\"]+)\"\)", text))
    return {name.replace("{name}", file) for name in names for file in (files if "{name}" in name else [""])}
