"""A gateway's record: adopted or waiting in the inbox, its recorded address, its keys, the lines for its router.

Promises: a gateway is known by its `gw_id` in any case of letters; one that nobody has adopted waits in an inbox that
no flood can fill for long; two keys are valid while one replaces the other, and neither is stored in clear.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import socket
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row

from portal import fields, wifidog
from portal.config import Settings
from portal.fields import Invalid
from portal.keys import Keyring
from portal.store import sql

LARGEST_INBOX: Final = 200
# A router pings once a minute; what has not been heard for this long gives its place in the inbox to the next.
INBOX_PATIENCE: Final = timedelta(minutes=10)
# How long the key before the newest stays valid: time to visit a site.
KEY_GRACE: Final = timedelta(days=7)

EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104
"""What `server.host` says to listen on every address; none of these is one that a router could call."""

_KEY_SIGNS: Final = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's record, as the desk shows it. `address` is where browsers are sent back to, once recorded."""

    id: int
    network_id: int | None
    gw_id: str
    device_id: str
    name: str
    dialect: str
    swapped: bool
    address: str | None
    port: int
    seen_address: str | None
    seen_port: int | None
    state: str
    interval_seconds: int
    link_bytes_per_second: int
    created_at: datetime
    adopted_at: datetime | None

    @property
    def came_with(self) -> tuple[str, int] | None:
        """The address the last guest came with, unless that is the recorded one.

        None too while a name is recorded: a router says its address in digits, and there is nothing to compare.
        """
        if not self.seen_address or (self.address and not _is_literal(self.address)):
            return None
        seen = self.seen_address, self.seen_port or self.port
        return None if seen == (self.address, self.port) else seen


COLUMNS = """
    g.id, g.network_id, g.gw_id, g.device_id, g.name, g.dialect, g.swapped, g.address, g.port, g.seen_address,
    g.seen_port, g.state, g.interval_seconds, g.link_bytes_per_second, g.created_at, g.adopted_at
"""

ADD = sql(
    "gateways.add",
    f"""
    INSERT INTO gateway AS g (network_id, gw_id, name, dialect, swapped, address, port, state, interval_seconds,
                              created_at, adopted_at, changed_at)
    VALUES (:network_id, :gw_id, :name, :dialect, :swapped, :address, :port, 'adopted', :interval_seconds,
            :now, :now, clock_timestamp())
    ON CONFLICT (lower(gw_id)) DO UPDATE
       SET network_id = EXCLUDED.network_id, gw_id = EXCLUDED.gw_id, name = EXCLUDED.name, dialect = EXCLUDED.dialect,
           swapped = EXCLUDED.swapped, address = EXCLUDED.address, port = EXCLUDED.port, state = 'adopted',
           interval_seconds = EXCLUDED.interval_seconds, adopted_at = EXCLUDED.adopted_at,
           changed_at = clock_timestamp()
     WHERE g.state <> 'adopted'
    RETURNING {COLUMNS}
    """,
)

ADOPT = sql(
    "gateways.adopt",
    f"""
    UPDATE gateway g
       SET network_id = :network_id, name = :name, state = 'adopted', adopted_at = :now,
           changed_at = clock_timestamp()
     WHERE g.id = :gateway_id AND g.state = 'inbox'
    RETURNING {COLUMNS}
    """,
)

GET = sql("gateways.get", f"SELECT {COLUMNS} FROM gateway g WHERE g.id = :gateway_id")

BY_GW_ID = sql("gateways.by_gw_id", f"SELECT {COLUMNS} FROM gateway g WHERE lower(g.gw_id) = lower(:gw_id)")

EDIT = sql(
    "gateways.edit",
    f"""
    UPDATE gateway g
       SET name = COALESCE(CAST(:name AS text), g.name),
           dialect = COALESCE(CAST(:dialect AS text), g.dialect),
           swapped = COALESCE(CAST(:swapped AS boolean), g.swapped),
           interval_seconds = COALESCE(CAST(:interval_seconds AS integer), g.interval_seconds),
           link_bytes_per_second = COALESCE(CAST(:link_bytes_per_second AS bigint), g.link_bytes_per_second),
           changed_at = clock_timestamp()
     WHERE g.id = :gateway_id
    RETURNING {COLUMNS}
    """,
)

RECORD_ADDRESS = sql(
    "gateways.record_address",
    f"""
    UPDATE gateway g
       SET address = :address, port = :port, changed_at = clock_timestamp()
     WHERE g.id = :gateway_id
    RETURNING {COLUMNS}
    """,
)

