"""How a client finds the bus: what wins over what, and what a wrong file is told."""

from pathlib import Path

import pytest

from eventlog.discovery import Address, client_config_path, discover, read_client_config, write_client_config
from eventlog.errors import ConfigError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    return path


def test_nothing_set_says_what_to_set(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"set EVENTLOG_URL, or `url` in .*config\.toml, or start one"):
        discover(environ=environ)


def test_the_file_is_enough(environ: dict[str, str], token_file: Path) -> None:
    path = write_client_config("http://a:1", token_file, environ)
    assert path == client_config_path(environ)
    assert discover(environ=environ) == Address("http://a:1", "secret")


def test_the_file_of_another_bus_is_left_alone(environ: dict[str, str], token_file: Path) -> None:
    write_client_config("http://a:1", token_file, environ)
    assert write_client_config("http://b:2", token_file.with_name("other"), environ) is None
    assert discover(environ=environ).url == "http://a:1"


def test_a_bus_writes_its_own_file_anew_where_its_address_is_another(environ: dict[str, str], token_file: Path) -> None:
    write_client_config("http://a:1", token_file, environ)
    assert write_client_config("http://a:1", token_file, environ) is None
    assert write_client_config("http://a:2", token_file, environ) == client_config_path(environ)
    assert discover(environ=environ) == Address("http://a:2", "secret")


def test_a_path_that_toml_must_quote_survives(environ: dict[str, str], tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\ c\nd'
    path = write_client_config("http://a:1", odd, environ)
    assert path is not None
    assert read_client_config(path)["token_file"] == str(odd)


def test_the_environment_wins_over_the_file(environ: dict[str, str], token_file: Path) -> None:
    write_client_config("http://a:1", token_file, environ)
    environ |= {"EVENTLOG_URL": "http://b:2/", "EVENTLOG_TOKEN": " other "}
    assert discover(environ=environ) == Address("http://b:2", "other")


def test_what_is_given_wins_over_the_environment(environ: dict[str, str], token_file: Path) -> None:
    environ |= {"EVENTLOG_URL": "http://b:2", "EVENTLOG_TOKEN": "other"}
    assert discover("http://c:3", token_file, environ) == Address("http://c:3", "secret")


def test_a_token_file_of_the_environment_is_read(environ: dict[str, str], token_file: Path) -> None:
    environ |= {"EVENTLOG_URL": "http://b:2", "EVENTLOG_TOKEN_FILE": str(token_file)}
    assert discover(environ=environ).token == "secret"


def test_the_files_token_is_never_shown_to_another_bus(environ: dict[str, str], token_file: Path) -> None:
    write_client_config("http://a:1", token_file, environ)
    environ["EVENTLOG_URL"] = "http://evil:1"
    assert discover(environ=environ).token is None


def test_the_same_bus_in_the_environment_keeps_the_files_token(environ: dict[str, str], token_file: Path) -> None:
    write_client_config("http://a:1", token_file, environ)
    environ["EVENTLOG_URL"] = "http://a:1/"
    assert discover(environ=environ).token == "secret"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("url = ", "cannot read"),
        ("host = 'x'", "unknown key 'host'; it may hold url and token_file"),
        ("url = 3", "url must be text in quotes"),
    ],
)
def test_a_wrong_file_is_told_its_mend(environ: dict[str, str], text: str, said: str) -> None:
    path = client_config_path(environ)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        discover(environ=environ)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read the token file"), (b" \n", "is empty"), (b"\xff", "cannot")]
)
def test_a_token_file_that_cannot_be_used_is_named(
    environ: dict[str, str], tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        discover("http://a:1", path, environ)
    assert str(path) in caught.value.detail
