"""Commands for whoever runs the fleet: why, agents, pause, resume, thread, token, anchor, backup."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from eventlog import cli_format
from eventlog.cli_common import Link, linked, note, run, say, say_json

KINDS = ("admin", "agent", "watcher", "auditor")


@click.command()
@click.argument("agent")
@linked
def why(link: Link, agent: str) -> None:
    """Why AGENT was or was not woken, and what comes next."""

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            return await bus.agent(agent)

    answer = run(work())
    if link.as_json:
        say_json(answer)
        return
    for line in cli_format.why_lines(answer):
        say(line)


@click.command()
@linked
def agents(link: Link) -> None:
    """Every agent that was ever named: unread messages, cursor, wakes, who serves it."""

    async def work() -> Any:
        async with link.bus() as bus:
            return await bus.agents()

    answer = run(work())
    if link.as_json:
        say_json(answer)
        return
    for agent in answer["agents"]:
        say(cli_format.agent_line(agent))
        for line in cli_format.stopped_lines(agent):
            say("    " + line)
    if not answer["agents"]:
        note("no agent is here yet; one is from its first message, token or watcher on")


@click.command()
@click.argument("agent")
@linked
def pause(link: Link, agent: str) -> None:
    """Grant no more wakes to AGENT ('*': to anyone) until it is resumed."""
    _switch(link, agent, paused=True)


@click.command()
@click.argument("agent")
@linked
def resume(link: Link, agent: str) -> None:
    """Grant wakes to AGENT ('*': to all) again."""
    _switch(link, agent, paused=False)


def _switch(link: Link, agent: str, *, paused: bool) -> None:
    async def work() -> Any:
        async with link.bus() as bus:
            return await (bus.pause(agent) if paused else bus.resume(agent))

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(f"{agent}: {'paused' if paused else 'resumed'}")
    if not answer.get("known", True):
        note(f"no agent {agent} is known yet; see `eventlog agents` for how those that are known are spelled")


@click.group()
def thread() -> None:
    """Let a stopped thread go on."""


@thread.command("resume", short_help="Let it, or the agents stopped in it, go on.")
@click.argument("thread_id", type=int, metavar="ID")
@linked
def thread_resume(link: Link, thread_id: int) -> None:
    """Let the thread ID, or the agents that were stopped in it, go on; its limits count from here on."""

    async def work() -> Any:
        async with link.bus() as bus:
            return await bus.thread_resume(thread_id)

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(f"thread {thread_id}: resumed")
        note("what was refused is not sent anew; the next message begins the conversation again")


@click.group()
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What it may do.")
@click.option(
    "--agent", "agents", multiple=True, metavar="AGENT", help="An agent that it speaks for or wakes (repeat)."
)
@click.option("--peer", metavar="AGENT", help="The recipient of what it posts to /message and /send without one.")
@linked
def token_create(link: Link, name: str, kind: str, agents: tuple[str, ...], peer: str | None) -> None:
    """Make a token and print it, once, alone on standard output."""
    folder = link.offline()
    if folder is not None:
        from eventlog import maintenance

        answer: Mapping[str, Any] = maintenance.token_create(folder, name, kind=kind, agents=agents, peer=peer)
    else:

        async def work() -> dict[str, Any]:
            async with link.bus() as bus:
                return await bus.token_create(name, kind, agents, peer)

        answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(answer["token"])


@token.command("list")
@linked
def token_list(link: Link) -> None:
    """The tokens that are good; never the tokens themselves."""
    folder = link.offline()
    if folder is not None:
        from eventlog import maintenance

        answer: Any = {"tokens": maintenance.tokens(folder)}
    else:

        async def work() -> Any:
            async with link.bus() as bus:
                return await bus.tokens()

        answer = run(work())
    if link.as_json:
        say_json(answer)
        return
    for one in answer["tokens"]:
        peer = f"  peer {one['peer']}" if one.get("peer") else ""
        say(cli_format.clean(f"{one['name']:<24} {one['kind']:<8} {', '.join(one.get('agents') or ())}{peer}"))


@token.command("revoke")
@click.argument("name")
@linked
def token_revoke(link: Link, name: str) -> None:
    """End a token, and the streams that were opened with it."""
    folder = link.offline()
    if folder is not None:
        from eventlog import maintenance

        maintenance.token_revoke(folder, name)
    else:

        async def work() -> None:
            async with link.bus() as bus:
                await bus.token_revoke(name)

        run(work())
    if link.as_json:
        say_json({"name": name, "revoked": True})
    else:
        say(f"{name}: revoked")


@click.command()
@linked
def anchor(link: Link) -> None:
    """Print the newest event as `id:hash`.

    Keep it elsewhere: `eventlog verify --anchor` tells later whether anything before it was changed.
    """

    async def work() -> tuple[int, str]:
        async with link.bus() as bus:
            return await bus.anchor()

    head, digest = run(work())
    if link.as_json:
        say_json({"id": head, "hash": digest})
    else:
        say(f"{head}:{digest}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@linked
def backup(link: Link, file: Path) -> None:
    """Write a copy of the log to FILE while the bus goes on serving; FILE must not be there yet.

    The copy is marked: a bus that is started on it is another log.
    """

    async def work() -> Any:
        async with link.bus() as bus:
            return await bus.backup(file.absolute())

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(f"backup of the log up to id {answer['head']}: {file}")
