"""The house rules as tests: what every file must have and must not have, and what the wheel must hold."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.plugin_no_skip import CAP_NET_ADMIN, NEEDED, capabilities, excused

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Folders that are not the project's.
FOREIGN = {".git", ".venv", "var", "dist", "build", "__pycache__"}
#: What the first line of a file that is not Python begins with; a file type that is missing here is an error.
FIRST_LINE = {
    ".md": "# ",
    ".sh": "#!",
    ".sql": "-- ",
    ".toml": "# ",
    ".txt": "# ",
    ".service": "# ",
    ".socket": "# ",
    ".in": "# ",
    "Makefile": "# ",
    "run": "#!",
    ".gitignore": "",
    "LICENSE": "",
    ".typed": "",
    ".svg": "<svg",
    ".json": "{",
}
#: Files that are handed on word for word: a first line about them would be handed on, too.
WORD_FOR_WORD = {"watcher/prompt.txt"}
#: Words in pieces, lest this file holds them.
FORBIDDEN = {
    "a path of some machine": re.compile(r"/(?:root|work|Users)" + r"/\w"),
    "a package registry": re.compile(r"(?i)pypi\." + r"org|pythonhosted\." + r"org|registry\." + r"npmjs"),
    "unfinished work": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}
LINES_MAX = 350
#: The tests of one module stand in one file.
TEST_LINES_MAX = 700
FUNCTION_LINES_MAX = 60
#: Files and functions that are longer, each after a second look, and why.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def files() -> Iterator[Path]:
    """Every file of the project, as a path from its root."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name for name in folders if name not in FOREIGN and (not name.startswith(".") or name in (".ci", ".github"))
        ]
        yield from ((Path(folder) / name).relative_to(ROOT) for name in names if not name.startswith("."))


FILES = sorted(files())
SOURCES = [path for path in FILES if path.suffix == ".py"]


def named(path: Path) -> str:
    return str(path)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_says_first_what_it_owns(path: Path) -> None:
    text = (ROOT / path).read_text()
    if path.suffix == ".py":
        assert (ast.get_docstring(ast.parse(text)) or "").strip(), "the module has no docstring"
    elif str(path) not in WORD_FOR_WORD:
        kind = path.suffix or path.name
        assert text.startswith(FIRST_LINE[kind])


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_names_no_machine_no_registry_and_no_unfinished_work(path: Path) -> None:
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        for what, pattern in FORBIDDEN.items():
            assert not pattern.search(line), f"line {number} names {what}: {line.strip()}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_files_and_functions_are_short(path: Path) -> None:
    text = (ROOT / path).read_text()
    limit = TEST_LINES_MAX if path.parts[0] == "tests" or str(path) in LONG_FILES else LINES_MAX
    assert len(text.splitlines()) <= limit, "split it, or give the reason in LONG_FILES"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{path}:{node.name}"
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX or name in LONG_FUNCTIONS, f"{name} has {lines} lines"


def test_no_exception_for_length_outlives_its_need() -> None:
    for name in LONG_FILES:
        assert len((ROOT / name).read_text().splitlines()) > LINES_MAX, f"{name} is short now"
    for name in LONG_FUNCTIONS:
        path, _, function = name.partition(":")
        nodes = ast.walk(ast.parse((ROOT / path).read_text()))
        assert any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == function
            and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
            for node in nodes
        ), f"{name} is short now"


#: Tests that are of no one module.
OF_THE_WHOLE = {"docs", "project", "bad_input"}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.match("tests/**/test_*.py")], ids=named)
def test_a_test_file_is_named_for_the_module_it_tests(path: Path) -> None:
    package = "watcher" if path.parts[1] == "watcher" else "eventlog"
    modules = {name for source in SOURCES if source.parts[0] == package for name in (source.stem, source.parent.name)}
    stem = path.stem.removeprefix("test_")
    if path.parent not in (Path("tests"), Path("tests/watcher")) or stem in OF_THE_WHOLE:
        return
    assert any(stem == module or stem.startswith(module + "_") for module in modules)


