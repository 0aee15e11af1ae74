"""Connections in bounded pools, short transactions, statements with names.

Promises: each class of caller has a pool of its own, so that no report can starve a poll; a pool never grows, and the
line of those who wait for it has a lid; every block ends within its deadline, whatever the database does; a connection
that was interrupted is thrown away; errors leave sorted (see `errors`). Who holds a connection since when can be read.

Never retries a write by itself (`run` does, when asked), never opens a connection before one is needed.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import gevent
import psycopg2.extensions
from gevent import monkey
from gevent.lock import BoundedSemaphore
from sqlalchemy import Connection, TextClause, create_engine, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.sql.base import Executable

from portal.config import Database
from portal.store.clock import Clock
from portal.store.connect import Connector
from portal.store.errors import Conflict, DeadlineExceeded, Refused, Unavailable, deadline, sorting

log = logging.getLogger(__name__)

Cursor = psycopg2.extensions.cursor
Result = TypeVar("Result")
Statement = TypeVar("Statement", bound=Executable)

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_PARAMETER = re.compile(r"%\((\w+)\)s")
_NAMED = re.compile(r"\s*\S+ /\* [a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+ \*/")
# What PostgreSQL says of a statement and never of the values in it: it has forgotten a prepared one (26), a plan no
# longer fits its tables (0A), or they are not what we take them for (42).
_STATEMENT_CLASSES = ("26", "0A", "42")
_FIRST_WORD = re.compile(r"\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one class of caller may take: connections, callers waiting for one, and time.

    `wait_seconds` is spent in the line at most, `deadline_seconds` in a whole block; the statement's limit is below it,
    so that the server stops first and the connection survives.
    """

    connections: int
    waiting: int
    wait_seconds: float
    statement_ms: int
    lock_ms: int
    deadline_seconds: float
    # A poll's plan is known; a planner misled by old statistics must not find a worse one.
    plain_plans: bool = False


def limits_from(settings: Database, *, answer_seconds: float = 1.0) -> dict[str, Limits]:
    """What each class may take under these settings; `answer_seconds` is how long a router waits for us at most.

    A block of guests, operators or jobs may take five thirds of one statement's time, and is then given up.
    """
    polls, guests, operators, jobs = (
        settings.polls_statement_ms,
        settings.guests_statement_ms,
        settings.operators_statement_ms,
        settings.jobs_statement_ms,
    )
    return {
        # One of the polls' connections is the ledger's alone: logins at an opening hour held all three, the writer took
        # the database for gone, and everybody was answered from memory.
        "ledger": Limits(1, 1, 0.2, polls, 200, answer_seconds, plain_plans=True),
        # A login may wait for its turn as long as its router waits for us: turned away sooner, some guests heard "no
        # opinion" at an opening hour though all was well, and got in a minute later.
        "polls": Limits(max(1, settings.polls - 1), 500, answer_seconds, polls, 200, answer_seconds, plain_plans=True),
        "guests": Limits(settings.guests, 100, 2.0, guests, 2_000, guests / 600),
        "operators": Limits(settings.operators, 20, 3.0, operators, 5_000, operators / 600),
        "jobs": Limits(settings.jobs, 20, 30.0, jobs, 10_000, jobs / 600),
    }


@dataclass(frozen=True, slots=True)
class Holder:
    """A connection in use: by whom, and for how long, in seconds."""

    pool: str
    caller: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """A pool at this moment, and what has happened to it since the start."""

    pool: str
    size: int
    held: int
    waiting: int
    oldest_seconds: float
    borrowed: int
    refused: int
    waited_out: int
    discarded: int


def sql(name: str, statement: str) -> TextClause:
    """A statement with its name, as PostgreSQL's own views will show it: `UPDATE /* vouchers.redeem */ …`."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a statement's name is module.purpose in lower case, not {name!r}")
    if "::" in statement:
        raise ValueError(f"{name}: write CAST(:value AS type); a double colon swallows the parameter before it")
    return text(_labelled(name, statement.strip()))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that a connection parses and plans once. `execute` runs what `prepare` has made."""

    prepare: str
    execute: str


