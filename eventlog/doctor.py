"""`eventlog doctor`: what may be wrong with an installation, checked one by one, each with its mend."""

import os
import platform
import shutil
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from eventlog import errors
from eventlog.cli_common import EXIT_NO, Link, linked, run, say, say_json

#: Less free disk than this is reported: the log would stop taking messages before long.
DISK_FREE_BYTES_MIN = 512 * 1024 * 1024
#: A larger difference between this machine's clock and the bus's is reported; `expires` and log lines read it.
CLOCK_DIFFERENCE_S_MAX = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check found; `said` holds the mend where it is not `ok`."""

    check: str
    ok: bool
    said: str


@click.command()
@linked
def doctor(link: Link) -> None:
    """Check version, lock, disk, permissions, token, reachability, clock, and every watcher's node."""
    findings = [*local_findings(link), *run(_collect(link))]
    if link.as_json:
        say_json({"ok": all(one.ok for one in findings), "findings": [vars(one) for one in findings]})
    else:
        for one in findings:
            mark = click.style("ok ", fg="green") if one.ok else click.style("BAD", fg="red")
            say(f"{mark}  {one.check:<12} {one.said}")
    if not all(one.ok for one in findings):
        raise click.exceptions.Exit(EXIT_NO)


async def _collect(link: Link) -> list[Finding]:
    return [finding async for finding in bus_findings(link)]


def local_findings(link: Link) -> Iterator[Finding]:
    """What this machine alone tells; nothing is changed."""
    yield Finding(
        "version",
        True,
        f"eventlog {version('agent-eventlog')}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
    )
    folder = link.data_dir or _default_folder()
    if folder is None:
        return
    yield _lock(folder)
    yield _disk(folder)
    yield from _permissions(folder)


def _default_folder() -> Path | None:
    """The default data folder, if there is a log."""
    from eventlog.config import default_data_dir

    folder = default_data_dir()
    return folder if (folder / "eventlog.db").exists() else None


def _lock(folder: Path) -> Finding:
    from eventlog.lock import read_holder

    if not (folder / "eventlog.db").exists():
        return Finding(
            "lock", False, f"there is no log in {folder}; start one with `eventlog serve --data-dir {folder}`"
        )
    holder = read_holder(folder)
    if holder is None:
        return Finding("lock", True, f"{folder} is not in use")
    return Finding("lock", True, f"{folder} is owned by process {holder.pid}, serving {holder.url or 'no address'}")


def _disk(folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    told = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < DISK_FREE_BYTES_MIN:
        return Finding("disk", False, f"{told}; free some: when it is full no message is accepted")
    return Finding("disk", True, told)


def _permissions(folder: Path) -> Iterator[Finding]:
    """Whether the log and the administrator's token are this user's alone."""
    bad = []
    for path in (folder, folder / "eventlog.db", folder / "admin.token"):
        try:
            seen = path.stat()
        except FileNotFoundError:
            continue
        except PermissionError:
            bad.append(f"{path} cannot be looked at; run doctor as the bus's user")
            continue
        if path.name == "admin.token" and stat.S_IMODE(seen.st_mode) & 0o077:
            bad.append(f"{path} can be read by others: chmod 600 {path}")
        elif stat.S_IMODE(seen.st_mode) & 0o022:
            bad.append(f"{path} can be changed by others: chmod go-w {path}")
        if seen.st_uid != os.getuid():
            bad.append(f"{path} belongs to user {seen.st_uid}: run doctor, and the bus, as one user")
    yield Finding("permissions", not bad, "; ".join(bad) or f"{folder} is its owner's alone to change")


async def bus_findings(link: Link) -> AsyncIterator[Finding]:
    """What the bus tells: whether it answers, takes the token, has the time, and who follows it."""
    try:
        bus = link.bus()
    except errors.EventlogError as exc:
        yield Finding("reach", False, exc.detail)
        return
    async with bus:
        try:
            before = time.time()
            answer = await bus.healthz()
            yield Finding("reach", True, f"{bus.url} answers")
            yield _clock(answer.headers, before, time.time())
            agents = (await bus.agents())["agents"]
        except (errors.Unauthorized, errors.Forbidden) as exc:
            yield Finding(
                "token", False, f"{exc.detail}; set EVENTLOG_TOKEN_FILE or make one with `eventlog token create`"
            )
            return
        except errors.EventlogError as exc:
            yield Finding("reach", False, exc.detail)
            return
    yield Finding("token", True, "the token is good")
    for finding in watcher_findings(agents):
        yield finding


def _clock(headers: Mapping[str, str], before: float, after: float) -> Finding:
    """The bus's clock against this machine's; the header has whole seconds, so one is nothing."""
    try:
        there = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return Finding("clock", False, "the bus's answer has no Date; is there a proxy before it?")
    difference_s = max(0.0, there - after, before - there - 1)
    if difference_s > CLOCK_DIFFERENCE_S_MAX:
        return Finding("clock", False, f"this clock and the bus's differ by {difference_s:.0f} s; set both by NTP")
    return Finding("clock", True, f"this clock and the bus's agree within {CLOCK_DIFFERENCE_S_MAX:.0f} s")


def watcher_findings(agents: list[dict[str, Any]]) -> Iterator[Finding]:
    """Each watcher with its nodes; bad is one that is not connected, and a name that two nodes use."""
    nodes: dict[str, dict[str, dict[str, Any]]] = {}
    for agent in agents:
        for watcher in agent.get("watchers", ()):
            nodes.setdefault(watcher["watcher"], {})[watcher["node"]] = watcher
    for name, seen in sorted(nodes.items()):
        live = [node for node, watcher in seen.items() if watcher["connected"]]
        told = ", ".join(
            f"node {node} {'connected' if node in live else 'last seen ' + str(watcher['last_seen'])}"
            for node, watcher in sorted(seen.items())
        )
        if len(live) > 1:
            yield Finding("watcher", False, f"{name} runs on several nodes ({told}); give each its own name")
        elif not live:
            yield Finding(
                "watcher", False, f"{name} is not connected ({told}); look at `bus-watcher status` on its machine"
            )
        else:
            yield Finding("watcher", True, f"{name}: {told}")
