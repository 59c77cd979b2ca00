"""JSON5: the reader of the format in which OpenClaw's configuration is written."""

import re
from typing import Any, Final, NoReturn

_SPACE: Final = re.compile(r"(?:[\s\ufeff]+|//[^\n\r\u2028\u2029]*|/\*.*?\*/)*", re.DOTALL)
_NAME: Final = re.compile(r"(?:[^\W\d]|\$)[\w$]*")
_NUMBER: Final = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|Infinity|NaN|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_PLAIN: Final = {quote: re.compile(rf"[^\\{quote}\n\r]*") for quote in "\"'"}
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_WORDS: Final = {"true": True, "false": False, "null": None}
#: Deeper values than this are refused.
_DEPTH_MAX: Final = 100


class Malformed(ValueError):
    """The text is not JSON5; the message begins with the line."""


def loads(text: str) -> Any:
    """The value that a JSON5 text stands for. Raises Malformed."""
    reader = _Reader(text)
    value = reader.value(0)
    if reader.next():
        reader.fail("something stands behind the value")
    return value


class _Reader:
    """A place in the text, and what is read from there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def next(self) -> str:
        """The next character that means something; "" at the end."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def fail(self, what: str) -> NoReturn:
        """Say where it went wrong."""
        raise Malformed(f"line {self.text.count(chr(10), 0, self.at) + 1}: {what}")

    def value(self, depth: int) -> Any:
        """The value that begins here."""
        first = self.next()
        if depth > _DEPTH_MAX:
            self.fail("it is nested too deeply")
        if first == "{":
            return self.object(depth)
        if first == "[":
            return self.array(depth)
        if first in ('"', "'"):
            return self.string(first)
        number = _NUMBER.match(self.text, self.at)
        if number:
            self.at = number.end()
            return _number(number[0])
        word = self.name()
        if word not in _WORDS:
            self.fail(f"{word or first or 'the end of the text'!r} is not a value")
        return _WORDS[word]

    def object(self, depth: int) -> dict[str, Any]:
        """The members up to the closing brace; the last of two with the same name counts."""
        found: dict[str, Any] = {}
        self.at += 1
        while (first := self.next()) != "}":
            name = self.string(first) if first in ('"', "'") else self.name()
            if self.next() != ":":
                self.fail(f"a colon was expected behind {name!r}")
            self.at += 1
            found[name] = self.value(depth + 1)
            self.comma("}")
        self.at += 1
        return found

    def array(self, depth: int) -> list[Any]:
        """The items up to the closing bracket."""
        found: list[Any] = []
        self.at += 1
        while self.next() != "]":
            found.append(self.value(depth + 1))
            self.comma("]")
        self.at += 1
        return found

    def comma(self, end: str) -> None:
        """Pass a comma; without one only the end may follow."""
        seen = self.next()
        if seen == ",":
            self.at += 1
        elif seen != end:
            self.fail(f"a comma or {end} was expected")

    def name(self) -> str:
        """A word without quotes."""
        found = _NAME.match(self.text, self.at)
        if found is None:
            self.fail("a name or a value was expected")
        self.at = found.end()
        return found[0]

    def string(self, quote: str) -> str:
        """A text in these quotes."""
        parts: list[str] = []
        self.at += 1
        while True:
            plain = _PLAIN[quote].match(self.text, self.at)
            if plain:
                parts.append(plain[0])
                self.at = plain.end()
            seen = self.text[self.at : self.at + 1]
            if seen == quote:
                self.at += 1
                # Two escapes may stand for one character beyond the first 65,536.
                return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if seen != "\\":
                self.fail("a text is not closed")
            parts.append(self.escaped())

    def escaped(self) -> str:
        """What the backslash here and what follows it stand for."""
        kind = self.text[self.at + 1 : self.at + 2]
        if kind in ("x", "u"):
            digits = self.text[self.at + 2 : self.at + (4 if kind == "x" else 6)]
            if not re.fullmatch(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits):
                self.fail(f"\\{kind} needs {'two' if kind == 'x' else 'four'} hexadecimal digits")
            self.at += 2 + len(digits)
            return chr(int(digits, 16))
        if self.text.startswith("\r\n", self.at + 1):
            self.at += 3
            return ""
        self.at += 2
        return "" if kind in ("\n", "\r", "\u2028", "\u2029") else _ESCAPES.get(kind, kind)


def _number(text: str) -> int | float:
    sign = -1 if text.startswith("-") else 1
    bare = text.lstrip("+-")
    if bare[:2] in ("0x", "0X"):
        return sign * int(bare, 16)
    return sign * int(bare) if bare.isdigit() else sign * float(bare)
