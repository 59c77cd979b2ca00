"""Settings: which source wins, and that a wrong one is named with its place and mend."""

import re
from pathlib import Path

import pytest

from eventlog.config import Config, Setting, is_loopback, settings
from eventlog.errors import ConfigError

ROOT = Path(__file__).parent.parent
ALL = list(settings())


def load(**environ: str) -> Config:
    return Config.load(environ=environ)


def load_file(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "bus.toml"
    file.write_text(text)
    return Config.load(file=file, environ={})


def test_defaults_are_the_contract() -> None:
    config = load()
    assert (config.host, config.port, config.body_limit_bytes, config.heartbeat_s) == ("127.0.0.1", 8091, 262144, 5)
    assert config.data_dir.name == "eventlog"


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bus.toml"
    file.write_text('port = 1\nhost = "127.0.0.2"\nreaders = 3\n')
    config = Config.load(file=file, environ={"EVENTLOG_PORT": "2", "EVENTLOG_READERS": "4"}, options={"port": "5"})
    assert (config.port, config.readers, config.host) == (5, 4, "127.0.0.2")


def test_an_option_that_is_not_given_overrides_nothing() -> None:
    assert Config.load(environ={"EVENTLOG_PORT": "2"}, options={"port": None, "no_auth": None}).port == 2


def test_every_kind_of_value_reads_from_the_environment_and_the_file(tmp_path: Path) -> None:
    text = 'no_auth = true\nallowed_hosts = ["a", "b"]\nwait_max_s = 7\ndata_dir = "~/x"\n'
    environ = {
        "EVENTLOG_NO_AUTH": "Yes",
        "EVENTLOG_ALLOWED_HOSTS": "a, b",
        "EVENTLOG_WAIT_MAX_S": "7",
        "EVENTLOG_DATA_DIR": "~/x",
    }
    for config in (load_file(tmp_path, text), load(**environ)):
        assert config.no_auth is True
        assert config.allowed_hosts == ("a", "b")
        assert config.wait_max_s == 7.0
        assert config.data_dir == Path("~/x").expanduser()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"EVENTLOG_PORT": "web"}, "port is 'web' in EVENTLOG_PORT; it must be a whole number from 0 to 65535"),
        ({"EVENTLOG_PORT": "65536"}, "from 0 to 65535"),
        ({"EVENTLOG_WAIT_MAX_S": "nan"}, r"it must be a number from 1 to 3600 \(s\)"),
        ({"EVENTLOG_NO_AUTH": "perhaps"}, "it must be true or false"),
        ({"EVENTLOG_LOG_LEVEL": "loud"}, "one of debug, info, warning, error"),
        ({"EVENTLOG_HOST": " "}, "it must be text"),
        ({"EVENTLOG_READERS": "0"}, "from 1 to 16"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_mend(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(**environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot' in .*bus.toml; did you mean 'port'"),
        ("zzzzzz = 1", "the reference of the configuration lists"),
        ("port = true", "port is True in .*bus.toml"),
        ("port = 1.5", "it must be a whole number"),
        ("heartbeat_s = true", "it must be a number"),
        ("allowed_hosts = 3", "it must be a list of texts"),
        ("port =", "cannot read the configuration file"),
    ],
)
def test_a_wrong_file_is_named_with_its_mend(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load_file(tmp_path, text)


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        Config.load(file=tmp_path / "none.toml", environ={})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "bus.example"])
def test_no_auth_is_refused_where_others_can_reach_it(host: str) -> None:
    with pytest.raises(ConfigError, match="no_auth is refused"):
        load(EVENTLOG_NO_AUTH="1", EVENTLOG_HOST=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_no_auth_is_allowed_on_loopback(host: str) -> None:
    assert is_loopback(host)
    assert load(EVENTLOG_NO_AUTH="1", EVENTLOG_HOST=host).no_auth


def test_a_page_cannot_be_larger_by_default_than_it_may_be() -> None:
    with pytest.raises(ConfigError, match="lower it"):
        load(EVENTLOG_PAGE_LIMIT="50", EVENTLOG_PAGE_LIMIT_MAX="40")


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
def test_every_setting_is_in_the_reference_as_it_is(setting: Setting) -> None:
    unit = f", {setting.unit}" if setting.unit else ""
    names = f"| `{setting.name}` | `{setting.env}` | `{setting.option}` "
    row = f"{names}| {setting.expected}{unit} | {setting.default_text} | {setting.doc} |"
    assert row in (ROOT / "docs" / "reference" / "configuration.md").read_text().splitlines()


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
def test_every_setting_is_used(setting: Setting) -> None:
    sources = (path.read_text() for path in (ROOT / "eventlog").glob("*.py"))
    assert any(re.search(rf"\bconfig\.{setting.name}\b", source) for source in sources)
