"""Frames: what the bus writes reads back, however the bytes are cut; and any stream is read by the WHATWG rules."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import sse
from eventlog.errors import TooLarge
from eventlog.sse import Decoder, Frame

IDS = st.integers(min_value=0, max_value=2**63 - 1)
KINDS = st.sampled_from(["message", "ack", "wake.started", "dead_letter"])
OBJECTS = st.dictionaries(
    st.text(), st.text() | st.integers(min_value=-(2**53), max_value=2**53) | st.none(), max_size=4
)


def decode(*chunks: bytes) -> list[Frame]:
    decoder = Decoder()
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(IDS, KINDS, OBJECTS)
def test_an_encoded_event_reads_back_as_it_was(event_id: int, kind: str, fields: dict[str, object]) -> None:
    (frame,) = decode(sse.encode_event(event_id, msgspec.json.encode(fields), kind))
    assert frame.cursor == event_id
    assert frame.kind == kind
    assert frame.fields() == fields


@given(
    st.lists(
        st.one_of(
            st.builds(sse.encode_event, IDS, OBJECTS.map(msgspec.json.encode), KINDS),
            st.builds(sse.encode_id, IDS),
            st.builds(sse.encode_opening, IDS),
            st.just(sse.encode_comment("beat")),
            st.sampled_from(
                [b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"data: \xff\n", b"id\n", b"data\r", b"x:y\r\n", b"id: a\0b\n"]
            ),
        )
    ),
    st.lists(st.integers(min_value=0, max_value=10_000), max_size=8),
)
def test_the_place_of_a_cut_between_chunks_changes_nothing(blocks: list[bytes], places: list[int]) -> None:
    stream = b"".join(blocks)
    assert decode(*cut(stream, places)) == decode(stream) == decode(*(bytes([byte]) for byte in stream))


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_kind_of_line_end_ends_a_line(end: bytes) -> None:
    stream = b"id: 7\nevent: ack\ndata: {}\n\nid: 8\n\n".replace(b"\n", end)
    assert decode(stream) == [Frame("7", "{}", "ack"), Frame("8", None, "")]


def test_a_message_has_no_event_line_and_lf_line_ends() -> None:
    assert sse.encode_event(5, b'{"id":5}') == b'id: 5\ndata: {"id":5}\n\n'
    assert sse.encode_event(6, b"{}", "ack") == b"id: 6\nevent: ack\ndata: {}\n\n"


def test_the_opening_frame_anchors_and_dispatches_nothing() -> None:
    decoder = Decoder()
    assert sse.encode_opening(41) == b"retry: 2000\nid: 41\n\n"
    assert decoder.feed(sse.encode_opening(41)) == [Frame("41", None, "")]
    assert (decoder.last_id, decoder.retry_ms) == ("41", 2000)


def test_an_id_only_frame_advances_the_id_and_dispatches_nothing() -> None:
    decoder = Decoder("3")
    assert decoder.feed(sse.encode_id(9)) == [Frame("9", None, "")]
    assert decoder.last_id == "9"


def test_a_comment_is_a_sign_of_life_and_keeps_the_id() -> None:
    assert decode(sse.encode_id(9), sse.encode_comment()) == [Frame("9", None, ""), Frame("9", None, "")]


def test_a_reset_says_why_and_where_the_stream_goes_on() -> None:
    (frame,) = decode(sse.encode_reset(12, reason="past_head", log_id="L"))
    assert (frame.kind, frame.cursor) == ("reset", 12)
    assert frame.fields() == {"reason": "past_head", "log": "L", "cursor": 12}


def test_an_event_cut_at_the_end_is_discarded_with_its_id() -> None:
    decoder = Decoder()
    assert decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n") == [Frame("1", "a")]
    assert decoder.last_id == "1"


def test_one_leading_byte_order_mark_is_skipped_and_no_second_one() -> None:
    assert decode(b"\xef\xbb", b"\xbfdata: a\n\n") == [Frame("", "a")]
    assert decode(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n") == [Frame("", None, "")]


def test_an_id_that_holds_nul_is_ignored_and_an_empty_one_resets() -> None:
    assert decode(b"id: 4\ndata: a\n\nid: 5\0\ndata: b\n\nid\ndata: c\n\n") == [
        Frame("4", "a"),
        Frame("4", "b"),
        Frame("", "c"),
    ]


def test_data_lines_are_joined_and_only_one_space_is_taken_off() -> None:
    assert decode(b"data:  a\ndata:b\ndata\n\n") == [Frame("", " a\nb\n")]


def test_a_retry_that_is_no_number_is_ignored() -> None:
    decoder = Decoder()
    decoder.feed(b"retry: 10\n\nretry: 1x\n\nretry: " + b"9" * 5000 + b"\n\n")
    assert decoder.retry_ms == 10


def test_an_id_that_is_not_ours_is_no_cursor() -> None:
    assert [frame.cursor for frame in decode(b"id: abc\n\nid: \xc2\xb2\n\nid: " + b"9" * 5000 + b"\n\n")] == [None] * 3


def test_invalid_utf_8_is_replaced_and_ends_nothing() -> None:
    assert decode(b"data: a\xe2\ndata: b\n\n") == [Frame("", "a\ufffd\nb")]


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb"])
def test_data_with_a_line_end_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        sse.encode_event(1, bad)
    with pytest.raises(ValueError, match="one line"):
        sse.encode_event(1, b"", bad.decode())
    with pytest.raises(ValueError, match="one line"):
        sse.encode_comment(bad.decode())


def test_a_block_without_end_is_given_up_at_the_limit() -> None:
    decoder = Decoder(block_bytes_max=100)
    assert len(decoder.feed(b"data: x\n\n" * 50)) == 50
    with pytest.raises(TooLarge):
        for _ in range(20):
            decoder.feed(b"data: more\n")


def test_data_that_is_no_object_is_said_so() -> None:
    (frame,) = decode(b"data: [1]\n\n")
    with pytest.raises(ValueError, match="not a JSON object"):
        frame.fields()
