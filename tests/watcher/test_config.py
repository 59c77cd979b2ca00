"""The configuration: every mistake is named with its line and its mend."""

from pathlib import Path

import pytest

from eventlog.errors import ConfigError
from watcher.config import Config, check
from watcher.prompt import default_template

GOOD = """name = "minipc-3"
[bus]
url = "http://127.0.0.1:8091"
token_file = "~/.config/bus-watcher/token"
[defaults]
timeout = 200
[agents.mel]
waker = "command"
command = ["wake-mel"]
[agents.tony]
waker = "openclaw"
token_file = "~/hooks-token"
timeout = 100
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVENTLOG_URL", "EVENTLOG_TOKEN", "EVENTLOG_TOKEN_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_hold_for_every_agent_that_does_not_say_otherwise(tmp_path: Path) -> None:
    config = Config.load(written(tmp_path, GOOD))
    mel, tony = config.agents["mel"], config.agents["tony"]
    assert (config.name, config.bus.url) == ("minipc-3", "http://127.0.0.1:8091")
    assert (mel.timeout, mel.command, mel.ack, mel.ack_within, mel.max_attempts) == (
        200,
        ("wake-mel",),
        "agent",
        600,
        10,
    )
    assert (mel.min_interval, mel.start_within, mel.deliver) == (0, 30, "all")
    assert (tony.timeout, tony.url, tony.min_interval) == (100, "http://127.0.0.1:18789", 15)


def test_what_is_set_wins_over_what_a_waker_would_choose(tmp_path: Path) -> None:
    text = GOOD.replace("timeout = 200", "timeout = 200\nmin_interval = 0")
    assert Config.load(written(tmp_path, text)).agents["tony"].min_interval == 0


def test_an_agent_that_gets_runs_need_not_acknowledge(tmp_path: Path) -> None:
    text = GOOD.replace("timeout = 200", 'deliver = "each"\nreply = "agent"').replace(
        "[agents.tony]", 'ack = "none"\n[agents.tony]'
    )
    text += '[agents.ann]\ncommand = ["wake-ann"]\ndeliver = "all"\n'
    agents = Config.load(written(tmp_path, text)).agents
    assert [agents[name].ack for name in ("mel", "tony", "ann")] == ["none", "exit", "agent"]
    assert (agents["tony"].timeout, agents["tony"].reply, agents["tony"].input) == (100, "agent", "json")
    assert (agents["tony"].prompt, agents["ann"].prompt) == (default_template(), "")


def test_a_template_of_ones_own_is_read_and_checked(tmp_path: Path) -> None:
    template = tmp_path / "prompt.txt"
    text = GOOD.replace("timeout = 100", f'deliver = "each"\nprompt_file = "{template}"')
    template.write_text("For $agent: $message, which costs $$5")
    assert Config.load(written(tmp_path, text)).agents["tony"].prompt == template.read_text()
    for wrong, said in (("$sendr", "names $sendr, not one of $agent, "), ("for 5$", "has a $ that begins no name")):
        template.write_text(wrong)
        (problem,) = check(written(tmp_path, text))[1]
        assert (problem.line, said in problem.what) == (14, True), problem


def test_openclaws_turns_are_one_for_each_message(tmp_path: Path) -> None:
    config = Config.load(written(tmp_path, '[agents.mel]\nwaker = "openclaw-agent"\n'))
    mel = config.agents["mel"]
    assert (mel.deliver, mel.url, mel.min_interval) == ("each", "http://127.0.0.1:18789", 0)
    assert mel.token_file == "~/.config/bus-watcher/gateway-token"
    assert (mel.ack, mel.reply, bool(mel.prompt)) == ("exit", "stdout", True)


def test_openclaws_turns_are_for_one_message_and_no_more(tmp_path: Path) -> None:
    (problem,) = check(written(tmp_path, '[agents.mel]\nwaker = "openclaw-agent"\ndeliver = "all"\n'))[1]
    assert (problem.line, problem.key) == (3, "agents.mel.deliver")
    assert "gives each message a turn" in problem.what


def test_a_watcher_without_a_name_has_the_machines(tmp_path: Path) -> None:
    assert Config.load(written(tmp_path, GOOD.partition("\n")[2])).name


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("[defaults]", "[default]", 5, "unknown key 'default'; did you mean 'defaults'?"),
        ("url =", "ulr =", 3, "unknown key 'ulr'; did you mean 'url'?"),
        ("timeout = 200", "tiemout = 200", 6, "unknown key 'tiemout'; did you mean 'timeout'?"),
        ("timeout = 200", 'timeout = "200"', 6, "timeout must be a number of seconds; write it as in timeout = 300"),
        ("timeout = 200", "timeout = true", 6, "timeout must be a number of seconds"),
        ("timeout = 200", "timeout = 0", 6, "timeout is 0, not from 1 to 86400"),
        ("timeout = 200", "max_attempts = 1.5", 6, "max_attempts must be a whole number"),
        ("timeout = 200", 'ack = "exti"', 6, "ack is 'exti', not one of agent, exit, none"),
        ("timeout = 200", 'deliver = "one"', 6, "deliver is 'one', not one of all, each"),
        ('["wake-mel"]', '["wake-mel"]\nreply = "stdout"', 10, 'reply is for runs; add deliver = "each"'),
        ("timeout = 200", 'reply = "stdout"', 6, "reply is for runs"),
        ('["wake-mel"]', '["wake-mel"]\ninput = "prompt"', 10, "input is for runs"),
        ('["wake-mel"]', '["wake-mel"]\nprompt_file = "x"', 10, "prompt_file is for runs"),
        ("timeout = 100", 'deliver = "each"\nreply = "stdout"', 14, "the waker 'openclaw' prints nothing"),
        ("timeout = 100", 'deliver = "each"\ninput = "prompt"', 14, "the waker 'openclaw' reads JSON"),
        ("timeout = 100", 'deliver = "each"\nprompt_file = "/nowhere"', 14, "/nowhere cannot be read"),
        ("timeout = 100", "env = { A = 1 }", 13, "env must hold nothing but text in quotes"),
        ("timeout = 100", 'env = { "A=B" = "x" }', 13, "agent 'tony': env cannot hold 'A=B': "),
        ("timeout = 100", 'env = { "" = "x" }', 13, "agent 'tony': env cannot hold '': "),
        ("timeout = 100", 'env = { A = "x\\u0000y" }', 13, "agent 'tony': env cannot hold 'A': "),
        ("timeout = 200", 'env = { "A\\u0000" = "x" }', 6, "env cannot hold 'A\\x00': "),
        (
            "timeout = 100",
            "settings = { since = 2026-01-01 }",
            13,
            "settings must hold nothing that JSON does not have",
        ),
        ("timeout = 100", 'cwd = "~nosuchuser/x"', 13, "agent 'tony': cwd ~nosuchuser/x is in a home folder that is"),
        ("~/hooks-token", "~nosuchuser/x", 12, "agent 'tony': token_file ~nosuchuser/x is in a home folder that is"),
        ("timeout = 100", 'deliver = "each"\nprompt_file = "~nosuchuser/x"', 14, "~nosuchuser/x cannot be read"),
        ('["wake-mel"]', '"wake-mel"', 9, "command must be a list of words"),
        ('["wake-mel"]', "[]", 9, "command must be a list of words"),
        ('command = ["wake-mel"]', "", 7, "agent 'mel' has no command; add one"),
        ('waker = "openclaw"', 'waker = "openclow"', 11, "there is no waker 'openclow'; did you mean 'openclaw'?"),
        ('waker = "openclaw"', 'waker = "webhook"', 10, "agent 'tony' has no url"),
        ("[agents.mel]", "[agents.admin]", 7, "'admin' cannot be the name of an agent"),
        ("[agents.mel]", '[agents."mel b"]', 7, "'mel b' cannot be the name of an agent"),
        ("[agents.tony]", "[agents.MEL]", 10, "agent 'MEL' is named twice"),
        ('"minipc-3"', "3", 1, "3 cannot be the name of the watcher"),
        ('"http://127', '"127', 3, "write it with its scheme"),
        ('waker = "openclaw"', 'waker = "webhook"\nurl = "host:1"', 12, "url is 'host:1'; write it with its scheme"),
        ("[bus]", "[bus", 2, "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_its_mend(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    _, problems = check(path)
    assert [problem.line for problem in problems] == [line]
    assert str(problems[0]).startswith(f"{path}:{line}: ")
    assert said in str(problems[0])
    with pytest.raises(ConfigError):
        Config.load(path)


def test_where_no_home_folder_is_each_path_that_needs_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default is one of them."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    _, problems = check(written(tmp_path, '[agents.mel]\ncommand = ["~/wake", "~nosuchuser"]\n'))
    assert [(one.line, one.key, one.what) for one in problems] == [
        (1, "agents.mel", "agent 'mel': cwd ~ is in a home folder that is not there"),
        (2, "agents.mel.command", "agent 'mel': command ~/wake is in a home folder that is not there"),
    ]


def test_all_mistakes_are_listed_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("timeout = 100", "timeout = 0").replace("url =", "ulr ="))
    assert [problem.line for problem in check(path)[1]] == [3, 13]
    with pytest.raises(ConfigError, match="1 more"):
        Config.load(path)


@pytest.mark.parametrize(("agents", "letters", "good"), [(900, 22, True), (901, 9, False), (400, 60, False)])
def test_more_agents_than_a_stream_can_name_are_a_mistake(
    tmp_path: Path, agents: int, letters: int, good: bool
) -> None:
    tables = "".join(f'[agents.{n:0{letters}}]\ncommand = ["wake"]\n' for n in range(agents))
    _, problems = check(written(tmp_path, GOOD.partition("[agents.mel]")[0] + tables))
    assert [problem.what for problem in problems] == (
        [] if good else ["a watcher has at most 900 agents, and 20,000 letters in their names"]
    )


def test_a_file_that_is_not_there_or_has_no_agent_is_a_mistake(tmp_path: Path) -> None:
    assert "cannot be read" in str(check(tmp_path / "none.toml")[1][0])
    assert "no agent is named" in str(check(written(tmp_path, ""))[1][0])


def config_with_token_file(tmp_path: Path, token_file: Path | None) -> Config:
    line = f'token_file = "{token_file}"' if token_file else ""
    return Config.load(written(tmp_path, GOOD.replace('token_file = "~/.config/bus-watcher/token"', line)))


def test_the_token_is_in_the_file_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    assert config_with_token_file(tmp_path, tmp_path / "token").token() == "of-the-file"


def test_the_token_is_a_credential_where_its_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of-systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert config_with_token_file(tmp_path, tmp_path / "none").token() == "of-systemd"
    assert config_with_token_file(tmp_path, None).token() == "of-systemd"


def test_the_token_is_in_the_environment_where_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_with_token_file(tmp_path, None).token() is None
    monkeypatch.setenv("EVENTLOG_TOKEN", "of-the-environment")
    assert config_with_token_file(tmp_path, None).token() == "of-the-environment"


def test_a_token_file_without_a_token_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token can be read"):
        config_with_token_file(tmp_path, tmp_path / "none").token()


@pytest.mark.parametrize("junk", [b"eventlog: no bus answers\n", b"\xff\xfe\n", "two\u2028".encode(), None])
def test_a_place_that_holds_no_token_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes | None
) -> None:
    place = tmp_path / "token"
    place.mkdir() if junk is None else place.write_bytes(junk + b"x")
    with pytest.raises(ConfigError, match=str(place)):
        config_with_token_file(tmp_path, place).token()
    monkeypatch.setenv("EVENTLOG_TOKEN", "no bus answers")
    with pytest.raises(ConfigError, match="EVENTLOG_TOKEN: the token holds"):
        config_with_token_file(tmp_path, None).token()
