"""Names, strict JSON, canonical headers, and the hash of an event."""

import hashlib
import json
import time

import msgspec
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from eventlog.errors import BadRequest
from eventlog.event import (
    DEPTH_MAX,
    ID_MAX,
    Event,
    canonical,
    chain,
    check_name,
    compact,
    decode_json,
    fold,
    payload_digest,
)

# Surrogates are no text: nothing that was decoded from JSON holds one.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-ID_MAX, ID_MAX) | st.floats(-ID_MAX, ID_MAX, allow_nan=False)
KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1)
FIELDS = st.dictionaries(KEYS, TEXT | NUMBERS | st.booleans() | st.lists(TEXT, max_size=3), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


class TestNames:
    @pytest.mark.parametrize("name", ["a", "A", "7", "mel", "Mel.2", "x-1_y", "a" * 64, "admin2", "a..b"])
    def test_good_ones_are_given_back_as_spelled(self, name: str) -> None:
        assert check_name(name, "agent") == name

    @pytest.mark.parametrize(
        "name",
        ["", "-a", ".a", "_a", "a" * 65, "a b", "a\n", "a/b", "ä", "a\0", "*", "wake:", None, 7, ["a"], "１"],
    )
    def test_others_are_refused_by_name_of_the_field(self, name: object) -> None:
        with pytest.raises(BadRequest) as caught:
            check_name(name, "to_agent")
        assert (caught.value.code, caught.value.field) == ("bad_name", "to_agent")

    @pytest.mark.parametrize("name", ["admin", "bus", "Admin", "BUS"])
    def test_reserved_ones_only_where_allowed(self, name: str) -> None:
        with pytest.raises(BadRequest, match="reserved"):
            check_name(name, "name")
        assert check_name(name, "name", reserved=True) == name

    def test_case_does_not_tell_names_apart(self) -> None:
        assert fold("Mel-2.X") == fold("mEL-2.x")


class TestStrictJson:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"nul",
            b"NaN",
            b"Infinity",
            b"1e999",
            b"-1e999",
            b"01",
            b"[1,]",
            b'{"a":1,}',
            b"{'a':1}",
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b'"\\ud800"',
            b'"a\nb"',
            b"\xef\xbb\xbf1",
            b"1 2",
            b"1" + b"0" * 5000,
        ],
    )
    def test_what_is_not_json_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequest) as caught:
            decode_json(body)
        assert caught.value.code == "bad_json"

    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
    def test_depth_is_limited_exactly(self, opening: bytes, closing: bytes) -> None:
        decode_json(opening * DEPTH_MAX + b"1" + closing * DEPTH_MAX)
        with pytest.raises(BadRequest, match="deep"):
            decode_json(opening * (DEPTH_MAX + 1) + b"1" + closing * (DEPTH_MAX + 1))

    def test_depth_without_an_end_is_refused(self) -> None:
        with pytest.raises(BadRequest) as caught:
            decode_json(b"[" * 200_000)
        assert caught.value.code == "bad_json"

    def test_a_string_without_an_end_is_refused_in_linear_time(self) -> None:
        started = time.process_time()
        with pytest.raises(BadRequest) as caught:
            decode_json(b"[" * (DEPTH_MAX + 1) + b'"' + b'\\"' * 100_000)
        assert caught.value.code == "bad_json"
        assert time.process_time() - started < 5  # each quote looked at anew takes minutes

    def test_brackets_in_strings_and_side_by_side_are_not_depth(self) -> None:
        text = "[" * 1000 + '"' + "{" * 1000 + "\\"
        value = [[text], *([[]] * 500)]
        assert decode_json(json.dumps(value).encode()) == value

    @given(JSON)
    def test_what_is_decoded_is_written_on_one_line_and_means_the_same(self, value: object) -> None:
        again = compact(decode_json(json.dumps(value).encode()))
        assert json.loads(again) == value
        assert b"\n" not in again
        assert b"\r" not in again


class TestCanonical:
    @given(FIELDS)
    @example({"timeout_s": 300.0})
    @example({"timeout_s": -0.0})
    @example({"timeout_s": 0.1, "x": 1e-7, "y": float(ID_MAX)})
    @example({"a": 9.581296137293014e-06, "b": 1e-6, "c": -9.99e-6, "d": 1e-5, "e": 9.99e-7})
    @example({"detail": '\x00\x1f\x7f\b\t\n\f\r\\"/\u2028é\U0001f600'})
    def test_is_rfc_8785(self, fields: dict[str, object]) -> None:
        assert canonical(fields) == rfc8785.dumps(fields)  # type: ignore[arg-type]

    @given(FIELDS)
    def test_reading_and_writing_again_changes_nothing(self, fields: dict[str, object]) -> None:
        header = canonical(fields)
        assert canonical(msgspec.json.decode(header)) == header

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e21])
    def test_a_number_that_stands_for_none_in_particular_is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match="timeout_s"):
            canonical({"timeout_s": value})


class TestHash:
    def test_is_what_the_contract_says(self) -> None:
        previous, header, salt, payload = b"p" * 32, b'{"id":1}', b"s" * 16, b'"hello"'
        digest = hashlib.sha256(salt + payload).digest()
        assert payload_digest(salt, payload) == digest
        assert chain(previous, header, digest) == hashlib.sha256(previous + header + digest).digest()

    def test_an_event_without_payload_has_an_empty_one(self) -> None:
        assert payload_digest(b"", None) == hashlib.sha256(b"").digest()


class TestEvent:
    def test_is_one_flat_object_with_the_payload_and_what_is_added(self) -> None:
        event = Event(7, "message", "mel", "tony", canonical({"id": 7, "event": "message"}), b'{"a":[1]}', b"")
        assert event.json() == b'{"event":"message","id":7,"payload":{"a":[1]}}'
        assert event.as_dict(hash="ab") == {"event": "message", "id": 7, "payload": {"a": [1]}, "hash": "ab"}

    def test_says_when_it_was_redacted(self) -> None:
        header = canonical({"id": 7, "event": "message"})
        assert Event(7, "message", "mel", "tony", header, None, b"").as_dict()["redacted"] is True
        assert "redacted" not in Event(7, "ack", "mel", "", header, None, b"").as_dict()
