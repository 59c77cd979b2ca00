"""What all commands share: finding the bus, output as JSON or for people, and the exit codes."""

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventlog import errors
from eventlog.homes import expanded

if TYPE_CHECKING:
    from eventlog.client import Bus

T = TypeVar("T")

#: Every exit code of every command, and what it means. The reference lists the same ones.
EXIT_CODES: dict[int, str] = {
    0: "done; of `inbox`: there is mail; of `verify` and `doctor`: all is well",
    1: "the answer is no: no mail, no such thing, a damaged log, a check that failed",
    2: "the command line is wrong",
    3: "of `--wait`: the message is a dead letter",
    4: "of `--wait`: the message expired before anybody read it",
    5: "of `--wait`: the time is over, and the message has not come so far",
    65: "the bus refuses the request as it is: sending it again unchanged cannot succeed",
    69: "no bus answers or takes the request now, or another process has the folder or the address; nothing was done",
    errors.EXIT_COMMIT_FAILED: "the outcome is not known; sending again with the same key is harmless",
    77: "not permitted: no token, a wrong one, or one that may not do this",
    errors.EXIT_CONFIG: "a setting, or a file that the program needs, is wrong",
    130: "interrupted by Ctrl-C",
    141: "whoever read the output went away",
}

EXIT_NO = 1
EXIT_USAGE = 2
#: How a wait for a receipt ends, by what the receipt says of it.
EXIT_WAITED = {"reached": 0, "dead": 3, "expired": 4, "time_over": 5, "stopping": 5}
EXIT_REFUSED = 65
EXIT_UNAVAILABLE = 69
EXIT_NOT_PERMITTED = 77
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def exit_code(exc: errors.EventlogError) -> int:
    """The exit code that an error ends a command with."""
    table: tuple[tuple[type[errors.EventlogError], int], ...] = (
        (errors.OutcomeUnknown, errors.EXIT_COMMIT_FAILED),
        (errors.Unavailable, EXIT_UNAVAILABLE),
        (errors.TooManyRequests, EXIT_UNAVAILABLE),
        (errors.Locked, EXIT_UNAVAILABLE),
        (errors.Unauthorized, EXIT_NOT_PERMITTED),
        (errors.Forbidden, EXIT_NOT_PERMITTED),
        (errors.ConfigError, errors.EXIT_CONFIG),
        (errors.SchemaError, errors.EXIT_CONFIG),
        (errors.NotFound, EXIT_NO),
    )
    if exc.code == "loop":  # only a person mends that
        return EXIT_REFUSED
    return next((code for kind, code in table if isinstance(exc, kind)), EXIT_REFUSED)


class Seconds(click.FloatRange):
    """A number of seconds on the command line, from 0 up and finite."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; the command line is wrong if it is none."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


@dataclass(frozen=True)
class Link:
    """Where a command works: a bus over HTTP, or the files of a data folder that no bus has open."""

    url: str | None
    token_file: Path | None
    data_dir: Path | None
    as_json: bool

    def held_url(self) -> str | None:
        """The address of the bus that has the data folder open; None without a data folder or such a bus.

        Raises `Locked` if its owner is not a bus that serves.
        """
        if self.url is not None or self.data_dir is None:
            return None
        from eventlog.lock import read_holder

        holder = read_holder(self.data_dir)
        if holder is None:
            return None
        if not holder.url:
            raise errors.Locked(
                f"{self.data_dir} is owned by process {holder.pid}, which serves no address; wait for its end"
            )
        return holder.url

    def offline(self) -> Path | None:
        """The data folder, if the command is to work on its files itself: named, and no bus has it open."""
        return self.data_dir if self.url is None and self.data_dir is not None and self.held_url() is None else None

    def bus(self, *, timeout_s: float = 10.0) -> "Bus":
        """The client for the bus. Raises `ConfigError` saying what to set if none is known."""
        from eventlog.client import Bus

        if self.url is not None or self.data_dir is None:
            return Bus.discover(self.url, self.token_file, timeout_s=timeout_s, blocking=True)
        held = self.held_url()
        if held is None:
            raise errors.Unreachable(
                f"no bus has {self.data_dir} open; start it with `eventlog serve --data-dir {self.data_dir}`",
                sent=False,
            )
        return Bus.discover(held, self._folder_token_file(), timeout_s=timeout_s, blocking=True)

    def _folder_token_file(self) -> Path | None:
        """The token for the folder's own bus: the named one, else the environment's, else the administrator's."""
        if self.token_file or os.environ.get("EVENTLOG_TOKEN") or os.environ.get("EVENTLOG_TOKEN_FILE"):
            return self.token_file
        assert self.data_dir is not None
        admin = self.data_dir / "admin.token"
        return admin if os.access(admin, os.R_OK) else None


def linked(command: Callable[..., T]) -> Callable[..., T]:
    """Gives a command `--url`, `--token-file`, `--data-dir` and `--json`, as one `Link`."""

    @click.option("--url", metavar="URL", help="The bus's address; wins over EVENTLOG_URL.")
    @click.option(
        "--token-file", type=click.Path(path_type=Path), help="A file with the token; wins over EVENTLOG_TOKEN."
    )
    @click.option(
        "--data-dir", type=click.Path(path_type=Path), help="The log's folder: its bus is used, or its files."
    )
    @json_option
    @functools.wraps(command)
    def with_link(*, url: str | None, token_file: Path | None, data_dir: Path | None, as_json: bool, **given: Any) -> T:
        return command(link_of(url, token_file, data_dir, as_json=as_json), **given)

    return with_link


def link_of(url: str | None, token_file: Path | None, data_dir: Path | None, *, as_json: bool) -> Link:
    """What was said on the command line wins over the environment; within each, an address over a data folder."""
    if url is None and data_dir is None and not os.environ.get("EVENTLOG_URL"):
        named = os.environ.get("EVENTLOG_DATA_DIR")
        data_dir = Path(named) if named else None
    return Link(url, token_file, expanded(data_dir) if data_dir else None, as_json)


def json_option(command: Callable[..., T]) -> Callable[..., T]:
    """Gives a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs what a command has to do with the bus to its end; `Link.bus` needs no event loop for it."""
    from eventlog.blocking import finish

    return finish(work)


class OutputGone(Exception):
    """Whoever read the output went away."""


def say(text: str) -> None:
    """One line for people, on standard output at once. Raises `OutputGone`."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError as exc:
        # click would make exit code 1 of it, which says something else here.
        raise OutputGone from exc


def say_json(value: Any) -> None:
    """One line of JSON on standard output, at once."""
    say(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def note(text: str) -> None:
    """One line on standard error that is not an error."""
    click.echo(f"eventlog: {text}", err=True)
