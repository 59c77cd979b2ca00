"""The bus as a process: its first start, its exit codes, its end under signals, and what it says to systemd."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog.errors import EXIT_COMMIT_FAILED, EXIT_CONFIG
from eventlog.server import EXIT_TAKEN
from eventlog.tokens import digest_of
from tests.e2e.foreign import Foreign
from tests.raw import connect, exchange, read_answer, receive, request
from tests.support import ROOT, BusProcess, clean_environment, until

pytestmark = pytest.mark.e2e


def serve(home: Path, *options: str | Path, **more: object) -> "subprocess.CompletedProcess[str]":
    """`eventlog serve`, expected to end by itself."""
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "eventlog.cli", "serve", *map(str, options)],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def follow(bus: BusProcess) -> socket.socket:
    """A stream that has had its first frame."""
    sock = connect(bus.url)
    sock.sendall(request("GET", "/api/stream?heartbeat=60", host="localhost", token=bus.admin_token))
    seen = b""
    while b"retry: 2000\n" not in seen:
        seen += receive(sock)
    return sock


def is_refused(bus: BusProcess) -> bool:
    """Whether the bus accepts no connections any more."""
    try:
        connect(bus.url).close()
    except ConnectionRefusedError:
        return True
    return False


class TestFirstStart:
    def test_it_makes_private_files_and_a_client_finds_it_by_itself(self, bus: BusProcess) -> None:
        assert stat.S_IMODE(bus.data_dir.stat().st_mode) == 0o700
        for name in ("admin.token", "wake.key", "eventlog.db"):
            assert stat.S_IMODE((bus.data_dir / name).stat().st_mode) == 0o600, name
        assert Foreign(bus.url, bus.admin_token).call("GET", "/api/tokens").status == 200
        config = (bus.home / ".config" / "eventlog" / "config.toml").read_text()
        assert f'url = "{bus.url}"' in config
        assert f'token_file = "{bus.data_dir / "admin.token"}"' in config

    def test_a_second_start_changes_nothing(self, bus: BusProcess) -> None:
        token, log = (
            bus.admin_token,
            Foreign(bus.url, bus.admin_token).call("GET", "/api/events").headers["Eventlog-Id"],
        )
        assert bus.stop() == 0
        bus.start()
        answer = Foreign(bus.url, bus.admin_token).call("GET", "/api/events")
        assert (bus.admin_token, answer.headers["Eventlog-Id"]) == (token, log)
        assert [event["event"] for event in answer.body["events"]] == ["token.created"]

    def test_a_crash_before_the_log_knew_the_token_is_made_good(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "admin.token").write_text("evt_written-before-the-crash\n")
        with BusProcess(tmp_path / "home", data_dir=tmp_path / "data") as bus:
            admin = Foreign(bus.url, "evt_written-before-the-crash")
            (event,) = admin.call("GET", "/api/events").body["events"]
            assert event["sha256"] == digest_of(admin.token)

    def test_a_lost_file_is_no_reason_for_a_second_administrator(self, bus: BusProcess) -> None:
        token = bus.admin_token
        bus.stop()
        (bus.data_dir / "admin.token").unlink()
        bus.start()
        assert not (bus.data_dir / "admin.token").exists()
        assert Foreign(bus.url, token).call("GET", "/api/tokens").status == 200

    def test_the_client_configuration_of_another_bus_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / ".config" / "eventlog" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text('url = "http://elsewhere:1"\n')
        with BusProcess(tmp_path):
            assert file.read_text() == 'url = "http://elsewhere:1"\n'

    def test_with_json_the_ready_line_is_an_object(self, tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "eventlog.cli",
            "serve",
            "--json",
            "--port",
            "0",
            "--data-dir",
            str(tmp_path / "d"),
        ]
        with subprocess.Popen(command, env=clean_environment(tmp_path), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        assert said.keys() == {"url", "log", "head", "data_dir"}
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", said["url"])


class TestRefusals:
    def test_a_folder_that_another_process_owns(self, bus: BusProcess, tmp_path: Path) -> None:
        done = serve(tmp_path / "second", "--data-dir", bus.data_dir, "--port", "0")
        assert done.returncode == EXIT_TAKEN
        assert f"process {bus.process.pid}" in done.stderr
        assert bus.url in done.stderr

    def test_an_address_that_is_in_use(self, bus: BusProcess, tmp_path: Path) -> None:
        done = serve(tmp_path / "second", "--data-dir", tmp_path / "other", "--port", str(bus.port))
        assert done.returncode == EXIT_TAKEN
        assert str(bus.port) in done.stderr

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--port", "web"], "port"),
            (["--no-auth", "--host", "0.0.0.0"], "no_auth"),
            (["--host", "no such host"], "host"),
        ],
    )
    def test_a_wrong_setting_is_named(self, tmp_path: Path, options: list[str], said: str) -> None:
        done = serve(tmp_path, "--data-dir", tmp_path / "data", *options)
        assert done.returncode == EXIT_CONFIG
        assert said in done.stderr
        assert done.stderr.count("\n") == 1

    def test_a_database_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "eventlog.db").write_bytes(b"not a database" * 1000)
        done = serve(tmp_path, "--data-dir", tmp_path / "data", "--port", "0")
        assert done.returncode == EXIT_CONFIG
        assert done.stderr.count("\n") == 1

    def test_a_data_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        done = serve(tmp_path, "--data-dir", tmp_path / "file", "--port", "0")
        assert done.returncode == EXIT_CONFIG


class TestEnd:
    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_with_0(self, bus: BusProcess, sign: signal.Signals) -> None:
        assert bus.kill(sign) == 0

    def test_a_connection_that_was_accepted_is_answered_though_its_request_comes_late(self, tmp_path: Path) -> None:
        with BusProcess(tmp_path, options=["--shutdown-grace-s", "20"]) as bus, connect(bus.url) as sock:
            # Connections are accepted in order: once a later one is answered, this one is the bus's.
            assert Foreign(bus.url, bus.admin_token).call("GET", "/healthz").status == 200
            bus.process.send_signal(signal.SIGTERM)
            until(lambda: is_refused(bus))
            sock.sendall(request("GET", "/healthz", host="localhost"))
            assert read_answer(sock).status == 200
            assert bus.process.wait(30) == 0

    def test_500_followers_end_with_a_whole_frame_and_the_bus_within_a_second(self, bus: BusProcess) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        with contextlib.ExitStack() as stack:
            followers = [stack.enter_context(follow(bus)) for _ in range(500)]
            Foreign(bus.url, bus.admin_token).send("mel", "the last one")
            began = time.monotonic()
            assert bus.stop() == 0
            took_s = time.monotonic() - began
            for sock in followers:
                seen = b""
                while chunk := sock.recv(65536):
                    seen += chunk
                assert b"the last one" in seen
                assert seen.endswith(b"\n\n\r\n0\r\n\r\n")
        assert took_s < 3  # a second, and what a busy machine adds

    def test_a_waiting_inbox_request_is_answered_empty(self, bus: BusProcess) -> None:
        with connect(bus.url) as sock:
            sock.sendall(request("GET", "/api/inbox?agent=mel&wait=60", host="localhost", token=bus.admin_token))
            until(lambda: _connections(bus) >= 1)
            assert exchange(bus.url, request("GET", "/readyz", host="localhost")).status == 200
            assert bus.stop() == 0
            seen = b""
            while chunk := sock.recv(65536):
                seen += chunk
        assert seen.startswith(b"HTTP/1.1 200")
        assert b'"messages":[]' in seen

    def test_a_client_that_reads_nothing_does_not_hold_it_up(self, tmp_path: Path) -> None:
        with BusProcess(tmp_path, options=["--send-buffer-bytes", "4096"]) as bus, socket.socket() as sock:
            admin = Foreign(bus.url, bus.admin_token)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", bus.port))
            sock.sendall(request("GET", "/api/stream?after=0", host="localhost", token=bus.admin_token))
            for _ in range(20):
                admin.send("mel", "x" * 100_000)
            began = time.monotonic()
            assert bus.stop() == 0
            assert time.monotonic() - began < 3

    def test_a_client_that_reads_nothing_loses_its_stream(self, tmp_path: Path) -> None:
        options = ["--send-buffer-bytes", "4096", "--send-timeout-s", "0.3"]
        with BusProcess(tmp_path, options=options) as bus, socket.socket() as sock:
            admin = Foreign(bus.url, bus.admin_token)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", bus.port))
            sock.sendall(request("GET", "/api/stream?after=0", host="localhost", token=bus.admin_token))
            for _ in range(20):
                admin.send("mel", "x" * 100_000)
            until(lambda: "read nothing for too long" in bus.log_text)
            seen = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := sock.recv(65536):
                    seen += chunk
            assert not seen.endswith(b"0\r\n\r\n")


class TestLimits:
    def test_more_followers_than_there_may_be_are_told_to_come_back(self, tmp_path: Path) -> None:
        with BusProcess(tmp_path, options=["--followers-max", "2"]) as bus:
            admin = Foreign(bus.url, bus.admin_token)
            with follow(bus), follow(bus):
                answer = admin.call("GET", "/api/stream")
                assert (answer.status, answer.code) == (429, "too_many_requests")
                assert int(answer.headers["Retry-After"]) > 0
                assert admin.call("GET", "/api/inbox?agent=mel&wait=1").status == 429
                assert admin.call("GET", "/api/inbox?agent=mel").status == 200
            until(lambda: admin.call("GET", "/api/inbox?agent=mel&wait=0.01").status == 200)

    def test_the_limit_of_a_body_is_a_setting(self, tmp_path: Path) -> None:
        with BusProcess(tmp_path, options=["--body-limit-bytes", "1024"]) as bus:
            admin = Foreign(bus.url, bus.admin_token)
            assert admin.call("POST", "/api/send", {"to_agent": "mel", "payload": "x" * 2000}).status == 413

    def test_names_and_origins_that_are_allowed_are_let_in(self, tmp_path: Path) -> None:
        options = ["--allowed-hosts", "bus.lan", "--allowed-origins", "https://panel.example"]
        with BusProcess(tmp_path, options=options) as bus:
            assert exchange(bus.url, request("GET", "/healthz", host="bus.lan:80")).status == 200
            assert exchange(bus.url, request("GET", "/healthz", host="bus.wan")).status == 421
            panel = "Origin: https://panel.example"
            answer = exchange(bus.url, request("GET", "/healthz", host="localhost", headers=(panel,)))
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://panel.example")
            asked = (panel, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
            answer = exchange(bus.url, request("OPTIONS", "/api/send", host="localhost", headers=asked))
            assert answer.status in (200, 204)
            assert answer.headers["access-control-allow-origin"] == "https://panel.example"
            other = request("OPTIONS", "/api/send", host="localhost", headers=("Origin: https://evil.example",))
            assert exchange(bus.url, other).status == 403


class TestFailure:
    def test_a_commit_that_fails_is_503_and_the_bus_ends_to_be_started_again(self, tmp_path: Path) -> None:
        """A log that may not grow: the file size limit stands for a full disk."""
        with BusProcess(tmp_path) as bus:
            admin = Foreign(bus.url, bus.admin_token)
            first = admin.send("mel", "before")
            size = max(path.stat().st_size for path in bus.data_dir.iterdir())
            resource.prlimit(bus.process.pid, resource.RLIMIT_FSIZE, (size + 8192, size + 8192))
            answer = until(lambda: _refused(admin))
            assert answer == (503, "unavailable", True)
            assert bus.wait() == EXIT_COMMIT_FAILED
            assert "starts it again" in bus.log_text or "started again" in bus.log_text
            bus.start()
            assert first in [message["id"] for message in admin.inbox("mel")["messages"]]


class TestSystemd:
    @pytest.fixture
    def notified(self, tmp_path: Path) -> Iterator[socket.socket]:
        """What systemd would hear."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(tmp_path / "notify"))
            sock.settimeout(30)
            yield sock

    def test_it_says_when_it_is_ready_alive_and_stopping(self, notified: socket.socket, tmp_path: Path) -> None:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with BusProcess(tmp_path / "home", env=env) as bus:
            assert notified.recv(4096).startswith(b"READY=1\n")
            assert notified.recv(4096) == b"WATCHDOG=1"
            assert notified.recv(4096) == b"WATCHDOG=1"
            assert bus.stop() == 0
            while (said := notified.recv(4096)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"

    def test_connections_wait_on_a_socket_that_was_handed_over(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with connect(f"http://127.0.0.1:{port}") as early:
                early.sendall(request("GET", "/healthz", host="localhost"))
                with _handed_over(listener, tmp_path) as process:
                    assert early.recv(65536).startswith(b"HTTP/1.1 200")
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(30) == 0
            # Still open for the next bus.
            with connect(f"http://127.0.0.1:{port}"):
                pass


@contextlib.contextmanager
def _handed_over(listener: socket.socket, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A bus that finds `listener` as descriptor 3, as systemd would leave it."""
    program = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
    program += "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = ["-m", "eventlog.cli", "serve", "--data-dir", str(home / "data")]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(listener.fileno()), *command],
        env=clean_environment(home),
        pass_fds=(listener.fileno(),),
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert str(listener.getsockname()[1]).encode() in process.stdout.readline()
        yield process


def _connections(bus: BusProcess) -> int:
    """How many sockets the bus has open."""
    folder = Path(f"/proc/{bus.process.pid}/fd")
    return sum(os.readlink(entry).startswith("socket:") for entry in list(folder.iterdir()) if entry.is_symlink())


def _refused(admin: Foreign) -> tuple[int, str, bool] | None:
    """The refusal of a message, once one is refused."""
    answer = admin.call("POST", "/api/send", {"to_agent": "mel", "payload": "x" * 20_000})
    return None if answer.status == 201 else (answer.status, answer.code, "Retry-After" in answer.headers)
