"""`eventlog` as a whole: every command is there, starts quickly, and says what is wrong in one line."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from eventlog import cli, errors
from eventlog.cli_common import OutputGone
from eventlog.config import settings
from tests.support import clean_environment, run_eventlog

#: The commands that the contract names.
NAMES = (
    *("serve", "send", "inbox", "ack", "follow", "replay", "show", "why", "agents", "pause", "resume"),
    *("thread", "dead", "token", "anchor", "verify", "rebuild", "backup", "restore", "install", "doctor"),
)


def commands() -> list[tuple[str, click.Command]]:
    """Every command that does something, with its words."""
    found = []
    context = click.Context(cli.eventlog)
    for name in cli.COMMANDS:
        command = cli.eventlog.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", one) for sub, one in command.commands.items()]
        else:
            found.append((name, command))
    return found


def test_the_commands_are_the_contracts() -> None:
    assert tuple(cli.COMMANDS) == NAMES


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_command_has_json_and_says_what_it_does(name: str, command: click.Command) -> None:
    assert any("--json" in option.opts for option in command.params)
    assert command.help
    assert all(getattr(option, "help", "") for option in command.params if isinstance(option, click.Option))


def test_serve_has_an_option_for_every_setting() -> None:
    serve = dict(commands())["serve"]
    options = {name for option in serve.params for name in option.opts}
    assert {setting.option for setting in settings()} <= options


def test_help_lists_every_command_and_imports_none(tmp_path: Path) -> None:
    program = (
        "import sys; from eventlog import cli; cli._main(['--help']); print([m for m in sys.modules if 'cli_a' in m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert all(f"  {name} " in done.stdout for name in NAMES)
    assert done.stdout.rstrip().endswith("[]")


def test_sending_imports_nothing_of_the_bus(tmp_path: Path) -> None:
    program = "import sys; from eventlog import cli_agent, client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(tmp_path), capture_output=True, text=True, check=True
    )
    heavy = {"starlette", "uvicorn", "aiosqlite", "structlog", "eventlog.config", "eventlog.store", "asyncio"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["send", "mel"], "give either TEXT (or - for standard input) or --payload JSON (see `eventlog send --help`)"),
        (["send", "mel", "hi", "--payload", "{}"], "give either TEXT"),
        (["send", "mel", "--payload", "{"], "--payload is not JSON"),
        (["inbox"], "Missing argument 'AGENT'"),
        (["ack", "mel", "x"], "is not a valid integer"),
        (["follow", "--after", "soon"], "--after is an id, earliest or latest"),
        (["token", "create", "x"], "Missing option '--kind'"),
        (["verify", "--anchor", "12"], "--anchor is an id, a colon and 64 hexadecimal digits"),
        (["nonsense"], "No such command 'nonsense'"),
        (["sned"], "Did you mean 'send'?"),
        (["serve", "--nonsense"], "No such option"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAKE_AGENT", raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("eventlog: ")
    assert said in err


def test_a_wrong_setting_exits_78_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--port", "web"])
    assert caught.value.code == errors.EXIT_CONFIG
    assert capsys.readouterr().err == (
        "eventlog: port is 'web' in --port; it must be a whole number from 0 to 65535 [bad_config]\n"
    )


@pytest.mark.parametrize("words", [["serve", "--port", "0"], ["send", "mel", "hello"], ["anchor"]])
def test_a_home_folder_that_is_not_there_is_told_of_in_one_line(tmp_path: Path, words: list[str]) -> None:
    done = run_eventlog(*words, "--data-dir", "~nosuchuser/log", home=tmp_path)
    assert (done.code, done.err.count("\n")) == (78, 1), done.err
    assert "~nosuchuser/log is in a home folder that is not there; write the path whole" in done.err


def test_no_bus_known_exits_78_and_says_what_to_set(tmp_path: Path) -> None:
    done = run_eventlog("agents", home=tmp_path)
    assert done.code == errors.EXIT_CONFIG
    assert "set EVENTLOG_URL" in done.err


def test_an_unreachable_bus_exits_69(tmp_path: Path) -> None:
    done = run_eventlog("agents", "--url", "http://127.0.0.1:9", home=tmp_path)
    assert done.code == 69
    assert done.err.startswith("eventlog: no bus answers at http://127.0.0.1:9: ")


def test_a_send_that_nobody_took_says_so_and_exits_69(tmp_path: Path) -> None:
    done = run_eventlog("send", "mel", "hi", "--url", "http://127.0.0.1:9", "--give-up", "0.2", home=tmp_path)
    assert done.code == 69
    assert "the message was not accepted" in done.err


def test_a_folder_that_no_bus_has_open_is_told_how_to_serve_it(tmp_path: Path) -> None:
    done = run_eventlog("send", "mel", "hi", "--data-dir", tmp_path / "d", home=tmp_path)
    assert done.code == 69
    assert f"eventlog serve --data-dir {tmp_path / 'd'}" in done.err


def test_ctrl_c_and_a_reader_that_went_away_have_their_own_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> click.Command:
        def fail() -> None:
            raise error

        return click.Command("fail", callback=fail)

    for error, code in [(KeyboardInterrupt(), 130), (OutputGone(), 141)]:
        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_, error=error: raising(error))
        monkeypatch.setattr(cli, "_discard_output", lambda: None)
        assert cli._main(["fail"]) == code


def test_the_version_is_said(tmp_path: Path) -> None:
    done = run_eventlog("--version", home=tmp_path)
    assert done.out.startswith("eventlog, version ")


def test_json_output_is_one_line(tmp_path: Path) -> None:
    done = run_eventlog("install", "--json", home=tmp_path)
    assert done.json["written"]
    assert done.out.count("\n") == 1
