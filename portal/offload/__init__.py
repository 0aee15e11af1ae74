"""Work that would stop the event loop: passwords in native threads, untrusted pictures in children, long work in turns.

Promises: so many run, so many wait, the next is told `Busy` at once; the loop goes on meanwhile, and stops neither for
a slow hash nor for a decoder that hangs, swells or crashes. A caller who stops waiting (a timeout, a kill) leaves
nothing behind but a thread that finishes by itself. Errors come back to the caller, never as text on standard error.

Never: lets what it runs touch greenlets, sockets or the store; those belong to the loop's own thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import gevent
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent import subprocess
from gevent.lock import Semaphore
from gevent.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

LOGO_BYTES = 5 * 2**20
LOGO_SECONDS = 10.0
_TURN_SECONDS = 0.002
_LOGO_PROGRAM = Path(__file__).with_name("logo.py")
# Of the same cost as a real one, so that an account that does not exist takes as long as one that does.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$" + "A" * 22 + "$" + "A" * 43


class Busy(Exception):
    """As much is running and waiting as may be. Worth another try in some seconds."""


class Unsuitable(ValueError):
    """What was uploaded is not a picture that can be used. Its text says why, for the person who sent it."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: object
    error: BaseException | None


class _Room:
    """Places for `running`, and a line of `waiting` before them."""

    def __init__(self, running: int, waiting: int) -> None:
        self.inside = 0  # running and waiting
        self.refused = 0
        self._most = running + waiting
        self._places = Semaphore(running)

    def enter(self) -> None:
        """Wait for a place. Raises Busy if the line is full."""
        if self.inside >= self._most:
            self.refused += 1
            raise Busy
        self.inside += 1
        try:
            self._places.acquire()
        except BaseException:  # a timeout or a kill while in the line
            self.inside -= 1
            raise

    def leave(self, *_: object) -> None:
        """Give the place to the next."""
        self.inside -= 1
        self._places.release()


def in_turns(steps: Iterable[T]) -> list[T]:
    """Everything that `steps` yields; after every 2 ms of it, everybody else in the loop has a turn.

    For pure Python in steps of a millisecond. A native thread would do it no sooner, and hold the interpreter's lock
    for 5 ms whenever a poll comes back from one of its calls into the kernel: polls waited for 130 ms while a sheet of
    two hundred codes was drawn.
    """
    done, begun = [], time.monotonic()
    for step in steps:
        done.append(step)
        if time.monotonic() - begun > _TURN_SECONDS:
            # Not 0: after that the loop goes on with what it has and looks at its sockets at every fiftieth turn.
            gevent.sleep(0.0001)
            begun = time.monotonic()
    return done


class Offload:
    """Threads of its own, made after the last fork. `threads` and `children` count what is inside and was refused."""

    def __init__(self, running: int = 2, waiting: int = 8) -> None:
        self.threads, self.children = _Room(running, waiting), _Room(running, waiting)
        # Our own, not the hub's, which looks names up; small, or a hundred sign-ins take two gigabytes.
        self._pool = ThreadPool(running)
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's floor

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function`'s result or exception, from a native thread. Raises Busy."""
        self.threads.enter()
        try:
            pending = self._pool.spawn(_caught, function, args, kwargs)
        except BaseException:
            self.threads.leave()
            raise
        # When the thread is done, not when the caller has lost patience: it is the thread that takes the place.
        pending.rawlink(self.threads.leave)
        outcome = cast(_Outcome, pending.get())
        if outcome.error is not None:
            raise outcome.error
        return cast(T, outcome.result)

    def hash_password(self, password: str) -> str:
        """The Argon2id hash to store (19 MiB, 2 passes, 1 lane; about 20 ms). Raises Busy."""
        return self.run(self._hasher.hash, _bytes(password))

    def verify_password(self, stored: str | None, password: str) -> bool:
        """Whether this is the password of the stored hash. Raises Busy, and nothing else.

        None, for an account that does not exist, takes as long and is False.
        """
        return self.run(self._matches, stored or _NOBODY, _bytes(password)) and bool(stored)

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters, and should be made anew while the password is at hand."""
        try:
            return self._hasher.check_needs_rehash(stored)
        except InvalidHashError:
            return True

    def renewed(self, stored: str, password: str) -> str | None:
        """The hash to store instead of `stored`, where that was made with other parameters; else None. Raises Busy.

        `password` is the right one, just verified: only then is it at hand.
        """
        return self.hash_password(password) if self.is_outdated(stored) else None

    def safe_logo(self, data: bytes) -> bytes:
        """A PNG of at most 512 × 512 pixels and 14 KiB that shows what `data` shows. Raises Unsuitable, or Busy.

        The picture is decoded in a child that can reach nothing and has 5 s of processor time and 512 MiB of memory.
        """
        if len(data) > LOGO_BYTES:
            raise Unsuitable(f"The file is larger than {LOGO_BYTES // 2**20} MB.")
        form = _format(data)
        self.children.enter()
        try:
            status, png = _child([sys.executable, "-I", str(_LOGO_PROGRAM), form], data, LOGO_SECONDS)
        finally:
            self.children.leave()
        if status == 3:
            raise Unsuitable("The picture has more than 16 million pixels.")
        if status != 0 or not png.startswith(b"\x89PNG"):
            raise Unsuitable("The picture is damaged, or needs too much to be read.")
        return png

    def close(self) -> None:
        """End the threads. What they do at the moment is waited for."""
        self._pool.kill()

    def _matches(self, stored: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def _caught(function: Callable[..., object], args: Any, kwargs: Any) -> _Outcome:
    """A result or an exception as a value: gevent prints a traceback for every exception that leaves a thread."""
    try:
        return _Outcome(function(*args, **kwargs), None)
    except BaseException as error:  # noqa: BLE001
        return _Outcome(None, error)


def _bytes(password: str) -> bytes:
    # A form can carry half of a surrogate pair; that is a wrong password, not an error.
    return password.encode("utf-8", "surrogatepass")


def _format(data: bytes) -> str:
    """Which of the four formats the first bytes are. SVG is none of them: it is a program."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    raise Unsuitable("Only PNG, JPEG, GIF and WebP pictures can be used.")


def _child(command: list[str], data: bytes, seconds: float) -> tuple[int, bytes]:
    """Exit status and standard output of a program that is given `data` and ended after `seconds`."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
    )
    try:
        output, _ = child.communicate(data, timeout=seconds)
    except subprocess.TimeoutExpired:
        output = b""
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    return child.returncode, output
