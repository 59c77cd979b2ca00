"""The units that both programs' `install` writes, under a real systemd, as services of a person and of the machine."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.checkers import log_problems, run_problems
from tests.support import SOAK, WAKE_AGENT, until
from tests.systemd.host import NEEDED, USER, CannotContain, Host

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]

#: How long the wake command runs that is not to be cut, seconds.
WORK_S = 20 if SOAK else 5
AGENTS = ("mel", "tony")
#: What the watcher and the bus must have said to systemd by then.
QUICK_WATCHDOG = "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n"
#: Asks the bus, each time over a new connection, until told to stop; writes down how that went.
PROBE = """
import http.client, json, os, time
asked, failed, slowest = 0, [], 0.0
while not os.path.exists("/tmp/probe.stop"):
    began = time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 8092, timeout=30)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    except Exception as error:
        failed.append(repr(error))
    asked += 1
    slowest = max(slowest, time.monotonic() - began)
    time.sleep(0.005)
json.dump({"asked": asked, "failed": failed, "slowest": slowest}, open("/tmp/probe.new", "w"))
os.rename("/tmp/probe.new", "/tmp/probe.json")
"""


class Services:
    """Bus and watcher, installed by their own commands as services of a person or of the machine, and started."""

    def __init__(self, host: Host, *, user: bool) -> None:
        self.host = host
        self.user = user
        self.port = 8091 if user else 8092
        self.ctl = "systemctl --user" if user else "systemctl"
        self.folder = f"/home/{USER}/agents-{'user' if user else 'system'}"
        self.config = f"/home/{USER}/.config/bus-watcher/config.toml" if user else "/etc/bus-watcher/config.toml"
        self.units = f"/home/{USER}/.config/systemd/user" if user else "/etc/systemd/system"
        hidden = [str(path) for path in NEEDED if path.is_relative_to("/tmp") or path.is_relative_to("/var/tmp")]
        if hidden and not user:  # a checkout there is hidden by the unit's PrivateTmp; an installed package is not
            self.write(
                f"{self.units}/eventlog.service.d/place.conf", f"[Service]\nBindReadOnlyPaths={' '.join(hidden)}\n"
            )
        self.host.run(f"install -d -o {USER} -g {USER} {self.folder}")
        scope = f"--port {self.port}" + ("" if user else f" --system --socket --user {USER}")
        self.install(f"eventlog install {scope}")
        # A machine's token is nobody's but root's: only systemd can hand it to the watcher.
        token_file = f"{self.config.rpartition('/')[0]}/token"
        self.run(f"mkdir -p {token_file.rpartition('/')[0]}; umask 077; "
                 f"eventlog token create minipc-3 --kind watcher --agent mel --agent tony >{token_file}")  # fmt: skip
        self.token = self.host.path(token_file).read_text().strip()
        self.write(self.config, self.configuration(token_file))
        self.install("bus-watcher install" + ("" if user else f" --system --user {USER}"))

    def configuration(self, token_file: str) -> str:
        """The watcher's: mel works for a while, tony until told."""
        bus = f'[bus]\nurl = "http://127.0.0.1:{self.port}"\ntoken_file = "{token_file}"\n'
        mel, tony = ([*WAKE_AGENT, self.folder, *options] for options in (["--work", str(WORK_S)], ["--hold"]))
        agents = f"[agents.mel]\ncommand = {json.dumps(mel)}\n[agents.tony]\ncommand = {json.dumps(tony)}\n"
        return f'name = "minipc-3"\n{bus}[defaults]\nwaker = "command"\n{agents}'

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the bus answers its administrator."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(self.host.connect(self.port)) as connection.sock:
            data = self.host.path(f"/home/{USER}/.local/share" if self.user else "/var/lib") / "eventlog"
            headers = {"Authorization": f"Bearer {(data / 'admin.token').read_text().strip()}"}
            headers |= {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            assert answer.status in (200, 201), answer.read()
            return json.loads(answer.read())

    def run(self, script: str, *, check: bool = True) -> str:
        """What a script prints, run as whoever the services are of."""
        return self.host.run(script, user=self.user, check=check).out

    def write(self, path: str, text: str) -> None:
        """Write a file as whoever the services are of."""
        self.run(f"mkdir -p {path.rpartition('/')[0]} && cat >{path} <<'END'\n{text}END")

    def install(self, command: str) -> None:
        """Call one of our install commands, and do what it says is next."""
        for line in self.run(command).splitlines():
            what, _, step = line.partition(": ")
            if what == "next" and "enable-linger" not in step:
                self.run(step.removeprefix("sudo "))

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run(f"{self.ctl} show --value -p {name} {unit}").strip()

    def pid(self, unit: str = "bus-watcher") -> int:
        """The main process of a running unit, as the host numbers it; 0 if it does not run."""
        return int(self.shown(unit, "MainPID")) if self.shown(unit, "ActiveState") == "active" else 0

    def send(self, agent: str) -> int:
        return int(self.call("POST", "/api/send", {"to_agent": agent, "payload": "hello"})["id"])

    def events(self) -> list[dict[str, Any]]:
        page = self.call("GET", "/api/events?after=0&limit=1000")
        assert not page["has_more"]
        return list(page["events"])

    def runs(self, agent: str, did: str) -> list[dict[str, Any]]:
        """What an agent's commands wrote of themselves."""
        path = self.host.path(f"{self.folder}/runs.ndjson")
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if agent in ("", line["agent"]) and did in ("", line["did"])]

    def problems(self) -> list[str]:
        """What both checkers say, now."""
        try:
            events = self.events()
        except OSError as error:
            return [str(error)]
        return log_problems(events, read_by=AGENTS) + run_problems(events, self.runs("", ""), AGENTS)

    def judge(self) -> None:
        """All was read, each wake ended well at its first try, and was told once."""
        until(lambda: not self.problems(), why=lambda: str(self.problems()))
        ended = [event for event in self.events() if event["event"] == "wake.finished"]
        assert {event["outcome"] for event in ended} == {"ok"}
        assert len(ended) == len({event["wake"] for event in ended}) == len(self.runs("", "start"))

    def woken(self, agent: str) -> int:
        """Send an agent a message and wait until its command runs; how often it ran by then."""
        before = len(self.runs(agent, "start"))
        self.hold()
        self.send(agent)
        until(lambda: len(self.runs(agent, "start")) > before)
        return before + 1

    def hold(self) -> None:
        self.host.path(f"{self.folder}/release").unlink(missing_ok=True)

    def release(self) -> None:
        self.host.path(f"{self.folder}/release").touch()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    try:
        host = Host()
        with host:
            yield host
    except CannotContain as reason:
        pytest.skip(f"this machine cannot hold a systemd apart: {reason}")


