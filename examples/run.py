"""`make run`: a bus, a watcher and two agents, and their conversation as it happens; Ctrl-C ends it, the log stays.

Usage: run.py [FOLDER], by default var/run in the checkout; all that is kept is kept there.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from stage import PORT, Stage, interruptible, port_is_free

FOLDER = Path(__file__).resolve().parent.parent / "var" / "run"
FIRST_TASK = {"text": "release notes", "steps": ["outline", "draft", "check"]}
#: A stream that stays silent for so long is opened anew, seconds; the heartbeat is 5.
SILENCE_S = 12.5


def main() -> int:
    """Run until Ctrl-C; 0, or 1 if the bus or the watcher ended by itself."""
    stage = Stage(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else FOLDER)
    port = PORT
    if not port_is_free(PORT):
        print(f"port {PORT} is taken; taking a free one", flush=True)
        port = 0
    try:
        with interruptible():
            stage.start_bus(port)
            head = stage.call("GET", "/api/events?limit=1")["head"]
            stage.start_watcher()
            say_hello(stage, head)
            threading.Thread(target=show, args=(stage, head), daemon=True).start()
            seed_if_new(stage)
            while stage.failed() is None:
                time.sleep(0.2)
            print(stage.failed(), file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
        return 0
    finally:
        stage.stop()
        print(f"stopped; the log is in {relative(stage.data_dir)}, `make run` goes on with it", flush=True)


def say_hello(stage: Stage, head: int) -> None:
    """The address, and what to try next."""
    eventlog = f"XDG_CONFIG_HOME={relative(stage.config_home)} {relative(Path(sys.executable).parent / 'eventlog')}"
    print(f"bus: {stage.url}    agents: mel, tony    log: {relative(stage.data_dir)} (head {head})")
    print("try in another terminal, from here:")
    print(f'  {eventlog} send mel "a poem about cursors" --from you')
    print(f"  {eventlog} inbox you")
    print(f"  {eventlog} why tony")
    print("Ctrl-C ends it.\n", flush=True)


def seed_if_new(stage: Stage) -> None:
    """Give a log that has no message its first task."""
    if not stage.call("GET", "/api/events?event=message&limit=1")["events"]:
        message = {"from_agent": "you", "to_agent": "mel", "type": "TASK", "payload": FIRST_TASK}
        stage.call("POST", "/api/send", message, key="first-task")


def show(stage: Stage, cursor: int) -> None:
    """Print every event after the cursor as it comes, reconnecting for as long as this program runs."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        headers = {"Authorization": f"Bearer {stage.admin_token.read_text().strip()}", "Last-Event-ID": str(cursor)}
        request = urllib.request.Request(stage.url + "/api/stream?event=*&heartbeat=5", headers=headers)
        try:
            with opener.open(request, timeout=SILENCE_S) as stream:
                for line in stream:
                    if line.startswith(b"data:"):
                        event = json.loads(line[5:])
                        cursor = event.get("id", cursor)
                        print(told(event), flush=True)
        except OSError:
            time.sleep(1)


def told(event: dict[str, Any]) -> str:
    """One event as a line for people."""
    head = f"{event.get('time', '')[11:19]}  {event.get('id', ''):>5}  "
    match event.get("event"):
        case "message":
            payload = event.get("payload")
            if isinstance(payload, dict):
                payload = " / ".join(str(payload[name]) for name in ("text", "step") if name in payload)
            return head + f"{event['from_agent']} -> {event['to_agent']}  {event['type']}  {payload}"
        case "ack":
            return head + f"    {event['agent']} has read up to {event['cursor']}"
        case "wake.started":
            covers = f"{event['after']} < id <= {event['through']}"
            return head + f"    {event['agent']} is woken for {covers} (attempt {event['attempt']})"
        case "wake.finished":
            return head + f"    {event['agent']}'s wake {event['wake']} ended: {event['outcome']}"
        case other:
            return head + f"    {other or event}"


def relative(path: Path) -> str:
    """A path as it is typed from here."""
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
