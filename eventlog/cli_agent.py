"""Commands that agents use: send, inbox, ack, follow, show."""

import io
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import click
import msgspec

from eventlog import cli_format, errors
from eventlog.cli_common import EXIT_NO, EXIT_WAITED, Link, Seconds, linked, note, run, say, say_json

#: What a deadline may be for.
AWAITS = ("read", "replied")
#: The units of durations.
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
#: How long `--wait` waits, unless told.
TIMEOUT_S = 600.0
#: What `--wait` may ask for.
WAITS = ("woken", "read", "replied", "done")


@click.command()
@click.argument("to")
@click.argument("message", required=False, metavar="[TEXT|-]")
@click.option("--type", "kind", metavar="WORD", help="The message's type, a word of your own (default MESSAGE).")
@click.option("--from", "sender", metavar="AGENT", help="The sender, for a token that speaks for several.")
@click.option("--reply-to", type=int, metavar="ID", help="The message that this one answers.")
@click.option("--thread", type=int, metavar="ID", help="The conversation it belongs to.")
@click.option(
    "--expires", metavar="TIME", help="When nobody needs to be woken for it any more: 90s, 10m, 2h, RFC 3339."
)
@click.option(
    "--deadline", metavar="TIME", help="When the sender is told, unless it was read by then: 90s, 10m, 2h, RFC 3339."
)
@click.option("--awaits", type=click.Choice(AWAITS), help="What the deadline is for (default read).")
@click.option("--key", metavar="KEY", help="Repeating a send with the same key is harmless (default: a new one).")
@click.option("--payload", metavar="JSON", help="The payload as JSON, instead of text.")
@click.option("--give-up", type=Seconds(), default=60.0, metavar="SECONDS", help="How long to try (default 60).")
@click.option(
    "--wait", "wanted", type=click.Choice(WAITS), help="Wait until it has come so far; replied: print the reply."
)
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="How long to wait (default 600).")
@linked
def send(
    link: Link,
    to: str,
    message: str | None,
    kind: str | None,
    sender: str | None,
    reply_to: int | None,
    thread: int | None,
    expires: str | None,
    deadline: str | None,
    awaits: str | None,
    key: str | None,
    payload: str | None,
    give_up: float,
    wanted: str | None,
    timeout: float | None,
) -> None:
    """Send TEXT (- reads it from standard input) to the agent TO; to several with commas, to all with '*'.

    It is tried again, with one key, until it is accepted.
    """
    names = to.split(",")
    if wanted is not None and (len(names) > 1 or to == "*"):
        raise click.UsageError("--wait is for a message to one agent")
    timeout_s = _timeout_s(wanted, timeout)
    body = _payload(message, payload)

    async def work() -> Any:
        async with link.bus() as bus:
            return await bus.send(
                names[0] if len(names) == 1 else names,
                body,
                type=kind,
                from_agent=sender,
                reply_to=reply_to,
                thread_id=thread,
                awaits=awaits,
                **_moment("expires", expires),
                **_moment("deadline", deadline),
                key=key,
                give_up_s=give_up,
                trying_again=lambda error: note(f"{error.detail}; trying for {give_up:g} s"),
            )

    answer = run(work())
    answers = answer if isinstance(answer, list) else [answer]
    # With --wait, standard output is what was waited for.
    tell = say if wanted is None else note
    if link.as_json and wanted is None:
        say_json(answer)
    for name, one in zip(names if len(names) == len(answers) else [to] * len(answers), answers, strict=True):
        if wanted is not None or not link.as_json:
            tell(f"accepted: id {one['id']}, thread {one['thread_id']}")
        if not one.get("known", True):
            note(_unknown(name, one.get("nearest", ())))
    if wanted is not None:
        _wait(link, answer["id"], wanted, timeout_s)


def _timeout_s(wanted: str | None, timeout: float | None) -> float:
    if timeout is not None and wanted is None:
        raise click.UsageError("--timeout is for --wait")
    return TIMEOUT_S if timeout is None else timeout


