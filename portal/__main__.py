"""`python -m portal`: the operator's command line.

Promises: works beside a running server and without one; standard output holds what was asked for and nothing else
(codes, lines to paste, links), remarks go to standard error; ends with 0 when it is done, 1 when it could not be done,
2 when the command makes no sense, and then with one sentence that says why. What it changes is in the record, like
what is done at the desk.

This is the parser, and imports next to nothing; what the commands do is in commands.py.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from portal import __version__, fields

# What the commands' own rooms say too; importing those for a page of help would cost a second. Held to be the same by
# the tests.
ROLES: Final = ("desk", "manager", "owner")
LARGEST_BATCH: Final = 100_000

Verb = Callable[..., argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """The whole command line, with its help."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="settings (config.toml of the program)"
    )
    root = argparse.ArgumentParser(
        prog="python -m portal",
        description="Gatepost: guest Wi-Fi authentication. Works beside a running server and without one.",
    )
    root.add_argument("--config", type=Path, metavar="FILE", default=None, help="settings (config.toml of the program)")
    root.add_argument("--version", action="version", version=f"Gatepost {__version__}")
    nouns = root.add_subparsers(metavar="COMMAND", required=True)

    def noun(name: str, said: str) -> Any:
        return nouns.add_parser(name, help=said, description=said).add_subparsers(metavar="ACTION", required=True)

    def verb(under: Any, command: str, said: str) -> argparse.ArgumentParser:
        name = command.rpartition(" ")[2]
        made: argparse.ArgumentParser = under.add_parser(name, help=said, description=said, parents=[common])
        made.set_defaults(command=command)
        return made

    _network_commands(noun("network", "networks: one look, one set of plans"), verb)
    _plan_commands(noun("plan", "plans: what guests may use"), verb)
    _gateway_commands(noun("gateway", "gateways: the routers"), verb)
    _voucher_commands(noun("voucher", "voucher codes"), verb)
    _guest_commands(noun("guest", "guests with a user name"), verb)
    _operator_commands(noun("operator", "the people who run networks"), verb)
    verb(noun("config", "the settings"), "config show", "print the settings in force, without passwords")
    verb(noun("keys", "the installation's keys"), "keys rotate", "add a key and make it current")
    made = verb(nouns, "doctor", "name each thing that is not well, and how to mend it")
    made.add_argument("--json", action="store_true", help="for programs")
    made = verb(nouns, "backup", "save the database and the keys in one file")
    made.add_argument("file", type=Path, metavar="FILE", help="must not exist yet; holds secrets, so keep it safe")
    made = verb(nouns, "restore", "put a backup in place; the server must be stopped")
    made.add_argument("file", type=Path, metavar="FILE", help="made by backup")
    made.add_argument("--force", action="store_true", help="replace an installation that has something in it")
    made = verb(nouns, "demo", "a server, an emulated gateway and a voucher to try, until Ctrl-C")
    made.add_argument("--port", type=int, metavar="PORT", help="of the server (8080, or the next that is free)")
    made.add_argument("--gateway-port", type=int, metavar="PORT", help="of the gateway (2060, or the next)")
    return root


def _network_commands(under: Any, verb: Verb) -> None:
    made = verb(under, "network add", "add a network")
    made.add_argument("name", metavar="NAME", help="as guests see it")
    made.add_argument(
        "--slug", required=True, metavar="SLUG", help="short name for addresses and commands: a-z, 0-9, -"
    )
    made.add_argument(
        "--time-zone", default="UTC", metavar="ZONE", help="where days begin, such as Europe/Madrid (UTC)"
    )
    made.add_argument(
        "--language", default="en", choices=fields.LANGUAGES, help="of guests whose browser says none (en)"
    )
    made.add_argument("--colour", default="#24463f", metavar="#RRGGBB", help="(#24463f)")
    verb(under, "network list", "list networks")
    made = verb(under, "network set", "change what is given, and nothing else")
    made.add_argument("slug", metavar="SLUG", help="the network's short name")
    made.add_argument("--name", metavar="NAME")
    made.add_argument("--time-zone", metavar="ZONE")
    made.add_argument("--language", choices=fields.LANGUAGES)
    made.add_argument("--colour", metavar="#RRGGBB")
    made.add_argument("--support", metavar="TEXT", help="whom guests may ask")
    made.add_argument("--terms", type=Path, metavar="FILE", help="the terms guests accept; a change gets a new version")
    made.add_argument("--privacy", type=Path, metavar="FILE", help="what the page says of privacy")
    made.add_argument("--vouchers", action=argparse.BooleanOptionalAction, help="sign-in by code")
    made.add_argument("--accounts", action=argparse.BooleanOptionalAction, help="sign-in by user name and password")
    made.add_argument("--click-plan", metavar="PLAN", help="what accepting the terms gives; none ends it")


