"""Administration: what the Python client offers to whoever runs the fleet; the Bus of client.py has all of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eventlog import errors
from eventlog.wire import Answer, Wire


class Administration(Wire):
    """Pausing, dead letters, tokens, redaction, backup, checks; and the two requests that every method is made of."""

    async def pause(self, agent: str) -> Any:
        """No wake is granted to this agent until `resume`; "*" is all agents."""
        return await self._post(f"/api/agents/{segment(agent)}/pause", {})

    async def resume(self, agent: str) -> Any:
        """Wakes are granted again."""
        return await self._post(f"/api/agents/{segment(agent)}/resume", {})

    async def dead_letters(
        self, *, agent: str | None = None, after: int | None = None, limit: int | None = None, closed: bool = False
    ) -> dict[str, Any]:
        """Open dead letters, with `closed` all of them: `{"dead", "cursor", "has_more"}`."""
        return await self._get(
            "/api/dead", {"agent": agent, "after": after, "limit": limit, "all": "true" if closed else None}
        )

    async def dead_letter(self, message_id: int) -> dict[str, Any]:
        """One dead letter, with its `message` and that one's receipt."""
        return await self._get(f"/api/dead/{message_id}")

    async def dead_retry(self, message_id: int) -> dict[str, Any]:
        """Sends a dead message anew; as `send` answers. Doing it again answers the same."""
        return await self._post(f"/api/dead/{message_id}/retry", {})

    async def dead_drop(self, message_id: int, reason: str | None = None) -> dict[str, Any]:
        """Closes a dead letter, which it answers. Doing it again changes nothing."""
        return await self._post(f"/api/dead/{message_id}/drop", {} if reason is None else {"reason": reason})

    async def tokens(self) -> Any:
        """All tokens that are not revoked: name, kind, agents, peer; never the token itself."""
        return await self._get("/api/tokens")

    async def token_create(
        self, name: str, kind: str, agents: Sequence[str] = (), peer: str | None = None
    ) -> dict[str, Any]:
        """Makes a token; this answer is the only place where it ever stands (`token`)."""
        body = {"name": name, "kind": kind, "agents": list(agents) or None, "peer": peer}
        return await self._post("/api/tokens", {field: value for field, value in body.items() if value is not None})

    async def token_revoke(self, name: str) -> None:
        """Ends a token and the streams opened with it."""
        await self.request("DELETE", f"/api/tokens/{segment(name)}")

    async def redact(self, message_id: int, reason: str) -> Any:
        """Erases a message's payload; the chain of hashes stays whole."""
        return await self._post(f"/api/messages/{message_id}/redact", {"reason": reason})

    async def backup(self, path: Path, *, timeout_s: float = 600.0) -> Any:
        """Has the bus write a marked copy of its log to `path`, a path on the bus's own machine."""
        return await self._post("/api/backup", {"path": str(path)}, timeout_s=timeout_s)

    async def verify(self, anchor: tuple[int, str] | None = None, *, timeout_s: float = 3600.0) -> dict[str, Any]:
        """Has the bus check its whole log; `anchor` is an (id, hash) given out earlier.

        `{"ok", "events", "head", "hash"}`, and where not ok the first bad event's `id` and a `detail`.
        """
        body = {} if anchor is None else {"id": anchor[0], "hash": anchor[1]}
        return await self._post("/api/verify", body, timeout_s=timeout_s)

    async def healthz(self) -> Answer:
        """Whether a bus answers; its headers carry the bus's clock (`Date`)."""
        return await self.request("GET", "/healthz")

    async def _get(
        self, path: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        return body_of(await self.request("GET", path, params=params, timeout_s=timeout_s))

    async def _post(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        return body_of(await self.request("POST", path, json=body, timeout_s=timeout_s))


def body_of(answer: Answer) -> dict[str, Any]:
    """The answer's JSON object. Raises `Unreachable` if it is none."""
    if not isinstance(answer.body, dict):
        raise errors.Unreachable("what answers is not an event log: its answer is no JSON object", sent=True)
    return answer.body


def segment(name: str) -> str:
    """A name as one segment of a path. Raises `BadRequest` (bad_name) for what can be no name at all."""
    try:
        if name and "/" not in name:
            return quote(name, safe="")
    except UnicodeEncodeError:
        pass
    raise errors.BadRequest(f"{name!r} is no name; names are letters, digits, '.', '_' and '-'", code="bad_name")
