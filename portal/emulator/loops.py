"""Background loops that cannot fail in silence.

Promises: an exception is logged with its traceback, raises an alarm, and the work is tried again after a wait that
doubles; after too many in a row the loop gives up and says so. A loop that is not healthy when it is asked has failed,
whatever way it ended, so that a process can refuse to end as a success.
"""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("portal.emulator")


class Loop:
    """`work` again and again in a thread of its own, `pause` seconds between the end of one run and the next.

    `delay` seconds pass before the first run. After a failure `backoff` seconds, doubled each time, at most `longest`.
    `patience` failures in a row end the loop for good.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        *,
        pause: float,
        alarm: Callable[[str], None],
        delay: float = 0.0,
        backoff: float = 1.0,
        longest: float = 30.0,
        patience: int = 8,
    ) -> None:
        self.name = name
        self._work = work
        self._pause = pause
        self._alarm = alarm
        self._delay = delay
        self._backoff = backoff
        self._longest = longest
        self._patience = patience
        self._stopping = threading.Event()
        self._failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"emulator-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks the loop to end after the run that is under way; does not wait for it."""
        self._stopping.set()

    def join(self, timeout: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def healthy(self) -> bool:
        """Whether the last run went well, and the loop still runs or was asked to stop."""
        return self._failures == 0 and (self._stopping.is_set() or not self._ended.is_set())

    @property
    def dead(self) -> bool:
        """Whether it ended without being asked to."""
        return self._ended.is_set() and not self._stopping.is_set()

    def _run(self) -> None:
        try:
            if not self._stopping.wait(self._delay):
                while not self._once():
                    continue
        finally:
            # Also when the thread is torn down by something that is no Exception: the loop is dead, and known to be.
            self._ended.set()
            if not self._stopping.is_set():
                self._alarm(f"the {self.name} loop has ended")

    def _once(self) -> bool:
        """One run and the wait after it; whether the loop is over."""
        try:
            self._work()
        except Exception as error:
            self._failures += 1
            log.exception("emulator: the %s loop failed", self.name)
            self._alarm(f"the {self.name} loop failed ({type(error).__name__}), {self._failures} in a row")
            if self._failures >= self._patience:
                return True
            return self._stopping.wait(min(self._longest, self._backoff * 2 ** (self._failures - 1)))
        self._failures = 0
        return self._stopping.wait(self._pause)