@pytest.fixture(scope="module")
def person(host: Host) -> Services:
    return Services(host, user=True)


@pytest.fixture(scope="module")
def machine(host: Host) -> Services:
    return Services(host, user=False)


@pytest.fixture(params=["person", "machine"])
def services(request: pytest.FixtureRequest) -> Services:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Services)
    return found


def test_an_agent_is_woken(services: Services) -> None:
    services.woken("tony")
    services.release()
    services.judge()


def test_the_units_are_as_systemd_wants_them(services: Services) -> None:
    scope = "--user" if services.user else "--system"
    units = " ".join(f"{services.units}/{name}.service" for name in ("eventlog", "bus-watcher"))
    called = services.host.run(f"systemd-analyze {scope} --recursive-errors=yes verify {units}", user=services.user)
    assert called.err == ""


def test_a_run_outlives_a_restart_of_the_watcher_and_is_reported_once(services: Services) -> None:
    run = services.woken("mel")
    before = services.pid()
    services.run(f"{services.ctl} restart bus-watcher")
    assert services.pid() not in (0, before)
    assert len(services.runs("mel", "end")) == run - 1, "the restart came too late to show anything"
    services.judge()
    started, ended = (services.runs("mel", did)[-1]["at"] for did in ("start", "end"))
    assert ended - started >= WORK_S


@pytest.mark.parametrize("end", ["kill --kill-who=main -s KILL bus-watcher", "stop bus-watcher"])
def test_a_run_outlives_the_watchers_end(services: Services, end: str) -> None:
    services.woken("tony")
    before = services.pid()
    services.run(f"{services.ctl} {end}")
    if end.startswith("stop"):
        services.run(f"{services.ctl} start bus-watcher")
    until(lambda: services.pid() not in (0, before))
    services.release()
    services.judge()


