"""Homes: where a path that begins with `~` leads. All that take a path of the person's own ask here."""

from pathlib import Path

from eventlog.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """The path with a leading `~` or `~NAME` resolved. Raises ConfigError if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        mend = "write the path whole, from / on, or set HOME"
        raise ConfigError(f"{path} is in a home folder that is not there; {mend}") from error
