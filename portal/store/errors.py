"""What can go wrong with the database, sorted once.

Promises: a caller has three cases. `Conflict`: someone else was in the way, the same work may be tried again.
`Unavailable`: the database could not answer in time or at all, and says nothing about the work. Everything else (a
violated constraint, a wrong statement) passes through. Messages never hold a statement or its values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent
import psycopg2
from psycopg2 import errors
from sqlalchemy.exc import DBAPIError


class Unavailable(Exception):
    """The database did not answer: lost, starting, full, too busy, or too slow."""


class DeadlineExceeded(Unavailable):
    """The time allowed for the work is over. What was sent may still have been committed."""


class Refused(Unavailable):
    """So many callers wait for a connection already that this one was sent away at once."""


class Conflict(Unavailable):
    """Another transaction held the rows (lock time-out, deadlock, serialization), or made one first that two make at
    once (see `_FIRST_COME`): worth another try."""


_CONFLICTS = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
)
# Unique indexes that keep two apart who had nothing in common to lock: the second finds, when it looks again, what the
# first has committed. Two sign-ins of one station, shown at two gateways at the same moment, have two sessions and two
# grants, and neither sees the other active.
_FIRST_COME = frozenset({"session_station_key"})
# Besides OperationalError: a standby that was promoted elsewhere, a disk that is full, an administrator's shutdown.
_UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
_UNAVAILABLE_STATES = ("25006", "25P03")


def sort(error: BaseException | None) -> Unavailable | None:
    """Our word for a driver's error; None when it is about the work and not about the database."""
    if not isinstance(error, psycopg2.Error):
        return None
    if isinstance(error, _CONFLICTS):
        return Conflict(_said(error))
    if isinstance(error, errors.UniqueViolation) and error.diag.constraint_name in _FIRST_COME:
        return Conflict(_said(error))
    if isinstance(error, errors.QueryCanceled):
        return DeadlineExceeded(_said(error))
    state = error.pgcode or ""
    if state.startswith(_UNAVAILABLE_CLASSES) or state in _UNAVAILABLE_STATES:
        return Unavailable(_said(error))
    if not state and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return Unavailable(_said(error))
    # A server that dies in the middle of an answer leaves a bare DatabaseError without a state.
    if not state and type(error) is psycopg2.DatabaseError:
        return Unavailable(_said(error))
    return None


def _said(error: psycopg2.Error) -> str:
    primary = error.diag.message_primary or (str(error).strip().split("\n", 1)[0])
    return f"{primary} ({error.pgcode or type(error).__name__})"


@contextlib.contextmanager
def sorting() -> Iterator[None]:
    """Errors of the driver leave the block sorted, and without the values of the row they are about."""
    try:
        yield
    except DBAPIError as error:
        ours = sort(error.orig)
        if ours is None:
            _forget_values(error)
            if error.orig is not None:
                _forget_values(error.orig)
            raise
        raise ours from error
    except psycopg2.Error as error:
        ours = sort(error)
        if ours is None:
            _forget_values(error)
            raise
        raise ours from error


def _forget_values(error: BaseException) -> None:
    """Keep the first line of a message: the next ones quote the row or the statement, which may end in a log.

    The driver's `diag` still has them, for who knows what he is asking for.
    """
    if error.args and isinstance(error.args[0], str):
        error.args = (error.args[0].split("\n", 1)[0], *error.args[1:])


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End the block with DeadlineExceeded after `seconds`.

    Belongs outside every connection block: a connection interrupted in a query is closed by the driver and never used
    again, and only out here may the interruption become an ordinary exception (one made inside would be masked by the
    driver's complaint about the closed connection).
    """
    timer = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as fired:
        if fired is not timer:
            raise
        raise DeadlineExceeded(f"no answer within {seconds:g} s") from None
    finally:
        timer.close()