# Does not touch changed_at: a browser said it, and nothing is decided by it.
SEE_ADDRESS = sql(
    "gateways.see_address",
    """
    UPDATE gateway
       SET seen_address = :address, seen_port = :port
     WHERE id = :gateway_id
       AND (seen_address, seen_port) IS DISTINCT FROM (CAST(:address AS text), CAST(:port AS integer))
    """,
)

LEARN_DEVICE = sql(
    "gateways.learn_device",
    """
    UPDATE gateway
       SET device_id = :device_id, changed_at = clock_timestamp()
     WHERE id = :gateway_id AND device_id <> :device_id
    """,
)

RETIRE = sql(
    "gateways.retire",
    """
    UPDATE gateway SET state = 'retired', changed_at = clock_timestamp() WHERE id = :gateway_id AND state = 'adopted'
    """,
)

DISMISS = sql("gateways.dismiss", "DELETE FROM gateway WHERE id = :gateway_id AND state = 'inbox'")

DISMISS_NAMED = sql(
    "gateways.dismiss_named", "DELETE FROM gateway WHERE lower(gw_id) = lower(:gw_id) AND state = 'inbox'"
)

TAKEN = sql("gateways.taken", "SELECT EXISTS (SELECT FROM gateway WHERE lower(gw_id) = lower(:gw_id) AND id <> :id)")

# The new device counts from zero under an uptime that says nothing about the old one's: sessions that move with it are
# told of a restart. It has not shown a key yet, and comes from wherever it comes from.
RENAME = sql(
    "gateways.rename",
    f"""
    UPDATE gateway g
       SET gw_id = :gw_id, device_id = '', seen_address = NULL, seen_port = NULL, changed_at = clock_timestamp()
     WHERE g.id = :gateway_id
    RETURNING {COLUMNS}
    """,
)

RESTART = sql(
    "gateways.restart",
    """
    UPDATE heartbeat
       SET restarted_at = :now, wifidog_uptime = NULL, source = '', source_changed_at = NULL, key_seen_at = NULL,
           key_missing_at = NULL
     WHERE gateway_id = :gateway_id
    """,
)

LOCK_INBOX = sql("gateways.lock_inbox", "SELECT pg_advisory_xact_lock(hashtextextended('gateway inbox', 0))")

MAKE_ROOM = sql(
    "gateways.make_room",
    """
    WITH waiting AS (
        SELECT g.id, COALESCE(h.at, g.created_at) AS heard_at, count(*) OVER () AS waiting
          FROM gateway g
          LEFT JOIN heartbeat h ON h.gateway_id = g.id
         WHERE g.state = 'inbox'
         ORDER BY heard_at
         LIMIT 1
    )
    DELETE FROM gateway
     WHERE id IN (SELECT id FROM waiting WHERE waiting >= :largest AND heard_at < :forgotten)
    """,
)

NOTE = sql(
    "gateways.note",
    """
    INSERT INTO gateway (gw_id, device_id, dialect, swapped, state, created_at, changed_at)
    SELECT :gw_id, :device_id, :dialect, :swapped, 'inbox', :now, clock_timestamp()
     WHERE (SELECT count(*) FROM gateway WHERE state = 'inbox') < :largest
    ON CONFLICT DO NOTHING
    RETURNING id
    """,
)

ADD_KEY = sql(
    "gateways.add_key",
    """
    INSERT INTO gateway_key (gateway_id, key_hash, key_sealed, created_at)
    VALUES (:gateway_id, :key_hash, :key_sealed, :now)
    """,
)

# Of the older keys only the newest lives on, and not longer than it was going to.
AGE_KEYS = sql(
    "gateways.age_keys",
    """
    UPDATE gateway_key k
       SET expires_at = CASE
               WHEN k.id = (SELECT max(l.id) FROM gateway_key l
                             WHERE l.gateway_id = :gateway_id AND COALESCE(l.expires_at, 'infinity') > :now)
               THEN LEAST(k.expires_at, CAST(:until AS timestamptz))
               ELSE LEAST(k.expires_at, CAST(:now AS timestamptz))
           END
     WHERE k.gateway_id = :gateway_id
    """,
)

FORGET_KEYS = sql("gateways.forget_keys", "DELETE FROM gateway_key WHERE gateway_id = :gateway_id")

