"""`python -m portal demo`: the whole of it on one machine, without a router: a server, an emulated gateway, a voucher.

Promises: touches nothing but a state directory of its own, and reads no settings of the installation; works beside a
running server. The server is the real `serve.py` in a process of its own, the gateway the emulator; what was
transferred, reported and charged is shown live. Ctrl-C or SIGTERM logs the guests out, stops both, and ends with 0; a
loop or a server that fails ends it with 1.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO
from urllib.request import urlopen

from sqlalchemy import Connection

from portal import fields, gateways, guests, networks, operators, vouchers
from portal.emulator import Gateway, auth_server
from portal.emulator.console import Console
from portal.emulator.crowd import Appetite, Crowd
from portal.keys import Keyring
from portal.networks import Network
from portal.offload import Offload
from portal.store import Store, Unavailable, sql
from portal.store.embedded import Postgres

HOST: Final = "127.0.0.1"
PORT: Final = 8080
GATEWAY_PORT: Final = 2060
GATEWAY: Final = "linde-demo"
# A router asks once a minute; who watches a demonstration waits less gladly.
INTERVAL_SECONDS: Final = 3
BYTES_PER_SECOND: Final = 150_000
GUESTS: Final = ("laptop", "tablet")
USERNAME, PASSWORD = "room 12", "breakfast"
START_SECONDS: Final = 60
ENDING: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

TERMS: Final = """\
The Wi-Fi of Hotel Linde is free of charge for our guests. It is shared: please leave some of it for the others.
Do nothing with it that the law forbids. What you load and send is your own responsibility.
The radio link is not encrypted end to end; use pages whose address begins with https for anything private.
We may end your access when it disturbs others. There is no claim to a certain speed."""
PRIVACY: Final = """\
We keep the address of your device, when it was online and how much it transferred; not which pages you open.
After a year it is deleted. Ask at reception what is kept about you."""

CHARGED = sql(
    "demo.charged",
    """
    SELECT mac, CAST(SUM(used_down + used_up) AS bigint)
      FROM session
     WHERE network_id = :network_id AND mac IS NOT NULL AND minted_at >= :since
     GROUP BY mac
    """,
)


class Impossible(Exception):
    """The demo cannot run; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class House:
    """What was prepared for this run: the network, the way in for each guest, and where its owner is made."""

    network: Network
    key: str
    codes: Sequence[str]
    short: str
    setup: str | None
    since: datetime


def run(state: Path, out: TextIO, *, port: int | None = None, gateway_port: int | None = None) -> int:
    """Run the demo until a signal comes; the exit status. Raises Impossible.

    `state` is its own directory. Without a port the usual one is taken, or the next that is free; 0 is any.
    """
    out.write(f"Starting a demonstration in {state}\n")
    out.flush()
    port, gateway_port = _free(port, PORT, "--port"), _free(gateway_port, GATEWAY_PORT, "--gateway-port")
    try:
        with _server(state, port) as server, contextlib.closing(_Books(state)) as books:
            house = _prepare(books.store, Keyring.load_or_create(state), f"{HOST}:{gateway_port}")
            # From here on signals are waited for: nothing is interrupted half way. The server was started before,
            # since it would inherit this.
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            return _show(house, server, books, f"http://{HOST}:{port}", gateway_port, out)
    except KeyboardInterrupt:
        return 0


def _show(
    house: House, server: subprocess.Popen[bytes], books: _Books, url: str, gateway_port: int, out: TextIO
) -> int:
    console = Console(out, every=1.0 if out.isatty() else INTERVAL_SECONDS)
    gateway = Gateway(
        auth_server(f"{url}/wifidog/", key=house.key),
        GATEWAY,
        interval=INTERVAL_SECONDS,
        port=gateway_port,
        on_alarm=console.alarm,
    )
    try:
        gateway.start()
    except OSError as error:
        raise Impossible(f"port {gateway_port}: {os.strerror(error.errno or 0)}") from None
    out.write(_welcome(house, url, gateway.own_url("/")))
    out.flush()
    over = threading.Event()
    crowd = Crowd(gateway, [gateway.guest(name) for name in GUESTS], house.codes[:1], console.event, time.monotonic)
    appetite = Appetite(gateway, BYTES_PER_SECOND, time.monotonic)
    gateway.run_beside("guests", lambda: None if over.is_set() else crowd.step(), pause=0.5)
    gateway.run_beside("traffic", lambda: None if over.is_set() else appetite.step(), pause=0.2)

    def wait(seconds: float) -> bool:
        if server.poll() is not None:
            console.alarm(f"the server has ended with {server.returncode}; see {books.log}")
            return True
        if signal.sigtimedwait(ENDING, seconds) is None:
            return False
        # The real program would say nothing. A logout is what makes every byte known, and the next run start at 0.
        over.set()
        gateway.cycle()
        for client in gateway.clients:
            gateway.reset(client.mac)
        return True

    status = console.run(gateway, wait, lambda: books.charged(house.network, house.since))
    return 1 if status or server.poll() is not None else 0


def _welcome(house: House, url: str, caught: str) -> str:
    rows = [
        ("As a guest", caught, "caught, like any first page, by an emulated gateway"),
        ("  a code", house.codes[1], "3 hours, 500 MB, 2 devices"),
        ("  a short one", house.short, "5 MB, to see it run out"),
        ("  an account", USERNAME, f"password {PASSWORD}"),
    ]
    if house.setup is None:
        rows.append(("At the desk", f"{url}/desk/", "as its owner"))
    else:
        rows.append(("At the desk", operators.link(url, "setup", house.setup), "makes you its owner, once"))
    lines = [f"  {name:<15}{shown:<22}  {told}" for name, shown, told in rows]
    told = f"""
Whoever is online loads {BYTES_PER_SECOND // 1000} kB a second; the gateway reports it every {INTERVAL_SECONDS} seconds.
Below: the bytes that moved, that were reported, and that were charged. Ctrl-C ends it.

"""
    return "\n".join(["", f"{house.network.name} is open.", "", *lines, told])


