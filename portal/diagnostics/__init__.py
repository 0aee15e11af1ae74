"""What the process is doing: who stands in the loop's way, where every greenlet waits, where the time goes.

Promises: a stall of the event loop is noticed from outside it, by a native thread, and named by its place in the code;
SIGUSR1 writes into the log where all greenlets are, and what else was asked for; SIGUSR2 takes a profile. Costs twenty
wake-ups a second.

Never shows a value: no variable, no argument, no representation of an object, so that no token, code or password can
get into a log or a file from here. (gevent's own format_run_info prints greenlets with their arguments and locals.)
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool
from greenlet import greenlet

from portal.diagnostics import flame

log = logging.getLogger(__name__)

PROFILE_SECONDS = 30.0
_SAMPLE_SECONDS = 0.005
_DEEPEST = 80
_STUCK_SECONDS = 5.0  # after which a stall is told on standard error: the loop may never come back to write its log
_TELL_SECONDS = 10.0  # one line in so many; all are counted
_HERE = str(Path(__file__).resolve().parents[2]) + os.sep


class Diagnostics:
    """One for a process, made and started in the loop's own thread, after the last fork.

    For metrics: `stalls` and `stalled_seconds` together; `longest_seconds`, for which the loop let its watchdog wait,
    also when that is too short to be called a stall, and `longest_where`, when it is one. A stall counts when it is
    over. The watchdog comes up to 50 ms after its beginning: by so much, at most, it was longer than is said.
    """

    def __init__(
        self,
        directory: Path,
        stall_seconds: float = 0.1,
        delay: Callable[[float], object] = lambda _: None,
        more: Callable[[], object] = lambda: None,
    ) -> None:
        """Profiles are written to `directory`. A loop that does not answer within `stall_seconds` stands still.

        `delay` is told, in a thread of its own and twenty times a second, after how many seconds the loop answered.
        `more` writes what belongs into the log with the greenlets.
        """
        self.stalls = 0
        self.stalled_seconds = self.longest_seconds = 0.0
        self.longest_where = ""
        self._directory, self._stall_seconds, self._delay, self._more = directory, stall_seconds, delay, more
        self._loop = gevent.get_hub().loop
        self._loop_thread = _native("_thread", "get_ident")()
        self._answered = _native("_thread", "allocate_lock")()
        self._told_at = float("-inf")
        self._running = self._watching = self._profiling = False
        self._signals: list[gevent.signal_handler[Any]] = []

    def start(self) -> None:
        """Watch the loop, and listen for SIGUSR1 and SIGUSR2."""
        self._running = self._watching = True
        self._answered.acquire()
        _native("_thread", "start_new_thread")(self._watch, ())
        self._signals = [
            gevent.signal_handler(signal.SIGUSR1, self._dump_on_signal),
            gevent.signal_handler(signal.SIGUSR2, self._profile_on_signal),
        ]

    def stop(self) -> None:
        """Watch no longer."""
        self._running = False
        for handler in self._signals:
            handler.cancel()
        while self._watching:
            gevent.sleep(0.01)

    def profile(self, seconds: float = PROFILE_SECONDS) -> Path:
        """Look 200 times a second where the loop's thread is; the flame graph's file, beside it the folded stacks.

        Waits cooperatively. Raises RuntimeError while another profile is being taken.
        """
        if self._profiling:
            raise RuntimeError("a profile is being taken already")
        self._profiling, pool = True, ThreadPool(1)
        try:
            stacks = pool.apply(_sample, (self._loop_thread, seconds))
        finally:
            self._profiling = False
            pool.kill()
        moment = datetime.now(UTC)
        picture = self._directory / f"profile-{moment:%Y%m%dT%H%M%S}-{os.getpid()}.svg"
        self._directory.mkdir(parents=True, exist_ok=True)
        picture.with_suffix(".folded").write_text(flame.folded(stacks))
        title = f"{moment:%Y-%m-%d %H:%M:%S} UTC, {seconds:g} s, {sum(stacks.values())} samples"
        picture.write_text(flame.svg(stacks, title))
        return picture

    def _dump_on_signal(self) -> None:
        log_greenlets()
        self._more()

    def _profile_on_signal(self) -> None:
        try:
            log.warning("profile taken", extra={"file": str(self.profile())})
        except (RuntimeError, OSError) as error:
            log.warning("no profile taken", extra={"error": str(error)})

    # ---- in the native thread

    def _watch(self) -> None:
        sleep = _native("time", "sleep")
        try:
            while self._running:
                sleep(min(0.05, self._stall_seconds))
                asked, where = time.monotonic(), ""
                self._loop.run_callback_threadsafe(self._answered.release)
                stood = not self._answered.acquire(True, self._stall_seconds)
                if stood:
                    where = " < ".join(_places(sys._current_frames().get(self._loop_thread)))
                    if not self._answered.acquire(True, _STUCK_SECONDS):
                        # Not through logging: the loop's thread may hold its lock.
                        line = {"level": "error", "event": "the event loop is stuck", "where": where}
                        os.write(2, json.dumps(line).encode() + b"\n")
                        self._answered.acquire()
                waited = time.monotonic() - asked
                if waited > self.longest_seconds:
                    self.longest_seconds, self.longest_where = waited, where
                if stood:
                    self._loop.run_callback_threadsafe(gevent.spawn, self._count, waited, where)
                self._delay(waited)
        finally:
            self._watching = False

    # ---- back in the loop

    def _count(self, seconds: float, where: str) -> None:
        self.stalls += 1
        self.stalled_seconds += seconds
        now = time.monotonic()
        if now >= self._told_at + _TELL_SECONDS:
            self._told_at = now
            facts = {"seconds": round(seconds, 3), "where": where, "times": self.stalls}
            log.warning("the event loop stood still", extra=facts)


def greenlets() -> Counter[tuple[str, ...]]:
    """Where all greenlets of this process are, innermost place first; how many are at the same.

    Looks at every object that the collector knows, which takes some tens of milliseconds: for when something is wrong.
    What was there at a gc.freeze() is not among them, so whoever calls that does it before the loops begin.
    """
    found: Counter[tuple[str, ...]] = Counter()
    for thing in gc.get_objects():
        if issubclass(type(thing), greenlet) and not thing.dead:
            found[tuple(_places(thing.gr_frame)) or ("running, or not begun",)] += 1
    return found


def log_greenlets() -> None:
    """Write them into the log, one line for each place, the most crowded first."""
    found = greenlets()
    for places, count in found.most_common():
        facts = {"pid": os.getpid(), "count": count, "of": found.total(), "where": " < ".join(places)}
        log.warning("greenlets", extra=facts)


def _sample(thread: int, seconds: float) -> Counter[tuple[str, ...]]:
    """Stacks of a thread, outermost first; the hub at rest is `(idle)`."""
    sleep, stacks = _native("time", "sleep"), Counter[tuple[str, ...]]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = sys._current_frames().get(thread)
        idle = (
            frame is not None and frame.f_code.co_name == "run" and frame.f_code.co_filename.endswith("gevent/hub.py")
        )
        stack = ("(idle)",) if idle else tuple(_function(code) for code, _ in _walk(frame))[::-1]
        stacks[stack] += 1
        sleep(_SAMPLE_SECONDS)
    return stacks


def _places(frame: FrameType | None) -> list[str]:
    return [f"{_file(code)}:{line} {code.co_qualname}" for code, line in _walk(frame)]


def _function(code: CodeType) -> str:
    return f"{_file(code)}:{code.co_qualname}".replace(";", ",")


def _walk(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def _file(code: CodeType) -> str:
    """The file as we would call it: from our own root, or from where packages are installed."""
    name = code.co_filename
    _, _, package = name.rpartition("site-packages" + os.sep)
    return package.removeprefix(_HERE)


def _native(module: str, name: str) -> Any:
    """What gevent has replaced by something that would switch greenlets, as it was."""
    return monkey.get_original(module, name)
