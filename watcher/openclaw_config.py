"""What OpenClaw's own configuration on this machine says of its gateway, its hooks and its agents."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventlog.errors import ConfigError
from eventlog.homes import expanded
from watcher import json5

#: Where a gateway listens if nothing says otherwise.
DEFAULT_PORT: Final = 18789
#: A file that includes itself must end somewhere.
_INCLUDES_MAX: Final = 10
_VARIABLE: Final = re.compile(r"\$(\$?)\{([A-Z_][A-Z0-9_]*)\}")


@dataclass(frozen=True)
class OpenClaw:
    """The parts that a watcher needs. A secret is "" if there is none; `allowed` is None if hooks may wake everyone."""

    path: Path
    url: str
    agents: tuple[str, ...]
    hooks_enabled: bool
    hooks_path: str
    hooks_token: str
    allowed: tuple[str, ...] | None
    gateway_auth: str
    gateway_token: str


def place(environ: Mapping[str, str], profile: str = "") -> Path:
    """Where the configuration is, by the rules of the `openclaw` command.

    `OPENCLAW_CONFIG_PATH`; else `openclaw.json` in `OPENCLAW_STATE_DIR`; else in `.openclaw`, or `.openclaw-PROFILE`,
    of `OPENCLAW_HOME` or the home folder. The profile is that of `--profile`; the first two win over it.
    Raises ConfigError if there is no home folder.
    """
    home = expanded(environ.get("OPENCLAW_HOME") or "~").absolute()

    def under_home(text: str) -> Path:
        return home / text[2:] if text.startswith("~/") else Path(text).absolute()

    if text := environ.get("OPENCLAW_CONFIG_PATH", "").strip():
        return under_home(text)
    if text := environ.get("OPENCLAW_STATE_DIR", "").strip():
        return under_home(text) / "openclaw.json"
    return home / (f".openclaw-{profile}" if profile not in ("", "default") else ".openclaw") / "openclaw.json"


def read(path: Path, environ: Mapping[str, str]) -> OpenClaw:
    """The configuration in a file. Raises ConfigError if it cannot be read or is not one."""
    whole = _section(_loaded(path, 0))
    variables = _dotenv(path.with_name(".env")) | dict(environ)
    inline = _section(whole.get("env"))
    variables |= {
        name: value
        for name, value in [*inline.items(), *_section(inline.get("vars")).items()]
        if isinstance(value, str) and not variables.get(name)
    }
    filled = _section(_filled(whole, variables))
    gateway, hooks = _section(filled.get("gateway")), _section(filled.get("hooks"))
    auth = _section(gateway.get("auth"))
    port = environ.get("OPENCLAW_GATEWAY_PORT", "").strip() or gateway.get("port") or DEFAULT_PORT
    scheme = "https" if _section(gateway.get("tls")).get("enabled") is True else "http"
    kind = auth.get("mode") or ("password" if auth.get("password") else "token")
    allowed = hooks.get("allowedAgentIds")
    return OpenClaw(
        path=path,
        url=f"{scheme}://127.0.0.1:{port}",
        agents=_agents(_section(filled.get("agents"))),
        hooks_enabled=hooks.get("enabled") is True,
        hooks_path="/" + str(hooks.get("path") or "/hooks").strip("/"),
        hooks_token=_secret(hooks.get("token")),
        allowed=tuple(map(str, allowed)) if isinstance(allowed, list) and "*" not in allowed else None,
        gateway_auth=str(kind),
        gateway_token=_secret(auth.get(str(kind))) or variables.get(f"OPENCLAW_GATEWAY_{str(kind).upper()}", ""),
    )


def _loaded(path: Path, depth: int) -> Any:
    """The value in a file with what it includes. Raises ConfigError."""
    try:
        return _included(json5.loads(path.read_text("utf-8")), path.parent, depth)
    except OSError as error:
        mend = "name it with --openclaw-config or --profile" if depth == 0 else "mend the $include"
        raise ConfigError(f"OpenClaw's configuration {path} cannot be read ({error.strerror}); {mend}") from error
    except ValueError as error:
        raise ConfigError(f"OpenClaw's configuration {path} is not JSON5: {error}") from error


def _included(value: Any, folder: Path, depth: int) -> Any:
    if isinstance(value, list):
        return [_included(item, folder, depth) for item in value]
    if not isinstance(value, dict):
        return value
    own = {name: _included(item, folder, depth) for name, item in value.items() if name != "$include"}
    named = value.get("$include")
    if named is None or depth >= _INCLUDES_MAX:
        return own
    found: Any = {}
    for name in named if isinstance(named, list) else [named]:
        found = _merged(found, _loaded(folder / str(name), depth + 1))
    return _merged(found, own) if own else found


def _merged(first: Any, second: Any) -> Any:
    """Two values as one, the second over the first."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first | {name: _merged(first.get(name), item) for name, item in second.items()}
    return [*first, *second] if isinstance(first, list) and isinstance(second, list) else second


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with its `${NAME}`s replaced; one that is not set stays as it is."""
    if isinstance(value, dict):
        return {name: _filled(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(
        lambda found: f"${{{found[2]}}}" if found[1] else variables.get(found[2]) or found[0],
        value,
    )


def _agents(agents: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids: the keys of `entries`, or what an older version kept in `list`; `main` if none is named."""
    entries = agents.get("entries")
    if isinstance(entries, dict) and entries:
        return tuple(entries)
    listed = agents.get("list")
    ids = [item["id"] for item in listed if isinstance(item, dict) and "id" in item] if isinstance(listed, list) else []
    return tuple(map(str, ids)) or ("main",)


def _section(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _secret(value: Any) -> str:
    """A secret that stands there, or that a variable stood for; "" for one that is kept elsewhere."""
    return value.strip() if isinstance(value, str) and not _VARIABLE.search(value) else ""


def _dotenv(path: Path) -> dict[str, str]:
    """The variables of the file that OpenClaw reads beside its configuration."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.removeprefix("export ").partition("=") for line in map(str.strip, lines) if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs if not name.startswith("#")}
