"""Routes of administrators (tokens, redaction, backup) and of operation (health, description)."""

import asyncio
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import msgspec
from starlette.types import ASGIApp

from eventlog import maintenance
from eventlog.answers import json_response
from eventlog.call import Call
from eventlog.errors import BadRequest, TooManyRequests, Unavailable
from eventlog.event import ID_MAX, check_name
from eventlog.reads import TokenRow
from eventlog.tokens import check_token, new_token

#: How long the reason of a redaction may be, characters.
REASON_MAX = 1000


class TokenAsked(msgspec.Struct):
    """A token to be made. An agent's that names no agents is for the one of its own name; a watcher's, for all."""

    name: str
    kind: str
    agents: list[str] | None = None
    peer: str | None = None


class Redaction(msgspec.Struct):
    """Why a message's payload is erased."""

    reason: str


class BackupAsked(msgspec.Struct):
    """Where on the bus's own machine the copy is to be written; nothing may be there yet."""

    path: str


class VerifyAsked(msgspec.Struct):
    """An anchor given out earlier, if there is one: nothing up to it may have changed."""

    id: Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)] | None = None
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")] | None = None


#: One check at a time: each takes a copy of the log and a processor.
_verifying = asyncio.Lock()


async def tokens(call: Call) -> ASGIApp:
    """GET /api/tokens."""
    return json_response({"tokens": [_told(row) for row in call.bus.tokens()]})


async def token_create(call: Call) -> ASGIApp:
    """POST /api/tokens."""
    asked = await call.read(TokenAsked)
    agents = check_token(asked.name, asked.kind, asked.agents or (), asked.peer)
    token, sha256 = new_token()
    await call.bus.token_created(asked.name, kind=asked.kind, agents=agents, sha256=sha256, peer=asked.peer)
    made: dict[str, Any] = {"name": asked.name, "kind": asked.kind, "agents": agents}
    if asked.peer is not None:
        made["peer"] = asked.peer
    return json_response({**made, "token": token}, 201)


async def token_revoke(call: Call) -> ASGIApp:
    """DELETE /api/tokens/{name}."""
    name = check_name(call.path("name"), "name")
    await call.bus.token_revoked(name)
    return json_response({"name": name, "revoked": True})


async def redact(call: Call) -> ASGIApp:
    """POST /api/messages/{id}/redact."""
    message_id = call.path_id("message")
    reason = (await call.read(Redaction)).reason
    if not 1 <= len(reason) <= REASON_MAX:
        raise BadRequest(f"reason must be 1 to {REASON_MAX} characters", field="reason")
    await call.bus.redact(message_id, reason=reason)
    return json_response({"id": message_id, "redacted": True})


async def backup(call: Call) -> ASGIApp:
    """POST /api/backup."""
    path = Path((await call.read(BackupAsked)).path)
    if not path.is_absolute() or "\0" in str(path):
        raise BadRequest("path must be absolute: the bus's own folder is not yours", field="path")
    return json_response(await maintenance.backup(call.bus.store, path))


async def verify(call: Call) -> ASGIApp:
    """POST /api/verify: checks a copy, so that neither waits for the other: the check and whoever appends."""
    asked = await call.read(VerifyAsked)
    if (asked.id is None) != (asked.hash is None):
        raise BadRequest("an anchor is an id and a hash; give both or neither", field="hash")
    anchor = None if asked.id is None or asked.hash is None else (asked.id, asked.hash.lower())
    if _verifying.locked():
        raise TooManyRequests("the log is being checked already; ask again when that is done", retry_after_s=30)
    async with _verifying:
        copy = call.config.data_dir.absolute() / "verify.copy"
        copy.unlink(missing_ok=True)
        try:
            await maintenance.backup(call.bus.store, copy)
            return json_response(await asyncio.to_thread(maintenance.verify, copy, anchor))
        finally:
            copy.unlink(missing_ok=True)


async def healthz(call: Call) -> ASGIApp:
    """GET /healthz: the process answers."""
    return json_response({"status": "ok", "version": program_version()})


async def readyz(call: Call) -> ASGIApp:
    """GET /readyz: the log takes appends."""
    if call.desk.stopping:
        raise Unavailable("the bus is stopping; come back in a moment")
    return json_response({"status": "ready"})


@cache
def program_version() -> str:
    """The program's version; "unknown" where it is run without having been installed."""
    try:
        return version("agent-eventlog")
    except PackageNotFoundError:
        return "unknown"


def _told(row: TokenRow) -> dict[str, Any]:
    told: dict[str, Any] = {"name": row.name, "kind": row.kind, "agents": row.agents, "created": row.created}
    return told if row.peer is None else {**told, "peer": row.peer}
