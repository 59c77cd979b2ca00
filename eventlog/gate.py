"""The gate that every request passes: Host and Origin are checked, so that only allowed web pages reach the bus."""

import re
import socket
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from eventlog.addresses import is_address
from eventlog.answers import problem
from eventlog.errors import BadHost, EventlogError, Forbidden
from eventlog.web import header

#: A Host header: a name or an address in brackets, and perhaps a port.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"https?://(?P<place>[^/?#@]+)")


class Gate:
    """Answers 421 to a Host that is not this bus's, and 403 to an Origin that is neither the bus nor allowed.

    Addresses and localhost are always this bus's: a page that was rebound to it comes by a name of its own. `*` among
    `hosts` allows every name; `origins` are whole origins, as in `https://panel.example`.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], origins: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except EventlogError as error:
                await problem(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def passes(self, scope: Scope) -> bool:
        """Whether a request may go on; it depends on its header alone."""
        try:
            self._check(scope)
        except EventlogError:
            return False
        return True

    def _check(self, scope: Scope) -> None:
        """Raises BadHost, Forbidden."""
        host = header(scope, b"host") or ""
        if not self._serves(host):
            raise BadHost(f"this bus is not {host[:64]!r}; use its address, or put that name into allowed_hosts")
        origin = header(scope, b"origin")
        if origin is not None and not self._is_own(origin, host) and origin.lower() not in self._origins:
            raise Forbidden(f"pages of {origin[:128]!r} may not use this bus; put that origin into allowed_origins")

    def _serves(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts["name"].lower().rstrip(".")
        return name == "localhost" or name in self._hosts or "*" in self._hosts or is_address(name)

    def _is_own(self, origin: str, host: str) -> bool:
        parts = _ORIGIN.fullmatch(origin.lower())
        return parts is not None and parts["place"] == host.lower()


def own_names() -> tuple[str, ...]:
    """The names by which this machine is known to itself and, over multicast DNS, to its neighbours."""
    name = socket.gethostname()
    return (name, f"{name.partition('.')[0]}.local")
