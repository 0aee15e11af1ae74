"""Clients that keep us waiting: what they cost, and who goes when a lid is reached."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent import socket

from portal.frontdoor import Rules
from tests.frontdoor.wire import CONSTANT, House, Wire, get, post, status, until

OpenHouse = Callable[..., House]


def drip(wire: Wire, data: bytes, every: float) -> float:
    """Send byte by byte until the door has had enough; how long that took."""
    start = time.monotonic()
    try:
        for byte in data:
            wire.send(bytes([byte]))
            gevent.sleep(every)
    except OSError:
        pass
    return time.monotonic() - start


def test_a_head_has_one_deadline_however_often_a_byte_comes(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(head_seconds=0.4))
    with here.call() as wire:
        gevent.spawn(drip, wire, get("/x", "A: " + "b" * 500), 0.02)
        answer = wire.rest()
    assert status(answer) == 408
    assert CONSTANT.fullmatch(answer)
    assert here.app.seen == []
    assert here.door.waiting.overdue["head"] == 1


def test_a_client_that_says_nothing_is_closed_without_a_word(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(head_seconds=0.2))
    with here.call() as wire:
        assert wire.rest() == b""
    until(lambda: here.door.open_sockets == 0, "the socket is given back")


def test_a_head_in_pieces_is_taken_within_its_time(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(head_seconds=3))
    with here.call() as wire:
        for byte in get("/x", "Connection: close"):
            wire.send(bytes([byte]))
        assert status(wire.rest()) == 200


def test_an_idle_connection_is_closed_and_a_second_request_has_its_time_for_a_head(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(idle_seconds=0.5, head_seconds=0.4))
    with here.call() as idle, here.call() as slow:
        idle.send(get("/x"))
        slow.send(get("/x"))
        assert status(idle.answer()) == status(slow.answer()) == 200
        slow.send(b"GET /second HTTP/1.1\r\n")
        assert status(slow.rest()) == 408
        assert idle.rest() == b""
    assert dict(here.door.waiting.overdue) == {"idle": 1, "head": 1}


def test_a_body_that_drips_is_refused(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(body_seconds=0.4))
    with here.call() as wire:
        wire.send(get("/form", "Content-Length: 60000", method="POST"))
        gevent.spawn(drip, wire, b"x" * 200, 0.02)
        assert status(wire.rest()) == 408
    assert here.app.seen == []
    assert here.door.waiting.overdue["body"] == 1


def test_a_body_that_comes_at_the_least_rate_is_taken_however_long_it_is(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(body_seconds=0.4, body_bytes_per_second=16 * 1024))
    with here.call() as wire:
        wire.send(get("/form", "Content-Length: 24576", "Connection: close", method="POST"))
        for _ in range(24):  # of 1 KiB in 50 ms each, which takes three times as long as a silent client has
            wire.send(b"x" * 1024)
            gevent.sleep(0.05)
        assert status(wire.rest()) == 200
    assert len(here.app.seen[0].body) == 24576


def test_a_large_body_that_drips_is_refused_though_the_application_would_wait(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(body_seconds=0.4))
    with here.call() as wire:
        wire.send(get("/upload", "Content-Length: 200000", method="POST") + b"x" * 1000)
        assert status(wire.rest()) == 408
    assert here.door.in_flight["uploads"] == 0
    assert here.door.failed["uploads"] == 0


def test_a_reader_that_does_not_read_is_cut(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(write_seconds=0.4))
    here.app.answers["/big"] = _answer_of(b"x" * 8_000_000)
    with here.call() as wire:
        wire.sock.setsockopt(1, 8, 4096)  # SO_RCVBUF
        wire.send(get("/big"))
        until(lambda: here.door.waiting.overdue["write"] == 1, "the write is overdue")
        until(lambda: here.door.open_sockets == 0, "the socket is given back")


def test_a_reader_that_reads_slowly_but_steadily_gets_everything(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(write_seconds=0.5))
    here.app.answers["/big"] = _answer_of(b"x" * 2_000_000)
    got = 0
    with here.call() as wire:
        wire.sock.setsockopt(1, 8, 65536)
        wire.send(get("/big", "Connection: close"))
        while data := wire.sock.recv(65536):
            got += len(data)
            gevent.sleep(0.02)
    assert got > 2_000_000


def test_silent_sockets_do_not_keep_others_from_being_served(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(heads_per_address=1000))
    with ExitStack() as stack:
        for number in range(300):
            wire = stack.enter_context(here.call())
            if number % 2:
                wire.send(b"GET /x HTTP/1.1\r\nHost: ")
        start = time.monotonic()
        assert status(here.ask(get("/poll", version="1.0"))) == 200
        assert time.monotonic() - start < 1
        assert here.door.parsed == {"polls": 1, "guests": 0, "uploads": 0}


def test_at_the_lid_on_sockets_the_oldest_half_sent_head_goes(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(sockets=4))
    with ExitStack() as stack:
        wires = []
        for number in range(4):
            wires.append(stack.enter_context(here.call()))
            wires[-1].send(b"GET /x HTTP/1.1\r\n")
            until(lambda n=number: here.door.open_sockets == n + 1, "accepted")
        assert status(here.ask(get("/x", version="1.0"))) == 200
        assert wires[0].rest() == b""
        for wire in wires[1:]:
            wire.send(b"Host: a\r\nConnection: close\r\n\r\n")
            assert status(wire.rest()) == 200
    assert here.door.waiting.evicted["sockets"] == 1


def test_at_the_lid_on_sockets_whoever_was_idle_longer_than_a_head_was_coming_goes_first(open_house: OpenHouse) -> None:
    """Or somebody with many idle connections could have every newcomer thrown out."""
    here = open_house(rules=Rules(sockets=2))
    with here.call() as idle, here.call() as coming:
        idle.send(get("/x"))
        idle.answer()
        gevent.sleep(0.02)
        coming.send(b"GET /x HTTP/1.1\r\n")
        gevent.sleep(0.02)
        idle.send(get("/x"))  # young again
        idle.answer()
        gevent.sleep(0.02)
        assert status(here.ask(get("/x", version="1.0"))) == 200
        assert coming.rest() == b""
        with here.call() as another:
            another.send(b"GET")
            assert status(here.ask(get("/x", version="1.0"))) == 200
            assert idle.rest() == b""


def test_when_every_socket_is_at_work_a_newcomer_is_closed_and_nobody_at_work_is(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(sockets=2))
    go = gevent.event.Event()
    here.app.answers["/slow"] = _after(go)
    with here.call() as one, here.call() as two:
        one.send(get("/slow", version="1.0"))
        two.send(get("/slow", version="1.0"))
        until(lambda: here.door.in_flight["guests"] == 2, "both at work")
        with here.call() as three:
            assert three.is_closed(within=2)
        go.set()
        assert status(one.rest()) == status(two.rest()) == 200
    assert here.door.waiting.evicted["newcomer"] == 1


def test_an_address_with_many_silent_sockets_loses_its_own_oldest_and_is_never_refused(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(heads_per_address=8))
    with ExitStack() as stack:
        silent = [stack.enter_context(here.call()) for _ in range(30)]
        for _ in range(20):
            assert status(here.ask(get("/x", version="1.0"))) == 200
        until(lambda: here.door.open_sockets <= 8, "only the newest are left")
        assert silent[0].rest() == b""
        silent[-1].send(get("/x", version="1.0"))
        assert here.door.waiting.evicted["address"] >= 22


def test_idle_connections_and_requests_at_work_do_not_count_for_an_address(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(heads_per_address=2))
    with ExitStack() as stack:
        wires = []
        for _ in range(10):
            wires.append(stack.enter_context(here.call()))
            wires[-1].send(get("/x"))
            wires[-1].answer()
        for wire in wires:
            wire.send(get("/again"))
            assert status(wire.answer()) == 200
    assert here.door.waiting.evicted.total() == 0


def test_a_trusted_proxy_has_no_lid_of_its_own(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(heads_per_address=2), trusted_proxies=["127.0.0.0/8"])
    with ExitStack() as stack:
        wires = [stack.enter_context(here.call()) for _ in range(10)]
        until(lambda: here.door.open_sockets == 10, "all are in")
        for wire in wires:
            wire.send(get("/x", version="1.0"))
            assert status(wire.rest()) == 200


def test_bodies_being_gathered_have_a_lid_and_the_one_silent_for_longest_goes(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(bodies_at_once=2))
    with here.call() as one, here.call() as two, here.call() as three:
        for number, wire in enumerate((one, two)):
            wire.send(get("/form", "Content-Length: 5", "Connection: close", method="POST"))
            until(lambda n=number: len(here.door.waiting.bodies.deadlines) == n + 1, "its body is waited for")
        three.send(get("/form", "Content-Length: 5", "Connection: close", method="POST"))
        assert status(one.rest()) == 408
        for wire in (two, three):
            wire.send(b"hello")
            assert status(wire.rest()) == 200
    assert here.door.waiting.evicted["bodies"] == 1


def test_a_request_that_comes_at_the_very_deadline_is_answered_or_not_begun(open_house: OpenHouse) -> None:
    """Deadlines are kept by telling the socket, never by an exception in the middle of somebody's work."""
    here = open_house(rules=Rules(idle_seconds=0.1))
    here.app.answers["/slow"] = _after(None, 0.2)
    for pause in (0.08, 0.1, 0.11, 0.12):
        with here.call() as wire:
            wire.send(get("/x"))
            wire.answer()
            gevent.sleep(pause)
            try:
                wire.send(get("/slow"))
                rest = wire.rest()
            except ConnectionError:
                rest = b""
            assert rest == b"" or (status(rest) == 200 and rest.endswith(b"fine"))
    assert here.door.failed["guests"] == 0


