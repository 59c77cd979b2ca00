"""The error tree: every error that a caller can meet has a stable code and an HTTP status.

EventlogError
├── BadRequest (400)      bad_json, bad_field, unknown_field, bad_name, bad_cursor, bad_limit,
│                         missing_type, no_recipient, sender_required, unknown_parent
├── Unauthorized (401)    unauthorized
├── Forbidden (403)       forbidden
├── NotFound (404)        not_found, unknown_wake
├── MethodNotAllowed(405) method_not_allowed
├── Conflict (409)        cursor_past_head, already_finished, superseded, already_closed
├── TooLarge (413)        too_large
├── BadContentType (415)  bad_content_type
├── BadHost (421)         bad_host
├── KeyReused (422)       key_reused
├── TooManyRequests (429) too_many_requests, loop
├── Unavailable (503)     unavailable
│   ├── Unreachable       the client got no answer, or one that is not the bus's
│   ├── NotAccepted       the client gave up sending; the message was never accepted
│   └── OutcomeUnknown    the client gave up sending; the message may have been accepted
├── ConfigError           a setting is wrong; the process exits with 78
├── Locked                another process owns the data folder
└── SchemaError           the database is of another version, or its migrations were changed
"""

from typing import ClassVar

#: Every code that an HTTP answer may carry, with its status. The reference lists the same ones.
STATUS: dict[str, int] = {
    "bad_json": 400,
    "bad_field": 400,
    "unknown_field": 400,
    "bad_name": 400,
    "bad_cursor": 400,
    "bad_limit": 400,
    "missing_type": 400,
    "no_recipient": 400,
    "sender_required": 400,
    "unknown_parent": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_wake": 404,
    "method_not_allowed": 405,
    "cursor_past_head": 409,
    "already_finished": 409,
    "superseded": 409,
    "already_closed": 409,
    "too_large": 413,
    "bad_content_type": 415,
    "bad_host": 421,
    "key_reused": 422,
    "too_many_requests": 429,
    "loop": 429,
    "unavailable": 503,
}

#: Exit code of a process whose configuration is wrong (sysexits.h EX_CONFIG); systemd does not restart on it.
EXIT_CONFIG = 78
#: Exit code after a commit of unknown outcome (sysexits.h EX_IOERR); systemd starts the bus again.
EXIT_COMMIT_FAILED = 74


class EventlogError(Exception):
    """Anything that went wrong in a way the caller can act on.

    `code` is stable; `detail` is one sentence that says what to do; `field` names the place, where there is one;
    `retry_after_s` is set where trying again later is the mend.
    """

    #: The code of an error raised without one.
    default_code: ClassVar[str] = "unavailable"

    def __init__(
        self, detail: str, *, code: str | None = None, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status of this error; 500 for one that never travels over HTTP."""
        return STATUS.get(self.code, 500)


class BadRequest(EventlogError):
    """The request cannot be understood; sending it again unchanged cannot succeed."""

    default_code = "bad_field"


class Unauthorized(EventlogError):
    """No token, or one that the bus does not know (any more)."""

    default_code = "unauthorized"


class Forbidden(EventlogError):
    """The token is good, but not for this."""

    default_code = "forbidden"


class NotFound(EventlogError):
    """There is no such thing, or the token may not know of it."""

    default_code = "not_found"


class MethodNotAllowed(EventlogError):
    """The route exists, but not with this method."""

    default_code = "method_not_allowed"


class Conflict(EventlogError):
    """The request contradicts what the log already says."""

    default_code = "cursor_past_head"


class TooLarge(EventlogError):
    """The body is over the limit."""

    default_code = "too_large"


class BadContentType(EventlogError):
    """The body is not declared as JSON."""

    default_code = "bad_content_type"


class BadHost(EventlogError):
    """The Host header names a host that this bus does not serve."""

    default_code = "bad_host"


class KeyReused(EventlogError):
    """This idempotency key was used before, with another body."""

    default_code = "key_reused"


class TooManyRequests(EventlogError):
    """A limit on how many at once is reached; wait and try again. With the code `loop`: agents would talk for ever, and
    only a person lets them go on.
    """

    default_code = "too_many_requests"


class Unavailable(EventlogError):
    """The bus cannot answer now; whether an append took effect is not known: repeat it with its key."""

    default_code = "unavailable"


class Unreachable(Unavailable):
    """No answer came, or one that is not the bus's own. `sent` is False where the request surely did not reach it."""

    default_code = "unreachable"

    def __init__(self, detail: str, *, sent: bool, retry_after_s: float | None = None) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.sent = sent


class NotAccepted(Unavailable):
    """Sending was given up, and no attempt can have been accepted."""

    default_code = "not_accepted"


class OutcomeUnknown(Unavailable):
    """Sending was given up, and an attempt may have been accepted: sending again with the same key is harmless."""

    default_code = "outcome_unknown"


class ConfigError(EventlogError):
    """A setting is wrong, or a file that the program needs cannot be used."""

    default_code = "bad_config"


class Locked(EventlogError):
    """Another process owns the data folder."""

    default_code = "locked"


class SchemaError(EventlogError):
    """The database is newer than this program, or an applied migration was changed."""

    default_code = "bad_schema"


_BY_STATUS: dict[int, type[EventlogError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    413: TooLarge,
    415: BadContentType,
    421: BadHost,
    422: KeyReused,
    429: TooManyRequests,
    503: Unavailable,
}


def from_code(code: str, detail: str, *, field: str | None = None, retry_after_s: float | None = None) -> EventlogError:
    """The error that a problem+json answer stands for, by its code; an unknown code is `Unavailable`."""
    kind = _BY_STATUS.get(STATUS.get(code, 503), Unavailable)
    return kind(detail, code=code, field=field, retry_after_s=retry_after_s)