def _wait(link: Link, message_id: int, wanted: str, timeout_s: float) -> None:
    """Waits for a receipt and prints it, or the payload of the reply waited for; exits by what came of it."""

    async def work() -> tuple[dict[str, Any], dict[str, Any] | None]:
        async with link.bus() as bus:
            message = await bus.wait(message_id, wanted, timeout_s)
            replies = message["receipt"].get("replies")
            return message, await bus.message(replies[0]["id"]) if replies and wanted == "replied" else None

    message, answer = run(work())
    if link.as_json:
        say_json(message)
    elif answer is not None:
        say(cli_format.whole_payload(answer))
    else:
        for line in cli_format.receipt_lines(message):
            say(line)
    _end_wait(message, wanted)


def _end_wait(message: Mapping[str, Any], wanted: str) -> None:
    """Says why a wait ended before it was reached, and exits by what came of it."""
    why = cli_format.wait_ended(message, wanted)
    if why:
        note(why)
    raise click.exceptions.Exit(EXIT_WAITED[message["receipt"]["waited"]])


def _moment(name: str, given: str | None) -> dict[str, Any]:
    """A time as `send` takes it: a duration becomes seconds from now, anything else is for the bus to judge."""
    duration = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", given or "")
    if duration is None:
        if given is not None and not re.match(r"\d{4}-", given):
            raise click.UsageError(f"--{name} is 90s, 10m, 2h, 3d, or a time as in 2030-01-31T12:00:00Z")
        return {name: given}
    return {f"{name}_in": float(duration[1]) * SECONDS[duration[2]]}


def _payload(message: str | None, payload: str | None) -> Any:
    """The payload that was meant. Raises click.UsageError unless there is exactly one."""
    if (message is None) == (payload is None):
        raise click.UsageError("give either TEXT (or - for standard input) or --payload JSON")
    if payload is None:
        return _standard_input() if message == "-" else message
    try:
        # Strict, as the bus is: `json` would take NaN, and 1e999 for infinity.
        return msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise click.UsageError(f"--payload is not JSON: {exc}") from exc


def _standard_input() -> str:
    """All of standard input. Raises BadRequest if it is not text."""
    try:
        return io.TextIOWrapper(sys.stdin.buffer, "utf-8").read()
    except UnicodeDecodeError as exc:
        raise errors.BadRequest(
            "standard input is not UTF-8; convert it first, as with iconv", code="bad_json"
        ) from exc


def _unknown(to: str, nearest: Any) -> str:
    near = ", ".join(cli_format.clean(str(name)) for name in nearest)
    return f"no agent {to} is known yet; the message waits for it" + (f" (did you mean {near}?)" if near else "")


@click.command()
@click.argument("agent", envvar="WAKE_AGENT")
@click.option("--wait", type=Seconds(), default=0.0, metavar="SECONDS", help="Wait so long for mail.")
@click.option("--after", type=int, metavar="ID", help="Read after this id instead of the acked cursor.")
@click.option("--limit", type=int, metavar="N", help="At most so many messages.")
@linked
def inbox(link: Link, agent: str, wait: float, after: int | None, limit: int | None) -> None:
    """The unread messages of AGENT. Exits 0 if there is mail and 1 if there is none.

    AGENT may be left out inside a wake.
    """
    page = run(_inbox(link, agent, wait, after, limit))
    if link.as_json:
        say_json(page)
    else:
        for message in page["messages"]:
            say(cli_format.event_line(message))
        if page["has_more"]:
            note(f"there is more: eventlog inbox {agent} --after {page['cursor']}")
    if not page["messages"]:
        raise click.exceptions.Exit(EXIT_NO)


async def _inbox(link: Link, agent: str, wait_s: float, after: int | None, limit: int | None) -> dict[str, Any]:
    """The inbox once it is not empty, at the latest after `wait_s`; a bus that restarts meanwhile is waited for."""
    from eventlog import blocking, client

    deadline = time.monotonic() + wait_s
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            async with link.bus() as bus:
                page: dict[str, Any] = await bus.inbox(
                    agent, after=after, limit=limit, wait_s=min(left_s, client.WAIT_ONCE_S) or None
                )
            if page["messages"] or time.monotonic() >= deadline:
                return page
        except (errors.Unavailable, errors.TooManyRequests) as exc:
            pause_s = exc.retry_after_s or 1.0
            if time.monotonic() + pause_s > deadline:
                raise
            await blocking.sleep(pause_s)


