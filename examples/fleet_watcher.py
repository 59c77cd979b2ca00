"""The fleet's watcher as it was, but for address and token: fleet_watcher.py mel,tony COMMAND (under systemd)."""

import json
import os
import subprocess
import sys
import urllib.request

LOCAL = set(sys.argv[1].split(","))
headers = {"Authorization": "Bearer " + os.environ["EVENTLOG_TOKEN"]}
request = urllib.request.Request(os.environ["EVENTLOG_URL"] + "/api/stream", headers=headers)
with urllib.request.urlopen(request) as resp:
    for line in resp:
        if line.startswith(b"data:"):
            msg = json.loads(line[5:])
            if msg["to_agent"] in LOCAL:
                subprocess.Popen([*sys.argv[2:], msg["to_agent"]])
