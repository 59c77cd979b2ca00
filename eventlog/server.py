"""The composition root: `main` puts the bus together from its settings, serves it, and takes it down cleanly."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import structlog
import uvicorn
from sse_starlette.sse import AppStatus

from eventlog import systemd
from eventlog.api import Application
from eventlog.auth import Guard, load_wake_key
from eventlog.call import Desk
from eventlog.config import Config
from eventlog.discovery import write_client_config
from eventlog.errors import (
    EXIT_COMMIT_FAILED,
    EXIT_CONFIG,
    ConfigError,
    EventlogError,
    Locked,
    SchemaError,
    Unavailable,
)
from eventlog.listen import Listener, address_of, listening_socket
from eventlog.lock import DataLock
from eventlog.log import EventLog
from eventlog.logs import configure
from eventlog.patience import Patience
from eventlog.protocol import Connection, limited
from eventlog.tokens import digest_of, new_token, write_secret

#: Exit code where trying again later may help (sysexits.h EX_UNAVAILABLE): another owner, an address in use.
EXIT_TAKEN = 69
#: The administrator's token in the data folder, and the name under which the log knows it.
ADMIN_FILE = "admin.token"
ADMIN_NAME = "owner"
#: The key that the tokens of wakes are signed with.
WAKE_KEY_FILE = "wake.key"
#: How many more objects there must be than at the last look until the garbage collector looks again.
COLLECT_AFTER = 20_000
#: File descriptors to ask for: each follower holds one.
FILES_MAX = 65_536
#: What the server itself gives answers in flight once followers and requests had their time, seconds.
LAST_GRACE_S = 1

_log = structlog.get_logger()


def main(config: Config, *, as_json: bool = False) -> int:
    """Serves until SIGTERM or SIGINT; returns the process's exit code.

    0: stopped. 69: the data folder or the address is in use, or the disk is full. 74: an append's outcome is not known;
    start it again. 78: a setting, or the database, is wrong. What is wrong is one line on standard error.
    """
    configure(config.log_level)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(config, as_json=as_json))
    except (ConfigError, SchemaError) as error:
        return _fail(error, EXIT_CONFIG)
    except Locked as error:
        return _fail(error, EXIT_TAKEN)
    except EventlogError as error:
        return _fail(error, EXIT_COMMIT_FAILED)
    except (OSError, sqlite3.Error) as error:
        # Such as a full disk: what was appended is there, and nothing can be done until somebody makes room.
        return _fail(Unavailable(f"cannot work in {config.data_dir}: {error}; mend that first"), EXIT_TAKEN)


def _fail(error: EventlogError, code: int) -> int:
    print(f"eventlog: {error.detail} [{error.code}]", file=sys.stderr, flush=True)
    return code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop, where there is one for this interpreter."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(config: Config, *, as_json: bool) -> int:
    with DataLock(config.data_dir) as lock:
        async with EventLog.open(config) as bus:
            key = load_wake_key(config.data_dir / WAKE_KEY_FILE)
            guard = Guard(bus, key, no_auth=config.no_auth, reply_token_s=config.reply_token_s)
            await _ensure_admin(bus, config.data_dir)
            sock = listening_socket(config)
            url = address_of(sock)
            lock.publish(url)
            _write_client_config(url, config.data_dir / ADMIN_FILE)
            _allow_many_files()
            return await _run(config, Desk(bus, guard, config), sock, url, as_json=as_json)


async def _run(config: Config, desk: Desk, sock: socket.socket, url: str, *, as_json: bool) -> int:
    """Serves until a signal comes, an append fails, or one of the side tasks ends."""
    server = _Server(config, desk, ready=lambda: _say_ready(config, desk.bus, url, as_json=as_json))
    side = {
        asyncio.create_task(desk.bus.sweep(), name="sweep"),
        asyncio.create_task(desk.bus.failed.wait(), name="failed"),
        asyncio.create_task(_keep_watchdog(), name="watchdog"),
    }
    serving = asyncio.create_task(server.serve(sockets=[sock]), name="serving")
    try:
        await asyncio.wait({serving, *side}, return_when=asyncio.FIRST_COMPLETED)
        server.end()
        await serving
        for task in side:
            if task.done() and task.get_name() != "failed":
                _log.error("a part of the bus has failed; it stops", part=task.get_name(), exc_info=task.exception())
                return EXIT_COMMIT_FAILED
    finally:
        for task in side:
            task.cancel()
        await asyncio.gather(*side, return_exceptions=True)
    if desk.bus.failed.is_set():
        _log.error("an append's outcome is not known; the bus stops, to be started again")
        return EXIT_COMMIT_FAILED
    return 0


class _Server(uvicorn.Server):
    """uvicorn, but it calls `ready` when it serves, a signal only ends it, and followers end before anything is cut."""

    def __init__(self, config: Config, desk: Desk, *, ready: Callable[[], None]) -> None:
        # The bus ends its followers itself, at whole frames; the library would cut them wherever they are.
        AppStatus.enable_automatic_graceful_drain = False
        application = Application(desk)
        self._connection = limited(config.header_limit_bytes, config.header_timeout_s, application.direct)
        self._listeners: list[Listener] = []
        self._patience = Patience(config.send_timeout_s, config.tcp_user_timeout_ms)
        super().__init__(
            uvicorn.Config(
                application,
                http=self._connection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=round(config.idle_timeout_s),
                timeout_graceful_shutdown=LAST_GRACE_S,
            )
        )
        self._desk = desk
        self._grace_s = config.shutdown_grace_s
        self._ready = ready
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves, and says so."""
        await super().startup([])
        connection = partial(self._connection, self.config, self.server_state, {}, asyncio.get_running_loop())
        self._listeners = [Listener(sock, connection) for sock in sockets or ()]
        # What is there now stays: the collector need not look at it again. Nor need it look so often at what comes: of
        # a thousand requests under way nothing is garbage, and nearly all that they leave is freed without it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes signals on the loop; uvicorn would raise them again at the end, and the exit code would be theirs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        self.handle_exit(number, None)
        self._ending.set()

    def end(self) -> None:
        """Stops serving, as a signal would."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Serves until it is to end. uvicorn's own looks ten times a second: most of what an idle bus computes."""
        # The tick of a whole second, which sets the Date of answers, each time.
        while not await self.on_tick(0):
            self._cut()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1)

    def _cut(self) -> None:
        """Cuts connections whose client reads nothing, or is gone. Closing them would wait for it."""
        transports = [c.transport for c in self.server_state.connections if isinstance(c, Connection)]
        for transport, why in self._patience.over(transports):
            _log.info(f"{why}; its connection was cut")
            transport.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends followers with a whole frame, then answers what is in flight, then closes.

        A connection that was accepted just now brings its request at once: closed before, it would be reset, though
        with socket activation nobody is to be refused in a restart.
        """
        systemd.notify("STOPPING=1")
        self._desk.stopping = True
        for listener in self._listeners:
            listener.close()
        self._desk.bus.end_followers()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_s
        while (self._busy() or self._unused()) and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody when an answer is over
            await asyncio.sleep(0.01)
        for connection in self._busy():
            connection.transport.abort()
        await super().shutdown(sockets)

    def _busy(self) -> list[Connection]:
        """The connections on which something is being answered."""
        return [c for c in self.server_state.connections if isinstance(c, Connection) and c.busy]

    def _unused(self) -> bool:
        """Whether there is a connection on which nothing was asked yet."""
        return any(isinstance(c, Connection) and c.unused for c in self.server_state.connections)


async def _keep_watchdog() -> None:
    """Tells systemd that the loop turns, as often as it wants to hear it; for ever."""
    within_s = systemd.watchdog_s()
    while True:
        await asyncio.sleep(3600 if within_s is None else within_s / 3)
        systemd.notify("WATCHDOG=1")


def _say_ready(config: Config, bus: EventLog, url: str, *, as_json: bool) -> None:
    """One line on standard output; programs look for the address in it."""
    if as_json:
        said = {"url": url, "log": bus.log_id, "head": bus.head, "data_dir": str(config.data_dir)}
        print(msgspec.json.encode(said).decode(), flush=True)
    else:
        print(f"eventlog: listening on {url}, log {bus.log_id} at id {bus.head} in {config.data_dir}", flush=True)
    systemd.notify(f"READY=1\nSTATUS=listening on {url}")


async def _ensure_admin(bus: EventLog, data_dir: Path) -> None:
    """An administrator's token in the data folder, if the log knows no administrator.

    The file is there before the log knows its token: a crash in between leaves a file whose token is taken up here.
    Raises ConfigError if the file cannot be written.
    """
    if any(row.kind == "admin" for row in bus.tokens()):
        return
    path = data_dir / ADMIN_FILE
    try:
        if not path.exists():
            write_secret(path, new_token()[0])
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use {path} ({error}); mend its permissions, or remove it to get a new one") from None
    if not token:
        raise ConfigError(f"{path} is empty; remove it to get a new one")
    taken = {row.name.lower() for row in bus.tokens()}
    name = next(name for name in (ADMIN_NAME, *(f"{ADMIN_NAME}-{n}" for n in range(2, 1000))) if name not in taken)
    await bus.token_created(name, kind="admin", agents=(), sha256=digest_of(token))


def _write_client_config(url: str, token_file: Path) -> None:
    """So that a client on this machine finds the bus by itself; a bus goes on where there is no home to write to."""
    try:
        write_client_config(url, token_file.absolute())
    except (OSError, EventlogError) as error:
        _log.info("no client configuration was written", reason=str(error))


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
