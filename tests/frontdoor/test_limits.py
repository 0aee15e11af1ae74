"""Limits on work for each class of caller, and the end of a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent.event import Event

from portal.frontdoor import FrontDoor, Limit, Rules, listen
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


class Gate:
    """An application that waits until it is told."""

    def __init__(self) -> None:
        self.opened = Event()

    def __call__(self, _environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.opened.wait(5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]


@pytest.fixture
def gate(here: House) -> Iterator[Gate]:
    gate = Gate()
    here.app.answers |= {"/slow": gate, "/poll/slow": gate, "/upload/slow": gate}
    yield gate
    gate.opened.set()


def filled(here: House, stack: ExitStack, path: str, name: str, count: int) -> list[Wire]:
    wires = [stack.enter_context(here.call()) for _ in range(count)]
    for wire in wires:
        wire.send(get(path, version="1.0"))
    until(lambda: here.door.in_flight[name] == count, "all are at work")
    return wires


def test_what_is_over_a_limit_hears_a_constant_at_once_and_others_go_on(here: House, gate: Gate) -> None:
    with ExitStack() as stack:
        wires = filled(here, stack, "/slow", "guests", 4)
        start = time.monotonic()
        answer = here.ask(get("/x"))
        assert time.monotonic() - start < 1
        assert status(answer) == 503
        assert CONSTANT.fullmatch(answer)
        assert b"\r\nRetry-After: 5\r\n" in answer
        assert body_of(here.ask(get("/x", method="HEAD"))) == b""
        assert status(here.ask(get("/poll", version="1.0"))) == 200
        gate.opened.set()
        assert [body_of(wire.rest()) for wire in wires] == [b"done"] * 4
    assert here.door.refused["busy"] == 2
    assert status(here.ask(get("/x", version="1.0"))) == 200


@pytest.mark.usefixtures("gate")
def test_a_router_over_the_limit_hears_what_its_class_says(here: House) -> None:
    with ExitStack() as stack:
        filled(here, stack, "/poll/slow", "polls", 4)
        answer = here.ask(get("/poll", version="1.0"))
        assert answer.startswith(NEUTRAL.head)
        assert body_of(answer) == NEUTRAL.body
        assert status(here.ask(get("/x", version="1.0"))) == 200


def test_half_sent_heads_idle_connections_and_bodies_on_their_way_take_no_place(here: House) -> None:
    with ExitStack() as stack:
        for number in range(30):
            wire = stack.enter_context(here.call())
            if number % 3 == 0:
                wire.send(b"GET /x HTTP/1.1\r\n")
            elif number % 3 == 1:
                wire.send(get("/x"))
                wire.answer()
            else:
                wire.send(get("/form", "Content-Length: 5", method="POST"))
        assert here.door.in_flight == {"polls": 0, "guests": 0, "uploads": 0}
        assert status(here.ask(get("/x", version="1.0"))) == 200


def test_a_reader_that_is_slow_takes_no_place_once_its_answer_is_ready(open_house: OpenHouse) -> None:
    here = open_house(rules=Rules(write_seconds=2))

    def large(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 8_000_000]

    here.app.answers["/large"] = large
    with ExitStack() as stack:
        for _ in range(8):
            wire = stack.enter_context(here.call())
            wire.send(get("/large"))
        until(lambda: len(here.door.waiting.writes.deadlines) == 8, "all are being written")
        assert here.door.in_flight["guests"] == 0


def test_slow_uploads_take_half_of_the_places_and_leave_the_rest_to_others(here: House) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(here.call()) for _ in range(2)]
        for wire in wires:
            wire.send(get("/upload", "Content-Length: 200000", "Connection: close", method="POST"))
        until(lambda: here.door.streaming["uploads"] == 2, "both are at work")
        assert status(here.ask(post("/upload", b"x" * 100_000))) == 503
        assert status(here.ask(get("/upload", "Transfer-Encoding: chunked", method="POST"))) == 503
        assert status(here.ask(post("/upload", b"small", version="1.0"))) == 200
        assert status(here.ask(get("/upload", version="1.0"))) == 200
        for wire in wires:
            wire.send(b"x" * 200_000)
            assert status(wire.rest()) == 200
    assert here.door.streaming["uploads"] == here.door.in_flight["uploads"] == 0


def test_what_was_counted_adds_up(here: House, gate: Gate) -> None:
    with ExitStack() as stack:
        wires = filled(here, stack, "/slow", "guests", 4)
        here.ask(get("/x"))
        here.ask(b"nonsense\r\n\r\n")
        until(lambda: here.door.open_sockets == 4, "only those at work are left")
        gate.opened.set()
        for wire in wires:
            wire.rest()
    assert here.door.accepted == 6
    assert here.door.parsed == {"polls": 0, "guests": 5, "uploads": 0}
    assert here.door.refused == {"busy": 1, "request line": 1}
    until(lambda: here.door.open_sockets == 0, "all are gone")


# ---- the end


def test_a_drain_finishes_requests_says_close_and_ends_idle_connections(here: House, gate: Gate) -> None:
    with here.call() as working, here.call() as idle:
        idle.send(get("/x"))
        idle.answer()
        working.send(get("/slow"))
        until(lambda: here.door.in_flight["guests"] == 1, "one is at work")
        draining = gevent.spawn(here.door.drain, 5)
        assert idle.is_closed(within=1)
        with pytest.raises(ConnectionRefusedError):
            here.call()
        gate.opened.set()
        answer = working.rest()
        assert body_of(answer) == b"done"
        assert b"\r\nConnection: close\r\n" in answer
        assert draining.get(timeout=2) == 0


def test_a_drain_with_nothing_to_do_takes_no_time(here: House) -> None:
    start = time.monotonic()
    assert here.door.drain(10) == 0
    assert time.monotonic() - start < 0.5


def test_a_drain_whose_time_is_up_says_how_many_it_cut(here: House) -> None:
    forever = Event()
    here.app.answers["/slow"] = lambda _environ, _start: forever.wait()
    with ExitStack() as stack:
        wires = filled(here, stack, "/slow", "guests", 3)
        assert here.door.drain(0.2) == 3
        for wire in wires:
            assert wire.is_closed(within=1)
    assert here.door.in_flight["guests"] == 0
    assert here.door.open_sockets == 0


def test_a_drain_answers_a_head_that_is_on_its_way_and_waits_no_longer_than_a_second(here: House) -> None:
    with here.call() as late, here.call() as silent:
        late.send(b"GET /x HTTP/1.1\r\n")
        until(lambda: here.door.open_sockets == 2, "both are in")
        draining = gevent.spawn(here.door.drain, 5)
        gevent.sleep(0.05)
        late.send(b"Host: a\r\n\r\n")
        assert status(late.rest()) == 200
        assert silent.rest() == b""
        assert draining.get(timeout=2) == 0


def test_a_drain_takes_what_the_kernel_has_accepted_already() -> None:
    app = App()
    door = FrontDoor(listen("127.0.0.1", 0), app, classify, LIMITS)
    address = door.socket.getsockname()
    wires = [Wire(address) for _ in range(150)]  # nobody accepts yet
    for wire in wires:
        wire.send(get("/poll", version="1.0"))
    door.start()
    assert door.drain(5) == 0
    assert [status(wire.rest()) for wire in wires].count(200) + door.refused["busy"] == 150
    for wire in wires:
        wire.sock.close()


def test_no_request_is_lost_while_doors_are_opened_and_drained_behind_one_listener() -> None:
    """The parent holds the socket, processes come and go: what a drained one has taken, it answers."""
    shared = listen("127.0.0.1", 0)
    address = shared.getsockname()
    lost: list[bytes] = []
    asked = 0
    stop = False

    def ask() -> None:
        nonlocal asked
        while not stop:
            with Wire(address) as wire:
                wire.send(get("/poll", version="1.0"))
                answer = wire.rest()
            asked += 1
            if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")):
                lost.append(answer)

    clients = [gevent.spawn(ask) for _ in range(3)]
    limits = {**LIMITS, "polls": Limit(100)}
    for _ in range(8):
        door = FrontDoor(shared.dup(), App(), classify, limits)
        door.start()
        gevent.sleep(0.05)
        assert door.drain(2) == 0
    last = FrontDoor(shared, App(), classify, limits)
    last.start()
    stop = True
    gevent.joinall(clients, timeout=5)
    last.drain(1)
    assert lost == []
    assert asked > 50


def test_a_burst_larger_than_the_usual_backlog_is_not_dropped(open_house: OpenHouse) -> None:
    """Stock pywsgi has a backlog of 128; a dropped SYN comes again after a second, a router's guests wait for it."""
    here = open_house(limits={**LIMITS, "polls": Limit(2000)})
    start = time.monotonic()
    wires = []
    for _ in range(600):  # in one go: the door's greenlets have no turn meanwhile
        wire = gevent.socket.socket()
        wire.setblocking(False)
        wire.connect_ex(here.address)
        wires.append(wire)
    for wire in wires:
        wire.settimeout(5)
        wire.sendall(get("/poll", version="1.0"))
    assert [status(wire.recv(4096)) for wire in wires] == [200] * 600
    assert time.monotonic() - start < 5
    for wire in wires:
        wire.close()
