"""HTTP/1.1 as a client speaks it: requests as bytes, and answers cut anywhere."""

import pytest

from eventlog.blocking import finish
from eventlog.http1 import HEAD_BYTES_MAX, Broken, Response, encode_request, exchange

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Played:
    """A connection that gives what it was given, so many bytes at a time, and then ends."""

    def __init__(self, said: bytes, step: int = 7) -> None:
        self.said = [said[at : at + step] for at in range(0, len(said), step)]
        self.sent = b""
        self.refuses = False

    async def read(self, timeout_s: float) -> bytes:
        return self.said.pop(0) if self.said else b""

    async def write(self, data: bytes, timeout_s: float) -> None:
        self.sent += data
        if self.refuses:
            raise BrokenPipeError

    def rests(self) -> bool:
        return True

    def close(self) -> None:
        pass


def answered(connection: Played) -> Response:
    return finish(exchange(connection, b"GET", write_timeout_s=1, timeout_s=1))


def body(said: bytes, step: int = 7) -> tuple[bytes, bool]:
    """The body of an answer, and whether its connection can be used again."""
    response = answered(Played(said, step))
    return finish(response.read()), response.reusable


def test_a_request_is_its_head_and_its_body() -> None:
    said = encode_request("POST", "/api/send?x=1", {"Host": "bus", "Accept": "x"}, b"{}")
    assert said == b"POST /api/send?x=1 HTTP/1.1\r\nHost: bus\r\nAccept: x\r\nContent-Length: 2\r\n\r\n{}"
    assert encode_request("GET", "/", {"Host": "bus"}, None) == b"GET / HTTP/1.1\r\nHost: bus\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "é"])
def test_a_header_that_could_not_be_one_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"line end|ascii"):
        encode_request("GET", "/", {"Host": value}, None)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", (b"hello", True)),
        (OK + b"content-length:5\r\nConnection: close\r\n\r\nhello", (b"hello", False)),
        (OK + b"Content-Length: 0\r\n\r\n", (b"", True)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", (b"hello", False)),
        (b"HTTP/1.1 204\r\n\r\n", (b"", True)),
        (OK + b"\r\nuntil the end", (b"until the end", False)),
        (
            CHUNKED + b"5\r\nhello\r\n1 ;x=y\r\n!\r\n0\r\nX: trailer\r\n\r\n",
            (b"hello!", True),
        ),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", (b"hi", True)),
        # More than was asked for: whatever it is, the next answer must not be read from it.
        (OK + b"Content-Length: 2\r\n\r\nhi" + OK, (b"hi", None)),
    ],
)
def test_a_body_ends_where_its_head_says(said: bytes, expected: tuple[bytes, bool | None], step: int) -> None:
    found, reusable = body(said, step)
    assert found == expected[0]
    if expected[1] is None:
        assert step < 1000 or not reusable
    else:
        assert reusable is expected[1]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_BYTES_MAX + 8),
    ],
)
def test_what_is_no_answer_is_said_to_be_none(said: bytes) -> None:
    with pytest.raises(Broken):
        answered(Played(said, 1000))


@pytest.mark.parametrize(
    "said",
    [
        OK + b"Content-Length: 6\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello!!\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_breaks_off_is_never_taken_for_whole(said: bytes) -> None:
    response = answered(Played(said))
    with pytest.raises(Broken):
        finish(response.read())
    assert not response.reusable


def test_the_answer_of_a_server_that_did_not_read_all_is_read() -> None:
    connection = Played(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    connection.refuses = True
    assert answered(connection).status == 413


def test_a_header_given_twice_is_both() -> None:
    assert answered(Played(OK + b"X-A: 1\r\nx-a: 2\r\n\r\n")).headers == {"x-a": "1, 2"}
