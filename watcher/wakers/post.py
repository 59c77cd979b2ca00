"""One HTTP POST of a waker, and what its answer means for the wake."""

import http.client
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from eventlog.errors import ConfigError
from eventlog.homes import expanded
from watcher.wakers import NotStarted

#: How long to wait for a connection. For the answer the wake's own limit counts.
CONNECT_TIMEOUT_S: Final = 10.0
#: How much of an answer is kept for the report.
ANSWER_BYTES_MAX: Final = 1024
#: Answers that say that the way in is broken or busy, besides all 5xx.
NOT_STARTED_STATUS: Final = frozenset({401, 429})


class Busy(NotStarted):
    """No turn began, and the other side says when to come again."""

    def __init__(self, told: str, retry_after_s: float) -> None:
        super().__init__(told)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The other side got the wake and did not want it."""


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a JSON body; returns on a 2xx answer. Redirects are not followed: a token goes to `url` alone.

    Raises NotStarted if no connection came about, or on 401, 429 and 5xx (Busy if the answer says when to come again);
    Refused on any other answer; OSError or http.client.HTTPException if there was none.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        port = parts.port
    except ValueError as error:
        raise NotStarted(f"the url is not one: {error}") from error
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise NotStarted(f"no connection to {host}: {error}") from error
        connection.sock.settimeout(None)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("POST", target, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        said = answer.read(ANSWER_BYTES_MAX).decode(errors="replace").strip()
    finally:
        connection.close()
    if 200 <= answer.status < 300:
        return
    told = f"{host} answered {answer.status} {answer.reason}: {said}"
    if answer.status in NOT_STARTED_STATUS or answer.status >= 500:
        wait = answer.headers.get("Retry-After", "").strip()
        raise Busy(told, float(wait)) if wait.isdecimal() else NotStarted(told)
    raise Refused(told)


def read_secret(path: str) -> str:
    """A token or secret from its file. Raises NotStarted if there is none."""
    try:
        secret = expanded(path).read_text("utf-8").strip()
    except (OSError, ValueError, ConfigError) as error:
        raise NotStarted(f"cannot read {path}: {error}") from error
    if not secret.isascii() or not secret.isprintable() or not secret:
        raise NotStarted(f"{path} holds no token or secret")
    return secret
