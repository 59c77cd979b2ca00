"""`bus-watcher`: run, check, init, install, status.

Exit codes: 0 done; 1 `status`: no watcher runs, or it is not connected; 2 wrong usage; 69 another watcher runs on the
state folder, or its disk is full or fails; 78 the configuration is wrong.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import click

from eventlog.errors import EXIT_CONFIG, ConfigError, EventlogError, Locked, Unavailable
from eventlog.homes import expanded

if TYPE_CHECKING:
    from watcher.settings import AgentSettings

EXIT_NO: Final = 1
EXIT_TAKEN: Final = 69
#: Every exit code of `bus-watcher`, and what it means. The reference lists the same ones.
EXIT_CODES: Final = {
    0: "done; `status`: a watcher runs and is connected",
    EXIT_NO: "`status`: no watcher runs, or it is not connected",
    2: "the command was called wrongly",
    EXIT_TAKEN: "another watcher runs on this state folder, or its disk is full or fails",
    EXIT_CONFIG: "a setting, or a file that the program needs, is wrong",
}

#: What `check` says of a pointer to the inbox whose 200 would acknowledge a message that nobody has read.
_POINTER_TO_EACH = (
    'the waker openclaw says only that mail is there; with ack = "exit", which deliver = "each" brings along, the '
    'gateway\'s 200 would acknowledge the message unread: set deliver = "all", or take the waker openclaw-agent'
)
#: What `check` says of a command that wakes nobody any more.
_CRON_WAKE_GONE: Final = (
    "{where} calls `openclaw cron wake`, which OpenClaw 2026.9.6 does not have any more: it exits 1 and wakes nobody; "
    'use waker = "openclaw" instead of the command (`bus-watcher init openclaw` writes such a configuration)'
)

_Command = Callable[..., Any]
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _config_option(command: _Command) -> _Command:
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="BUS_WATCHER_CONFIG",
        help="The configuration file; by default ~/.config/bus-watcher/config.toml.",
    )(command)


def _state_option(command: _Command) -> _Command:
    return click.option(
        "--state-dir",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="BUS_WATCHER_STATE_DIR",
        help="The state folder; by default ~/.local/state/bus-watcher.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agent-eventlog", prog_name="bus-watcher")
def bus_watcher() -> None:
    """Wakes the AI agents of this machine when messages for them come."""


@bus_watcher.command()
@_config_option
@_state_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="BUS_WATCHER_LOG_LEVEL",
    help="The least level of log lines to write.",
)
def run(config: Path | None, state_dir: Path | None, log_level: str) -> None:
    """Follow the bus and wake agents until stopped; wakes that run then go on."""
    import asyncio

    from watcher import daemon, logs
    from watcher.config import Config

    settings = Config.load(config or _default_config())
    logs.configure(log_level)
    asyncio.run(daemon.run(settings, (state_dir or _default_state()).absolute()))


@bus_watcher.command()
@_config_option
@_json
def check(config: Path | None, as_json: bool) -> None:
    """Check the configuration; every problem is shown with its line and its mend."""
    from watcher import config as configuration

    path = config or _default_config()
    settings, problems = configuration.check(path)
    warnings: list[str] = []
    if settings is not None:
        try:
            if settings.token() is None:
                warnings.append("no token is named: this works only with a bus that was started with --no-auth")
        except ConfigError as error:
            key = "bus.token_file"
            problems = [*problems, configuration.Problem(path, settings.line(key), key, error.detail, "")]
        for name, agent in settings.agents.items():
            with contextlib.suppress(ConfigError):  # a home folder that is not there is among the problems
                warnings += [f"agent {name!r}: {doubt}" for doubt in _doubts(agent)]
    if as_json:
        found = [{"line": one.line, "key": one.key, "problem": one.what, "mend": one.mend} for one in problems]
        _say_json({"file": str(path), "problems": found, "warnings": warnings})
    else:
        for line in [*map(str, problems), *(f"{path}: warning: {warning}" for warning in warnings)]:
            click.echo(line, err=True)
        if not problems and settings is not None:
            named = [f"{name} (runs)" if one.deliver == "each" else name for name, one in settings.agents.items()]
            click.echo(f"{path}: good; watcher {settings.name} wakes {', '.join(named)}")
    sys.exit(EXIT_CONFIG if problems else 0)


def _doubts(agent: "AgentSettings") -> Iterator[str]:
    """What would keep an agent from being woken as things are now."""
    from watcher.wakers import NotStarted, command, post

    if agent.waker == "command" and agent.command:
        if missing := command.missing(agent.command, agent.cwd, agent.env):
            yield missing
        if gone := command.gone(agent.command, agent.cwd):
            yield _CRON_WAKE_GONE.format(where=gone)
    if agent.waker == "openclaw" and agent.ack == "exit":
        yield _POINTER_TO_EACH
    for file in (agent.token_file, agent.secret_file) if agent.waker != "command" else ():
        try:
            if file:
                post.read_secret(file)
        except NotStarted as error:
            yield str(error)


@bus_watcher.group()
def init() -> None:
    """Write a configuration for agents that are there already."""


@init.command("openclaw")
@_config_option
@click.option(
    "--openclaw-config",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="OpenClaw's configuration; by default where `openclaw` itself looks.",
)
@click.option("--profile", metavar="NAME", default="", help="The profile of OpenClaw, as in `openclaw --profile NAME`.")
@click.option("--agent", "agents", metavar="AGENT", multiple=True, help="An agent to wake (repeat); by default all.")
@click.option(
    "--waker",
    type=click.Choice(["openclaw", "openclaw-agent"]),
    default="openclaw",
    help="A pointer to the inbox (openclaw), or one turn for each message (openclaw-agent).",
)
@click.option("--name", metavar="NAME", default="", help="The watcher's name; by default the machine's.")
@click.option("--url", metavar="URL", default="", help="The address of the bus, if it is not on this machine.")
@click.option("--force", is_flag=True, help="Write over a configuration that is there.")
@_json
def init_openclaw(
    config: Path | None,
    openclaw_config: Path | None,
    profile: str,
    agents: tuple[str, ...],
    waker: Literal["openclaw", "openclaw-agent"],
    name: str,
    url: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write the configuration for the agents of the OpenClaw on this machine, and say what to do next."""
    from watcher import init as initial
    from watcher import openclaw_config as openclaw

    found = openclaw.read(openclaw_config or openclaw.place(os.environ, profile), os.environ)
    default = _default_config()
    written = initial.openclaw(
        found, config or default, waker=waker, only=agents, name=name, url=url, force=force, default=default
    )
    if as_json:
        files = [str(written.config), str(written.secret_file)]
        told = {"agents": written.agents, "warnings": written.warnings, "next": written.steps}
        _say_json({"written": files, "openclaw": str(found.path), **told})
        return
    click.echo(f"wrote {written.config}: wakes {', '.join(written.agents)} of {found.path} at {found.url}")
    click.echo(f"wrote {written.secret_file}: a secret, readable by you alone")
    for warning in written.warnings:
        click.echo(f"warning: {warning}", err=True)
    for step in written.steps:
        click.echo(f"next: {step}")


