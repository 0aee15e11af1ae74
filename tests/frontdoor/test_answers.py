"""Answers as they leave: framing, one send, HEAD, constants, failures; and the environ that PEP 3333 asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import gevent
import pytest
from gevent import socket

from portal.frontdoor import FrontDoor, Raw, Rules, listen
from tests.frontdoor.wire import (
    CONSTANT,
    LIMITS,
    NEUTRAL,
    App,
    House,
    Wire,
    body_of,
    classify,
    get,
    post,
    status,
    until,
)

OpenHouse = Callable[..., House]


def saying(*parts: bytes, headers: tuple[tuple[str, str], ...] = (), code: str = "200 OK") -> Any:
    """An application that answers with a generator of parts."""

    def answer(_environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response(code, [("Content-Type", "text/plain"), *headers])
        yield from parts

    return answer


def test_an_answer_is_one_segment_whatever_it_is_made_of(here: House) -> None:
    """Stock pywsgi sends two, and the second waits 40 ms for the acknowledgement of the first."""
    here.app.answers |= {
        "/raw": lambda _environ, _start: Raw("200 OK", b"x" * 1000),
        "/parts": saying(b"a" * 300, b"b" * 300, headers=(("Content-Length", "600"),)),
        "/none": saying(code="204 No Content"),
    }
    with here.call() as wire:
        for number, path in enumerate(("/list", "/raw", "/parts", "/none"), start=1):
            wire.send(get(path))
            wire.answer()
            assert wire.segments() == number, path
    assert here.ask(b"BAD\r\n\r\n")


def test_the_listener_hands_no_delay_to_every_connection(here: House) -> None:
    nodelay = here.door.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert nodelay


@pytest.mark.parametrize(
    ("path", "body", "framing"),
    [
        ("/list", b"fine", b"\r\nContent-Length: 4\r\n"),
        ("/raw", b"raw", b"\r\nContent-Length: 3\r\n"),
        ("/parts", b"ab", b"\r\nContent-Length: 2\r\n"),
        ("/stream", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n"),
        ("/empty", b"", b"\r\nContent-Length: 0\r\n"),
        ("/nothing", b"", b"204 No Content\r\n"),
        ("/unchanged", b"", b"304 Not Modified\r\n"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_end_of_an_answer_is_told_and_head_has_no_body(
    here: House, path: str, body: bytes, framing: bytes, method: str
) -> None:
    here.app.answers |= {
        "/raw": lambda _environ, _start: Raw("200 OK", b"raw"),
        "/parts": saying(b"a", b"b", headers=(("Content-Length", "2"),)),
        "/stream": saying(b"a", b"", b"bc"),
        "/empty": saying(),
        "/nothing": saying(code="204 No Content"),
        "/unchanged": saying(code="304 Not Modified"),
    }
    answer = here.ask(get(path, method=method) + get("/list", "Connection: close"))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert framing in head + b"\r\n\r\n"
    assert (b"Content-Length" in head or b"Transfer-Encoding" in head) is (path not in ("/nothing", "/unchanged"))
    expected = b"" if method == "HEAD" else body
    assert rest.startswith(expected + b"HTTP/1.1 200 OK\r\n")
    assert len(re.findall(rb"\r\nDate: ", answer)) == 2


def test_a_stream_for_http_1_0_ends_with_the_connection(here: House) -> None:
    here.app.answers["/stream"] = saying(b"a", b"bc")
    answer = here.ask(get("/stream", "Connection: keep-alive", version="1.0"))
    assert b"Transfer-Encoding" not in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert body_of(answer) == b"abc"


def test_a_stream_is_sent_as_it_comes(here: House) -> None:
    go = gevent.event.Event()

    def answer(_environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        go.wait(5)
        yield b"second"

    here.app.answers["/stream"] = answer
    with here.call() as wire:
        wire.send(get("/stream", "Connection: close"))
        first = wire.sock.recv(4096)
        assert first.endswith(b"5\r\nfirst\r\n")
        go.set()
        assert wire.rest() == b"6\r\nsecond\r\n0\r\n\r\n"


def test_a_large_answer_arrives_whole(here: House) -> None:
    big = bytes(range(256)) * 20_000
    here.app.answers["/big"] = saying(big, headers=(("Content-Length", str(len(big))),))
    assert body_of(here.ask(get("/big", "Connection: close"))) == big


def test_the_write_callable_of_start_response_works(here: House) -> None:
    def answer(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "6")])
        write(b"abc")
        write(b"def")
        return iter(())  # type: ignore[return-value]

    here.app.answers["/write"] = answer
    assert body_of(here.ask(get("/write", "Connection: close"))) == b"abcdef"


def test_headers_that_are_the_doors_to_say_are_said_once(here: House) -> None:
    here.app.answers["/x"] = saying(
        b"fine",
        headers=(("Date", "then"), ("Transfer-Encoding", "x"), ("Keep-Alive", "timeout=9"), ("Connection", "close")),
    )
    answer = here.ask(get("/x"))
    assert b"then" not in answer
    assert b"Keep-Alive" not in answer
    assert answer.count(b"Date: ") == answer.count(b"Transfer-Encoding: ") == answer.count(b"Connection: ") == 1
    assert b"Server:" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        (("X-A", "b\r\nSet-Cookie: c=d"),),
        (("X-A", "b\nSet-Cookie: c=d"),),
        (("X-A", "b\rc"),),
        (("X-A\r\nB", "c"),),
        (("X-A", "b\0c"),),
        (("X-A", "\u20ac"),),
        (("Content-Length", "five"),),
        (("Content-Length", "3"),),
        (("Content-Length", "5"),),
    ],
)
def test_a_header_that_would_split_or_lie_is_a_failure_and_not_sent(
    here: House, headers: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    here.app.answers["/x"] = saying(b"fine", headers=headers)
    answer = here.ask(get("/x"))
    assert status(answer) == 500
    assert CONSTANT.fullmatch(answer)
    assert [record.getMessage() for record in caplog.records] == ["request failed"]


@pytest.mark.parametrize("parts", [(b"x" * 50_000, b"x" * 60_000), (b"x" * 50_000, b"x" * 40_000)])
def test_a_long_answer_that_does_not_keep_its_length_is_cut_and_not_passed_off_as_whole(
    here: House, parts: tuple[bytes, ...]
) -> None:
    here.app.answers["/x"] = saying(*parts, headers=(("Content-Length", "100000"),))
    assert len(body_of(here.ask(get("/x")))) < 100_000
    assert here.door.failed["guests"] == 1


def failing(error: BaseException) -> Any:
    def answer(_environ: dict[str, Any], _start_response: Any) -> Iterable[bytes]:
        raise error

    return answer


@pytest.mark.parametrize(
    "error",
    [ValueError("secret"), OSError("secret"), ConnectionRefusedError("secret"), gevent.Timeout(1), AssertionError()],
)
def test_an_application_that_fails_is_answered_for_and_logged_once(
    here: House, error: BaseException, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    here.app.answers |= {"/x": failing(error), "/poll": failing(error)}
    guest = here.ask(get("/x"))
    assert status(guest) == 500
    assert CONSTANT.fullmatch(guest)
    assert b"secret" not in guest
    poll = here.ask(get("/poll", version="1.0"))
    assert poll.startswith(NEUTRAL.head)
    assert body_of(poll) == NEUTRAL.body
    assert (here.door.failed["guests"], here.door.failed["polls"]) == (1, 1)
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
    assert capfd.readouterr().err == ""
    assert here.door.in_flight == {"polls": 0, "guests": 0, "uploads": 0}


def test_an_application_that_fails_in_the_middle_cuts_the_answer(here: House) -> None:
    def answer(_environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        raise ValueError

    here.app.answers["/x"] = answer
    answered = here.ask(get("/x"))
    assert answered.endswith(b"5\r\nfirst\r\n")
    assert status(here.ask(get("/y", version="1.0"))) == 200


def test_a_thousand_failures_are_counted_and_a_few_are_told(here: House, caplog: pytest.LogCaptureFixture) -> None:
    here.app.answers["/poll"] = failing(ValueError())
    for _ in range(100):
        here.ask(get("/poll", version="1.0"))
    assert here.door.failed["polls"] == 100
    assert 1 <= len(caplog.records) <= 5


def test_the_result_is_closed_whatever_happens(here: House) -> None:
    closed: list[str] = []

    class Result:
        def __init__(self, name: str) -> None:
            self.name = name

        def __iter__(self) -> Iterator[bytes]:
            yield b"x"
            if self.name != "good":
                raise ValueError

        def close(self) -> None:
            closed.append(self.name)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Result(environ["QUERY_STRING"])

    here.app.answers["/x"] = answer
    here.ask(get("/x?good", "Connection: close"))
    here.ask(get("/x?bad", "Connection: close"))
    assert closed == ["good", "bad"]


def test_a_client_that_leaves_is_no_failure(here: House, caplog: pytest.LogCaptureFixture) -> None:
    def answer(_environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(200):
            yield b"x" * 65536
            gevent.sleep(0.001)

    here.app.answers["/x"] = answer
    with here.call() as wire:
        wire.send(get("/x"))
        wire.sock.recv(100)
    until(lambda: here.door.left == 1, "its leaving is noticed")
    assert here.door.failed["guests"] == 0
    assert not caplog.records


def test_an_application_may_ignore_a_body_that_is_still_coming(here: House) -> None:
    here.app.answers["/upload"] = lambda _environ, _start: Raw("200 OK", b"enough")
    answer = here.ask(get("/upload", "Content-Length: 500000", method="POST") + b"x" * 500_000)
    assert body_of(answer) == b"enough"
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_a_large_body_is_read_while_it_arrives(here: House, coding: str) -> None:
    arrived: list[int] = []

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while piece := environ["wsgi.input"].read(50_000):
            arrived.append(len(piece))
        start_response("200 OK", [])
        return [b"thanks"]

    here.app.answers["/upload"] = answer
    half = b"x" * 150_000
    with here.call() as wire:
        if coding == "length":
            wire.send(get("/upload", "Content-Length: 300000", method="POST") + half)
        else:
            wire.send(get("/upload", "Transfer-Encoding: chunked", method="POST") + b"249f0\r\n" + half + b"\r\n")
        until(lambda: sum(arrived) >= 100_000, "the application has the first half")
        wire.send(half if coding == "length" else b"249f0\r\n" + half + b"\r\n0\r\n\r\n")
        assert body_of(wire.answer()) == b"thanks"
        wire.send(get("/next"))
        assert status(wire.answer()) == 200
    assert sum(arrived) == 300_000


def test_an_application_content_with_half_of_a_bad_body_does_not_make_it_good(here: House) -> None:
    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError:
            start_response("200 OK", [])
            return [b"never mind"]
        raise AssertionError

    here.app.answers["/upload"] = answer
    answered = here.ask(
        get("/upload", "Transfer-Encoding: chunked", method="POST") + b"186a0\r\n" + b"x" * 100_000 + b"\r\nzzz\r\n"
    )
    assert status(answered) == 400


def test_chunks_over_the_limit_of_a_class_are_refused_while_they_come(here: House) -> None:
    chunk = b"80000\r\n" + b"x" * 0x80000 + b"\r\n"
    answered = here.ask(get("/upload", "Transfer-Encoding: chunked", method="POST") + chunk * 3)
    assert status(answered) == 413


def test_the_environ_is_what_pep_3333_asks_for() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"valid"]

    door = FrontDoor(listen("127.0.0.1", 0), validator(application), classify, LIMITS)
    door.start()
    here = House(App(), door, door.address)
    for request in (
        get("/a?b=c", "Connection: close"),
        post("/form", b"hello", "Connection: close"),
        get("/", version="1.0"),
    ):
        answer = here.ask(request)
        assert status(answer) == 200
        assert b"valid" in body_of(answer)
    door.drain(0.5)


def test_the_environ_names_the_client_and_the_server(open_house: OpenHouse) -> None:
    here = open_house(server_name="wifi")
    here.ask(post("/a%20b%ff?c=%20", b"{}", "Content-Type: application/json", version="1.0"))
    environ = here.app.seen[0].environ
    assert environ["PATH_INFO"] == "/a b\xff"
    assert environ["QUERY_STRING"] == "c=%20"
    assert environ["CONTENT_TYPE"] == "application/json"
    assert environ["SERVER_NAME"] == "wifi"
    assert environ["SERVER_PORT"] == str(here.address[1])
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"].isdigit()
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.input_terminated"] is True


FORGED = (
    "X-Forwarded-For: 6.6.6.6, 203.0.113.9",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: wifi.example",
    "X-Real-IP: 6.6.6.6",
)


def test_nobody_else_may_say_who_is_behind_him(here: House) -> None:
    here.ask(get("/x", *FORGED, "Forwarded: for=6.6.6.6", version="1.0"))
    environ = here.app.seen[0].environ
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "portal"
    assert not [name for name in environ if "FORWARDED" in name or "REAL_IP" in name]
    assert environ["gatepost.forwarded"] is True  # that somebody stands behind him is believed


def test_who_asks_for_himself_is_told_from_who_asks_for_another(here: House) -> None:
    here.ask(get("/x", version="1.0"))
    assert "gatepost.forwarded" not in here.app.seen[0].environ


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("6.6.6.6, nonsense, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
        ("6.6.6.6, 2001:db8::1", "2001:db8::1"),
        ("203.0.113.9:5555", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_names_the_first_hop_that_is_not_one_of_ours(
    open_house: OpenHouse, hops: str, client: str
) -> None:
    here = open_house(trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    here.ask(get("/x", f"X-Forwarded-For: {hops}", version="1.0"))
    assert here.app.seen[0].environ["REMOTE_ADDR"] == client


def test_a_proxy_that_is_no_address_is_named_at_the_start() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        pytest.raises(ValueError, match="trusted proxy 'caddy': expected an address"),
    ):
        FrontDoor(listener, App(), classify, LIMITS, trusted_proxies=["caddy"])


def test_a_trusted_proxy_names_scheme_and_host_and_its_last_word_counts(open_house: OpenHouse) -> None:
    here = open_house(trusted_proxies=["127.0.0.1"])
    here.ask(get("/x", *FORGED, version="1.0"))
    here.ask(get("/x", "X-Forwarded-Proto: https, javascript", "X-Forwarded-Host: a, b c", version="1.0"))
    first, second = (seen.environ for seen in here.app.seen)
    assert (first["wsgi.url_scheme"], first["HTTP_HOST"]) == ("https", "wifi.example")
    assert (second["wsgi.url_scheme"], second["HTTP_HOST"]) == ("http", "portal")
    assert not [name for name in first if "FORWARDED" in name]


def test_a_unix_socket_has_an_address_too(tmp_path: Any) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(tmp_path / "door")
    sock.bind(path)
    sock.listen(5)
    sock.setblocking(False)
    app = App()
    door = FrontDoor(sock, app, classify, LIMITS, trusted_proxies=["127.0.0.1"])
    door.start()
    with Wire(path) as wire:
        wire.send(get("/x", "X-Forwarded-For: 203.0.113.9", version="1.0"))
        assert status(wire.rest()) == 200
    assert app.seen[0].environ["REMOTE_ADDR"] == "203.0.113.9"
    door.drain(0.5)


def test_ipv6_listens_for_ipv4_too_and_calls_it_by_its_own_name() -> None:
    app = App()
    door = FrontDoor(listen("::", 0), app, classify, LIMITS, rules=Rules())
    door.start()
    with Wire(("127.0.0.1", door.address[1])) as wire:
        wire.send(get("/x", version="1.0"))
        assert status(wire.rest()) == 200
    assert app.seen[0].environ["REMOTE_ADDR"] == "127.0.0.1"
    six = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    six.connect(("::1", door.address[1]))
    six.sendall(get("/x", version="1.0"))
    assert status(six.recv(4096)) == 200
    six.close()
    assert app.seen[1].environ["REMOTE_ADDR"] == "::1"
    door.drain(0.5)


def test_a_port_in_use_is_named(here: House) -> None:
    said = rf"cannot listen on 127.0.0.1 port {here.address[1]}: .*in use; is another server running\? server.port in "
    with pytest.raises(OSError, match=said):
        listen("127.0.0.1", here.address[1])
    with pytest.raises(OSError, match="cannot listen on 192.0.2.1 port 0: [^;]*$"):  # nobody's address, so not taken
        listen("192.0.2.1", 0)


def test_several_processes_may_share_a_port() -> None:
    one = listen("127.0.0.1", 0, reuse_port=True)
    two = listen("127.0.0.1", one.getsockname()[1], reuse_port=True)
    one.close()
    two.close()


def test_a_raw_answer_is_the_same_bytes_each_time_but_for_the_date(here: House) -> None:
    constant = Raw("200 OK", b"Yes\n", ("Content-Type", "text/plain"), ("X-A", "b"))
    here.app.answers["/poll"] = lambda _environ, _start: constant
    answer = here.ask(get("/poll", version="1.0"))
    assert re.sub(rb"Date: [^\r]+", b"Date: D", answer) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 4\r\n"
        b"Date: D\r\nConnection: close\r\n\r\nYes\n"
    )
