"""Lines: where in a TOML text a table or key stands, so that an error can name its line."""

import re
from typing import Final

_HEADER: Final = re.compile(r"\s*\[\[?\s*(.+?)\s*\]\]?\s*(#.*)?$")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_ERROR: Final = re.compile(r"line (\d+)")


class Lines:
    """The lines of the tables and keys of one TOML text, which has parsed."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = _parts(header.group(1))
                self._note(table, number)
            elif key := _KEY.match(line):
                self._note(table + _parts(key.group(1)), number)

    def of(self, at: tuple[str, ...]) -> int:
        """The line of this key, or of the nearest table around it; 1 if the file has none of them."""
        while at and at not in self._lines:
            at = at[:-1]
        return self._lines.get(at, 1)

    def _note(self, path: tuple[str, ...], number: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], number)

    @staticmethod
    def of_error(message: str) -> int:
        """The line that a TOML parser's message names; 0 if it names none."""
        found = _ERROR.search(message)
        return int(found.group(1)) if found else 0


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
