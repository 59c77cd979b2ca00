"""Tokens and what they may do: who is calling, for whom it may speak, and what it may see."""

import base64
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import msgspec
from starlette.types import Scope

from eventlog import capability
from eventlog.errors import BadRequest, ConfigError, Forbidden, Unauthorized
from eventlog.event import Event, check_name, fold
from eventlog.log import EventLog, Visible
from eventlog.store import TokenRow
from eventlog.tokens import digest_of, write_secret
from eventlog.web import header

#: What a wake's token begins with; its wake's id and a signature follow.
WAKE_PREFIX = "ewk_"

#: How long a reply capability lasts after its run was granted, seconds.
REPLY_TOKEN_S = 86_400

#: What tokens begin with that are in no list: they are known by their signatures.
_SIGNED = (WAKE_PREFIX, capability.PREFIX)
_WAKE_TOKEN = re.compile(r"ewk_([1-9][0-9]{0,15})_([A-Za-z0-9_-]{43})")
_UNAUTHORIZED = "no token, or not a good one; send the header Authorization: Bearer TOKEN"


class Caller(msgspec.Struct, frozen=True):
    """Who is calling: a token's kind and name, and the agents it is for (folded name -> as spelled; None: all of them).

    `wake` is the id of the wake whose token this is; such a caller is of kind agent. `peer` is whom the token's agent
    talks to on the pair's routes. `answers` is the message that a reply capability is good for; such a caller is of
    kind reply, and may send in that message's thread alone.
    """

    kind: str
    name: str
    agents: Mapping[str, str] | None
    peer: str | None = None
    wake: int | None = None
    answers: Event | None = None

    def covers(self, agent: str) -> bool:
        """Whether the token is for this agent."""
        return self.agents is None or fold(agent) in self.agents

    def require(self, agent: str) -> str:
        """`agent`, if the token is for it; raises Forbidden otherwise."""
        if not self.covers(agent):
            raise Forbidden(f"this token may not act for {agent!r}; use one that is made for it", field="agent")
        return agent

    def sender(self, from_agent: str | None) -> str:
        """Who sends, if the request says `from_agent`. Raises BadRequest (sender_required, bad_name), Forbidden."""
        if from_agent is None:
            if self.agents is None:
                return "admin"
            if len(self.agents) != 1:
                raise BadRequest(
                    "this token is for several agents; say in from_agent which one sends",
                    code="sender_required",
                    field="from_agent",
                )
            return next(iter(self.agents.values()))
        check_name(from_agent, "from_agent", reserved=True)
        if self.agents is None and fold(from_agent) == "admin":
            return "admin"
        if not self.covers(from_agent):
            raise Forbidden(f"this token may not send as {from_agent!r}; leave from_agent out", field="from_agent")
        return check_name(from_agent, "from_agent")

    @property
    def visible(self) -> Visible:
        """The agents whose messages it may see; None sees everything."""
        return None if self.agents is None else frozenset(self.agents)


#: Whoever calls a route that asks for no token.
NOBODY = Caller("nobody", "nobody", MappingProxyType({}))
#: Whoever calls a bus that asks for no tokens.
ANYONE = Caller("admin", "admin", None)


