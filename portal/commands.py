"""What the command line does: each command as a function, and the work space they share.

Promises: see __main__, whose parser says which commands there are; this is the half that needs the database, and is
imported only when there is something to do: asking for help takes a tenth of the time without it. What a command
changes is in the record, like what is done at the desk.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from portal import config, fields, gateways, guests, keys, networks, operators, vouchers
from portal.config import Settings
from portal.fields import Invalid
from portal.gateways import Gateway, Health
from portal.keys import Keyring, KeysError
from portal.networks import Network, Plan
from portal.offload import Offload
from portal.operators import Role
from portal.store import Store, Unavailable
from portal.store.embedded import DatabaseNotStarted, Postgres
from portal.store.migrations import migrate

PROGRAM: Final = "python -m portal"


class Failed(Exception):
    """The command cannot be done; the message says why."""


class Misused(Exception):
    """The command makes no sense; the message says which option, and what was expected."""


@dataclass(frozen=True, slots=True)
class Office:
    """What commands work with: the settings, the database, the keys, and who gives the orders."""

    settings: Settings
    store: Store
    keyring: Keyring
    now: datetime
    actor: str

    @contextlib.contextmanager
    def work(self) -> Iterator[Connection]:
        """A transaction with time for large batches."""
        with self.store.transaction("jobs", caller="command") as db:
            yield db

    def record(
        self, db: Connection, action: str, subject: str, network: Network | None = None, **detail: object
    ) -> None:
        """Note in the same transaction what is done."""
        network_id = None if network is None else network.id
        operators.audit(db, self.actor, action, subject, self.now, network_id=network_id, detail=detail)


def say(text: str) -> None:
    """What was asked for."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def remark(text: str) -> None:
    """What a person should know, apart from what was asked for."""
    sys.stderr.write(text + "\n")


@contextlib.contextmanager
def database(settings: Settings, *, prepare: bool = True) -> Iterator[str]:
    """The URL of the settings' database, or of our own, joined or run for as long as the command takes.

    With `prepare` it has the newest schema.
    """
    with contextlib.ExitStack() as running:
        url = settings.database.url or running.enter_context(Postgres(settings.state).running())
        if prepare:
            migrate(url)
        yield url


@contextlib.contextmanager
def office(settings: Settings) -> Iterator[Office]:
    """Everything a command needs, closed afterwards."""
    keyring = Keyring.load_or_create(settings.state)
    with database(settings) as url, _store(url) as store:
        yield Office(settings, store, keyring, store.database_now("jobs"), _actor())


def _actor() -> str:
    return f"command line ({getpass.getuser()})"


@contextlib.contextmanager
def _store(url: str) -> Iterator[Store]:
    store = Store(url, application="gatepost command")
    try:
        yield store
    finally:
        store.dispose()


# Networks


