"""`python -m portal.emulator`: one emulated gateway against any auth server.

Promises: ends with 0 on SIGTERM or SIGINT when all was well, 1 when a loop failed or the port is taken, 2 for a
command line that makes no sense; the last thing it prints are the totals.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

from portal.emulator.console import Console, charged_by
from portal.emulator.crowd import Appetite, Crowd
from portal.emulator.gateway import Gateway
from portal.emulator.wire import Dialect, auth_server

_EPILOG = """\
A browser that opens http://ADDRESS:PORT/ is caught like a guest's. All browsers are one guest, unless they connect from
127.0.0.3, 127.0.0.4, … (curl --interface 127.0.0.3), which are the simulated guests.
SIGUSR1 switches the router off and on, SIGTERM ends it without a word to the server, as the real one does.
"""
_ENDING = {signal.SIGTERM, signal.SIGINT}
_HEARD = _ENDING | {signal.SIGUSR1}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m portal.emulator",
        description="A WiFiDog gateway: catches browsers, pings an auth server and reports counters to it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--server", metavar="URL", action="append", required=True, help="the auth server; several for failover"
    )
    made.add_argument("--gw-id", metavar="ID", required=True, help="the gateway's name for the server")
    made.add_argument("--port", type=int, default=2060, help="of the gateway's own web server, 0 for any (2060)")
    made.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="where it listens (127.0.0.1)")
    made.add_argument("--address", metavar="ADDRESS", help="the gw_address guests are sent back to (as --listen)")
    made.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="CheckInterval (60)")
    made.add_argument("--client-timeout", type=int, default=5, metavar="N", help="ClientTimeout, in intervals (5)")
    made.add_argument("--path", help="the server's Path (that of the URL, or /wifidog/)")
    made.add_argument("--key", default="", help="the gateway's key; without it that of EMULATOR_KEY, if any")
    made.add_argument("--auth-path", metavar="FRAGMENT", help="AuthScriptPathFragment (auth/?, with the key if any)")
    made.add_argument("--ping-path", metavar="FRAGMENT", help="PingScriptPathFragment (ping/?, with the key if any)")
    made.add_argument(
        "--ssl-port", type=int, metavar="PORT", help="send browsers there by https; the gateway stays on http"
    )
    made.add_argument("--dialect", choices=[dialect.value for dialect in Dialect], default="classic")
    made.add_argument("--device-id", default="", metavar="ID", help="apfree's device_id")
    made.add_argument("--delta-traffic", action="store_true", help="DeltaTraffic yes")
    made.add_argument("--auth-down-opens", action="store_true", help="with a ruleset auth-is-down that lets all pass")
    made.add_argument(
        "--swapped", action=argparse.BooleanOptionalAction, help="a download is reported as outgoing (apfree: yes)"
    )
    made.add_argument("--guests", type=int, default=0, metavar="N", help="simulated guests who sign in by themselves")
    made.add_argument("--code", action="append", default=[], help="a voucher code for them; without, they click")
    made.add_argument("--rate", type=float, default=0.0, metavar="BYTES_PER_S", help="traffic of everyone online")
    made.add_argument("--charged", metavar="COMMAND", help="prints what was charged, as CSV")
    made.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two tables (5)")
    return made


def build(arguments: argparse.Namespace, console: Console) -> Gateway:
    """The gateway that the command line asks for. Raises ValueError, saying what was wrong and what was expected."""
    if arguments.guests < 0 or arguments.rate < 0 or arguments.every <= 0:
        raise ValueError("guests and rate: expected 0 or more; every: expected more than 0")
    if arguments.ssl_port is not None and not 0 < arguments.ssl_port <= 65535:
        raise ValueError(f"ssl port {arguments.ssl_port}: expected 1 to 65535")
    try:
        everywhere = IPv4Address(arguments.listen).is_unspecified
    except ValueError:
        raise ValueError(f"listen {arguments.listen!r}: expected an IPv4 address") from None
    dialect = Dialect(arguments.dialect)
    servers = [
        auth_server(
            url,
            path=arguments.path,
            key=arguments.key or os.environ.get("EMULATOR_KEY", ""),
            ssl_port=arguments.ssl_port,
            dialect=dialect,
            auth_fragment=arguments.auth_path,
            ping_fragment=arguments.ping_path,
        )
        for url in arguments.server
    ]
    return Gateway(
        servers,
        arguments.gw_id,
        interval=arguments.interval,
        client_timeout=arguments.client_timeout,
        address=arguments.address or ("127.0.0.1" if everywhere else arguments.listen),
        port=arguments.port,
        dialect=dialect,
        delta_traffic=arguments.delta_traffic,
        auth_down_opens=arguments.auth_down_opens,
        device_id=arguments.device_id,
        swapped=arguments.swapped,
        on_event=console.event,
        on_alarm=console.alarm,
    )


def main(argv: Sequence[str] | None = None) -> int:
    reader = parser()
    arguments = reader.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    console = Console(sys.stdout, every=arguments.every)
    try:
        gateway = build(arguments, console)
    except ValueError as error:
        reader.error(str(error))
    # Waited for rather than handled: nothing is ever interrupted half way. Threads inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    try:
        gateway.start(listen=arguments.listen)
    except OSError as error:
        reader.exit(1, f"{arguments.listen}:{arguments.port}: cannot listen there: {os.strerror(error.errno or 0)}\n")
    if arguments.rate:
        gateway.run_beside("traffic", Appetite(gateway, arguments.rate, time.monotonic).step, pause=0.2)
    if arguments.guests:
        guests = [gateway.guest(f"guest-{number}") for number in range(1, arguments.guests + 1)]
        crowd = Crowd(gateway, guests, arguments.code, console.event, time.monotonic)
        gateway.run_beside("guests", crowd.step, pause=0.5)

    def wait(seconds: float) -> bool:
        heard = signal.sigtimedwait(_HEARD, seconds)
        if heard is not None and heard.si_signo == signal.SIGUSR1:
            gateway.restart()
        return heard is not None and heard.si_signo in _ENDING

    return console.run(gateway, wait, charged_by(arguments.charged) if arguments.charged else None)


if __name__ == "__main__":
    sys.exit(main())
