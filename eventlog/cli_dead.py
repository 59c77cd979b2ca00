"""Commands for dead letters: list, show, retry, drop."""

from typing import Any

import click

from eventlog import cli_format
from eventlog.cli_common import Link, linked, note, run, say, say_json


@click.group()
def dead() -> None:
    """Deal with messages whose wakes are used up."""


@dead.command("list", short_help="The dead letters that nobody has dealt with.")
@click.option("--agent", metavar="AGENT", help="Only those of this agent.")
@click.option("--all", "closed", is_flag=True, help="Those that were closed, too.")
@click.option("--after", type=int, metavar="ID", help="Only after this message.")
@click.option("--limit", type=int, metavar="N", help="At most so many.")
@linked
def dead_list(link: Link, agent: str | None, closed: bool, after: int | None, limit: int | None) -> None:
    """The dead letters that nobody has dealt with, in the order of their messages."""

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            return await bus.dead_letters(agent=agent, after=after, limit=limit, closed=closed)

    page = run(work())
    if link.as_json:
        say_json(page)
        return
    for letter in page["dead"]:
        say(cli_format.letter_line(letter))
    if page["has_more"]:
        note(f"there is more: eventlog dead list --after {page['cursor']}")
    if not page["dead"]:
        note("there is no dead letter")


@dead.command("show", short_help="One of them, and what its last wake said.")
@click.argument("message_id", type=int, metavar="ID")
@linked
def dead_show(link: Link, message_id: int) -> None:
    """The dead letter of message ID: the message, its wakes, and what the last one said."""

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            return await bus.dead_letter(message_id)

    letter = run(work())
    if link.as_json:
        say_json(letter)
        return
    say(cli_format.letter_line(letter, detail=False))
    say(cli_format.event_line(letter["message"]))
    for line in cli_format.receipt_lines(letter["message"]):
        say(line)
    if letter["detail"]:
        say(cli_format.whole_text(letter["detail"]))


@dead.command("retry", short_help="Send the dead message anew, once.")
@click.argument("message_id", type=int, metavar="ID")
@linked
def dead_retry(link: Link, message_id: int) -> None:
    """Send the dead message ID anew, once: the same sender, agent, type, payload and thread."""

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            return await bus.dead_retry(message_id)

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(f"message {message_id} was sent anew: id {answer['id']}, thread {answer['thread_id']}")


@dead.command("drop", short_help="Close it: it is listed no more.")
@click.argument("message_id", type=int, metavar="ID")
@click.option("--reason", metavar="TEXT", help="Why; it is kept with it.")
@linked
def dead_drop(link: Link, message_id: int, reason: str | None) -> None:
    """Close the dead letter of message ID, so that it is listed no more; the message stays dead."""

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            return await bus.dead_drop(message_id, reason)

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(f"message {message_id}: dropped")
