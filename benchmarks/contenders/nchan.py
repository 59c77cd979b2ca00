"""nchan: publish and subscribe in nginx; messages are kept in memory only."""

from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import MESSAGE, Contender
from benchmarks.load import follow, send
from benchmarks.peers import Missing, version_of
from benchmarks.program import Program

LIBRARY = Path("/var/lib/nginx")
_CONFIG = """
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  nchan_shared_memory_size 1024M;
  server {{
    listen 127.0.0.1:{port};
    location = /send {{
      nchan_publisher;
      nchan_channel_id bench;
      nchan_message_buffer_length 100000;
      nchan_message_timeout 60s;
    }}
    location = /stream {{
      nchan_subscriber eventsource;
      nchan_channel_id bench;
      nchan_subscriber_first_message newest;
    }}
  }}
}}
"""


class Nchan(Contender):
    """One nginx worker, as the bus is one process."""

    name: ClassVar[str] = "nchan"
    durability: ClassVar[str] = "none: memory only"

    def prepare(self) -> None:
        """nginx and the module."""
        self.cache.debian("nginx")
        self.cache.debian_file("usr/lib/nginx/modules/ngx_nchan_module.so")
        try:
            # With nchan in it, nginx makes its default folders in here, whatever its configuration says.
            LIBRARY.mkdir(exist_ok=True)
        except OSError as error:
            raise Missing(f"nginx needs the folder {LIBRARY}: {error.strerror}") from None

    def version(self) -> str:
        """nginx's, and the module's package."""
        return version_of([self.cache.debian("nginx"), "-v"], self.cache.libraries()) + ", nchan from Debian"

    def launch(self, folder: Path) -> Program:
        """A server with one channel."""
        folder.mkdir(parents=True)
        config = folder / "nginx.conf"
        module = self.cache.debian_file("usr/lib/nginx/modules/ngx_nchan_module.so")
        user = "user root;" if folder.owner() == "root" else ""
        config.write_text(user + _CONFIG.format(module=module, folder=folder, port=self.port))
        return Program(
            [self.cache.debian("nginx"), "-p", folder, "-c", config], log=folder / "log", env=self.cache.libraries()
        )

    def sending(self, connections: int, seconds: float, *, batch: int = 1, rate: float = 0.0) -> send.Plan | None:
        """POST to the channel."""
        if batch > 1:
            return None
        return self.http_sending(self.http("POST", "/send", MESSAGE), connections, seconds, rate)

    def following(self, followers: int) -> follow.Plan:
        """EventSource."""
        request = self.http("GET", "/stream", headers="Accept: text/event-stream\r\n")
        return follow.Plan("127.0.0.1", self.port, request, followers=followers)
