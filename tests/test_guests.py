"""Guests with accounts, one by one and as a list; devices that are kept out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection

from portal import grants, guests, networks
from portal.fields import Invalid
from portal.guests import Newcomer, Problem

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MAC = "02:00:00:00:00:01"


@pytest.fixture
def day(db: Connection) -> networks.Plan:
    network = networks.add(db, "linde", "Café Linde", NOW)
    return networks.add_plan(db, network.id, networks.terms("Staff", minutes=60), NOW)


def test_an_account_can_be_looked_up_in_any_case_and_has_its_plans_terms(db: Connection, day: networks.Plan) -> None:
    added = guests.add(db, day, Newcomer("Ana  Gómez", "secret words", "Ana"), "hash", NOW)
    assert (added.username, added.name, added.password_hash, added.blocked_at) == ("Ana Gómez", "Ana", "hash", None)
    assert guests.look_up(db, day.network_id, " ana GÓMEZ ") == added
    assert guests.get(db, day.network_id, added.id) == added
    grant = grants.load(db, added.grant_id, NOW)
    assert (grant.kind, grant.seconds) == ("account", 3600)


def test_a_user_name_is_one_guests_in_a_network(db: Connection, day: networks.Plan) -> None:
    guests.add(db, day, Newcomer("ana", "secret"), "hash", NOW)
    with pytest.raises(Invalid, match="^username: the user name is taken"):
        guests.add(db, day, Newcomer("ANA", "secret"), "hash", NOW)
    other = networks.add(db, "ana", "ana's", NOW)
    theirs = networks.add_plan(db, other.id, networks.terms("Staff"), NOW)
    assert guests.add(db, theirs, Newcomer("ana", "secret"), "hash", NOW).network_id == other.id


def test_names_that_only_some_rules_take_for_the_same_are_told_as_the_database_does(
    db: Connection, day: networks.Plan
) -> None:
    pairs = [("İris", "iris"), ("STRASSE", "straße"), ("ΟΔΟΣ", "οδος")]
    for one, other in pairs:
        guests.add(db, day, Newcomer(one, "secret"), "hash", NOW)
        same = guests.look_up(db, day.network_id, other) is not None
        _, problems = guests.add_all(db, day, [(Newcomer(other, "secret"), "hash")], NOW)
        assert bool(problems) == same


@pytest.mark.parametrize("typed", ["", "  ", "nobody", "a\0b", "x" * 10_000])
def test_nobody_is_found_under_another_name(db: Connection, day: networks.Plan, typed: str) -> None:
    assert guests.look_up(db, day.network_id, typed) is None


def test_a_list_is_taken_as_a_whole(db: Connection, day: networks.Plan) -> None:
    newcomers = [(Newcomer(f"guest{number:04}", "secret"), f"hash{number}") for number in range(2500)]
    accounts, problems = guests.add_all(db, day, newcomers, NOW)
    assert problems == []
    assert len({account.grant_id for account in accounts}) == 2500
    found = guests.look_up(db, day.network_id, "GUEST2499")
    assert found is not None
    assert found.password_hash == "hash2499"


def test_a_list_with_a_name_in_the_way_is_refused_as_a_whole_line_by_line(db: Connection, day: networks.Plan) -> None:
    guests.add(db, day, Newcomer("ana", "secret"), "hash", NOW)
    names = ["bea", "ANA", "cleo", "Bea"]
    accounts, problems = guests.add_all(db, day, [(Newcomer(name, "secret"), "hash") for name in names], NOW)
    assert accounts == []
    assert problems == [Problem(2, "the user name is taken"), Problem(4, "the user name stands in line 1 already")]
    assert [account.username for account in guests.listed(db, day.network_id)] == ["ana"]


def test_a_file_of_guests_is_read_as_spreadsheets_write_it() -> None:
    content = '\ufeffUsername;Name;Password\r\nana;"Gómez; Ana";secret1\r\n\r\nbea;;\r\n'.encode()
    found, problems = guests.read_list(content)
    assert problems == []
    assert found[0] == Newcomer("ana", "secret1", "Gómez; Ana")
    assert found[1].username == "bea"
    assert len(found[1].password) >= 12


def test_lines_that_cannot_be_taken_are_told_by_their_number_and_without_the_password() -> None:
    found, problems = guests.read_list(
        b"username,password\nana,secret1\n,hidden1\nbea,short\n" + b"x" * 65 + b",hidden2\n"
    )
    assert [guest.username for guest in found] == ["ana"]
    assert [problem.line for problem in problems] == [3, 4, 5]
    assert problems[1].said == "password: expected 6 to 256 characters"
    assert not any(word in str(problems) for word in ("hidden", "short"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "first line that names the columns"),
        (b"name,password\nana,secret\n", "one of them username"),
        (b"username\n\xff\xfe\n", "UTF-8"),
        (b'username\n"open', "line 2 cannot be read"),
        (b"username\n" + b"x" * (5 * 2**20), "at most 5 MiB"),
    ],
)
def test_what_is_no_list_of_guests_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        guests.read_list(content)


def test_more_guests_than_a_list_may_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "LARGEST_LIST", 3)
    with pytest.raises(Invalid, match="at most 3 guests"):
        guests.read_list(b"username\na\nb\nc\nd\n")


def test_accounts_are_listed_by_name_page_by_page_and_searched(db: Connection, day: networks.Plan) -> None:
    for name in ("cleo", "Ana", "bea", "dora"):
        guests.add(db, day, Newcomer(name, "secret", f"{name} Müller"), "hash", NOW)
    first = guests.listed(db, day.network_id, most=3)
    assert [account.username for account in first] == ["Ana", "bea", "cleo"]
    assert [account.username for account in guests.listed(db, day.network_id, after=first[-1].username)] == ["dora"]
    assert [account.username for account in guests.listed(db, day.network_id, search="DORA MÜ")] == ["dora"]
    assert guests.listed(db, day.network_id, search="%") == []


def test_an_account_can_be_blocked_given_a_password_and_seen(db: Connection, day: networks.Plan) -> None:
    account = guests.add(db, day, Newcomer("ana", "secret"), "hash", NOW)
    guests.block(db, day.network_id, account.id, NOW)
    guests.block(db, day.network_id, account.id, NOW + timedelta(days=1))
    guests.set_password(db, day.network_id, account.id, "other")
    guests.seen(db, account, NOW)
    changed = guests.get(db, day.network_id, account.id)
    assert changed is not None
    assert (changed.blocked_at, changed.password_hash, changed.seen_at) == (NOW, "other", NOW)
    guests.unblock(db, day.network_id, account.id, NOW)
    unblocked = guests.get(db, day.network_id, account.id)
    assert unblocked is not None
    assert unblocked.blocked_at is None


def test_another_networks_account_cannot_be_touched(db: Connection, day: networks.Plan) -> None:
    account = guests.add(db, day, Newcomer("ana", "secret"), "hash", NOW)
    other = networks.add(db, "ana", "ana's", NOW)
    theirs = networks.add_plan(db, other.id, networks.terms("Staff"), NOW)
    assert guests.get(db, other.id, account.id) is None
    with pytest.raises(Invalid):
        guests.block(db, other.id, account.id, NOW)
    with pytest.raises(Invalid):
        guests.set_password(db, other.id, account.id, "x")
    with pytest.raises(Invalid):
        guests.give(db, account, theirs, NOW)
    assert guests.get(db, day.network_id, account.id) == account


def test_an_account_that_is_given_another_plan_starts_afresh_and_leaves_the_old_grant(
    db: Connection, day: networks.Plan
) -> None:
    account = guests.add(db, day, Newcomer("ana", "secret"), "hash", NOW)
    week = networks.add_plan(db, day.network_id, networks.terms("Week", minutes=10_080), NOW)
    given = guests.give(db, account, week, NOW)
    assert grants.load(db, given.grant_id, NOW).seconds == 604_800
    assert grants.load(db, account.grant_id, NOW).revoked_at == NOW


def test_a_blocked_device_is_kept_out_until_then_and_can_be_let_in_again(db: Connection, day: networks.Plan) -> None:
    until = NOW + timedelta(minutes=30)
    guests.block_station(db, day.network_id, MAC, until, NOW)
    assert guests.blocked_until(db, day.network_id, MAC, NOW) == until
    assert [station.mac for station in guests.blocked(db, day.network_id, NOW)] == [MAC]
    assert guests.blocked_until(db, day.network_id, MAC, until) is None
    assert guests.blocked(db, day.network_id, until) == []
    guests.unblock_station(db, day.network_id, MAC)
    assert guests.blocked_until(db, day.network_id, MAC, NOW) is None
    assert guests.blocked_until(db, day.network_id, None, NOW) is None


def test_a_block_ends_some_day(db: Connection, day: networks.Plan) -> None:
    for until in (NOW, NOW - timedelta(minutes=1), NOW + timedelta(days=4000)):
        with pytest.raises(Invalid, match="^until"):
            guests.block_station(db, day.network_id, MAC, until, NOW)


def test_the_desk_may_give_a_device_a_name(db: Connection, day: networks.Plan) -> None:
    guests.block_station(db, day.network_id, MAC, NOW + timedelta(hours=1), NOW)
    guests.name_station(db, day.network_id, MAC, "  Till   2 ")
    station = guests.station(db, day.network_id, MAC)
    assert station is not None
    assert station.name == "Till 2"
    assert guests.station(db, day.network_id, "02:00:00:00:00:02") is None
