"""The pair's two programs: each turn reads one message and answers it as its handler did, to the address it is given.

Usage: pair.py FOLDER SECRET_FILE. It is the command of both agents. In the write-up the planner sends TASK; the builder
answers BREAKDOWN, is told STATUS to go on, and says PR_READY. They call each other with curl: `POST /send` with the
header X-Shared-Secret. A turn waits for FOLDER/release, as a model's turn takes its time, and adds a line to
FOLDER/turns when it begins and one when it ends. Standard library only.
"""

import json
import os
import subprocess
import sys
import time

#: What each type of message is answered with; nothing answers PR_READY.
ANSWERS = {"TASK": "BREAKDOWN", "BREAKDOWN": "STATUS", "STATUS": "PR_READY"}


def main(folder: str, secret_file: str) -> None:
    """One turn."""
    message = json.load(sys.stdin)
    note(folder, f"{message['to_agent']} begins {message['type']}")
    while not os.path.exists(f"{folder}/release"):
        time.sleep(0.02)
    if message["type"] in ANSWERS:
        call_back({"type": ANSWERS[message["type"]], "payload": {"of": message["payload"]}}, secret_file)
    note(folder, f"{message['to_agent']} ends {message['type']}")


def call_back(body: object, secret_file: str) -> None:
    """Their curl command; the secret is read by curl, and so on no command line."""
    with open(secret_file, encoding="ascii") as file:
        header = f"X-Shared-Secret: {file.read().strip()}"
    command = ["curl", "-sS", "-f", "-X", "POST", f"{os.environ['EVENTLOG_URL']}/send", "-H", "@-"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    said = subprocess.run(command, input=header, capture_output=True, text=True, check=True, timeout=30).stdout
    assert json.loads(said) == {"status": "sent"}, said


def note(folder: str, line: str) -> None:
    """Add a line to the record, in one write."""
    handle = os.open(f"{folder}/turns", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


if __name__ == "__main__":
    main(*sys.argv[1:])