# ---- dependencies ---------------------------------------------------------------------------------------------------


def declared() -> list[Requirement]:
    project = PYPROJECT["project"]
    return [
        Requirement(line)
        for group in (project["dependencies"], *project["optional-dependencies"].values())
        for line in group
    ]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    for requirement in declared():
        assert pins[requirement.name.lower()] in requirement.specifier, requirement


def test_every_dependency_has_an_upper_bound() -> None:
    for requirement in declared():
        assert any(specifier.operator == "<" for specifier in requirement.specifier), requirement


def test_every_module_of_the_bus_that_the_watcher_may_not_import_is_in_its_contract() -> None:
    contracts = {contract["name"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    contract = contracts["The watcher knows the bus only over the wire"]
    http = {"client", "client_admin", "wire", "http1", "blocking", "looping", "tcp", "addresses"}
    allowed = {*http, "discovery", "event", "homes", "sse", "errors", "stderr", "systemd", "__init__"}
    modules = {path.stem for path in SOURCES if path.parts[0] == "eventlog"} - allowed
    assert {name.removeprefix("eventlog.") for name in contract["forbidden_modules"]} == modules


# ---- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_both_packages_whole_and_the_migrations(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    ours = [path for path in FILES if path.parts[0] in ("eventlog", "watcher")]
    assert {str(path) for path in ours} <= held
    migrations = {f"eventlog/{path}" for path in FILES if path.parts[0] == "migrations"}
    assert migrations
    assert migrations <= held
    assert not any(name.startswith(("tests/", "examples/", "migrations/")) for name in held)


def test_the_installed_wheel_runs_from_its_own_files(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import eventlog, eventlog.cli, watcher.cli, eventlog.migrate as migrate;"
        "print(eventlog.__file__); print(len(migrate.available()))"
    )
    # -P and another folder: neither the checkout nor the editable install comes first.
    environ = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    file, count = done.stdout.split()
    assert Path(file).is_relative_to(site)
    assert int(count) == len(list((ROOT / "migrations").glob("*.sql")))


# ---- skips ----------------------------------------------------------------------------------------------------------

NO_CAPABILITY, EVERY_CAPABILITY = 0, (1 << 41) - 1


@pytest.mark.parametrize(
    ("reason", "held", "may"),
    [
        ("this machine cannot make networks: unshare", NO_CAPABILITY, True),
        ("this machine cannot make networks: unshare", 1 << CAP_NET_ADMIN, True),
        ("this machine cannot make networks: unshare", EVERY_CAPABILITY, False),
        ("this machine cannot mount an image: loop", 1 << CAP_NET_ADMIN, True),
        ("this machine cannot mount an image: loop", EVERY_CAPABILITY, False),
        ("this machine cannot hold a systemd apart: cgroups", EVERY_CAPABILITY, True),
        ("ip (iproute2) is not installed", NO_CAPABILITY, False),
        ("not root", NO_CAPABILITY, False),
    ],
)
def test_where_no_test_is_to_be_skipped_only_the_machine_is_an_excuse(reason: str, held: int, may: bool) -> None:
    assert excused(reason, held) is may


#: A test that skips for want of a program, one whose look says what is not so, and one that may skip.
SKIPS = """
import pytest
def test_1(): pytest.skip("ip (iproute2) is not installed")
@pytest.mark.skipif(True, reason="this machine cannot make networks: the look is broken")
def test_2(): pass
def test_3(): pytest.skip("this machine cannot hold a systemd apart: cgroups")
"""


def test_a_look_that_says_no_where_the_machine_can_fails_its_tests(tmp_path: Path) -> None:
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p tests.plugin_no_skip\n")
    environ = {**os.environ, "EVENTLOG_NO_SKIP": "1", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_skips.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    can = all(capabilities() >> number & 1 for number in NEEDED["make networks"])
    assert ("1 failed, 1 skipped, 1 error" if can else "1 failed, 2 skipped") in done.stdout