def test_everything_is_given_back_when_clients_leave_at_any_moment(open_house: OpenHouse) -> None:
    here = open_house()
    whole = post("/form", b"hello") + get("/x")
    before = len(os.listdir("/proc/self/fd"))
    for end in range(0, len(whole), 3):
        with here.call() as wire:
            wire.send(whole[:end])
    until(lambda: here.door.open_sockets == 0, "all are gone")
    assert not any(queue.deadlines for queue in here.door.waiting.queues)
    assert not here.door.waiting._unfinished
    assert here.door.in_flight == {"polls": 0, "guests": 0, "uploads": 0}
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors are given back")


def test_without_descriptors_the_door_waits_in_silence_and_comes_back(
    open_house: OpenHouse, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    here = open_house()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        first, second = stack.enter_context(here.call()), stack.enter_context(here.call())
        until(lambda: here.door.open_sockets == 2, "both are in")
        third = stack.enter_context(socket.socket())
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            third.connect(here.address)  # the kernel accepts it, the door cannot
            third.sendall(get("/x", version="1.0"))
            assert first.rest() == b""  # which makes room
            first.sock.close()
            assert status(third.recv(4096)) == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        second.send(get("/x", version="1.0"))
        assert status(second.rest()) == 200
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_door_asks_for_as_many_descriptors_as_it_needs_and_makes_do_with_what_it_gets(
    open_house: OpenHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """A service begins with 1,024 on most systems, and may have more for the asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        here = open_house(rules=Rules(sockets=500))
        assert here.door.sockets == 500
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 628
        assert not caplog.records
        here = open_house(rules=Rules(sockets=hard))
        assert here.door.sockets == hard - 128
        assert caplog.records[0].getMessage() == "fewer sockets than wanted"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_half_sent_heads_costs_little_memory(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(sockets=400, heads_per_address=1000))
    before = _resident()
    with ExitStack() as stack:
        for _ in range(200):
            wire = stack.enter_context(here.call())
            wire.send(b"GET /x HTTP/1.1\r\nA: " + b"b" * 15_000)
        until(lambda: here.door.open_sockets == 200, "all are in")
        gevent.sleep(0.1)
        assert _resident() - before < 20 * 2**20


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _answer_of(body: bytes) -> Any:
    def answer(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    return answer


def _after(event: Any, seconds: float = 0.0) -> Any:
    def answer(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if event is not None:
            event.wait(5)
        gevent.sleep(seconds)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]

    return answer
