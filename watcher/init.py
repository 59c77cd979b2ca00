"""What `bus-watcher init` writes: a configuration of the watcher for agents that are there already."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from eventlog.errors import ConfigError
from eventlog.event import NAME, RESERVED, fold
from watcher.config import host_name
from watcher.openclaw_config import OpenClaw
from watcher.settings import BusSettings

OpenClawWaker = Literal["openclaw", "openclaw-agent"]
_ENABLE: Final = 'add hooks: { enabled: true, token: "a long random text" } to it and restart the gateway'


@dataclass(frozen=True)
class Written:
    """What was written, what to know, and what to do next."""

    config: Path
    secret_file: Path
    agents: tuple[str, ...]
    warnings: tuple[str, ...]
    steps: tuple[str, ...]


def openclaw(
    found: OpenClaw,
    config: Path,
    *,
    waker: OpenClawWaker = "openclaw",
    only: Sequence[str] = (),
    name: str = "",
    url: str = "",
    force: bool = False,
    default: Path,
) -> Written:
    """Write a configuration for OpenClaw's agents, all or `only` these, and its secret to a file of its own.

    `name` is the watcher's, by default the machine's; `default` is the file that other commands take by themselves.

    Raises ConfigError if there is a file already and no `force`, or if this OpenClaw cannot be woken as it is.
    """
    config, name = config.absolute(), name or host_name()
    if not NAME.match(name) or fold(name) in RESERVED:
        raise ConfigError(f"{name!r} cannot be the name of a watcher")
    agents = _chosen(found, only)
    secret = _secret(found, waker)
    secret_file = config.with_name("hooks-token" if waker == "openclaw" else "gateway-token")
    token_file = config.with_name("token")
    if not force:
        for path in (config, secret_file):
            if path.exists():
                raise ConfigError(f"{path} is there already; write it anew with --force, or elsewhere with --config")
    base = found.url if found.hooks_path == "/hooks" or waker != "openclaw" else found.url + found.hooks_path
    lines = [
        f"# Wakes the agents of {found.path}.",
        f"name = {_text(name)}",
        "[bus]",
        f"url = {_text(url or BusSettings().url)}",
        f"token_file = {_text(str(token_file))}",
        "[defaults]",
        f"waker = {_text(waker)}",
        f"url = {_text(base)}",
        f"token_file = {_text(str(secret_file))}",
        *(line for agent in agents for line in (f"[agents.{_key(agent)}]", f"agent_id = {_text(agent)}")),
    ]
    try:
        config.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(secret_file, f"{secret}\n", 0o600)
        _write(config, "\n".join(lines) + "\n", 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename or config}: {error.strerror}") from error
    return Written(
        config,
        secret_file,
        agents,
        tuple(_warnings(found, waker, agents)),
        _steps(config, name, agents, token_file, default),
    )


def _chosen(found: OpenClaw, only: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in only if name not in found.agents]
    if unknown:
        raise ConfigError(f"{found.path} has no agent {unknown[0]!r}; it has {', '.join(found.agents)}")
    agents = tuple(only) or found.agents
    for name in agents:
        if not NAME.match(name) or fold(name) in RESERVED:
            raise ConfigError(f"the bus can have no agent of the name {name!r}; choose the others with --agent")
    return agents


def _secret(found: OpenClaw, waker: OpenClawWaker) -> str:
    """The secret that this waker needs. Raises ConfigError if there is none."""
    if waker == "openclaw":
        if not found.hooks_enabled:
            raise ConfigError(f"hooks are off in {found.path}; {_ENABLE}")
        if not found.hooks_token:
            raise ConfigError(f"{found.path} names no hooks.token that can be read here; {_ENABLE}")
        return found.hooks_token
    if found.gateway_auth not in ("token", "password"):
        raise ConfigError(f"gateway.auth.mode is {found.gateway_auth!r} in {found.path}; this waker needs a token")
    if not found.gateway_token:
        raise ConfigError(
            f"{found.path} names no gateway.auth.{found.gateway_auth} that can be read here; put it there, or into "
            f"OPENCLAW_GATEWAY_{found.gateway_auth.upper()} for this command"
        )
    return found.gateway_token


def _warnings(found: OpenClaw, waker: OpenClawWaker, agents: Sequence[str]) -> Iterator[str]:
    if waker != "openclaw":
        return
    if found.hooks_token == found.gateway_token:
        yield "hooks.token is the gateway's own token; OpenClaw wants them to differ (`openclaw doctor --fix`)"
    for agent in agents if found.allowed is not None else ():
        if agent not in (found.allowed or ()):
            yield f"hooks.allowedAgentIds does not name {agent}: the gateway will refuse its wakes with 400"


def _steps(config: Path, name: str, agents: Sequence[str], token_file: Path, default: Path) -> tuple[str, ...]:
    named = " ".join(f"--agent {agent}" for agent in agents)
    shown = "" if config == default.absolute() else f" --config {config}"
    create = f"eventlog token create {name} --kind watcher {named}"
    return (
        f"(umask 077; {create} > {token_file})",
        f"bus-watcher check{shown}",
        f"bus-watcher install{shown}",
    )


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all; nobody but the owner ever sees it unfinished."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _text(value: str) -> str:
    """A TOML string."""
    escaped = "".join(
        f"\\u{ord(char):04x}" if char in '"\\' or ord(char) < 32 or ord(char) == 127 else char for char in value
    )
    return f'"{escaped}"'


def _key(name: str) -> str:
    """A TOML key: a name of an agent may hold a dot."""
    return f'"{name}"' if "." in name else name
