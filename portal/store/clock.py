"""What time it is, by one clock: the database's.

Promises: durations between two readings never depend on this machine's wall clock, which an administrator or a time
server may move. Until the database has been asked, this machine's clock stands in.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The database's time, kept as an offset to the monotonic clock; every answer of the database may refresh it."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self.known = False

    def now(self) -> datetime:
        """The database's time, in UTC, without asking."""
        return datetime.fromtimestamp(time.monotonic() + self._offset, UTC)

    def observe(self, told: datetime, sent: float, received: float) -> float:
        """Learn what the database said between two readings of `time.monotonic()`.

        Returns by how many seconds its clock has moved against ours since the last time, 0.0 the first time and when
        the round trip was too slow to tell.
        """
        offset = told.timestamp() - (sent + received) / 2
        step = offset - self._offset if self.known else 0.0
        self._offset = offset
        self.known = True
        return step if abs(step) > (received - sent) / 2 else 0.0