FORGET_KEY_SEEN = sql(
    "gateways.forget_key_seen",
    "UPDATE heartbeat SET key_seen_at = NULL, key_missing_at = NULL WHERE gateway_id = :gateway_id",
)

TOUCH = sql(
    "gateways.touch", "UPDATE gateway SET changed_at = clock_timestamp() WHERE id = ANY(CAST(:ids AS bigint[]))"
)

NEWEST_KEY = sql(
    "gateways.newest_key",
    """
    SELECT key_sealed
      FROM gateway_key
     WHERE gateway_id = :gateway_id AND (expires_at IS NULL OR expires_at > :now)
     ORDER BY id DESC
     LIMIT 1
    """,
)


def add(
    db: Connection,
    network_id: int,
    gw_id: str,
    now: datetime,
    *,
    name: str = "",
    dialect: str = "classic",
    address: str | None = None,
    interval_seconds: int = 60,
) -> Gateway:
    """A gateway of a network, whether or not it has been heard. `address` is HOST or HOST:PORT, or not known yet.

    One that waits in the inbox is adopted. Raises Invalid, also when another network or this one has it already.
    """
    chosen = fields.one_of("dialect", dialect, ("classic", "apfree"))
    host, port = (None, wifidog.DEFAULT_GATEWAY_PORT) if not address else _address(address)
    values = {
        "network_id": network_id,
        "gw_id": _gw_id(gw_id),
        "name": fields.line("name", name, 60, empty=True),
        "dialect": chosen,
        "swapped": chosen == "apfree",
        "address": host,
        "port": port,
        "interval_seconds": fields.whole("interval_seconds", interval_seconds, 1, 3600),
        "now": now,
    }
    row = db.execute(ADD, values).first()
    if row is None:
        raise Invalid("gw_id", "there is a gateway with this id already")
    # One that was retired comes back without what its last owner may know.
    forget_keys(db, row.id)
    return Gateway(*row)


def adopt(db: Connection, gateway_id: int, network_id: int, now: datetime, *, name: str = "") -> Gateway:
    """Take a gateway out of the inbox into a network. Raises Invalid when it does not wait there any more."""
    values = {
        "gateway_id": gateway_id,
        "network_id": network_id,
        "name": fields.line("name", name, 60, empty=True),
        "now": now,
    }
    row = db.execute(ADOPT, values).first()
    if row is None:
        raise Invalid("gateway", "does not wait in the inbox any more")
    return Gateway(*row)


def get(db: Connection, gateway_id: int) -> Gateway | None:
    """The gateway of that number, in whatever state."""
    row = db.execute(GET, {"gateway_id": gateway_id}).first()
    return None if row is None else Gateway(*row)


def by_gw_id(db: Connection, gw_id: str) -> Gateway | None:
    """The gateway that calls itself so, in whatever state."""
    row = db.execute(BY_GW_ID, {"gw_id": gw_id}).first()
    return None if row is None else Gateway(*row)


def edit(
    db: Connection,
    gateway_id: int,
    *,
    name: str | None = None,
    dialect: str | None = None,
    swapped: bool | None = None,
    interval_seconds: int | None = None,
    link_bytes_per_second: int | None = None,
) -> Gateway:
    """The gateway with what is given changed. `swapped`: its `outgoing` is what guests download. Raises Invalid."""
    values = {
        "gateway_id": gateway_id,
        "name": None if name is None else fields.line("name", name, 60, empty=True),
        "dialect": None if dialect is None else fields.one_of("dialect", dialect, ("classic", "apfree")),
        "swapped": swapped,
        "interval_seconds": (
            None if interval_seconds is None else fields.whole("interval_seconds", interval_seconds, 1, 3600)
        ),
        "link_bytes_per_second": (
            None
            if link_bytes_per_second is None
            else fields.whole("link_bytes_per_second", link_bytes_per_second, 1_000, 10**15)
        ),
    }
    return _one(db.execute(EDIT, values).first())


def record_address(db: Connection, gateway_id: int, address: str | None) -> Gateway:
    """Where guests' browsers are sent back to from now on: HOST or HOST:PORT; None forgets it. Raises Invalid."""
    host, port = (None, wifidog.DEFAULT_GATEWAY_PORT) if not address else _address(address)
    return _one(db.execute(RECORD_ADDRESS, {"gateway_id": gateway_id, "address": host, "port": port}).first())


