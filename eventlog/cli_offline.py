"""Commands that run the bus or can work on the files of a log: serve, replay, verify, rebuild, restore."""

import re
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from eventlog import errors
from eventlog.cli_agent import show_event
from eventlog.cli_common import EXIT_NO, Link, json_option, linked, run, say, say_json
from eventlog.config import Config, settings

_ANCHOR = re.compile(r"([0-9]{1,16}):([0-9a-fA-F]{64})")


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command an option for each setting, as text: `Config.load` reads it and names it if it is wrong."""
    for setting in reversed(list(settings())):
        told = f"{setting.doc} [{setting.default_text}]"
        if setting.kind is bool:
            option = click.option(setting.option, setting.name, is_flag=True, default=None, help=told)
        else:
            option = click.option(setting.option, setting.name, metavar=(setting.unit or "VALUE").upper(), help=told)
        command = option(command)
    return command


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), help="A TOML file with settings.")
@json_option
@_setting_options
def serve(file: Path | None, as_json: bool, **options: str | bool | None) -> None:
    """Run the bus, until SIGTERM or Ctrl-C. When it is ready it prints one line with its address."""
    config = Config.load(file=file, options=options)
    from eventlog import server

    raise click.exceptions.Exit(server.main(config, as_json=as_json))


@click.command()
@click.option("--agent", metavar="AGENT", help="Only events addressed to it or about it.")
@click.option("--event", metavar="KIND", help="Only this kind of event.")
@click.option("--thread", type=int, metavar="ID", help="Only the conversation that this message began.")
@click.option("--after", type=int, metavar="ID", help="Only events after this id.")
@click.option("--before", type=int, metavar="ID", help="Only events before this id.")
@linked
def replay(
    link: Link, agent: str | None, event: str | None, thread: int | None, after: int | None, before: int | None
) -> None:
    """The log's history, oldest first: lines for people on a terminal, else one JSON object a line."""
    as_json = link.as_json or not sys.stdout.isatty()
    chosen: dict[str, Any] = {"agent": agent, "event": event, "thread": thread, "after": after, "before": before}
    folder = link.offline()
    if folder is not None:
        from eventlog import maintenance

        for one in maintenance.replay(folder, **chosen):
            show_event(one, as_json=as_json)
        return

    async def work() -> None:
        async with link.bus() as bus, aclosing(bus.replay(**chosen)) as events:
            async for one in events:
                show_event(one, as_json=as_json)

    run(work())


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--anchor", metavar="ID:HASH", help="An `eventlog anchor` that was kept: nothing up to it may have changed."
)
@linked
def verify(link: Link, file: Path | None, anchor: str | None) -> None:
    """Check the whole log, or the backup FILE: chain of hashes, payloads, projections. Exits 1 if it is damaged."""
    kept = _parse_anchor(anchor)
    where = file.absolute() if file is not None else link.offline()
    if where is not None:
        from eventlog import maintenance

        report: dict[str, Any] = msgspec.to_builtins(maintenance.verify(where, kept))
    else:

        async def work() -> dict[str, Any]:
            async with link.bus() as bus:
                return await bus.verify(kept)

        report = run(work())
    if link.as_json:
        say_json(report)
    elif report["ok"]:
        say(f"ok: {report['events']} events up to id {report['head']}; anchor {report['head']}:{report['hash']}")
    else:
        say(f"damaged at id {report['id']}: {report['detail']}")
    if not report["ok"]:
        raise click.exceptions.Exit(EXIT_NO)


def _parse_anchor(anchor: str | None) -> tuple[int, str] | None:
    """An anchor's id and hash. Raises click.UsageError if it is none."""
    if anchor is None:
        return None
    found = _ANCHOR.fullmatch(anchor.strip())
    if found is None:
        raise click.UsageError("--anchor is an id, a colon and 64 hexadecimal digits, as `eventlog anchor` prints them")
    return int(found[1]), found[2].lower()


@click.command()
@linked
def rebuild(link: Link) -> None:
    """Drop everything that is derived from the events and make it anew; the bus must be stopped."""
    folder = _own_folder(link)
    from eventlog import maintenance

    count = maintenance.rebuild(folder)
    if link.as_json:
        say_json({"events": count})
    else:
        say(f"rebuilt from {count} events")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--replace", is_flag=True, help="Move a log that is there aside.")
@linked
def restore(link: Link, file: Path, replace: bool) -> None:
    """Make the backup FILE the log of a data folder; the bus must be stopped. The next `serve` makes it another log."""
    folder = _own_folder(link)
    from eventlog import maintenance

    restored = maintenance.restore(file, folder, replace=replace)
    if link.as_json:
        say_json(msgspec.to_builtins(restored))
        return
    say(f"restored up to id {restored.head}: {restored.path}")
    if restored.moved:
        say(f"the log that was there is now {restored.moved}")


def _own_folder(link: Link) -> Path:
    """The data folder that a command works on, which no bus has open. Raises `ConfigError` and `Locked`."""
    if link.data_dir is None or link.url is not None:
        raise errors.ConfigError("this works on the files of a log: name its folder with --data-dir", field="data_dir")
    held = link.held_url()
    if held is not None:
        raise errors.Locked(f"the bus at {held} has {link.data_dir} open; stop it first")
    return link.data_dir
