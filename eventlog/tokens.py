"""Tokens as such: their kinds, how one is made and kept, and which can be made; who calls with one is auth.py's."""

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from eventlog.crashpoint import reached
from eventlog.errors import BadRequest
from eventlog.event import check_name, fold

#: The kinds of token (DESIGN section 7).
KINDS = ("agent", "watcher", "auditor", "admin")
#: What every token but a wake's begins with, so that one that leaked is recognised.
PREFIX = "evt_"


def new_token() -> tuple[str, str]:
    """A new token, and its SHA-256 in hexadecimal: what the log keeps of it."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, digest_of(token)


def digest_of(token: str) -> str:
    """A token's SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(name: object, kind: str, agents: Iterable[object], peer: object = None) -> tuple[str, ...]:
    """The agents that a token to be made is for: an agent's token that names none is for the agent of its own name.

    Raises BadRequest (bad_name, bad_field).
    """
    own = check_name(name, "name")
    named = tuple(check_name(agent, "agents") for agent in agents)
    if kind not in KINDS:
        raise BadRequest(f"kind must be one of {', '.join(KINDS)}", field="kind")
    if peer is not None:
        check_name(peer, "peer")
        if kind != "agent":
            raise BadRequest("only an agent's token has a peer; leave it out", field="peer")
    if kind in ("auditor", "admin") and named:
        raise BadRequest(f"a token of kind {kind} is for no agent in particular; leave agents out", field="agents")
    if len({fold(agent) for agent in named}) != len(named):
        raise BadRequest("agents names one agent twice; name it once", field="agents")
    return named or ((own,) if kind == "agent" else ())


def write_secret(path: Path, secret: str) -> None:
    """A file with one line that only its owner may read: whole and durable, or not there. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    reached("bus.secret.begun")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    reached("bus.secret.flushed")
    partial.rename(path)
    reached("bus.secret.renamed")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    reached("bus.secret.durable")