def prepared(statement: TextClause) -> Prepared:
    """A statement from `sql`, written with psycopg2's %(name)s, for `Store.cursor` to prepare; it is run with the same
    parameters. PostgreSQL must be able to tell their types: CAST them."""
    text = statement.text
    name = text.split()[2]
    parameters = list(dict.fromkeys(_PARAMETER.findall(text)))
    numbered = _PARAMETER.sub(lambda match: f"${parameters.index(match[1]) + 1}", text)
    values = ", ".join(f"%({parameter})s" for parameter in parameters)
    return Prepared(f'PREPARE /* {name} */ "{name}" AS {numbered}', f'EXECUTE /* {name} */ "{name}" ({values})')


def named(name: str, statement: Statement) -> Statement:
    """The same for a statement that SQLAlchemy builds: `named("desk.plans", select(Plan))`."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a statement's name is module.purpose in lower case, not {name!r}")
    return statement.execution_options(statement_name=name)


def is_named(statement: str) -> bool:
    """Whether a statement, as sent, has its name where `sql` puts it."""
    return _NAMED.match(statement) is not None


def _labelled(name: str, statement: str) -> str:
    """Behind the first word: pg_stat_statements forgets what stands before it, from PostgreSQL 18 on."""
    return _FIRST_WORD.sub(rf"\1 /* {name} */", statement, count=1)


class Store:
    """The database, as the rest of the program sees it. Opens nothing until it is used.

    `on_statement` is told every statement before it is sent.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Mapping[str, Limits] | None = None,
        application: str = "gatepost",
        connect_seconds: float = 3.0,
        on_statement: Callable[[str], None] | None = None,
    ) -> None:
        self.url = url
        self.clock = Clock()
        self._on_statement = on_statement
        self._pools = {
            name: _Pool(name, url, limit, f"{application} {name}", connect_seconds, on_statement)
            for name, limit in (limits or limits_from(Database())).items()
        }

    @contextlib.contextmanager
    def transaction(
        self, pool: str = "guests", *, caller: str = "", seconds: float | None = None
    ) -> Iterator[Connection]:
        """A connection in a transaction, committed when the block ends well and rolled back otherwise.

        Raises Unavailable (or one of its kinds) when the database does not play along; `seconds` replaces the pool's
        deadline. When a deadline fires during the commit, the work may have been committed all the same.
        """
        chosen = self._pools[pool]
        with sorting(), deadline(seconds or chosen.limits.deadline_seconds), chosen.turn(caller):
            connection = chosen.engine.connect()
            try:
                yield connection
                connection.commit()
            except (gevent.Timeout, gevent.GreenletExit):
                chosen.discarded += 1
                connection.invalidate()  # a rollback would wait for the very server that did not answer
                raise
            finally:
                connection.close()

    @contextlib.contextmanager
    def read(self, pool: str = "guests", *, caller: str = "", seconds: float | None = None) -> Iterator[Connection]:
        """A connection where each statement stands alone (autocommit): one round trip instead of three."""
        chosen = self._pools[pool]
        with sorting(), deadline(seconds or chosen.limits.deadline_seconds), chosen.turn(caller):
            connection = chosen.autocommit.connect()
            try:
                yield connection
            except (gevent.Timeout, gevent.GreenletExit):
                chosen.discarded += 1
                connection.invalidate()
                raise
            finally:
                connection.close()

    @contextlib.contextmanager
    def cursor(
        self,
        pool: str = "polls",
        *,
        caller: str = "",
        seconds: float | None = None,
        statements: Sequence[Prepared] = (),
    ) -> Iterator[Cursor]:
        """The driver's own cursor, in autocommit, for a batch of statements that travels in one round trip.

        Several statements in one `execute` are one transaction (PostgreSQL's simple protocol). Parameters are
        psycopg2's `%s` and `%(name)s`; lists become arrays. A block that leaves a transaction open is an error.
        The `statements` are prepared when a connection is used with them for the first time.
        """
        chosen = self._pools[pool]
        with sorting(), deadline(seconds or chosen.limits.deadline_seconds), chosen.turn(caller):
            borrowed = chosen.engine.raw_connection()
            connection = borrowed.driver_connection
            assert isinstance(connection, psycopg2.extensions.connection)
            usable = True
            try:
                connection.autocommit = True
                with connection.cursor(cursor_factory=chosen.cursor_factory) as cursor:
                    for statement in statements:
                        if statement not in borrowed.info:
                            cursor.execute(statement.prepare)
                            borrowed.info[statement] = True
                    yield cursor
            except psycopg2.Error as error:
                if (error.pgcode or "").startswith(_STATEMENT_CLASSES):
                    usable = False
                    raise Unavailable(f"a prepared statement has become invalid ({error.pgcode})") from error
                raise
            except (gevent.Timeout, gevent.GreenletExit):
                usable = False
                raise
            finally:
                idle = connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
                if usable and idle:
                    connection.autocommit = False
                else:
                    chosen.discarded += 1
                    borrowed.invalidate()
                borrowed.close()
            if not idle:
                raise RuntimeError("a batch must not leave its transaction open")

    def run(
        self, work: Callable[[Connection], Result], pool: str = "guests", *, caller: str = "", attempts: int = 3
    ) -> Result:
        """What `work` returns, in a transaction of its own; tried again when another transaction was in the way."""
        for attempt in range(1, attempts + 1):
            try:
                with self.transaction(pool, caller=caller) as db:
                    return work(db)
            except Conflict:
                if attempt == attempts:
                    raise
                time.sleep(random.uniform(0.005, 0.02) * attempt)  # noqa: S311
        raise AssertionError("attempts must be at least 1")

    def database_now(self, pool: str = "guests", *, seconds: float | None = None) -> datetime:
        """The database's time; `clock` learns it, and answers from then on without asking. `seconds` as in `read`."""
        with self.read(pool, caller="clock", seconds=seconds) as db:
            sent = time.monotonic()
            moment = db.execute(_NOW).scalar_one()
            assert isinstance(moment, datetime)
            self.clock.observe(moment, sent, time.monotonic())
        return moment

    def check(self) -> None:
        """Refuse a database that could not keep our promises; ValueError says what to change."""
        with self.read("jobs", caller="check") as db:
            row = db.execute(_SETTINGS).one()
        if row.version < 150000:
            raise ValueError(f"PostgreSQL 15 or newer is needed, and the database runs {row.version // 10000}")
        if row.synchronous_commit not in ("on", "remote_apply"):
            raise ValueError(
                f"the database has synchronous_commit = {row.synchronous_commit}: a crash would lose reports that were "
                "answered. Set it to on (ALTER ROLE … SET synchronous_commit = on)"
            )
        if row.encoding != "UTF8":
            raise ValueError(f"the database's encoding must be UTF8, not {row.encoding}")
        if row.standby:
            raise ValueError("the database is a standby and takes no writes: point database.url at the primary")

    def vitals(self) -> list[Vitals]:
        """How each pool is doing."""
        return [pool.vitals() for pool in self._pools.values()]

    def holders(self) -> list[Holder]:
        """Every connection in use, the longest held first."""
        found = [holder for pool in self._pools.values() for holder in pool.holders()]
        return sorted(found, key=lambda holder: -holder.seconds)

    def dispose(self) -> None:
        """Close every connection that nobody uses; the store opens new ones when it is used again."""
        for pool in self._pools.values():
            pool.engine.dispose()