class Guard:
    """Knows who is calling by the token, and makes the tokens of wakes."""

    def __init__(
        self, bus: EventLog, wake_key: bytes, *, no_auth: bool = False, reply_token_s: float = REPLY_TOKEN_S
    ) -> None:
        self._bus = bus
        self._wake_key = wake_key
        self._no_auth = no_auth
        self._reply_token_s = reply_token_s

    async def caller(self, scope: Scope, query_token: str | None = None) -> Caller:
        """Who made this request; `query_token` is a token from the query string, good only if it can write nothing.

        Raises Unauthorized; Forbidden for a token in the query string that may do more than read.
        """
        if self._no_auth and not _answers(scope):
            return ANYONE
        token = _token(scope)
        in_query = token is None
        if token is None:
            token = query_token
            if token is None:
                raise Unauthorized(_UNAUTHORIZED)
        if token.startswith(_SIGNED):
            caller = await (self._wake_caller if token.startswith(WAKE_PREFIX) else self._reply_caller)(token)
        else:
            caller = self._known(token)
        if in_query and caller.kind != "auditor":
            raise Forbidden("only an auditor's token may stand in the query string", field="token")
        return caller

    def _known(self, token: str) -> Caller:
        digest = _digest_of(token)
        row = self._bus.token(digest)
        # The look-up is by the digest, of which nothing can be guessed bit by bit; comparing is what decides.
        if row is None or not hmac.compare_digest(row.sha256, digest):
            raise Unauthorized(_UNAUTHORIZED)
        return _caller_of(row)

    async def _wake_caller(self, token: str) -> Caller:
        parts = _WAKE_TOKEN.fullmatch(token)
        if parts is None or not hmac.compare_digest(self.wake_token(int(parts[1])), token):
            raise Unauthorized(_UNAUTHORIZED)
        agent = await self._bus.leases.token_agent(int(parts[1]))
        if agent is None:
            raise Unauthorized("this wake's token is over; read and answer in the next wake")
        return Caller("agent", f"wake-{parts[1]}", MappingProxyType({fold(agent): agent}), wake=int(parts[1]))

    async def _reply_caller(self, token: str) -> Caller:
        claim = capability.claimed(token)
        message = None if claim is None else await self._bus.store.message(claim.message_id)
        if claim is None or message is None or not hmac.compare_digest(self._reply_token(message, claim.ends), token):
            raise Unauthorized(_UNAUTHORIZED)
        if claim.over():
            raise Unauthorized("this token was for answering one message, and its time is up; use one of your own")
        agent = message.fields["to_agent"]
        agents = MappingProxyType({fold(agent): agent})
        return Caller(capability.KIND, f"reply-{message.id}", agents, answers=message)

    def reply_token(self, message: Event, granted: str) -> str:
        """The reply capability of a run: with it `message` can be answered as its recipient. The same each time.

        `granted` is the time of the run's wake (RFC 3339), from which it lasts for `reply_token_s`.
        """
        return self._reply_token(message, int(datetime.fromisoformat(granted).timestamp() + self._reply_token_s))

    def _reply_token(self, message: Event, ends: int) -> str:
        return capability.reply_token(self._wake_key, self._bus.log_id, message, ends)

    def wake_token(self, wake_id: int) -> str:
        """The token of a wake; the same each time it is asked for, and of no use to another log."""
        signed = hmac.digest(self._wake_key, f"{self._bus.log_id}:{wake_id}".encode(), "sha256")
        return f"{WAKE_PREFIX}{wake_id}_{base64.urlsafe_b64encode(signed).decode().rstrip('=')}"


def _answers(scope: Scope) -> bool:
    """Whether a reply capability is shown: it says who sends also where no token is asked for."""
    shown = (header(scope, name) or "" for name in (b"authorization", b"x-shared-secret"))
    return any(value.rpartition(" ")[2].startswith(capability.PREFIX) for value in shown)


def _token(scope: Scope) -> str | None:
    """The token that the request's header carries. Raises Unauthorized if it is not carried as it should be."""
    authorization = header(scope, b"authorization")
    return header(scope, b"x-shared-secret") if authorization is None else _bearer(authorization)


@lru_cache(maxsize=1024)
def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized(_UNAUTHORIZED)
    return token.strip()


#: Tokens come again and again; their digests are kept where the tokens are, in this process's memory alone.
_digest_of = lru_cache(maxsize=1024)(digest_of)


@lru_cache(maxsize=1024)
def _caller_of(row: TokenRow) -> Caller:
    """Who calls with the token of this row."""
    return Caller(row.kind, row.name, _agents_of(row.kind, row.agents), row.peer)


def _agents_of(kind: str, agents: Iterable[str]) -> Mapping[str, str] | None:
    """Folded name -> as spelled. A watcher's token that names no agents is for all of them."""
    named = {fold(agent): agent for agent in agents}
    if kind in ("admin", "auditor") or (kind == "watcher" and not named):
        return None
    return MappingProxyType(named)


def load_wake_key(path: Path) -> bytes:
    """The key that wakes' tokens are signed with; made, readable to the owner only, if there is none.

    Raises ConfigError if the file cannot be read or is not such a key.
    """
    try:
        if not path.exists():
            write_secret(path, secrets.token_hex(32))
        key = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use {path} ({error}); mend its permissions, or remove it to get a new key") from None
    if len(key) != 32:
        raise ConfigError(f"{path} holds no key of 32 bytes; remove it to get a new one")
    return key