def network_add(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = networks.add(
            db,
            given.slug,
            given.name,
            office.now,
            time_zone=given.time_zone,
            language=given.language,
            colour=given.colour,
        )
        office.record(db, "network.add", network.slug, network)
    remark(f"network {network.slug} added: {network.name}, {network.time_zone}, {network.language}")


def network_list(office: Office, _given: argparse.Namespace) -> None:
    with office.work() as db:
        found = [(n.slug, n.name, n.time_zone, n.language, ", ".join(_ways(n)) or "none") for n in networks.listed(db)]
    _table(("slug", "name", "time zone", "language", "ways in"), found)


def network_set(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = _network(db, given.slug)
        changed = networks.edit(
            db,
            network.id,
            name=given.name,
            time_zone=given.time_zone,
            language=given.language,
            colour=given.colour,
            support=given.support,
            terms=_text(given.terms),
            privacy=_text(given.privacy),
            vouchers=given.vouchers,
            accounts=given.accounts,
        )
        if given.click_plan is not None:
            plan = None if given.click_plan == "none" else _plan(db, network, given.click_plan).id
            networks.set_click_plan(db, network.id, plan)
        office.record(db, "network.edit", network.slug, network, terms_version=changed.terms_version)
    remark(f"network {network.slug} changed")


def _ways(network: Network) -> list[str]:
    ways = {"vouchers": network.vouchers, "accounts": network.accounts, "click": network.click_plan_id is not None}
    return [way for way, offered in ways.items() if offered]


# Plans


def plan_add(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = _network(db, given.network)
        plan = networks.add_plan(db, network.id, given.terms, office.now)
        if given.click:
            networks.set_click_plan(db, network.id, plan.id)
        office.record(db, "plan.add", plan.name, network)
    remark(f"plan {plan.name} added to {network.slug}: {_limits(plan)}")


def plan_list(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = _network(db, given.network)
        found = [(plan.name, _limits(plan)) for plan in networks.plans(db, network.id)]
    _table(("name", "limits"), found)


def _terms_from(given: argparse.Namespace) -> networks.Terms:
    try:
        return networks.terms(
            given.name,
            minutes=given.minutes,
            clock=given.clock,
            megabytes=given.megabytes,
            counts=given.counts,
            devices=None if given.devices == "any" else given.devices,
            valid_days=given.valid_days,
            idle_minutes=given.idle_minutes,
            period=given.period,
            period_minutes=given.period_minutes,
            period_megabytes=given.period_megabytes,
            cooldown_minutes=given.cooldown_minutes,
        )
    except Invalid as error:
        raise Misused(f"--{error.field.replace('_', '-')}: {error.expected}") from None


def _limits(plan: Plan) -> str:
    said = []
    if plan.seconds is not None:
        said.append(f"{plan.seconds // 60} min{' online' if plan.clock == 'online' else ''}")
    if plan.bytes is not None:
        said.append(f"{plan.bytes / fields.MEGABYTE:g} MB{'' if plan.counts == 'both' else ' ' + plan.counts}")
    if plan.period_seconds is not None:
        said.append(f"{plan.period_seconds // 60} min a {plan.period}")
    if plan.period_bytes is not None:
        said.append(f"{plan.period_bytes / fields.MEGABYTE:g} MB a {plan.period}")
    said.append("any number of devices" if plan.devices is None else f"{plan.devices} at once")
    if plan.valid_seconds is not None:
        said.append(f"for {plan.valid_seconds // 86_400} days")
    return ", ".join(said)


# Gateways


def gateway_add(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = _network(db, given.network)
        gateway = gateways.add(
            db,
            network.id,
            given.gw_id,
            office.now,
            name=given.name,
            dialect=given.dialect,
            address=given.address,
            interval_seconds=given.interval,
        )
        key = gateways.make_key(db, office.keyring, gateway.id, office.now)
        office.record(db, "gateway.add", gateway.gw_id, network)
    say(_lines(office, gateway, key))
    remark(f"gateway {gateway.gw_id} added to {network.slug}; the lines above go into its configuration")
    if gateway.address is None:
        remark("it has no recorded address yet: browsers go back to whatever private address they name")


def gateway_list(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        names = {network.id: network.slug for network in networks.listed(db)}
        only = None if given.network is None else [_network(db, given.network).id]
        found = gateways.adopted(db, office.now, only) + ([] if given.network else gateways.inbox(db, office.now))
    rows = [
        (
            health.gateway.gw_id,
            names.get(health.gateway.network_id or 0, "(inbox)"),
            _heard(health, office.now),
            "keyed" if health.keyed else "no key shown",
            f"{health.gateway.address}:{health.gateway.port}" if health.gateway.address else "not recorded",
            health.gateway.name,
        )
        for health in found
    ]
    _table(("gw_id", "network", "heard", "trust", "address", "name"), rows)


def gateway_key(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        gateway, network = _gateway(db, given.gw_id)
        if given.forget:
            gateways.forget_keys(db, gateway.id)
            office.record(db, "gateway.forget_keys", gateway.gw_id, network)
            remark(f"gateway {gateway.gw_id} is believed without a key from now on")
            return
        key = None if given.new else gateways.newest_key(db, office.keyring, gateway.id, office.now)
        if key is None:
            key = gateways.make_key(db, office.keyring, gateway.id, office.now)
            office.record(db, "gateway.key", gateway.gw_id, network)
            remark(f"a new key for {gateway.gw_id}; one before it stays valid for {gateways.KEY_GRACE.days} days")
    say(_lines(office, gateway, key))


def gateway_address(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        gateway, network = _gateway(db, given.gw_id)
        changed = gateways.record_address(db, gateway.id, given.address)
        office.record(db, "gateway.address", gateway.gw_id, network, address=changed.address, port=changed.port)
    remark(f"browsers of {changed.gw_id} go back to {changed.address}:{changed.port}")


def gateway_replace(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        gateway = gateways.replace(db, given.old, given.new, office.now)
        network = networks.get(db, gateway.network_id) if gateway.network_id else None
        key = gateways.newest_key(db, office.keyring, gateway.id, office.now)
        if key is None:
            key = gateways.make_key(db, office.keyring, gateway.id, office.now)
        office.record(db, "gateway.replace", f"{given.old} → {gateway.gw_id}", network)
    say(_lines(office, gateway, key))
    remark(f"{given.old} is called {gateway.gw_id} now; its guests stay online")


def _lines(office: Office, gateway: Gateway, key: str) -> str:
    host, port = gateways.reached_at(office.settings)
    return gateways.router_lines(host, port, gateway, key)


def browsers_reach_us_at(settings: Settings) -> str:
    """The address to put in front of links."""
    if settings.server.public_url:
        return settings.server.public_url
    host = settings.server.host
    return f"http://{'localhost' if host in gateways.EVERYWHERE else host}:{settings.server.port}"


def _heard(health: Health, now: datetime) -> str:
    if health.at is None:
        return "never"
    seconds = int((now - health.at).total_seconds())
    ago = (
        f"{seconds} s ago"
        if seconds < 120
        else f"{seconds // 60} min ago"
        if seconds < 7200
        else f"{health.at:%F %R} UTC"
    )
    return f"{'silent, last ' if health.silent(now) else ''}{ago}"


# Vouchers and guests


def voucher_issue(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = _network(db, given.network)
        plan = _plan(db, network, given.plan)
        batch, codes = vouchers.issue(
            db, office.keyring, plan, given.count, office.now, label=given.label, by=office.actor
        )
        office.record(db, "voucher.issue", f"batch {batch.id}", network, plan=plan.name, count=batch.size)
    csv.writer(sys.stdout, lineterminator="\n").writerows(vouchers.table(codes, plan.name, batch.label))
    remark(f"batch {batch.id}: {batch.size} of {plan.name} for {network.slug}")


def voucher_list(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = _network(db, given.network)
        found = vouchers.overviews(db, network.id, office.now)
    rows = [
        (str(v.batch.id), f"{v.batch.created_at:%F %R}", v.plan, v.batch.label, str(v.batch.size), str(v.unused),
         str(v.active), str(v.used_up), str(v.expired), str(v.revoked))
        for v in found
    ]  # fmt: skip
    _table(("batch", "issued", "plan", "label", "codes", "unused", "active", "used up", "expired", "revoked"), rows)


def voucher_revoke(office: Office, given: argparse.Namespace) -> None:
    if (given.batch is None) == (not given.codes):
        raise Failed("name either codes or a --batch")
    with office.work() as db:
        network = _network(db, given.network)
        if given.batch is not None:
            if vouchers.batch(db, network.id, given.batch) is None:
                raise Failed(f"there is no batch {given.batch} in {network.slug}")
            count = vouchers.revoke_batch(db, network.id, given.batch, office.now)
            office.record(db, "voucher.revoke", f"batch {given.batch}", network, count=count)
        else:
            found = []
            for number, typed in enumerate(given.codes, start=1):
                code = vouchers.normalise(typed)
                voucher = None if code is None else vouchers.find(db, office.keyring, network.id, code)
                if voucher is None:
                    raise Failed(f"the {number}. code is none of {network.slug}'s; nothing was revoked")
                found.append(voucher)
            count = sum(vouchers.revoke(db, voucher, office.now) for voucher in found)
            for voucher in found:
                office.record(db, "voucher.revoke", f"batch {voucher.batch_id}", network, voucher=voucher.id)
    remark(f"{count} revoked; who is online with one is cut off at the next poll")


def guest_add(office: Office, given: argparse.Namespace) -> None:
    password = sys.stdin.readline().rstrip("\r\n") if given.password_stdin else fields.made_password()
    guest = guests.checked(guests.Newcomer(given.username, password, given.name))
    hashed = _hashed(guest.password)
    with office.work() as db:
        network = _network(db, given.network)
        account = guests.add(db, _plan(db, network, given.plan), guest, hashed, office.now)
        if not network.accounts:
            networks.edit(db, network.id, accounts=True)
            remark(f"{network.slug} offers sign-in by user name from now on")
        office.record(db, "guest.add", account.username, network)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["username", *([] if given.password_stdin else ["password"])])
    writer.writerow([account.username, *([] if given.password_stdin else [password])])


def guest_import(office: Office, given: argparse.Namespace) -> None:
    try:
        content = given.file.read_bytes()
    except OSError as error:
        raise Failed(f"{given.file} cannot be read: {error.strerror}") from None
    newcomers, problems = guests.read_list(content)
    if not problems:
        with contextlib.closing(Offload()) as offload:
            hashed = [(guest, offload.hash_password(guest.password)) for guest in newcomers]
        with office.work() as db:
            network = _network(db, given.network)
            accounts, problems = guests.add_all(db, _plan(db, network, given.plan), hashed, office.now)
            if accounts:
                networks.edit(db, network.id, accounts=True)
                office.record(db, "guest.import", f"{len(accounts)} guests", network)
    if problems:
        for problem in problems:
            remark(f"{given.file}, {problem.line}: {problem.said}")
        raise Failed("nobody was added")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["username", "password"])
    writer.writerows([fields.cell(guest.username), guest.password] for guest in newcomers)


def _hashed(password: str) -> str:
    with contextlib.closing(Offload()) as offload:
        return offload.hash_password(password)


# Operators


def operator_add(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        network = None if given.network is None else _network(db, given.network)
        operator, token = operators.add(
            db, given.email, Role(given.role), None if network is None else network.id, office.now, name=given.name
        )
        office.record(db, "operator.add", operator.email, network, role=given.role)
    say(operators.link(browsers_reach_us_at(office.settings), "password", token))
    remark(f"{operator.email} opens the link, which works once and for {operators.INVITATION_LIFE.days} days")


def operator_link(office: Office, given: argparse.Namespace) -> None:
    with office.work() as db:
        operator = operators.by_email(db, given.email)
        if operator is None:
            raise Failed(f"there is no operator {given.email}")
        token = operators.invite_again(db, operator, office.now)
        office.record(db, "operator.link", operator.email)
    say(operators.link(browsers_reach_us_at(office.settings), "password", token))
    remark(f"by this link {operator.email} chooses a new password; it works once")


def operator_list(office: Office, _given: argparse.Namespace) -> None:
    with office.work() as db:
        names = {network.id: network.slug for network in networks.listed(db)}
        found = operators.listed(db)
    rows = [
        (
            operator.email,
            "stopped" if operator.disabled_at else "invited" if operator.invited else "active",
            ", ".join(
                f"{held.role} of {'everything' if held.network_id is None else names[held.network_id]}"
                for held in operator.memberships
            ),
            operator.name,
        )
        for operator in found
    ]
    _table(("email", "state", "roles", "name"), rows)


# The installation


def config_show(settings: Settings, _given: argparse.Namespace) -> int:
    say(config.show(settings))
    return 0


# The doctor, backups and the demo stand in rooms that only they need, and that take as long to import as all the rest.


def examine(settings: Settings, given: argparse.Namespace) -> int:
    """Print what the doctor finds; 1 if anything is bad."""
    from portal import doctor

    if settings.database.url or (settings.state / "postgres" / "data" / "PG_VERSION").exists():
        try:
            with database(settings, prepare=False) as url, _store(url) as store:
                found = doctor.examine(settings, store)
        except DatabaseNotStarted as error:
            found = doctor.examine(settings, None)[:-1]
            found.append(doctor.Finding("bad", "database", str(error), f"See {settings.state}/postgres/postgres.log."))
    else:
        found = doctor.examine(settings, None)
    if given.json:
        say(
            json.dumps([{name: getattr(each, name) for name in ("level", "thing", "said", "remedy")} for each in found])
        )
    else:
        marks = {"good": "ok  ", "warn": "warn", "bad": "RED "}
        for finding in sorted(found, key=lambda each: ("bad", "warn", "good").index(each.level)):
            say(f"{marks[finding.level]}  {finding.thing}: {finding.said}")
            if finding.remedy:
                say(f"      → {finding.remedy}")
    return 1 if any(finding.level == "bad" for finding in found) else 0


def make_backup(settings: Settings, given: argparse.Namespace) -> int:
    from portal import backup

    with database(settings, prepare=False) as url, _store(url) as store:
        try:
            manifest = backup.backup(store, settings.state, given.file, store.database_now("jobs"))
        except backup.BackupError as error:
            raise Failed(str(error)) from None
    size = given.file.stat().st_size / 10**6
    remark(f"{given.file}: {size:.1f} MB, schema {manifest.revision}; keep it safe, for it holds the keys too")
    return 0


def restore_backup(settings: Settings, given: argparse.Namespace) -> int:
    from portal import backup

    with database(settings, prepare=False) as url, _store(url) as store:
        now = store.database_now("jobs")
        try:
            manifest = backup.restore(store, settings.state, given.file, now, force=given.force, say=remark)
        except backup.BackupError as error:
            raise Failed(str(error)) from None
        with store.transaction("jobs", caller="command") as db:
            detail = {"made_at": manifest.made_at}
            operators.audit(db, _actor(), "installation.restore", given.file.name, now, detail=detail)
    remark(f"restored what was saved at {manifest.made_at:%Y-%m-%d %H:%M} UTC; start the server now")
    return 0


def show_demo(settings: Settings, given: argparse.Namespace) -> int:
    """Run the demo beside whatever this installation does."""
    from portal import demo

    try:
        return demo.run(settings.state / "demo", sys.stdout, port=given.port, gateway_port=given.gateway_port)
    except demo.Impossible as error:
        raise Failed(str(error)) from None


def rotate_keys(settings: Settings, _given: argparse.Namespace) -> int:
    Keyring.load_or_create(settings.state)
    key_id = keys.rotate(settings.state)
    remark(f"key {key_id} is made; restart the server to use it. What older keys made stays good.")
    return 0


# Finding things, printing tables


def _network(db: Connection, slug: str) -> Network:
    found = networks.by_slug(db, slug)
    if found is None:
        others = ", ".join(network.slug for network in networks.listed(db))
        raise Failed(f"there is no network {slug!r}; {f'there are: {others}' if others else 'add one first'}")
    return found


def _plan(db: Connection, network: Network, name: str) -> Plan:
    found = networks.plan_named(db, network.id, name)
    if found is None:
        others = ", ".join(plan.name for plan in networks.plans(db, network.id))
        raise Failed(f"{network.slug} has no plan {name!r}; {f'it has: {others}' if others else 'add one first'}")
    return found


def _gateway(db: Connection, gw_id: str) -> tuple[Gateway, Network | None]:
    found = gateways.by_gw_id(db, gw_id)
    if found is None or found.state == "inbox":
        raise Failed(f"there is no gateway {gw_id!r}; python -m portal gateway list shows them")
    return found, networks.get(db, found.network_id) if found.network_id else None


def _text(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"{file} cannot be read: {error}") from None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# Which is which

OFFICE: Final[Mapping[str, Callable[[Office, argparse.Namespace], None]]] = {
    "network add": network_add,
    "network list": network_list,
    "network set": network_set,
    "plan add": plan_add,
    "plan list": plan_list,
    "gateway add": gateway_add,
    "gateway list": gateway_list,
    "gateway key": gateway_key,
    "gateway address": gateway_address,
    "gateway replace": gateway_replace,
    "voucher issue": voucher_issue,
    "voucher list": voucher_list,
    "voucher revoke": voucher_revoke,
    "guest add": guest_add,
    "guest import": guest_import,
    "operator add": operator_add,
    "operator link": operator_link,
    "operator list": operator_list,
}
"""Commands that work in an office."""

PLAIN: Final[Mapping[str, Callable[[Settings, argparse.Namespace], int]]] = {
    "config show": config_show,
    "keys rotate": rotate_keys,
    "doctor": examine,
    "backup": make_backup,
    "restore": restore_backup,
    "demo": show_demo,
}
"""Commands that see to a database themselves, or need none; they return the exit status."""


def run(given: argparse.Namespace) -> int:
    """Do the command of a parsed command line; the exit status. Raises Misused."""
    # Before a database is started for it.
    if given.command == "plan add":
        given.terms = _terms_from(given)
    try:
        settings = config.load(given.config)
        if given.command in PLAIN:
            return PLAIN[given.command](settings, given)
        with office(settings) as opened:
            OFFICE[given.command](opened, given)
        return 0
    except config.Invalid as error:
        remark(f"{PROGRAM}: the settings cannot be used:\n{error}")
    except (Failed, Invalid, KeysError, DatabaseNotStarted) as error:
        remark(f"{PROGRAM}: {error}")
    except Unavailable as error:
        remark(f"{PROGRAM}: the database does not answer: {error}")
    except BrokenPipeError:
        # Whoever read our output has read enough; nothing more may be written to it, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
