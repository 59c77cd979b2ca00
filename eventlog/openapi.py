"""The description of the HTTP contract as an OpenAPI document, made from the list of routes."""

from collections.abc import Sequence
from typing import Any

import msgspec

from eventlog.call import Route
from eventlog.errors import STATUS
from eventlog.event import ID_MAX, KINDS
from eventlog.receipts import WAITS

_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_CURSOR = {"type": "integer", "minimum": 0, "maximum": ID_MAX}

#: Every parameter of a query string: its schema and what it says.
PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "agent": (_NAME, "An agent. Repeated on the stream: events addressed to one of these, or about one."),
    "event": (
        {"type": "string", "enum": [*KINDS, "*"]},
        "A kind of event; the stream's default is message, * is all of them.",
    ),
    "after": (
        {"oneOf": [_CURSOR, {"type": "string", "enum": ["earliest", "latest"]}]},
        "A cursor: what comes strictly after it. The stream takes the two words, too, and starts at latest.",
    ),
    "before": (_CURSOR, "A cursor: what comes strictly before it."),
    "limit": ({"type": "integer", "minimum": 1}, "The most entries of one page."),
    "wait": (
        {"oneOf": [{"type": "number", "minimum": 0}, {"type": "string", "enum": [*WAITS]}]},
        "Of an inbox: seconds to wait for a first message where there is none. Of a message: what to wait for.",
    ),
    "timeout": ({"type": "number", "minimum": 0}, "Seconds to wait at most; default 0."),
    "all": ({"type": "boolean"}, "What was closed, too."),
    "heartbeat": ({"type": "number", "minimum": 1, "maximum": 60}, "Seconds between two signs of life."),
    "thread": (_CURSOR, "The id of a conversation's first message."),
    "watcher": (_NAME, "The watcher whose stream this is, so that the bus knows who serves whom."),
    "node": ({"type": "string", "maxLength": 64}, "The identity of the machine that the watcher runs on."),
    "log": ({"type": "string"}, "The log id that the cursor is of."),
    "token": ({"type": "string"}, "An auditor's token, for browsers, whose EventSource sends no header."),
}

_HEADERS = {
    "Idempotency-Key": "Makes repeating the request harmless; bare or quoted, 1 to 255 visible ASCII characters.",
    "Last-Event-ID": "The cursor of a follower that reconnects; wins over after.",
}


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    bodies = sorted({route.body for route in routes if route.body is not None}, key=lambda body: body.__name__)
    _, schemas = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agent-eventlog",
            "version": version,
            "description": "A durable message bus that wakes AI agents.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _problem()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "secret": {"type": "apiKey", "in": "header", "name": "X-Shared-Secret"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": [
            *_path_parameters(route),
            *map(_query_parameter(route), route.params),
            *map(_header, route.headers),
        ],
        "responses": {
            **{str(status): {"description": meaning} for status, meaning in route.answers},
            "default": {
                "description": "An error, by its code.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
        "security": [] if route.kinds is None else [{"bearer": []}, {"secret": []}],
    }
    if route.kinds is not None:
        operation["description"] = "For tokens of kind " + ", ".join(sorted(route.kinds)) + "."
    if route.body is not None:
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    named = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    schema = {"id": _CURSOR, "name": {"type": "string"}}
    return [{"name": name, "in": "path", "required": True, "schema": schema[name]} for name in named]


def _query_parameter(route: Route) -> Any:
    def described(name: str) -> dict[str, Any]:
        schema, meaning = PARAMETERS[name]
        if name in route.repeated:
            schema = {"type": "array", "items": schema}
        return {"name": name, "in": "query", "description": meaning, "schema": schema}

    return described


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": _HEADERS[name], "schema": {"type": "string"}}


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What to do, in one sentence."},
            "code": {"type": "string", "enum": sorted(STATUS)},
            "field": {"type": "string", "description": "The place of the mistake, where there is one."},
        },
        "required": ["type", "title", "status", "detail", "code"],
    }
