"""What a strict server refuses, and what normal routers and browsers send all the same, on real sockets."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.frontdoor.framing import Refused, parse_head
from tests.frontdoor.wire import CONSTANT, House, body_of, get, post, status, until

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: portal\r\n\r\n"


def with_header(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST /form HTTP/1.1\r\nHost: portal\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return with_header(b"Transfer-Encoding: chunked", body=body)


LENGTHS = [
    b"+5",
    b"-5",
    b"5_0",
    b"0x5",
    b"5 5",
    b"5,5",
    b"5, 5",
    b"",
    b"5.0",
    b"5e0",
    b"five",
    b"\xd9\xa5",
    b"9" * 16,
    b"5;a=b",
]
CODINGS = [
    b"gzip, chunked",
    b"chunked, gzip",
    b"chunked, chunked",
    b"identity",
    b"xchunked",
    b"chunkedx",
    b"chunked;q=1",
    b'"chunked"',
    b"\x0bchunked",
    b"",
    b",chunked",
    b"chunked,",
    b"gzip",
]
REQUEST_LINES = {
    b"GET /x": 400,  # HTTP/0.9
    b"GET": 400,
    b"": 400,
    b" GET /x HTTP/1.1": 400,
    b"GET  /x HTTP/1.1": 400,
    b"GET /x  HTTP/1.1": 400,
    b"GET /x HTTP/1.1 ": 400,
    b"GET\t/x HTTP/1.1": 400,
    b"GET /x\tHTTP/1.1": 400,
    b"GET\x0b/x HTTP/1.1": 400,
    b"GET /a b HTTP/1.1": 400,
    b"POST /a?b c HTTP/1.1": 400,
    b"GET /x HTTP/1.1 HTTP/1.0": 400,
    b"GET /\x00 HTTP/1.1": 400,
    b"GET /\x7f HTTP/1.1": 400,
    b"GET /x\rY HTTP/1.1": 400,
    b"GET x HTTP/1.1": 400,
    b"GET * HTTP/1.1": 400,
    b"GET portal:80 HTTP/1.1": 400,
    b"GET ftp://portal/x HTTP/1.1": 400,
    b"GET http:///x HTTP/1.1": 400,
    b"GET http://user@portal/x HTTP/1.1": 400,
    b"GET http://portal?x HTTP/1.1": 400,
    b"GET http:/x HTTP/1.1": 400,
    b"GET /x http/1.1": 400,
    b"GET /x HTTP/1": 400,
    b"GET /x HTTP/1.11": 400,
    b"GET /x HTTP/+1.1": 400,
    b"GET /x HTTP/1,1": 400,
    b"GET /x HTTPS/1.1": 400,
    b"GET /x HTTP/\xb9.1": 400,
    b"GET /x HTTP/1.2": 505,
    b"GET /x HTTP/2.0": 505,
    b"GET /x HTTP/0.9": 505,
    b"PRI * HTTP/2.0": 505,
    b"get /x HTTP/1.1": 501,
    b"CONNECT portal:80 HTTP/1.1": 501,
    b"TRACE /x HTTP/1.1": 501,
    b"OPTIONS * HTTP/1.1": 501,
    b"OPTIONS /x HTTP/1.1": 501,
    b"PROPFIND /x HTTP/1.1": 501,
    b"GETT /x HTTP/1.1": 501,
    b"GE:T /x HTTP/1.1": 400,
    b"GE(T /x HTTP/1.1": 400,
    b"\x16\x03\x01\x02\x00\x01\x00": 400,  # TLS
    b"GET /" + b"a" * 8192 + b" HTTP/1.1": 414,
}
FIELDS = {
    "blank before the colon": b"Name : value",
    "tab before the colon": b"Name\t: value",
    "no colon": b"Name value",
    "no name": b": value",
    "a folded line": b"Name: value\r\n more",
    "a folded line by tab": b"Name: value\r\n\tmore",
    "a bare CR": b"Name: value\rOther: value",
    "a bare CR at the end": b"Name: value\r",
    "a bare LF": b"Name: value\nContent-Length: 5",
    "a NUL in a value": b"Name: val\x00ue",
    "a NUL in a name": b"Na\x00me: value",
    "a control character": b"Name: val\x01ue",
    "a vertical tab": b"Name: val\x0bue",
    "a DEL": b"Name: val\x7fue",
    "a blank in a name": b"Na me: value",
    "a letter above 127 in a name": "Näme: value".encode("latin-1"),
    "brackets in a name": b"Na(me): value",
    "a second Host": b"Host: other",
    "the same Host again": b"host: portal",
    "two content types": b"Content-Type: text/plain\r\nContent-Type: text/html",
    "two expectations": b"Expect: 100-continue\r\nExpect: 100-continue",
}
HOSTS = [
    b"a b",
    b"portal/x",
    b"user@portal",
    b"portal#x",
    b"portal?x",
    b"portal\\x",
    b"<b>",
    b'"portal"',
    b"a, b",
    b"portal:x",
    b"[::1",
    b"\xe9",
]
CHUNKS = {
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "a blank first": b" 5\r\nhello\r\n0\r\n\r\n",
    "a blank after": b"5 \r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "only an extension": b";a=b\r\nhello\r\n0\r\n\r\n",
    "a bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "a bare CR in the extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a bare LF in the extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a NUL in the extension": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "a long extension": b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "no end of the chunk": b"5\r\nhelloX\r\n0\r\n\r\n",
    "a bare LF after the chunk": b"5\r\nhello\n0\r\n\r\n",
    "a chunk shorter than it says": b"6\r\nhello\r\n0\r\n\r\n",
    "a size beyond measure": b"fffffffff\r\nhello\r\n0\r\n\r\n",
    "a size that wraps": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a trailer without a colon": b"5\r\nhello\r\n0\r\ntrailer\r\n\r\n",
    "a trailer with a blank before the colon": b"5\r\nhello\r\n0\r\nName : value\r\n\r\n",
    "a folded trailer": b"5\r\nhello\r\n0\r\nName: value\r\n more\r\n\r\n",
    "a trailer with a NUL": b"5\r\nhello\r\n0\r\nName: val\x00ue\r\n\r\n",
    "too many trailers": b"5\r\nhello\r\n0\r\n" + b"Name: value\r\n" * 500 + b"\r\n",
    "a trailer without an end": b"5\r\nhello\r\n0\r\nName: " + b"a" * 9000,
    "many tiny chunks": b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
    "many extensions": b"5;abcdefghijklmnopqrstuvwxyz\r\nhello\r\n" * 500 + b"0\r\n\r\n",
}


def corpus() -> dict[str, tuple[bytes, int]]:
    """Everything that must be refused, by name, with the status that says so."""
    cases = {
        f"request line {line[:40]!r}": (line + b"\r\nHost: portal\r\n\r\n", code)
        for line, code in REQUEST_LINES.items()
    }
    cases |= {f"field: {name}": (with_header(field), 400) for name, field in FIELDS.items()}
    cases |= {f"length {n!r}": (with_header(b"Content-Length: " + n, body=b"hello"), 400) for n in LENGTHS}
    cases |= {
        f"coding {c!r}": (with_header(b"Transfer-Encoding: " + c, body=b"5\r\nhello\r\n0\r\n\r\n"), 400)
        for c in CODINGS
    }
    cases |= {f"host {h!r}": (b"GET /x HTTP/1.1\r\nHost: " + h + b"\r\n\r\n", 400) for h in HOSTS}
    cases |= {f"chunk: {name}": (chunked(body), 400) for name, body in CHUNKS.items()}
    length, coding, ends = b"Content-Length: 5", b"Transfer-Encoding: chunked", b"0\r\n\r\n"
    return cases | {
        "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
        "no host beside an absolute target": (b"GET http://portal/x HTTP/1.1\r\n\r\n", 400),
        "two lengths": (with_header(length, length, body=b"hello"), 400),
        "two different lengths": (with_header(length, b"Content-Length: 0", body=b"hello"), 400),
        "length and coding": (with_header(length, coding, body=ends), 400),
        "coding and length": (with_header(coding, length, body=ends), 400),
        "two codings": (with_header(coding, coding, body=ends), 400),
        "two codings, one of them obscure": (with_header(coding, b"Transfer-Encoding: x", body=ends), 400),
        "chunked by HTTP/1.0": (b"POST /x HTTP/1.0\r\n" + coding + b"\r\n\r\n" + ends, 400),
        "an expectation nobody knows": (with_header(b"Expect: 200-ok", length, body=b"hello"), 417),
        "65 headers": (with_header(*[b"A: b"] * 64), 431),
        "17 KiB of headers": (with_header(b"A: " + b"b" * 17 * 1024), 431),
        "17 KiB of header without an end": (b"GET /x HTTP/1.1\r\nA: " + b"b" * 17 * 1024, 431),
        "a line of 8 KiB without an end": (b"GET /" + b"a" * 8300, 414),
        "HTTP/0.9 without anything": (b"GET /x\r\n", 400),
        "lines that end in LF": (b"GET /x HTTP/1.1\nHost: portal\n\n", 400),
        "a body of 64 KiB and one": (with_header(b"Content-Length: 65537"), 413),
        "a huge body": (with_header(b"Content-Length: 999999999999999"), 413),
        "chunks of more than 64 KiB": (chunked(b"8001\r\n" + b"x" * 0x8001 + b"\r\n8001\r\n"), 413),
    }


CORPUS = corpus()


@pytest.mark.parametrize("name", CORPUS)
def test_what_can_be_read_in_two_ways_never_reaches_the_application(here: House, name: str) -> None:
    request, code = CORPUS[name]
    with here.call() as wire:
        wire.send(request + SMUGGLED)
        answer = wire.rest()
    assert status(answer) == code
    assert CONSTANT.fullmatch(answer), answer
    assert b"Auth: " not in answer
    assert b"Pong" not in answer
    assert here.app.seen == []
    assert here.door.refused.total() == 1


def test_the_corpus_is_not_refused_for_being_followed_by_something(here: House) -> None:
    """The request that follows every case would be answered, were it read."""
    assert body_of(here.ask(SMUGGLED.replace(b"Host", b"Connection: close\r\nHost"))) == b"fine"


TAKEN = {
    "a router's call": b"GET /poll/?stage=counters&gw_id=0&mac=02:00 HTTP/1.0\r\n"
    b"User-Agent: WiFiDog 1.3.0\r\nHost: 10.88.0.2\r\n\r\n",
    "HTTP/1.0 without Host": b"GET /x HTTP/1.0\r\n\r\n",
    "an empty Host": b"GET /x HTTP/1.0\r\nHost:\r\n\r\n",
    "a Host with a port": b"GET /x HTTP/1.0\r\nHost: portal:8080\r\n\r\n",
    "a Host that is an address": b"GET /x HTTP/1.0\r\nHost: [2001:db8::1]:80\r\n\r\n",
    "a Host in an unusual alphabet": b"GET /x HTTP/1.0\r\nHost: xn--caf-dma.example.\r\n\r\n",
    "an empty line first": b"\r\nGET /x HTTP/1.0\r\n\r\n",
    "no blank after the colon": b"GET /x HTTP/1.0\r\nHost:portal\r\n\r\n",
    "blanks around a value": b"GET /x HTTP/1.0\r\nHost: \t portal \t \r\n\r\n",
    "a percent sign on its own": b"GET /x?url=http%3A%2F%2F1.2.3.4%2F% HTTP/1.0\r\n\r\n",
    "bytes above 127 in the query": b"GET /x?gw_id=caf\xc3\xa9\xff HTTP/1.0\r\n\r\n",
    "bytes above 127 in a value": b"GET /x HTTP/1.0\r\nUser-Agent: caf\xe9\r\n\r\n",
    "signs in the query": b'GET /x?gw_id=<a>"{b}|\\^`#&&;== HTTP/1.0\r\n\r\n',
    "a blank in the query": b"GET /x?name=Ana's phone&gw_id=1 HTTP/1.0\r\n\r\n",
    "a length with zeros first": b"POST /x HTTP/1.0\r\nContent-Length: 005\r\n\r\nhello",
    "a POST without a length": b"POST /x HTTP/1.0\r\n\r\n",
    "64 headers": b"GET /x HTTP/1.0\r\n" + b"A: b\r\n" * 64 + b"\r\n",
    "a line of 8 KiB": b"GET /x?" + b"a" * (8192 - 16) + b" HTTP/1.0\r\n\r\n",
    "an expectation of HTTP/1.0": b"POST /x HTTP/1.0\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\nhello",
    "chunks in capitals": b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n"
    b"A\r\n0123456789\r\n00\r\n\r\n",
    "chunks with extensions and trailers": b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b'5;a=b;c="d"\r\nhello\r\n0;e\r\nContent-Length: 9\r\nOther: x\r\n\r\n',
    "DELETE with a body": b"DELETE /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_normal_clients_send_is_taken(here: House, name: str) -> None:
    answer = here.ask(TAKEN[name])
    assert status(answer) == 200
    assert len(here.app.seen) == 1


def test_a_body_reaches_the_application_whole_and_nothing_more(here: House) -> None:
    with here.call() as wire:
        wire.send(post("/form", b"hello") + get("/next"))
        assert status(wire.answer()) == status(wire.answer()) == 200
    first, second = here.app.seen
    assert (first.body, first.environ["CONTENT_LENGTH"]) == (b"hello", "5")
    assert (second.body, second.environ["PATH_INFO"]) == (b"", "/next")
    assert "CONTENT_LENGTH" not in second.environ


def test_chunks_arrive_as_one_body_and_their_trailers_not_at_all(here: House) -> None:
    with here.call() as wire:
        wire.send(chunked(b'5;a="b"\r\nhello\r\n6\r\n world\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n') + get("/next"))
        assert status(wire.answer()) == status(wire.answer()) == 200
    assert [seen.body for seen in here.app.seen] == [b"hello world", b""]
    environ = here.app.seen[0].environ
    assert environ["CONTENT_LENGTH"] == "11"
    assert not {"HTTP_TRANSFER_ENCODING", "HTTP_X_FORWARDED_FOR"} & set(environ)


def test_a_body_in_pieces_arrives_whole(here: House) -> None:
    with here.call() as wire:
        for byte in chunked(b"5\r\nhello\r\n0\r\n\r\n"):
            wire.send(bytes([byte]))
        assert status(wire.answer()) == 200
    assert here.app.seen[0].body == b"hello"


def test_an_absolute_target_is_its_path_and_its_authority_is_the_host(here: House) -> None:
    here.ask(b"GET HTTP://Other:81/a%20b?c=d HTTP/1.1\r\nHost: portal\r\nConnection: close\r\n\r\n")
    here.ask(b"GET http://other HTTP/1.0\r\n\r\n")
    first, second = (seen.environ for seen in here.app.seen)
    assert (first["PATH_INFO"], first["QUERY_STRING"], first["HTTP_HOST"]) == ("/a b", "c=d", "Other:81")
    assert second["PATH_INFO"] == "/"
    assert "HTTP_HOST" not in second


def test_a_blank_in_a_query_is_mended_and_nowhere_else(here: House) -> None:
    here.ask(TAKEN["a blank in the query"])
    assert here.app.seen[0].environ["QUERY_STRING"] == "name=Ana's%20phone&gw_id=1"


def test_a_header_with_an_underscore_cannot_pass_for_another(here: House) -> None:
    here.ask(get("/x", "X_Real: forged", "Content_Length: 5", "X-Real: true", version="1.0"))
    environ = here.app.seen[0].environ
    assert environ["HTTP_X_REAL"] == "true"
    assert "CONTENT_LENGTH" not in environ


def test_repeated_headers_are_joined_as_their_grammar_says(here: House) -> None:
    here.ask(get("/x", "Accept: a", "Accept: b", "Cookie: c=d", "Cookie: e=f", version="1.0"))
    environ = here.app.seen[0].environ
    assert (environ["HTTP_ACCEPT"], environ["HTTP_COOKIE"]) == ("a,b", "c=d; e=f")


@pytest.mark.parametrize(
    ("headers", "version", "goes_on"),
    [
        ((), "1.1", True),
        ((), "1.0", False),
        (("Connection: close",), "1.1", False),
        (("Connection: CLOSE",), "1.1", False),
        (("Connection: close, x",), "1.1", False),
        (("Connection: x ,\tclose",), "1.1", False),
        (("Connection: x", "Connection: close"), "1.1", False),
        (("Connection: keep-alive",), "1.0", True),
        (("Connection: Keep-Alive, x",), "1.0", True),
        (("Connection: keep-alive, close",), "1.0", False),
        (("Connection: upgrade", "Upgrade: websocket"), "1.1", True),
        (("Proxy-Connection: keep-alive",), "1.0", False),
    ],
)
def test_the_connection_goes_on_as_the_list_of_options_says(
    here: House, headers: tuple[str, ...], version: str, goes_on: bool
) -> None:
    with here.call() as wire:
        wire.send(get("/first", *headers, version=version))
        answer = wire.answer()
        assert (b"\r\nConnection: close\r\n" in answer) is not goes_on
        if version == "1.0" and goes_on:
            assert b"\r\nConnection: keep-alive\r\n" in answer
        if goes_on:
            wire.send(get("/second", *headers, version=version))
            assert status(wire.answer()) == 200
        else:
            assert wire.is_closed(within=2)


def test_an_upgrade_does_not_open_the_way_past_the_framing(here: House) -> None:
    """Stock pywsgi hands the bare connection to the application for this."""
    with here.call() as wire:
        wire.send(get("/ws", "Upgrade: websocket", "Connection: upgrade") + get("/next", "Connection: close"))
        wire.rest()
    assert [(seen.environ["PATH_INFO"], seen.body) for seen in here.app.seen] == [("/ws", b""), ("/next", b"")]


def test_a_client_that_expects_it_is_told_to_go_on(here: House) -> None:
    with here.call() as wire:
        wire.send(get("/form", "Content-Length: 5", "Expect: 100-Continue", method="POST"))
        assert wire.answer() == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b"hello")
        assert status(wire.answer()) == 200
    assert here.app.seen[0].body == b"hello"
    assert "HTTP_EXPECT" not in here.app.seen[0].environ


def test_a_client_that_has_begun_already_is_not_told_to_go_on(here: House) -> None:
    with here.call() as wire:
        wire.send(post("/form", b"hello", "Expect: 100-continue"))
        assert status(wire.answer()) == 200


def test_a_client_that_expects_to_send_too_much_is_refused_before_it_does(here: House) -> None:
    answer = here.ask(get("/form", "Content-Length: 70000", "Expect: 100-continue", method="POST"))
    assert status(answer) == 413


def test_a_refusal_is_read_even_by_a_client_that_goes_on_sending(here: House) -> None:
    with here.call() as wire:
        wire.send(get("/form", "Content-Length: 200000", method="POST") + b"x" * 200_000)
        assert status(wire.rest()) == 413


@settings(max_examples=400)
@given(
    st.sampled_from(
        [b"GET /poll/?token=abc HTTP/1.0\r\nUser-Agent: WiFiDog\r\nHost: a\r\n", with_header(b"Content-Length: 5")[:-2]]
    ),
    st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=3), st.integers(0, 2)), max_size=4),
)
def test_no_change_to_a_head_brings_more_than_a_refusal(head: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    for at, put, cut in edits:
        head = head[:at] + put + head[at + cut :]
    try:
        request = parse_head(head)
    except Refused:
        return
    assert request.method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    assert request.target.startswith("/")
    assert not request.chunked or request.length is None
    assert not any(character in value for value in request.fields.values() for character in "\r\n\0")


WHOLE = [
    TAKEN["a router's call"] + SMUGGLED,
    post("/upload", b"x" * 70_000) + get("/poll"),
    chunked(b'5;a="b"\r\nhello\r\n0\r\nName: value\r\n\r\n') + get("/x", "Connection: close"),
    with_header(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
]
EDITS = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=4), st.integers(0, 3)), max_size=4)


def test_no_change_to_what_is_sent_upsets_the_door(here: House, caplog: pytest.LogCaptureFixture) -> None:
    @settings(max_examples=300)
    @given(st.sampled_from(WHOLE), EDITS)
    def changed(request: bytes, edits: list[tuple[int, bytes, int]]) -> None:
        for at, put, cut in edits:
            request = request[:at] + put + request[at + cut :]
        with here.call() as wire:
            try:
                wire.send(request)
                wire.sock.shutdown(1)
                answers = wire.rest()
            except ConnectionError:
                return  # refused while it was still sending
        for answer in answers.split(b"HTTP/1.1 ")[1:]:
            assert int(answer[:3]) in (100, 200, 400, 408, 413, 414, 417, 431, 501, 503, 505)

    changed()
    assert not caplog.records
    assert here.door.in_flight == {"polls": 0, "guests": 0, "uploads": 0}
    until(lambda: here.door.open_sockets == 0, "all are gone")


def test_a_bad_request_leaves_no_traceback_and_no_word_of_it_in_the_log(
    here: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        here.ask(b"GET /secret-token HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        here.ask(with_header(b"Transfer-Encoding: chunked", body=b"secret\r\n"))
        here.ask(b"\x00\xff\r\n\r\n")
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 3
    assert [record.reason for record in caplog.records] == ["duplicate header", "chunk", "request line"]
    assert "secret" not in caplog.text
    assert capfd.readouterr().err == ""