@bus_watcher.command()
@_config_option
@_state_option
@click.option("--system", is_flag=True, help="A service of the machine instead of one of this user.")
@click.option("--user", metavar="NAME", help="With --system: the user that the watcher runs as (default: you).")
@_json
def install(config: Path | None, state_dir: Path | None, system: bool, user: str | None, as_json: bool) -> None:
    """Write the systemd unit of the watcher, and say how to start it."""
    from watcher import install as installing

    path = config or (installing.SYSTEM_CONFIG if system else _default_config())
    state = state_dir or (installing.SYSTEM_STATE if system else _default_state())
    unit, written = installing.write_unit(path.absolute(), state.absolute(), system=system, user=user)
    steps = installing.steps(system=system)
    if as_json:
        _say_json({"written": [str(unit)] if written else [], "next": steps})
        return
    click.echo(f"wrote {unit}" if written else f"{unit} stands there already")
    for step in steps:
        click.echo(f"next: {step}")


@bus_watcher.command()
@_state_option
@_json
def status(state_dir: Path | None, as_json: bool) -> None:
    """Show the running watcher: connection, lag, agents, wakes in flight."""
    from watcher import show

    found = show.read(state_dir or _default_state())
    if as_json:
        _say_json(found)
    else:
        click.echo("\n".join(show.lines(found)))
    sys.exit(0 if found["running"] and found.get("connection") == "connected" else EXIT_NO)


def main() -> NoReturn:
    """The program; errors go to standard error in one line."""
    try:
        sys.exit(bus_watcher.main(prog_name="bus-watcher", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except (Locked, Unavailable) as error:
        click.echo(f"bus-watcher: {error}", err=True)
        sys.exit(EXIT_TAKEN)
    except EventlogError as error:
        click.echo(f"bus-watcher: {error}", err=True)
        sys.exit(EXIT_CONFIG)


def _say_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def _default_config() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else expanded("~/.config")) / "bus-watcher" / "config.toml"


def _default_state() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else expanded("~/.local/state")) / "bus-watcher"


if __name__ == "__main__":
    main()
