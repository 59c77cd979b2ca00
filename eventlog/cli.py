"""`eventlog`: the command line. Its commands are in cli_*.py, imported when called, so that each starts quickly."""

import importlib
import os
import sys
from typing import Any

import click

from eventlog.cli_common import EXIT_INTERRUPTED, EXIT_PIPE, EXIT_USAGE, OutputGone, exit_code
from eventlog.errors import EventlogError, Unauthorized

#: Every command, the module it lives in, and what it does in one line.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("cli_offline", "Run the bus."),
    "send": ("cli_agent", "Send a message."),
    "inbox": ("cli_agent", "Read an agent's unread messages, or wait for some."),
    "ack": ("cli_agent", "Acknowledge an agent's messages."),
    "follow": ("cli_agent", "Show every event as it happens."),
    "replay": ("cli_offline", "Show the log's history."),
    "show": ("cli_agent", "Show a message and how far it has come."),
    "why": ("cli_admin", "Say why an agent was or was not woken."),
    "agents": ("cli_admin", "List the agents."),
    "pause": ("cli_admin", "Stop waking an agent."),
    "resume": ("cli_admin", "Wake an agent again."),
    "thread": ("cli_admin", "Let a stopped thread go on."),
    "dead": ("cli_dead", "List, retry and drop dead letters."),
    "token": ("cli_admin", "Make, list and revoke tokens."),
    "anchor": ("cli_admin", "Print the newest event's id and hash."),
    "verify": ("cli_offline", "Check the chain of hashes."),
    "rebuild": ("cli_offline", "Derive the projections from the events anew."),
    "backup": ("cli_admin", "Copy the log while the bus serves."),
    "restore": ("cli_offline", "Make a backup the log of a data folder."),
    "install": ("install", "Write systemd units for the bus."),
    "doctor": ("doctor", "Check this installation."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"eventlog.{COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words begin with. Raises click.UsageError, naming the one that is spelled nearly so."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", exc.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="agent-eventlog", prog_name="eventlog")
def eventlog() -> None:
    """A durable message bus that wakes AI agents."""


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits; errors are one line on standard error that says what to do."""
    sys.exit(_main(args))


def _main(args: list[str] | None) -> int:
    try:
        color = False if os.environ.get("NO_COLOR") else None
        result: Any = eventlog.main(args, prog_name="eventlog", standalone_mode=False, color=color)
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "eventlog"
        return _fail(f"{exc.format_message()} (see `{path} --help`)", EXIT_USAGE)
    except click.ClickException as exc:
        return _fail(exc.format_message(), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Unauthorized as exc:
        # The bus speaks to programs, of headers; whoever types a command sets a token in other ways.
        mend = "give a good one by --token-file, EVENTLOG_TOKEN_FILE or EVENTLOG_TOKEN"
        return _fail(f"the bus takes no request without a token, or with this one; {mend} [{exc.code}]", exit_code(exc))
    except EventlogError as exc:
        return _fail(f"{exc.detail} [{exc.code}]", exit_code(exc))
    except OutputGone:
        _discard_output()
        return EXIT_PIPE
    return result if isinstance(result, int) else 0


def _discard_output() -> None:
    """What is still buffered would fail again when the interpreter flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(said: str, code: int) -> int:
    click.echo("eventlog: " + " ".join(said.split()), err=True)
    return code


if __name__ == "__main__":
    main()