def _plan_commands(under: Any, verb: Verb) -> None:
    made = verb(under, "plan add", "add a plan")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made.add_argument("--name", required=True, metavar="NAME", help="as guests see it")
    made.add_argument("--minutes", metavar="NUMBER", help="from the first use on")
    made.add_argument("--clock", default="wall", choices=("wall", "online"), help="minutes pass always, or only online")
    made.add_argument("--megabytes", metavar="NUMBER", help="of 1,000,000 bytes")
    made.add_argument("--counts", default="both", choices=("both", "down", "up"), help="which direction counts (both)")
    made.add_argument("--devices", default="1", metavar="NUMBER", help='at once; "any" for no limit (1)')
    made.add_argument("--valid-days", metavar="DAYS", help="from the day it is issued")
    made.add_argument("--idle-minutes", metavar="NUMBER", help="without traffic, then signed out")
    made.add_argument("--period", choices=("day", "week", "month"), help="of the network's time zone, with:")
    made.add_argument("--period-minutes", metavar="NUMBER", help="in each period")
    made.add_argument("--period-megabytes", metavar="NUMBER", help="in each period")
    made.add_argument("--cooldown-minutes", metavar="NUMBER", help="between one click-through and the next")
    made.add_argument("--click", action="store_true", help="give it to whoever accepts the terms")
    made = verb(under, "plan list", "list a network's plans")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")


def _gateway_commands(under: Any, verb: Verb) -> None:
    made = verb(under, "gateway add", "add a gateway, or adopt one from the inbox; prints its lines")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made.add_argument("--gw-id", required=True, metavar="ID", help="the GatewayID of its configuration")
    made.add_argument("--address", metavar="HOST[:PORT]", help="where browsers are sent back to (port 2060)")
    made.add_argument("--dialect", default="classic", choices=("classic", "apfree"), help="its program (classic)")
    made.add_argument("--name", default="", metavar="NAME", help="for people")
    made.add_argument("--interval", type=int, default=60, metavar="SECONDS", help="its CheckInterval (60)")
    made = verb(under, "gateway list", "list gateways, with those that wait in the inbox")
    made.add_argument("--network", metavar="SLUG", help="the network's short name")
    made = verb(under, "gateway key", "print the lines for a gateway's configuration, with its key")
    made.add_argument("gw_id", metavar="ID")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--new", action="store_true", help="make a new key first")
    which.add_argument("--forget", action="store_true", help="believe it without a key again")
    made = verb(under, "gateway address", "record where browsers are sent back to")
    made.add_argument("gw_id", metavar="ID")
    made.add_argument("address", metavar="HOST[:PORT]")
    made = verb(under, "gateway replace", "a gateway gets another id; its guests stay online")
    made.add_argument("old", metavar="OLD")
    made.add_argument("new", metavar="NEW")


def _voucher_commands(under: Any, verb: Verb) -> None:
    made = verb(under, "voucher issue", "issue codes; CSV on standard output, first column code")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made.add_argument("--plan", required=True, metavar="NAME", help="the plan's name")
    made.add_argument("--count", required=True, metavar="NUMBER", help=f"at most {LARGEST_BATCH}")
    made.add_argument("--label", default="", metavar="TEXT", help="to know the batch by")
    made = verb(under, "voucher list", "list a network's batches")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made = verb(under, "voucher revoke", "take codes back, or a whole batch")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made.add_argument("--batch", type=int, metavar="NUMBER")
    made.add_argument("codes", nargs="*", metavar="CODE")


def _guest_commands(under: Any, verb: Verb) -> None:
    made = verb(under, "guest add", "add a guest; prints user name and password as CSV")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made.add_argument("--plan", required=True, metavar="NAME", help="the plan's name")
    made.add_argument("username", metavar="USERNAME")
    made.add_argument("--name", default="", metavar="NAME")
    made.add_argument("--password-stdin", action="store_true", help="read it from standard input; else one is made")
    made = verb(under, "guest import", "add guests from a CSV file with a column username, all or none")
    made.add_argument("--network", required=True, metavar="SLUG", help="the network's short name")
    made.add_argument("--plan", required=True, metavar="NAME", help="the plan's name")
    made.add_argument("file", type=Path, metavar="FILE", help="columns username, password, name")


def _operator_commands(under: Any, verb: Verb) -> None:
    made = verb(under, "operator add", "add an operator; prints an invitation link")
    made.add_argument("email", metavar="EMAIL")
    made.add_argument("--role", required=True, choices=ROLES)
    made.add_argument("--network", metavar="SLUG", help="where; without it, everywhere")
    made.add_argument("--name", default="", metavar="NAME")
    made = verb(under, "operator link", "print a link by which an operator chooses a new password")
    made.add_argument("email", metavar="EMAIL")
    verb(under, "operator list", "list operators")


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit status."""
    root = parser()
    given = root.parse_args(arguments)
    # Only now, since this takes the database's rooms along: see above.
    from portal import commands

    try:
        return commands.run(given)
    except commands.Misused as error:
        root.error(str(error))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