def see_address(db: Connection, gateway_id: int, address: str, port: int) -> None:
    """What a browser says its gateway's address is: shown to the operator, who may record it. Never trusted."""
    literal = wifidog.private_literal(address)
    if literal is not None and 1 <= port <= 65535:
        db.execute(SEE_ADDRESS, {"gateway_id": gateway_id, "address": literal, "port": port})


def learn_device(db: Connection, gateway_id: int, device_id: str) -> None:
    """The device a gateway runs on, from a call that is believed: apfree's heartbeats name nothing else."""
    db.execute(LEARN_DEVICE, {"gateway_id": gateway_id, "device_id": device_id[: wifidog.LONGEST_ID]})


def replace(db: Connection, old: str, new: str, now: datetime) -> Gateway:
    """The gateway `old` is called `new` from now on: other hardware, the same place. Its sessions go on.

    A `new` that waits in the inbox gives way. Raises Invalid when there is no `old`, or `new` is a gateway in use.
    """
    found = by_gw_id(db, old)
    if found is None or found.state == "inbox":
        raise Invalid("old", "there is no adopted gateway with this id")
    wanted = _gw_id(new)
    db.execute(DISMISS_NAMED, {"gw_id": wanted})
    if db.execute(TAKEN, {"gw_id": wanted, "id": found.id}).scalar_one():
        raise Invalid("new", "another gateway has this id")
    renamed = _one(db.execute(RENAME, {"gateway_id": found.id, "gw_id": wanted}).first())
    db.execute(RESTART, {"gateway_id": found.id, "now": now})
    return renamed


def retire(db: Connection, gateway_id: int) -> None:
    """Stop listening to a gateway; what it reported is kept. Its guests go on until it asks for them again."""
    db.execute(RETIRE, {"gateway_id": gateway_id})


# The inbox


def note_unknown(db: Connection, gw_id: str, now: datetime, *, device_id: str = "", dialect: str = "classic") -> bool:
    """Put a gateway that nobody knows into the inbox; whether it is there as a new entry.

    A full inbox gives up the entry that has been silent longest, if that is long enough, and else takes no more.
    """
    if not gw_id or len(gw_id) > wifidog.LONGEST_ID or "\0" in gw_id:
        return False
    db.execute(LOCK_INBOX)
    db.execute(MAKE_ROOM, {"largest": LARGEST_INBOX, "forgotten": now - INBOX_PATIENCE})
    values = {
        "gw_id": gw_id,
        "device_id": device_id[: wifidog.LONGEST_ID],
        "dialect": dialect,
        "swapped": dialect == "apfree",
        "largest": LARGEST_INBOX,
        "now": now,
    }
    return db.execute(NOTE, values).first() is not None


def dismiss(db: Connection, gateway_id: int) -> None:
    """Drop an entry of the inbox. It comes back if it goes on pinging."""
    db.execute(DISMISS, {"gateway_id": gateway_id})


# Keys and the lines for the router


def make_key(db: Connection, keyring: Keyring, gateway_id: int, now: datetime, *, grace: timedelta = KEY_GRACE) -> str:
    """A new key for a gateway. The one before it stays valid for `grace`, older ones end at once.

    Only once the gateway has shown a key in a heartbeat are calls without one refused; until then it is merely adopted.
    """
    key = "".join(secrets.choice(_KEY_SIGNS) for _ in range(32))
    db.execute(AGE_KEYS, {"gateway_id": gateway_id, "now": now, "until": now + grace})
    values = {"gateway_id": gateway_id, "key_hash": key_hash(key), "key_sealed": keyring.seal(key), "now": now}
    db.execute(ADD_KEY, values)
    db.execute(TOUCH, {"ids": [gateway_id]})
    return key


def newest_key(db: Connection, keyring: Keyring, gateway_id: int, now: datetime) -> str | None:
    """The key to print into the router's lines; None if it has none."""
    sealed = db.execute(NEWEST_KEY, {"gateway_id": gateway_id, "now": now}).scalar()
    return None if sealed is None else keyring.open(bytes(sealed))


def forget_keys(db: Connection, gateway_id: int) -> None:
    """Believe a gateway without a key again, as after a reset: whoever knows its id may speak for it."""
    db.execute(FORGET_KEYS, {"gateway_id": gateway_id})
    db.execute(FORGET_KEY_SEEN, {"gateway_id": gateway_id})
    db.execute(TOUCH, {"ids": [gateway_id]})


