"""Programs, their costs and the generator, on real processes and sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.harness import NotReady, Program, Sampler, accepts, cost, free_port, offer, outside_services, split_cores
from loadtests.workload import Stream

CORES = split_cores()


@contextmanager
def answering(answer: bytes, pause: float = 0.0) -> Iterator[int]:
    """A server that reads a head, waits, sends those bytes and closes; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.recv(65536)
                time.sleep(pause)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Only this wakes a thread that waits in accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def ask(port: int, **changes: object) -> Stream:
    return Stream(
        **{"name": "ask", "port": port, "paths": ("/",), "rate": 20.0, "seconds": 0.5, "patience": 2.0, **changes}
    )


def runs(pid: int) -> bool:
    """Whether a process does anything yet: one that has ended may stay in the list until init takes notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


ALLOW = b"HTTP/1.0 200 OK\r\n\r\nAuth: 1\n"


def test_the_generator_counts_right_answers_and_wrong_ones_apart():
    with answering(ALLOW) as port:
        found = offer([ask(port, expect="Auth: 1"), ask(port, name="other", expect="Auth: 0")], CORES.load).outcomes
    assert (found["ask"].right, found["ask"].failed) == (10, 0)
    assert dict(found["other"].errors) == {"other answer": 10}


def test_a_server_that_takes_one_at_a_time_cannot_hide_the_waiting():
    # Ten requests come within half a second; each takes 0.1 s; so the last one has waited half a second for its turn.
    with answering(ALLOW, pause=0.1) as port:
        found = offer([ask(port)], CORES.load).outcomes["ask"]
    assert found.right == 10
    assert found.latencies.longest > 0.5


def test_a_lid_on_what_is_in_flight_does_not_hide_the_waiting_either():
    with answering(ALLOW, pause=0.1) as port:
        found = offer([ask(port, lid=1)], CORES.load).outcomes["ask"]
    assert found.right == 10
    assert found.latencies.longest > 0.5


def test_a_closed_workload_asks_again_when_it_has_its_answer():
    with answering(ALLOW, pause=0.05) as port:
        found = offer([ask(port, closed=True, lid=2)], CORES.load).outcomes["ask"]
    # One answer takes 0.05 s and the server gives one at a time: ten or so in half a second, whoever asks.
    assert 5 <= found.right <= 12
    assert found.offered == found.right


def test_what_has_no_answer_in_time_is_an_error():
    with answering(ALLOW, pause=0.5) as port:
        found = offer([ask(port, rate=2.0, patience=0.2)], CORES.load).outcomes["ask"]
    assert dict(found.errors) == {"no answer": 1}


def test_nobody_listening_is_an_error():
    found = offer([ask(free_port(), rate=4.0)], CORES.load).outcomes["ask"]
    assert dict(found.errors) == {"refused": 2}


def test_the_outside_services_wait_as_long_as_they_are_asked_to():
    program, port = outside_services(CORES.load)
    with program:
        kept = ask(port, paths=("/wait/50", "/wait/20-80"), keep_alive=True, expect="accepted")
        found = offer([kept], CORES.load).outcomes["ask"]
    assert found.right == 10
    assert 0.02 < found.latencies.percentile(0.1) < found.latencies.longest < 0.5


def test_a_program_is_ended_with_all_that_it_started():
    port = free_port()
    code = (
        "import os, socket, sys, time\n"
        f"listener = socket.create_server(('127.0.0.1', {port}))\n"
        "print(os.fork() or os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with Program("test-parent", [sys.executable, "-c", code], CORES.server, accepts(port)) as parent:
        deadline = time.monotonic() + 5
        while len(lines := parent.log.read_text().split()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        child = max(int(line) for line in lines)
        seen = cost(parent.pid)
        affinity = os.sched_getaffinity(child)
    assert seen.processes == 2
    assert affinity == CORES.server
    deadline = time.monotonic() + 5
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)  # a killed process is gone when the kernel has come to it
    assert not runs(child)


def test_a_program_that_ends_at_once_says_its_last_words():
    program = Program(
        "test-fails", [sys.executable, "-c", "raise SystemExit('no such table')"], CORES.server, accepts(1)
    )
    with pytest.raises(NotReady, match="no such table"), program:
        pass


def test_the_cost_includes_what_ended_children_used():
    code = (
        "import subprocess, sys, time\n"
        "burn = 'import time\\nwhile time.process_time() < 0.3: pass'\n"
        "subprocess.run([sys.executable, '-c', burn])\n"
        "print('done', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            with Sampler({"burner": process.pid}, interval=0.05) as sampler:
                assert process.stdout is not None
                assert process.stdout.readline() == "done\n"
        finally:
            process.send_signal(signal.SIGKILL)
    used = sampler.samples["burner"][-1][1].cpu - sampler.samples["burner"][0][1].cpu
    assert 0.25 < used < 2.0
    assert sampler.usage("burner").pss_mib > 1
