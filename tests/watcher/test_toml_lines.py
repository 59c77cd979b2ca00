"""Lines: the place of a key in a TOML text."""

import pytest

from watcher.toml_lines import Lines

TEXT = """# a comment
name = "minipc-3"

[bus]
url = "x"
[ agents . "mel.b" ]  # spaced, with a quoted part
command = ["a"]
env.LANG = "C"
"""


@pytest.mark.parametrize(
    ("at", "line"),
    [
        (("name",), 2),
        (("bus",), 4),
        (("bus", "url"), 5),
        (("bus", "token_file"), 4),
        (("agents",), 6),
        (("agents", "mel.b"), 6),
        (("agents", "mel.b", "command"), 7),
        (("agents", "mel.b", "env", "LANG"), 8),
        (("defaults", "timeout"), 1),
    ],
)
def test_a_key_is_found_or_else_the_nearest_table_around_it(at: tuple[str, ...], line: int) -> None:
    assert Lines(TEXT).of(at) == line


def test_the_line_of_a_parsers_error_is_read_from_it() -> None:
    assert Lines.of_error("Invalid value (at line 12, column 3)") == 12
    assert Lines.of_error("Unclosed array (at end of document)") == 0