@click.command()
@click.argument("agent")
@click.argument("cursor", type=int, required=False, metavar="CURSOR")
@linked
def ack(link: Link, agent: str, cursor: int | None) -> None:
    """Acknowledge the messages of AGENT up to the id CURSOR, it included.

    AGENT may be left out inside a wake.
    """
    # click hands a single argument to the first name, whatever the environment holds for it.
    agent, through = _whose(agent, cursor)

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            return await bus.ack(agent, through)

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        say(f"{answer['agent']}: cursor {answer['cursor']}")


def _whose(agent: str, cursor: int | None) -> tuple[str, int]:
    """The agent and the cursor of `ack`, where AGENT may be left out. Raises click.UsageError if one is missing."""
    if cursor is not None:
        return agent, cursor
    waking = os.environ.get("WAKE_AGENT")
    if waking is None or not agent.isdecimal():
        raise click.UsageError("say whose messages and through which id: eventlog ack AGENT CURSOR")
    return waking, int(agent)


@click.command()
@click.option(
    "--agent", "agents", multiple=True, metavar="AGENT", help="Only what is addressed to it (repeat for several)."
)
@click.option(
    "--event", "events", multiple=True, metavar="KIND", help="Kinds of event (repeat; default message; * all)."
)
@click.option("--after", default="latest", metavar="ID|earliest|latest", help="Where to begin (default latest).")
@click.option(
    "--heartbeat", type=click.IntRange(1, 60), default=5, metavar="SECONDS", help="Signs of life (default 5)."
)
@linked
def follow(link: Link, agents: tuple[str, ...], events: tuple[str, ...], after: str, heartbeat: int) -> None:
    """Every event as it happens, until Ctrl-C: lines for people on a terminal, else one JSON object a line.

    It reconnects by itself and goes on where it was.
    """
    if after not in ("earliest", "latest") and not after.isdecimal():
        raise click.UsageError("--after is an id, earliest or latest")
    as_json = link.as_json or not sys.stdout.isatty()

    async def work() -> None:
        async with (
            link.bus() as bus,
            aclosing(
                bus.follow(
                    after=after,
                    agents=agents,
                    events=events,
                    heartbeat_s=heartbeat,
                    trying_again=lambda error: note(f"{error.detail}; trying again until one does"),
                )
            ) as frames,
        ):
            async for frame in frames:
                shown = frame.fields()
                if frame.kind == "reset":
                    shown = {"id": frame.cursor, "event": "reset", **shown}
                show_event(shown, as_json=as_json)

    run(work())


def show_event(event: Mapping[str, Any], *, as_json: bool) -> None:
    """One event on standard output."""
    if as_json:
        say_json(event)
    else:
        say(cli_format.event_line(event))


@click.command()
@click.argument("message_id", type=int, metavar="ID")
@click.option("--thread", is_flag=True, help="The whole conversation that message ID began.")
@click.option("--wait", "wanted", type=click.Choice(WAITS), help="Wait until it has come so far.")
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="How long to wait (default 600).")
@linked
def show(link: Link, message_id: int, thread: bool, wanted: str | None, timeout: float | None) -> None:
    """A message and how far it has come: accepted, woken, running, read, replied, or dead.

    With --wait the exit code says what came of it.
    """
    timeout_s = _timeout_s(wanted, timeout)
    if thread and wanted is not None:
        raise click.UsageError("--wait is for one message, --thread for a conversation")

    async def work() -> dict[str, Any]:
        async with link.bus() as bus:
            if wanted is not None:
                return await bus.wait(message_id, wanted, timeout_s)
            return await (bus.thread(message_id) if thread else bus.message(message_id))

    answer = run(work())
    if link.as_json:
        say_json(answer)
    else:
        for message in answer["messages"] if thread else [answer]:
            say(cli_format.event_line(message))
        for line in cli_format.stopped_lines(answer) if thread else cli_format.receipt_lines(answer):
            say(line)
    if wanted is not None:
        _end_wait(answer, wanted)
