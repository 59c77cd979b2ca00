"""Exit codes for every error, and which bus or folder a command works on."""

from pathlib import Path

import pytest

from eventlog import cli_common, errors
from eventlog.cli_common import EXIT_CODES, exit_code
from eventlog.errors import EventlogError


def every_error() -> list[EventlogError]:
    known = [errors.from_code(code, "x") for code in errors.STATUS]
    return [
        *known,
        errors.Unreachable("x", sent=True),
        errors.NotAccepted("x"),
        errors.OutcomeUnknown("x"),
        errors.ConfigError("x"),
        errors.Locked("x"),
        errors.SchemaError("x"),
    ]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_every_error_ends_with_a_documented_exit_code(error: EventlogError) -> None:
    assert exit_code(error) in EXIT_CODES
    assert exit_code(error) != 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), 1),
        (errors.BadRequest("x"), 65),
        (errors.KeyReused("x"), 65),
        (errors.Unreachable("x", sent=False), 69),
        (errors.TooManyRequests("x"), 69),
        (errors.Locked("x"), 69),
        (errors.OutcomeUnknown("x"), 74),
        (errors.Unauthorized("x"), 77),
        (errors.Forbidden("x"), 77),
        (errors.ConfigError("x"), 78),
        (errors.SchemaError("x"), 78),
    ],
)
def test_the_exit_code_tells_what_to_do_next(error: EventlogError, code: int) -> None:
    assert exit_code(error) == code


def test_no_exit_code_means_not_started_to_a_wake() -> None:
    """A wake command that ends with our exit code must not be taken for one that never began."""
    assert EXIT_CODES.keys().isdisjoint({75, 126, 127})


@pytest.mark.parametrize(
    ("environ", "url", "folder", "expected"),
    [
        ({}, None, None, (None, None)),
        ({"EVENTLOG_DATA_DIR": "/d"}, None, None, (None, Path("/d"))),
        ({"EVENTLOG_DATA_DIR": "/d", "EVENTLOG_URL": "http://e"}, None, None, (None, None)),
        ({"EVENTLOG_URL": "http://e"}, None, Path("/f"), (None, Path("/f"))),
        ({"EVENTLOG_DATA_DIR": "/d"}, "http://u", None, ("http://u", None)),
    ],
)
def test_the_command_line_wins_over_the_environment_and_an_address_over_a_folder(
    environ: dict[str, str],
    url: str | None,
    folder: Path | None,
    expected: tuple[str | None, Path | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("EVENTLOG_URL", "EVENTLOG_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    link = cli_common.link_of(url, None, folder, as_json=False)
    assert (link.url, link.data_dir) == expected


def test_an_address_wins_over_a_folder_when_both_are_given() -> None:
    assert cli_common.link_of("http://u", None, Path("/f"), as_json=False).offline() is None


def test_a_folder_that_no_bus_has_open_is_worked_on_itself(tmp_path: Path) -> None:
    link = cli_common.link_of(None, None, tmp_path, as_json=False)
    assert link.offline() == tmp_path
    with pytest.raises(errors.Unreachable, match="eventlog serve --data-dir"):
        link.bus()
