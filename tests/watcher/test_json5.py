"""JSON5: what it allows beyond JSON, and where a text goes wrong."""

import json
import math

import pytest

from watcher import json5

EVERYTHING = r"""// a comment
{
  /* another
     one */
  plain: 1, $dollar: 2, _under: 3, "quoted": 4, 'single': 5, grün: 6,
  texts: ['it is "so"', "it's", 'a\
b', "\x41B\n\t\/\q\'", "\ud83d\ude00", ""],
  numbers: [+1, -2, .5, 5., 1e3, 0xFF, -0x10, Infinity, -Infinity],
  words: [true, false, null],
  nested: { a: { b: [], }, },
}
"""


def test_everything_that_json5_allows() -> None:
    found = json5.loads(EVERYTHING)
    assert [found[name] for name in ("plain", "$dollar", "_under", "quoted", "single", "grün")] == [1, 2, 3, 4, 5, 6]
    assert found["texts"] == ['it is "so"', "it's", "ab", "AB\n\t/q'", "😀", ""]
    assert found["numbers"] == [1, -2, 0.5, 5.0, 1000.0, 255, -16, math.inf, -math.inf]
    assert found["words"] == [True, False, None]
    assert found["nested"] == {"a": {"b": []}}


def test_plain_json_is_read_as_it_is() -> None:
    value = {"a": [1, -2.5e-3, 'ä\n"\\', None, True, {}], "": []}
    assert json5.loads(json.dumps(value, indent=2)) == value
    assert json5.loads("NaN") != json5.loads("NaN")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: a name or a value was expected"),
        ("{\n  a: 1\n  b: 2\n}", "line 3: a comma or } was expected"),
        ("{ a 1 }", "line 1: a colon was expected behind 'a'"),
        ("[1 2]", "a comma or ] was expected"),
        ("[,]", "a name or a value was expected"),
        ("{ a: 1", "a comma or } was expected"),
        ("{} {}", "something stands behind the value"),
        ("'open", "a text is not closed"),
        ("'a\nb'", "a text is not closed"),
        (r"'\u12'", "needs four hexadecimal digits"),
        ("yes", "'yes' is not a value"),
        ("[" * 200, "nested too deeply"),
    ],
)
def test_where_a_text_goes_wrong_is_told(text: str, said: str) -> None:
    with pytest.raises(json5.Malformed, match=r"^line \d+: ") as caught:
        json5.loads(text)
    assert said in str(caught.value)
