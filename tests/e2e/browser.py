"""A real browser for tests: a page in headless Chromium that follows a stream and tells what its EventSource heard."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

#: Names under which Chromium is installed, Debian's first.
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>A follower in a browser</title>
<script>
  const heard = { ids: [], opened: 0, state: 0, page_error: null };
  window.onerror = (message) => { heard.page_error = String(message); };
  const source = new EventSource(%(url)s);
  source.onopen = () => { heard.opened += 1; };
  source.onmessage = (event) => {
    const id = JSON.parse(event.data).id;
    if (String(id) !== event.lastEventId) heard.page_error = `event ${id} came with id ${event.lastEventId}`;
    heard.ids.push(id);
  };
  source.addEventListener("reset", (event) => { heard.page_error = `reset: ${event.data}`; });
  (async () => {
    for (;;) {
      const ids = heard.ids.splice(0);
      await fetch("heard", { method: "POST", body: JSON.stringify({ ...heard, ids, state: source.readyState }) });
      await new Promise((later) => setTimeout(later, 50));
    }
  })();
</script>
"""


def chromium() -> str | None:
    """The browser's program; None if there is none."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


class Browser:
    """A context manager: a page of the origin `origin`, open in a browser once `follow` was called.

    `ids` are the ids of the messages that the page heard, in order; `connections` counts how often its EventSource was
    opened; `closed` tells whether it has given up for good, `failure` what else went wrong in the page.
    """

    def __init__(self, folder: Path) -> None:
        self.ids: list[int] = []
        self.connections = 0
        self.closed = False
        self.failure: str | None = None
        self._folder = folder
        self._page = b""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Browser":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            # With the processes that it started, which hold on to its folder.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
        self._server.shutdown()
        self._server.server_close()

    def follow(self, url: str) -> None:
        """Opens the page; its EventSource connects to `url`."""
        program = chromium()
        assert program is not None
        self._page = (_PAGE % {"url": json.dumps(url)}).encode()
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *_FLAGS, f"--user-data-dir={self._folder / 'profile'}", self.origin + "/"],
                env=os.environ | {"HOME": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _take(self, told: Any) -> None:
        self.ids += told["ids"]
        self.connections = told["opened"]
        self.closed = told["state"] == 2
        self.failure = told["page_error"]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        browser = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """The page, and where it tells what it heard."""

            def do_GET(self) -> None:
                found = self.path == "/"
                self._answer(200 if found else 404, browser._page if found else b"")

            def do_POST(self) -> None:
                browser._take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(200, b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler
