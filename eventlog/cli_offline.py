"""Commands that run the bus or can work on the files of a log: serve, replay, verify, rebuild, restore."""

import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from eventlog import errors
from eventlog.cli_agent import show_event
from eventlog.cli_common import EXIT_NO, Link, json_option, linked, note, run, say, say_json
from eventlog.config import Config, settings


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
@click.option("--agent", metavar="AGENT", help="Only events to, from or about it.")
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
@click.option(
    "--anchor", metavar="ID:HASH", help="An `eventlog anchor` that was kept: nothing before it may have changed."
)
@linked
def verify(link: Link, anchor: str | None) -> None:
    """Check the chain of hashes over the whole log. Exits 1 and names the id where it does not hold."""
    kept = _parse_anchor(anchor)
    folder = link.offline()
    report = _verified(folder, kept) if folder is not None else run(_verify_copy(link, kept))
    if link.as_json:
        say_json(report)
    elif report["ok"]:
        say(f"ok: {report['events']} events up to id {report['head']}, anchor {report['head']}:{report['hash']}")
    else:
        say(f"damaged at id {report['id']}: {report['detail']}")
    if not report["ok"]:
        raise click.exceptions.Exit(EXIT_NO)
