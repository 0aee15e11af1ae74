"""A WiFiDog gateway made of Python, to run an auth server against: `python -m portal.emulator --server URL --gw-id ID`.

Does what a router with WiFiDog does, both jobs in one process: catches guests' browsers, pings and reports counters.
Everything the real programs were seen to do on the wire it does to the byte, their mistakes included; what it transfers
and reports is kept in a book that the server's charges can be held against. Stands aside: imports nothing else of the
portal, and works against any auth server.

    with Gateway("http://127.0.0.1:8080/", "cafe") as gateway:
        gateway.start(loops=False)              # opens its web server, pings once
        phone = gateway.guest("phone")
        phone.sign_in(code="ABCD-EFGH-JKMN")    # caught, the splash page, back through the gateway
        phone.download(1_000_000)
        gateway.cycle()                         # one round of polls
        phone.account.reported.total            # what the server must have charged
"""

from portal.emulator.browser import Page
from portal.emulator.gateway import Gateway
from portal.emulator.guests import Guest
from portal.emulator.lan import Access, Account, Bytes, Station
from portal.emulator.program import Call, Client, Eviction
from portal.emulator.wire import AuthServer, Dialect, Machine, auth_server

__all__ = [
    "Access",
    "Account",
    "AuthServer",
    "Bytes",
    "Call",
    "Client",
    "Dialect",
    "Eviction",
    "Gateway",
    "Guest",
    "Machine",
    "Page",
    "Station",
    "auth_server",
]
