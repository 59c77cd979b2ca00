"""What `bus-watcher status` shows, from the file that the running watcher keeps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from watcher.shim import read_json
from watcher.state import watcher_runs

#: How much is shown of why a wake went wrong.
DETAIL_CHARS: Final = 300


def read(state_dir: Path) -> dict[str, Any]:
    """The last status, and whether a watcher runs (`running`)."""
    running = watcher_runs(state_dir)
    try:
        stored = read_json(str(state_dir / "status.json"))
    except (OSError, ValueError):
        stored = {}
    return {"running": running, "state_dir": str(state_dir), **(stored if isinstance(stored, dict) else {})}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same, for people."""
    if not found["running"]:
        yield f"no watcher runs on {found['state_dir']}; start one with `bus-watcher run`"
        return
    if "watcher" not in found:
        yield "a watcher has just started"
        return
    detail = f" ({found['detail']})" if found["detail"] else ""
    yield f"watcher {found['watcher']} (process {found['pid']}, node {found['node']})"
    yield f"bus     {found['url']}: {found['connection']} since {found['since']}{detail}"
    if found["cursor"] is not None:
        yield f"cursor  {found['cursor']} of log {found['log']}, {found['lag']} behind the head"
    for name, agent in found["agents"].items():
        way = f"{agent['waker']}, a run for each message" if agent.get("runs") else agent["waker"]
        yield f"agent   {name} ({way}): {_doing(agent)}"
        if agent["last"]:
            last = agent["last"]
            code = "" if last["exit_code"] is None else f", exit code {last['exit_code']}"
            yield f"        last {_called(last['wake'], last.get('message'))}: {last['outcome']}{code} at {last['at']}"
            if last["outcome"] != "ok" and (said := _in_one_line(last.get("detail", ""))):
                yield f"        it said: {said}"


def _in_one_line(text: str) -> str:
    """The text without line ends and what would steer a terminal; its end if it is long: the reason stands there."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[-DETAIL_CHARS:]


def _doing(agent: dict[str, Any]) -> str:
    wake = agent["wake"]
    in_flight = (
        f", {_called(wake['id'], wake.get('message'))} (attempt {wake['attempt']}) since {wake['since']}"
        if wake
        else ""
    )
    why = f" ({agent['why']})" if agent["why"] else ""
    due = f", next ask at {agent['next_ask']} at the latest" if agent["next_ask"] else ""
    return f"{agent['state']}{why}{in_flight}{due}"


def _called(wake: int, message: int | None) -> str:
    return f"wake {wake}" if message is None else f"run {wake} of message {message}"