def test_a_watcher_that_hangs_is_started_anew_and_its_run_goes_on(person: Services) -> None:
    drop_in = f"{person.units}/bus-watcher.service.d/test.conf"
    person.write(drop_in, QUICK_WATCHDOG)
    person.run(f"{person.ctl} daemon-reload && {person.ctl} restart bus-watcher")
    try:
        person.woken("tony")
        before = person.pid()
        person.run(f"kill -STOP {before}")
        until(lambda: person.pid() not in (0, before))
        person.release()
        person.judge()
    finally:
        person.run(f"rm {drop_in} && {person.ctl} daemon-reload && {person.ctl} restart bus-watcher")


@pytest.mark.parametrize("how", ["STOP", "KILL"])
def test_a_bus_that_hangs_or_dies_is_started_anew(person: Services, how: str) -> None:
    drop_in = f"{person.units}/eventlog.service.d/test.conf"
    person.write(drop_in, QUICK_WATCHDOG)
    person.run(f"{person.ctl} daemon-reload && {person.ctl} restart eventlog")
    try:
        person.woken("tony")
        before = person.pid("eventlog")
        person.run(f"kill -{how} {before}")
        until(lambda: person.pid("eventlog") not in (0, before))
        person.release()
        person.judge()
    finally:
        person.run(f"rm {drop_in} && {person.ctl} daemon-reload && {person.ctl} restart eventlog")


def test_a_watcher_with_a_wrong_configuration_is_not_started_again_and_again(services: Services) -> None:
    good = services.host.path(services.config).read_text()
    services.write(services.config, good.replace("[defaults]", "[defaults]\nwakes = 3"))
    try:
        services.run(f"{services.ctl} restart bus-watcher", check=False)
        seen = [services.shown("bus-watcher", name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")]
        assert seen == ["failed", "78", "0"]
        assert "unknown key 'wakes'" in services.host.run("journalctl -n 50 -o cat").out
    finally:
        services.write(services.config, good)
        services.run(f"{services.ctl} start bus-watcher")
    services.woken("tony")
    services.release()
    services.judge()


def test_a_bus_with_a_wrong_setting_is_not_started_again_and_again(person: Services) -> None:
    drop_in = f"{person.units}/eventlog.service.d/test.conf"
    person.write(drop_in, "[Service]\nEnvironment=EVENTLOG_LOG_LEVEL=nonsense\n")
    try:
        person.run(f"{person.ctl} daemon-reload; {person.ctl} restart eventlog", check=False)
        seen = [person.shown("eventlog", name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")]
        assert seen == ["failed", "78", "0"]
    finally:
        person.run(f"rm {drop_in} && {person.ctl} daemon-reload && {person.ctl} start eventlog")


def test_the_machines_watcher_has_its_token_from_systemd_alone(machine: Services) -> None:
    token_file = f"{machine.config.rpartition('/')[0]}/token"
    assert machine.host.run(f"cat {token_file}", user=True, check=False).code != 0
    assert "LoadCredential" in machine.run(f"cat {machine.units}/bus-watcher.service")
    assert machine.shown("bus-watcher", "User") == USER
    machine.woken("tony")
    machine.release()
    machine.judge()


def test_connections_wait_through_restarts_of_the_bus(machine: Services) -> None:
    machine.write("/tmp/probe.py", PROBE)
    machine.run("rm -f /tmp/probe.stop /tmp/probe.json; systemd-run --quiet --unit=probe python /tmp/probe.py")
    for _ in range(5):
        machine.run("systemctl restart eventlog.service")
    machine.run("touch /tmp/probe.stop")
    result = machine.host.path("/tmp/probe.json")
    until(result.exists)
    seen = json.loads(result.read_text())
    assert seen["failed"] == []
    assert seen["asked"] >= 5
    assert seen["slowest"] > 0.1, "no connection had to wait"


def test_no_token_is_in_the_journal_or_a_command_line(services: Services) -> None:
    services.woken("tony")
    lines = services.host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False).out
    services.release()
    services.judge()
    journal = services.host.run("journalctl --no-pager -o cat").out
    assert "starter.py" in lines
    assert "granted" in journal
    for text in (lines, journal):
        assert services.token not in text
        assert "ewk_" not in text