_NOW = sql("store.now", "SELECT clock_timestamp()")
_SETTINGS = sql(
    "store.settings",
    """
    SELECT CAST(current_setting('server_version_num') AS integer) AS version,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('server_encoding') AS encoding,
           pg_is_in_recovery() AS standby
    """,
)


class _Pool:
    """One class of caller's connections: SQLAlchemy keeps them, the semaphore and the line in front are ours."""

    def __init__(
        self,
        name: str,
        url: str,
        limits: Limits,
        application: str,
        connect_seconds: float,
        on_statement: Callable[[str], None] | None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.borrowed = self.refused = self.waited_out = self.discarded = 0
        self._free = BoundedSemaphore(limits.connections)
        self._waiting = 0
        self._held: dict[object, tuple[str, float]] = {}
        connector = Connector(url, settings=_session_settings(limits), application=application, seconds=connect_seconds)
        self.engine = create_engine(
            "postgresql+psycopg2://",
            creator=connector,
            pool_size=limits.connections,
            max_overflow=0,
            pool_timeout=limits.deadline_seconds,
            pool_use_lifo=True,
            hide_parameters=True,
            use_native_hstore=False,
        )
        self.autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.cursor_factory = Cursor if on_statement is None else _observed(on_statement)
        event.listen(self.engine, "checkout", _refuse_a_dead_connection)
        event.listen(self.engine, "before_cursor_execute", _with_its_name(on_statement), retval=True)

    @contextlib.contextmanager
    def turn(self, caller: str) -> Iterator[None]:
        """The right to use one connection."""
        # Nobody overtakes those who wait already.
        if self._waiting or not self._free.acquire(blocking=False):
            self._wait()
        key, since = object(), time.monotonic()
        self._held[key] = (caller, since)
        self.borrowed += 1
        try:
            yield
        finally:
            del self._held[key]
            self._free.release()
            seconds = time.monotonic() - since
            if seconds > self.limits.deadline_seconds / 2:
                facts = {"pool": self.name, "caller": caller, "seconds": round(seconds, 3)}
                log.warning("a database connection was held for long", extra=facts)

    def _wait(self) -> None:
        if self._waiting >= self.limits.waiting:
            self.refused += 1
            raise Refused(f"{self._waiting} callers wait for a connection of the pool {self.name} already")
        self._waiting += 1
        try:
            if not self._free.acquire(timeout=self.limits.wait_seconds):
                self.waited_out += 1
                raise DeadlineExceeded(f"no connection of the pool {self.name} within {self.limits.wait_seconds:g} s")
        finally:
            self._waiting -= 1

    def holders(self) -> list[Holder]:
        now = time.monotonic()
        return [Holder(self.name, caller, now - since) for caller, since in list(self._held.values())]

    def vitals(self) -> Vitals:
        return Vitals(
            pool=self.name,
            size=self.limits.connections,
            held=len(self._held),
            waiting=self._waiting,
            oldest_seconds=max((holder.seconds for holder in self.holders()), default=0.0),
            borrowed=self.borrowed,
            refused=self.refused,
            waited_out=self.waited_out,
            discarded=self.discarded,
        )


def _session_settings(limits: Limits) -> dict[str, str]:
    settings = {
        "TimeZone": "'UTC'",
        "statement_timeout": str(limits.statement_ms),
        "lock_timeout": str(limits.lock_ms),
        "idle_in_transaction_session_timeout": str(int(limits.deadline_seconds * 2_000)),
    }
    if limits.plain_plans:
        settings |= dict.fromkeys(("jit", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off")
        settings["plan_cache_mode"] = "force_generic_plan"
    return settings


def _refuse_a_dead_connection(connection: Any, _record: Any, _proxy: Any) -> None:
    """Between uses a server says nothing, unless it is gone: then the pool takes another connection instead.

    Two system calls, where a test statement would cost a round trip. Patched, `poll` would visit the event loop first.
    """
    if not connection.closed:
        waiting = monkey.get_original("select", "poll")()
        waiting.register(connection.fileno(), select.POLLIN)
    if connection.closed or waiting.poll(0):
        raise DisconnectionError("the connection was closed by the server")


def _with_its_name(observe: Callable[[str], None] | None) -> Callable[..., tuple[str, Any]]:
    def prepare(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool
    ) -> tuple[str, Any]:
        name = context.execution_options.get("statement_name") if context is not None else None
        if name:
            statement = _labelled(name, statement)
        if observe is not None:
            observe(statement)
        return statement, parameters

    return prepare


def _observed(observe: Callable[[str], None]) -> type[Cursor]:
    class Observed(Cursor):
        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002
            observe(query.decode() if isinstance(query, bytes) else str(query))
            super().execute(query, vars)

    return Observed
