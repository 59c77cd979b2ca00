"""The named statements of queries.sql."""

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _load() -> dict[str, str]:
    parts = _NAME.split(files("eventlog").joinpath("queries.sql").read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


#: Every statement that runs against a log, by name.
SQL: dict[str, str] = _load()
