"""The doctor: looks at an installation and names each thing that is not well, and how to mend it.

Promises: changes nothing; every finding that is not good says what to do; one check that breaks down is a finding, not
the end of the examination. "bad" is what keeps the installation from being safe or from working, "warn" what somebody
should look at this week.
"""

from __future__ import annotations

import http.client
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Connection

from portal import gateways, keys, networks, operators
from portal.config import Settings
from portal.gateways import Health
from portal.store import Store, Unavailable, sql
from portal.store.migrations import current, head

GIGABYTE: Final = 10**9
# How far our clock may be from the database's before times on pages and in logs mislead, and before something is wrong.
CLOCK_WARN, CLOCK_BAD = 1.0, 5.0
RECENT: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing. `level` is "good", "warn" or "bad"; `remedy` is "" when it is good."""

    level: str
    thing: str
    said: str
    remedy: str = ""


SETTINGS = sql(
    "doctor.settings",
    """
    SELECT current_setting('server_version') AS version,
           current_setting('synchronous_commit') AS synchronous_commit,
           CAST(current_setting('max_connections') AS integer) AS max_connections,
           pg_database_size(current_database()) AS bytes
    """,
)

RESTORED = sql("doctor.restored", "SELECT restored_at FROM installation")

LATE_JOBS = sql(
    "doctor.late_jobs",
    "SELECT name, outcome FROM job WHERE outcome LIKE 'failed%' ORDER BY name",
)


def examine(settings: Settings, store: Store | None) -> list[Finding]:
    """Everything found. `store` is None where there is no database yet."""
    found = [*_guarded("settings", lambda: _outside(settings))]
    if store is None:
        said = "none yet: the first start makes it"
        found.append(Finding("warn", "database", said, "make serve, which also prints the link for the first operator"))
        return found
    database = [*_guarded("database", lambda: _database(settings, store))]
    found += database
    if not any(finding.level == "bad" for finding in database):
        found += _guarded("contents", lambda: _contents(store))
    return found


def _guarded(thing: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except (Unavailable, OSError, ValueError) as error:
        yield Finding("bad", thing, f"could not be examined: {error}", "Mend that first, then run the doctor again.")


# What needs no database


def _outside(settings: Settings) -> Iterator[Finding]:
    yield from _tls(settings)
    yield from _keys(settings)
    yield from _disk(settings)
    yield _open_files(settings)
    yield from _serving(settings)


def _tls(settings: Settings) -> Iterator[Finding]:
    public = urlsplit(settings.server.public_url)
    if public.scheme != "https":
        said = "server.public_url is empty" if not public.scheme else "server.public_url is not https"
        yield Finding(
            "bad",
            "TLS",
            f"{said}: guests' passwords and operators' sign-ins cross the network in clear",
            "Put Caddy or nginx in front (README, TLS) and set server.public_url to https://YOUR.NAME.",
        )
        return
    trouble = _handshake(public.hostname or "", public.port or 443)
    if trouble:
        yield Finding(
            "warn",
            "TLS",
            f"{settings.server.public_url} could not be reached from here: {trouble}",
            "Look at the proxy and its certificate; guests' browsers must reach it.",
        )
    else:
        yield Finding("good", "TLS", f"{settings.server.public_url} answers with a certificate that is valid here")
        yield from _metrics(settings)
    if not settings.server.trusted_proxies:
        yield Finding(
            "warn",
            "proxy",
            "server.trusted_proxies is empty, so the proxy's address is taken for everybody's; "
            "/metrics is closed to programs on this machine too, unless they show a token",
            'Set it to the proxy\'s address, such as ["127.0.0.1"].',
        )


def _metrics(settings: Settings) -> Iterator[Finding]:
    """Whether /metrics can be read from anywhere: a proxy that hides for whom it asks passes for a program here."""
    public = urlsplit(settings.server.public_url)
    connection = http.client.HTTPSConnection(public.hostname or "", public.port, timeout=3)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        shown = answer.status == 200 and b"gatepost_" in answer.read(100_000)
    except (OSError, http.client.HTTPException):
        return  # what keeps browsers away is another finding
    finally:
        connection.close()
    if shown:
        yield Finding(
            "bad",
            "metrics",
            f"anybody can read {settings.server.public_url}/metrics: the proxy does not say for whom it asks",
            'Let it send X-Forwarded-For (README, TLS), or set metrics.access = "token".',
        )


def _handshake(host: str, port: int) -> str:
    """What keeps a browser from an encrypted connection; "" for nothing."""
    try:
        with (
            socket.create_connection((host, port), timeout=3) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused ({error.verify_message})"
    except OSError as error:
        return error.strerror or type(error).__name__


def _keys(settings: Settings) -> Iterator[Finding]:
    path = settings.state / keys.FILE_NAME
    if not settings.state.exists() or not path.exists():
        yield Finding("warn", "keys", f"{path} does not exist yet", "make serve: the first start makes it.")
        return
    problem = keys.problem(settings.state)
    if problem:
        yield Finding("bad", "keys", problem, "Mend the file, or put back the one from a backup.")
    else:
        yield Finding("good", "keys", f"{path} is whole and readable by its owner alone")
    if settings.state.stat().st_mode & 0o022:
        yield Finding("bad", "state directory", f"others may change {settings.state}", f"chmod go-w {settings.state}")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = settings.state if settings.state.exists() else settings.state.parent
    usage = shutil.disk_usage(place)
    said = f"{usage.free / GIGABYTE:.1f} GB free of {usage.total / GIGABYTE:.1f} GB at {place}"
    if usage.free < 0.2 * GIGABYTE:
        yield Finding("bad", "disk", said, "Make room now: a full disk stops every write of the database.")
    elif usage.free < GIGABYTE:
        yield Finding("warn", "disk", said, "Make room, or lower the days in [retention].")
    else:
        yield Finding("good", "disk", said)


def _open_files(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.server.sockets + settings.database.connections + 200
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding("good", "open files", f"{'any number' if soft == resource.RLIM_INFINITY else soft} allowed")
    allowed = "any number" if hard == resource.RLIM_INFINITY else str(hard)
    return Finding(
        "warn",
        "open files",
        f"{soft} allowed to a process started from here, and {needed} may be wanted (hard limit: {allowed})",
        f"LimitNOFILE={needed} in the systemd unit, or ulimit -n {needed} before starting; or lower server.sockets.",
    )


def _serving(settings: Settings) -> Iterator[Finding]:
    port = settings.server.port
    if port == 0:
        return
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.server.host, settings.server.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        status, body = answer.status, answer.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        yield Finding(
            "warn",
            "server",
            f"nothing answers on {host}:{port} ({error or type(error).__name__})",
            "make serve. If it runs elsewhere, give doctor the server's own settings: PORTAL_… or --config.",
        )
        return
    finally:
        connection.close()
    if status == 200 and body.strip() == "ready":
        yield Finding("good", "server", f"ready on {host}:{port}")
    elif status == 503:
        wrong = ", ".join(body.split("\n")).strip(", ") or "no reason given"
        yield Finding("bad", "server", f"not ready on {host}:{port}: {wrong}", "Its log says more.")
    else:
        yield Finding(
            "bad", "server", f"something else answers on {host}:{port} (status {status})", "Set another server.port."
        )


# What the database says


def _database(settings: Settings, store: Store) -> Iterator[Finding]:
    store.database_now("jobs")  # connects, so that the next one shows what an answer takes
    began = time.monotonic()
    told = store.database_now("jobs")
    took = time.monotonic() - began
    with store.read("jobs", caller="doctor") as db:
        row = db.execute(SETTINGS).one()
    yield Finding(
        "good",
        "database",
        f"PostgreSQL {row.version.split()[0]} answers in {took * 1000:.1f} ms, {row.bytes / 10**6:.0f} MB",
    )
    try:
        store.check()
        yield Finding(
            "good", "durability", f"synchronous_commit = {row.synchronous_commit}: what is answered is on disk"
        )
    except ValueError as error:
        yield Finding("bad", "durability", str(error), "The server does not start with such a database.")
    yield from _revision(store)
    wanted = settings.server.workers * settings.database.connections + 20
    if row.max_connections < wanted:
        yield Finding(
            "warn",
            "connections",
            f"the database takes {row.max_connections}, and {wanted} may be wanted",
            "Raise its max_connections, or lower server.workers or the pools in [database].",
        )
    yield _clock(time.time() - took / 2 - told.timestamp())


def _revision(store: Store) -> Iterator[Finding]:
    known = head()
    found = current(store.url)
    if found == known:
        yield Finding("good", "schema", f"revision {known}, the newest")
    else:
        yield Finding(
            "bad",
            "schema",
            f"revision {found or 'none'}, and this release has {known}",
            "Restart the server, which changes the schema at its start; if the database is newer, update the program.",
        )


def _clock(ahead: float) -> Finding:
    said = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's"
    remedy = "Let both machines keep their time by NTP (timedatectl set-ntp true)."
    if abs(ahead) > CLOCK_BAD:
        return Finding("bad", "clock", said, remedy)
    if abs(ahead) > CLOCK_WARN:
        return Finding("warn", "clock", said, remedy)
    return Finding("good", "clock", "agrees with the database's")


def _contents(store: Store) -> Iterator[Finding]:
    now = store.clock.now()
    with store.read("jobs", caller="doctor") as db:
        yield from _people(db)
        yield from _networks(db)
        yield from _gateways(db, now)
        restored = db.execute(RESTORED).scalar()
        if restored is not None and now - restored < RECENT:
            yield Finding(
                "good", "restore", f"restored at {restored:%Y-%m-%d %H:%M} UTC: unknown tokens are kept online"
            )
        for job in db.execute(LATE_JOBS):
            yield Finding("warn", "upkeep", f"{job.name}: {job.outcome}", "The server's log says why.")


def _people(db: Connection) -> Iterator[Finding]:
    found = [operator for operator in operators.listed(db) if operator.disabled_at is None]
    ready = [operator for operator in found if not operator.invited]
    if ready:
        yield Finding("good", "operators", f"{len(ready)} can sign in")
    elif found:
        yield Finding(
            "warn",
            "operators",
            "nobody has chosen a password yet",
            f"Open the invitation, or make another: python -m portal operator link {found[0].email}",
        )
    else:
        yield Finding(
            "bad",
            "operators",
            "nobody can sign in",
            "Start the server and open the link it prints, or: python -m portal operator add EMAIL --role owner",
        )


def _networks(db: Connection) -> Iterator[Finding]:
    found = networks.listed(db)
    if not found:
        yield Finding("warn", "networks", "there is none", 'python -m portal network add "NAME" --slug SLUG')
    for network in found:
        thing = f"network {network.slug}"
        if not (network.vouchers or network.accounts or network.click_plan_id):
            yield Finding("warn", thing, "guests have no way in", "Offer vouchers, accounts or a click-through.")
        elif not networks.plans(db, network.id):
            yield Finding("warn", thing, "has no plan, so nothing can be issued", "python -m portal plan add …")
        else:
            yield Finding("good", thing, "has a way in and a plan")


def _gateways(db: Connection, now: datetime) -> Iterator[Finding]:
    adopted = gateways.adopted(db, now)
    if not adopted:
        yield Finding("warn", "gateways", "none is adopted", "python -m portal gateway add --network SLUG --gw-id ID")
    for health in adopted:
        trouble = [*_of_gateway(health, now)]
        yield from trouble or [Finding("good", f"gateway {health.gateway.gw_id}", "pings with its key")]
    waiting = gateways.inbox(db, now)
    if waiting:
        names = ", ".join(repr(entry.gateway.gw_id) for entry in waiting[:5]) + (", …" if len(waiting) > 5 else "")
        yield Finding(
            "warn",
            "inbox",
            f"{len(waiting)} unknown gateway{'s' if len(waiting) > 1 else ''} called: {names}",
            "Adopt those that are yours at the desk, or with python -m portal gateway add.",
        )


def _of_gateway(health: Health, now: datetime) -> Iterator[Finding]:
    gateway, thing = health.gateway, f"gateway {health.gateway.gw_id}"
    lines = f"Paste the lines of: python -m portal gateway key {gateway.gw_id}"
    if health.at is None:
        yield Finding("warn", thing, "has never pinged", lines)
    elif health.silent(now):
        yield Finding(
            "bad",
            thing,
            f"silent since {health.at:%Y-%m-%d %H:%M} UTC",
            "Look whether the router has power and a line, and reaches this server over plain HTTP.",
        )
    if health.key_missing:
        yield Finding("bad", thing, "calls come without its key, and are not believed", lines)
    elif health.at is not None and not health.keyed:
        yield Finding("warn", thing, "shows no key: whoever knows its id may speak for it", lines)
    if gateway.address is None:
        seen = f"; browsers say {_at(*gateway.came_with)}" if gateway.came_with else ""
        yield Finding(
            "warn",
            thing,
            f"has no recorded address{seen}",
            f"python -m portal gateway address {gateway.gw_id} HOST[:PORT]",
        )
    elif gateway.came_with:
        yield Finding(
            "warn",
            thing,
            f"guests come with {_at(*gateway.came_with)}, but go back to {_at(gateway.address, gateway.port)}",
            f"If the router's address has changed: python -m portal gateway address {gateway.gw_id} HOST[:PORT]",
        )
    if health.source_changed_at is not None and now - health.source_changed_at < RECENT:
        yield Finding(
            "warn",
            thing,
            f"calls from another address since {health.source_changed_at:%Y-%m-%d %H:%M} UTC ({health.source})",
            "Nothing to do if its line has a changing address; else see who else uses its id.",
        )


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
