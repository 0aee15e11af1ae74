"""One connection to PostgreSQL, made within a deadline and set up before anybody uses it.

Promises: names are resolved by the event loop, since libpq would stop everything while it asks; a peer that is silent
costs `seconds` and no more, since libpq ignores its own `connect_timeout` once psycogreen is in charge; of several
hosts the one that answered last is tried first. Takes every URL that libpq takes, also with SQLAlchemy's `+psycopg2`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Mapping

import gevent
import psycopg2
import psycopg2.extensions
from psycopg2 import errors

Connection = psycopg2.extensions.connection


class Connector:
    """Makes connections to one database. `settings` are applied to each in one round trip."""

    def __init__(self, url: str, *, settings: Mapping[str, str], application: str, seconds: float) -> None:
        self._targets = targets(url)
        self._settings = "/* store.connect */ " + "; ".join(f"SET {name} = {value}" for name, value in settings.items())
        self._application = application
        self._seconds = seconds
        self._watches_clients = True

    def __call__(self) -> Connection:
        """A connection in psycopg2's default mode; OperationalError when no host takes it."""
        failure = psycopg2.OperationalError("no host")
        for target in list(self._targets):
            for address in _addresses(target, self._seconds):
                try:
                    connection = self._connect({**target, **address})
                except psycopg2.OperationalError as error:
                    failure = error
                    continue
                if self._targets[0] is not target:
                    self._targets.remove(target)
                    self._targets.insert(0, target)
                return connection
        raise failure

    def _connect(self, parameters: dict[str, str]) -> Connection:
        timer = gevent.Timeout.start_new(self._seconds)
        try:
            chosen = {"application_name": self._application, **parameters}
            connection = psycopg2.connect(psycopg2.extensions.make_dsn("", **chosen))
            self._set_up(connection)
        except gevent.Timeout as fired:
            if fired is not timer:
                raise
            where = parameters.get("host", "the database")
            raise psycopg2.OperationalError(f"{where} did not take a connection within {self._seconds:g} s") from None
        finally:
            timer.close()
        return connection

    def _set_up(self, connection: Connection) -> None:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(self._settings)
            if self._watches_clients:
                # A statement whose client has given up is stopped by the server; not every platform can.
                with contextlib.suppress(errors.InvalidParameterValue):
                    cursor.execute("/* store.connect */ SET client_connection_check_interval = 1000")
                    connection.autocommit = False
                    return
                self._watches_clients = False
        connection.autocommit = False


def targets(url: str) -> list[dict[str, str]]:
    """The parameters of each host that a URL names, in its order; ValueError says what is wrong with it."""
    if not re.match(r"postgres(ql)?(\+psycopg2)?://", url):
        raise ValueError("database.url must begin with postgresql://")
    try:
        parameters = psycopg2.extensions.parse_dsn(re.sub(r"^postgres(ql)?(\+psycopg2)?://", "postgresql://", url))
    except psycopg2.ProgrammingError as error:
        raise ValueError(f"database.url cannot be read: {str(error).strip()}") from None
    parameters.setdefault("connect_timeout", "10")  # for a command, where nothing is patched and libpq obeys it
    hosts = parameters.pop("host", "").split(",")
    ports = parameters.pop("port", "").split(",")
    ports += ports[:1] * (len(hosts) - len(ports))
    found = []
    for host, port in zip(hosts, ports, strict=True):
        named = {"host": host, "port": port}
        found.append({**parameters, **{name: value for name, value in named.items() if value}})
    return found


def _addresses(target: Mapping[str, str], seconds: float) -> list[dict[str, str]]:
    """What to add to a target so that libpq need not ask for a name: one entry for each address of its host."""
    host = target.get("host", "")
    if not host or host.startswith(("/", "@")) or "hostaddr" in target:
        return [{}]
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return [{}]
    timer = gevent.Timeout.start_new(seconds)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (gevent.Timeout, OSError) as error:
        if isinstance(error, gevent.Timeout) and error is not timer:
            raise
        raise psycopg2.OperationalError(f"the database's host name {host} cannot be resolved") from None
    finally:
        timer.close()
    return [{"hostaddr": address} for address in dict.fromkeys(str(entry[4][0]) for entry in found)]
