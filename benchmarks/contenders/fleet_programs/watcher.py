"""A re-creation of the fleet's watcher script: it reads the stream and runs the wake command of a local agent.

Usage: watcher.py URL COMMAND AGENT…; the agent's name is in WAKE_AGENT.
"""

import json
import os
import subprocess
import sys
import urllib.request

url, command, agents = sys.argv[1], sys.argv[2], set(sys.argv[3:])
with urllib.request.urlopen(f"{url}/api/stream") as stream:
    for line in stream:
        if line.startswith(b"data:"):
            message = json.loads(line[5:])
            if message["to_agent"] in agents:
                environ = os.environ | {"WAKE_AGENT": message["to_agent"], "WAKE_THROUGH": str(message["id"])}
                subprocess.run([command], env=environ, check=False)