# The server


@contextlib.contextmanager
def _server(state: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The real server on this state directory, ready; stopped in the end, and a stop that is not clean is an error."""
    state.mkdir(parents=True, exist_ok=True)
    file, log = state / "config.toml", _log(state)
    file.write_text(
        '# Written anew by each `python -m portal demo`.\nstate_dir = "."\n\n'
        f'[server]\nhost = "{HOST}"\nport = {port}\n'
    )
    serve = Path(__file__).resolve().parents[1] / "serve.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
    with log.open("wb") as written:
        # A process group of its own: Ctrl-C is for us, and we stop it when the guests are logged out.
        process = subprocess.Popen(
            [sys.executable, str(serve), "--config", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            env=environment,
            process_group=0,
        )
    try:
        _until_ready(process, f"http://{HOST}:{port}/readyz", log)
        yield process
    finally:
        process.terminate()
        try:
            status = process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    if status:
        raise Impossible(f"the server ended with {status}; {log} says why")


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()
            raise Impossible(
                f"the server does not start: {said[-1] if said else f'it ended with {process.returncode}'}"
            )
        if time.monotonic() > end:
            raise Impossible(f"the server is not ready after {START_SECONDS} s; see {log}")
        with contextlib.suppress(OSError), urlopen(url, timeout=1):  # noqa: S310
            return
        time.sleep(0.05)


def _log(state: Path) -> Path:
    return state / "server.log"


def _free(wanted: int | None, usual: int, option: str) -> int:
    """The port to listen on: the one wanted, else the usual one, else the first free one above it."""
    for port in range(usual, usual + 20) if wanted is None else [wanted]:
        try:
            with socket.create_server((HOST, port)) as probe:
                return int(probe.getsockname()[1])
        except PermissionError:
            raise Impossible(f"port {port} is not for everybody: choose one above 1023 with {option}") from None
        except (OSError, OverflowError):
            continue
    raise Impossible(f"port {wanted or usual} is taken or none: choose another with {option}")


# What an operator would have prepared


class _Books:
    """The server's database, for asking what was charged."""

    def __init__(self, state: Path) -> None:
        self.log = _log(state)
        self.store = Store(Postgres(state).url, application="gatepost demo")

    def charged(self, network: Network, since: datetime) -> Mapping[str, int]:
        """Bytes by MAC, of sessions since then. Raises ValueError when the database does not answer."""
        try:
            with self.store.read("jobs", caller="demo") as db:
                rows = db.execute(CHARGED, {"network_id": network.id, "since": since}).all()
        except Unavailable as error:
            raise ValueError(str(error)) from None
        return {str(mac): int(charged) for mac, charged in rows}

    def close(self) -> None:
        self.store.dispose()


def _prepare(store: Store, keyring: Keyring, address: str) -> House:
    """The network as the first run made it, with a gateway, codes and an account that are good for this one."""
    with contextlib.closing(Offload()) as offload:
        hashed = offload.hash_password(PASSWORD)
    with store.transaction("jobs", caller="demo") as db:
        now = store.database_now("jobs")
        network = networks.by_slug(db, "linde") or _add_network(db, now)
        plans = {plan.name: plan for plan in networks.plans(db, network.id)}
        gateway = gateways.by_gw_id(db, GATEWAY)
        if gateway is None:
            gateway = gateways.add(db, network.id, GATEWAY, now, name="Lobby", interval_seconds=INTERVAL_SECONDS)
        gateways.record_address(db, gateway.id, address)
        key = gateways.newest_key(db, keyring, gateway.id, now) or gateways.make_key(db, keyring, gateway.id, now)
        account = guests.look_up(db, network.id, USERNAME)
        if account is None:
            guests.add(db, plans["Room"], guests.Newcomer(USERNAME, PASSWORD, "The guest of room 12"), hashed, now)
        else:
            guests.give(db, account, plans["Room"], now)
        _, codes = vouchers.issue(db, keyring, plans["Three hours"], 2, now, label="Demo", by="demo")
        _, short = vouchers.issue(db, keyring, plans["A taste"], 1, now, label="Demo", by="demo")
        return House(network, key, codes, short[0], operators.setup_link(db, now), now)


def _add_network(db: Connection, now: datetime) -> Network:
    network = networks.add(db, "linde", "Hotel Linde", now, time_zone=_time_zone(), colour="#1f5148", terms=TERMS)
    free = networks.terms("Free hour", minutes=60, megabytes=100, cooldown_minutes=1440)
    for terms in (
        networks.terms("Three hours", minutes=180, megabytes=500, devices=2),
        networks.terms("A taste", megabytes=5),
        networks.terms("Room", minutes=3 * 1440, devices=3),
    ):
        networks.add_plan(db, network.id, terms, now)
    networks.set_click_plan(db, network.id, networks.add_plan(db, network.id, free, now).id)
    return networks.edit(
        db,
        network.id,
        support="Stuck? Ask at reception, or dial 9 from your room.",
        code_hint="It is on your room card.",
        privacy=PRIVACY,
        accounts=True,
    )


def _time_zone() -> str:
    """This machine's zone by its IANA name, so that the times on the pages are those of who looks at them; or UTC."""
    linked = os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    for name in (os.environ.get("TZ", ""), linked):
        with contextlib.suppress(fields.Invalid):
            return fields.time_zone(name)
    return "UTC"