def key_hash(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


# What lets guests through once wifidog has marked them, and a stranger's device find an address and names before it is:
# without the last set nobody with a name server of his own sees a page (the program itself lets our address through).
_RULE_SETS: Final = """\
FirewallRuleSet global {
}
FirewallRuleSet validating-users {
    FirewallRule allow to 0.0.0.0/0
}
FirewallRuleSet known-users {
    FirewallRule allow to 0.0.0.0/0
}
FirewallRuleSet unknown-users {
    FirewallRule allow udp port 53
    FirewallRule allow tcp port 53
    FirewallRule allow udp port 67
    FirewallRule allow tcp port 67
}
FirewallRuleSet locked-users {
    FirewallRule block to 0.0.0.0/0
}"""


def reached_at(settings: Settings) -> tuple[str, int]:
    """Where routers reach us over plain HTTP: the public name, else the address we listen on, else the one that this
    machine would send from."""
    public = urlsplit(settings.server.public_url)
    if public.hostname:
        # TLS is for browsers; routers take the plain port of the same name.
        return public.hostname, 80 if public.scheme == "https" else public.port or 80
    if settings.server.host not in EVERYWHERE:
        return settings.server.host, settings.server.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks the kernel which address it would take
            return str(probe.getsockname()[0]), settings.server.port
        except OSError:
            return socket.gethostname(), settings.server.port


def router_lines(host: str, port: int, gateway: Gateway, key: str) -> str:
    """A whole configuration for the router: `wifidog.conf`, or apfree's `wifidogx.conf`.

    `host` and `port` are where the router reaches us over plain HTTP. The key stands in the two fragments that only the
    router itself requests; a fragment is pasted in front of the parameters, so it must end in `&` (src/conf.c,
    src/centralserver.c). What is not named keeps its compiled default. Remarks stand on lines of their own outside of
    blocks: there the programs of every age pass over them, and only there (src/conf.c: config_read).
    """
    interface = ["# The interface that guests' devices are on: br-lan on OpenWrt.", "GatewayInterface br-lan"]
    server = [
        "AuthServer {",
        f"    Hostname {host}",
        "    SSLAvailable no",
        f"    HTTPPort {port}",
        "    Path /wifidog/",
        f"    AuthScriptPathFragment auth/?k={key}&",
        f"    PingScriptPathFragment ping/?k={key}&",
        "}",
    ]
    timing = [f"CheckInterval {gateway.interval_seconds}", "ClientTimeout 5"]
    if gateway.dialect == "apfree":
        lines = [
            *([f"DeviceID {gateway.device_id}"] if gateway.device_id else []),
            *server,
            f"{interface[0]} Its address and the size of its network:",
            # All four, or the whole block is passed over and the program ends (apfree's src/conf.c); it knows no sets
            # of firewall rules, and ends at the word.
            "GatewaySetting {",
            f"    {interface[1]}",
            "    GatewayChannel gatepost",
            f"    GatewayID {gateway.gw_id}",
            f"    GatewaySubnetV4 {_lan(gateway)}",
            "}",
            *timing,
            # Both are 1 when unset: nobody would see a page, and devices on a cable would not even be asked about.
            "DisablePortalAuth 0",
            "WiredPassed 0",
        ]
    else:
        lines = [f"GatewayID {gateway.gw_id}", *interface, *timing, *server, _RULE_SETS]
    return "\n".join(lines) + "\n"


def _lan(gateway: Gateway) -> str:
    """The router's own network, as far as we know it; OpenWrt's default else."""
    try:
        address = ipaddress.IPv4Address(gateway.address or "")
    except ValueError:
        address = ipaddress.IPv4Address("192.168.1.1")
    return f"{address}/24"


def _one(row: Row[Any] | None) -> Gateway:
    if row is None:
        raise Invalid("gateway", "there is no such gateway")
    values: tuple[Any, ...] = tuple(row)
    return Gateway(*values)


def _is_literal(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _address(value: str) -> tuple[str, int]:
    return fields.host_and_port("address", value, wifidog.DEFAULT_GATEWAY_PORT)


def _gw_id(value: str) -> str:
    """An id that a router can be given: its configuration ends a word at a blank, a browser ends a query at #."""
    text = value.strip()
    if not 1 <= len(text) <= wifidog.LONGEST_ID or not text.isprintable() or any(c.isspace() or c == "#" for c in text):
        raise Invalid("gw_id", f"expected 1 to {wifidog.LONGEST_ID} characters without blanks and #")
    return text
