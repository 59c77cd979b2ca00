"""A real OpenClaw gateway in a process of its own, with a home folder of its own and a test double as its model."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.openclaw.install import programs
from tests.support import ROOT, clean_environment, until
from watcher.wakers.gateway import Gateway, Rejected

#: How long a gateway may take to become ready, on a busy machine. Alone it takes about 13 s.
READY_S = 240.0
HOOKS_TOKEN = "the-hooks-token-of-a-test"
GATEWAY_TOKEN = "the-own-token-of-a-gateway-under-test"

# What FACTS say a quiet gateway needs: no plugins, no look for updates, no heartbeat of its own.
_CONFIG = """// A gateway under test, whose model is a test double.
{{
  gateway: {{ mode: "local", port: {port}, bind: "loopback", auth: {{ mode: "token", token: "{gateway_token}" }} }},
  hooks: {{ enabled: true, token: '{hooks_token}' }},
  plugins: {{ enabled: false }},
  update: {{ checkOnStart: false }},
  logging: {{ file: "{home}/openclaw.log" }},
  models: {{
    catalogRefresh: {{ enabled: false }},
    providers: {{
      double: {{
        api: "openai-completions",
        baseUrl: "{model_url}",
        apiKey: "none",
        models: [{{ id: "tony", name: "test double" }}, {{ id: "mel", name: "test double" }}],
      }},
    }},
  }},
  agents: {{
    ownership: "explicit",
    defaults: {{ heartbeat: {{ every: "0m", target: "none" }} }},
    entries: {{
      tony: {{ model: "double/tony", workspace: "{home}/tony" }},
      mel: {{ model: "double/mel", workspace: "{home}/mel" }},
    }},
  }},
}}
"""


class GatewayProcess:
    """The gateway; a context manager that starts it. `kill` and `start` may be called in between.

    The agents' tool `exec` finds this checkout's `eventlog`.
    """

    def __init__(self, home: Path, installation: Path, model_url: str) -> None:
        self.home = home
        self.config = home / ".openclaw" / "openclaw.json"
        self.installation = installation
        self._process: subprocess.Popen[bytes] | None = None
        self.config.parent.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        text = _CONFIG.format(
            port=port, home=home, model_url=model_url, hooks_token=HOOKS_TOKEN, gateway_token=GATEWAY_TOKEN
        )
        self.config.write_text(text)
        for name, secret in (("hooks-token", HOOKS_TOKEN), ("gateway-token", GATEWAY_TOKEN)):
            (home / name).write_text(secret)
        eventlog = home / "bin" / "eventlog"
        eventlog.parent.mkdir()
        eventlog.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m eventlog.cli "$@"\n')
        eventlog.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of whatever belongs to this OpenClaw."""
        path = f"{self.home}/bin:{programs(self.installation)}"
        quiet = {"OPENCLAW_DISABLE_BONJOUR": "1", "OPENCLAW_NO_RESPAWN": "1", "OPENCLAW_SKIP_CHANNELS": "1"}
        kept = clean_environment(self.home, {"PATH": path, **quiet})
        return {name: value for name, value in kept.items() if not name.startswith("OPENCLAW_") or name in quiet}

    @property
    def log_text(self) -> str:
        """The end of what it wrote to standard output and error, over all its starts."""
        return (self.home / "gateway.log").read_text(errors="replace")[-3000:]

    def start(self) -> Self:
        """Start it and wait until it lets clients in."""
        program = self.installation / "node_modules" / "openclaw" / "openclaw.mjs"
        node = shutil.which("node", path=programs(self.installation))
        assert node is not None
        with (self.home / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [node, str(program), "gateway", "run"],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        began = time.monotonic()
        until(self.ready, READY_S, why=lambda: self.log_text)
        print(f"the gateway was ready after {time.monotonic() - began:.1f} s")
        return self

    def ready(self) -> bool:
        """Whether it lets clients in. Fails if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self.log_text
        time.sleep(0.2)
        with suppress(OSError, Rejected), Gateway.connected(self.url, GATEWAY_TOKEN):
            return True
        return False

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
