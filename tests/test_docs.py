"""The documents: what can be set, asked, answered and called stands in the reference; links and tests are there."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eventlog import errors
from eventlog.api import ROUTES
from eventlog.call import Route
from eventlog.cli import eventlog
from eventlog.cli_common import EXIT_CODES
from eventlog.config import settings
from eventlog.event import KINDS
from watcher import cli as watcher_cli
from watcher import config as watcher_config
from watcher import settings as watcher_settings

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def text_of(name: str) -> str:
    return (REFERENCE / name).read_text()


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no {heading!r}"
    return found[1]


# ---- settings -------------------------------------------------------------------------------------------------------


def test_the_reference_has_no_setting_that_the_bus_does_not_have() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `EVENTLOG_", text_of("configuration.md"), re.MULTILINE)
    assert rows == [setting.name for setting in settings()]


#: Where each of the watcher's tables stands in the reference.
TABLES = {
    "### [bus]": watcher_settings.BusSettings,
    "### [limits]": watcher_settings.LimitSettings,
    "### [defaults] and [agents.NAME]": watcher_settings.AgentSettings,
}


def watcher_rows() -> Iterator[tuple[str, str]]:
    """The heading of each of the watcher's tables, and each row of it."""
    for heading, kind in TABLES.items():
        for field in dataclasses.fields(kind):
            if field.metadata:
                yield heading, watcher_row(field)


def watcher_row(field: "dataclasses.Field[object]") -> str:
    told = field.metadata
    default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    shown = told.get("shown") or default or "none"
    bounds = f" From {told['least']:g} to {told['most']:g}." if "least" in told else ""
    return f"| `{field.name}` | `{told['like']}` | {shown if shown != '()' else 'none'} | {told['doc']}{bounds} |"


def test_no_table_of_the_watcher_is_missing() -> None:
    kinds = [
        kind for kind in vars(watcher_settings).values() if inspect.isclass(kind) and kind.__name__[-8:] == "Settings"
    ]
    assert set(kinds) == set(TABLES.values())


@pytest.mark.parametrize(("heading", "row"), list(watcher_rows()))
def test_every_setting_of_the_watcher_is_in_the_reference_as_it_is(heading: str, row: str) -> None:
    assert row in section(text_of("configuration.md"), heading).splitlines()


def test_the_watchers_example_in_the_reference_is_a_good_configuration(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(name = .*?)```", text_of("configuration.md"), re.DOTALL)
    assert example is not None
    path = tmp_path / "config.toml"
    path.write_text(example[1])
    assert watcher_config.check(path)[1] == []


# ---- HTTP -----------------------------------------------------------------------------------------------------------


def test_the_reference_has_every_route_and_no_other() -> None:
    headings = re.findall(r"^### ((?:GET|POST|PATCH|DELETE|PUT) .*)$", text_of("http.md"), re.MULTILINE)
    assert sorted(headings) == sorted(f"{route.method} {route.path}" for route in ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_parameter_and_field_of_a_route_is_in_the_reference(route: Route) -> None:
    told = section(text_of("http.md"), f"### {route.method} {route.path}")
    if "/wakes" in route.path:
        told += text_of("wake-protocol.md")
    if route.pair:
        told += section(text_of("http.md"), "## The pair's routes")
    fields = route.body.__struct_fields__ if route.body is not None else ()
    for name in (*route.params, *route.headers, *fields):
        assert re.search(rf"\b{name}\b", told), f"{name} is not there"


def test_the_reference_has_every_error_code_with_its_status_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", text_of("errors.md"), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == errors.STATUS
    assert len(rows) == len(errors.STATUS)


def test_the_reference_has_every_kind_of_event_and_no_other() -> None:
    table = section(text_of("sse.md"), "## Events")
    kinds = [kind for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for kind in re.findall(r"`(.+?)`", row)]
    assert sorted(set(kinds) - {"event"}) == sorted(KINDS)


# ---- command lines --------------------------------------------------------------------------------------------------


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict([*commands(eventlog, "eventlog"), *commands(watcher_cli.bus_watcher, "bus-watcher")])
#: What all commands that speak with a bus share, and `serve`'s settings, stand in the reference once.
SHARED = {"--url", "--token-file", "--data-dir", "--json"}
SETTINGS = {setting.option for setting in settings()}


def test_the_reference_has_every_command_and_no_other() -> None:
    headings = re.findall(r"^### ((?:eventlog|bus-watcher) .*)$", text_of("cli.md"), re.MULTILINE)
    assert headings == list(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_and_argument_of_a_command_is_in_the_reference(path: str) -> None:
    told = section(text_of("cli.md"), f"### {path}")
    command = COMMANDS[path]
    usage = " ".join([path, *command.collect_usage_pieces(click.Context(command))])
    assert f"`{usage}`" in told
    assert inspect.cleandoc(command.help or "").splitlines()[0].rstrip(".") in told.replace("\n", " ")
    told_elsewhere = SHARED | (SETTINGS if path == "eventlog serve" else set())
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.opts[0] not in told_elsewhere:
            assert f"`{parameter.opts[0]}" in told, f"{parameter.opts[0]} is not there"


@pytest.mark.parametrize(
    ("heading", "codes"), [("## eventlog", EXIT_CODES), ("## bus-watcher", watcher_cli.EXIT_CODES)]
)
def test_every_exit_code_is_in_the_reference_as_it_is(heading: str, codes: dict[int, str]) -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section(text_of("exit-codes.md"), heading), re.MULTILINE)
    assert {int(code): told for code, told in rows} == codes


# ---- all pages ------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a heading is called in a link."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            target, _, anchor = link.partition("#")
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), link
            assert not anchor or anchor in anchors(path.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_is_linked_from_another(page: Path) -> None:
    if page.name == "README.md":
        return
    linked = {
        (other.parent / link.partition("#")[0]).resolve()
        for other in PAGES
        if other != page
        for link in re.findall(r"\]\(([^)\s]+)\)", other.read_text())
    }
    assert page in linked


# ---- tests that a page names ----------------------------------------------------------------------------------------


def names_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """What is defined in a module or a class, each with what is defined in it."""
    found: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node.body
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = []
        elif isinstance(node, ast.Assign):
            found |= {target.id: [] for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    for told in re.findall(r"\btests/[\w/]+\.py(?:::\w+)*", page.read_text()):
        file, *names = told.split("::")
        assert (ROOT / file).is_file(), told
        body = ast.parse((ROOT / file).read_text()).body
        for name in names:
            assert name in names_in(body), told
            body = names_in(body)[name]


def test_every_promise_names_its_mechanism_and_the_tests_that_show_it() -> None:
    promises = section((ROOT / "docs" / "explanation" / "delivery.md").read_text(), "## The promises")
    parts = re.split(r"^### ", promises, flags=re.MULTILINE)[1:]
    assert parts
    for part in parts:
        title, said, *_ = part.split("\n\n")
        assert said[-1:] == ".", title
        commands = re.search(r"^```\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        assert commands is not None, title
        assert all(re.match(r"\.venv/bin/python -m pytest tests/", line) for line in commands[1].splitlines()), title
