"""Guests' accounts and kept-out devices at the desk."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from portal import guests, networks, operators
from portal.guests import Account
from portal.networks import Network, Plan
from tests.web.desk.offices import Browser, Office
from tests.worlds import Cafe

HOME = "/desk/networks/hotel-linde/guests"


@pytest.fixture
def plan(office: Office, linde: Network) -> Plan:
    return office.plan(linde, "1 week, 2 GB a day", minutes=10_080, period="day", period_megabytes=2_000)


def account(office: Office, network: Network, username: str) -> Account | None:
    with office.store.read() as db:
        return guests.look_up(db, network.id, username)


def test_an_account_is_added_and_its_password_opens_it(
    office: Office, ana: Browser, linde: Network, plan: Plan
) -> None:
    form = {"username": "m.okafor", "name": "Mary Okafor", "password": "tea at four", "plan": str(plan.id)}
    page = ana.fills_in(HOME, form)
    assert "m.okafor may sign in" in page
    assert "Mary Okafor" in page
    assert "7 days and 2 GB today left" in page
    added = account(office, linde, "M.Okafor")
    assert added is not None
    assert office.offload.verify_password(added.password_hash, "tea at four")


def test_without_a_password_one_is_made_and_shown_once(
    office: Office, ana: Browser, linde: Network, plan: Plan
) -> None:
    page = ana.fills_in(HOME, {"username": "room 214", "password": "", "plan": str(plan.id)})
    made = re.search(r'aria-label="Password">([a-z0-9-]{14})<', page.html)
    assert made is not None
    added = account(office, linde, "room 214")
    assert added is not None
    assert office.offload.verify_password(added.password_hash, made[1])
    assert made[1] not in ana.opens(HOME).html
    assert made[1] not in str(ana.cookie)


@pytest.mark.usefixtures("linde")
def test_a_user_name_that_is_taken_is_refused_and_the_password_is_not_shown_again(ana: Browser, plan: Plan) -> None:
    form = {"username": "m.okafor", "password": "tea at four", "plan": str(plan.id)}
    ana.fills_in(HOME, form)
    page = ana.fills_in(HOME, {**form, "username": "M.OKAFOR"})
    assert page.status == 400
    assert "The user name is taken" in page
    assert "tea at four" not in page.html


def test_a_blocked_account_is_out_at_once_and_stays_out_until_let_in_again(office: Office, cafe: Cafe) -> None:
    ana = office.browser(office.operator("ana@cafe.example", operators.Role.OWNER))
    with office.store.transaction() as db:
        network = networks.get(db, cafe.network_id)
    assert network is not None
    plan = office.plan(network, "A week", minutes=10_080)
    home = "/desk/networks/cafe/guests"
    ana.fills_in(home, {"username": "m.okafor", "password": "tea at four", "plan": str(plan.id)})
    added = account(office, network, "m.okafor")
    assert added is not None
    phone = cafe.phone()
    from portal import grants

    with office.store.read() as db:
        grant = grants.load(db, added.grant_id, office.now())
    phone.comes_online(grant)
    assert "1 device online with it will be cut off" in ana.opens(f"{home}/{added.id}/block")
    page = ana.sends(f"{home}/{added.id}/block")
    assert "m.okafor is blocked" in page
    assert cafe.session_of(phone.token).end_reason == "blocked"
    ana.opens(f"{home}/{added.id}/block")
    assert "may sign in again" in ana.sends(f"{home}/{added.id}/block")
    unblocked = account(office, network, "m.okafor")
    assert unblocked is not None
    assert unblocked.blocked_at is None


@pytest.mark.usefixtures("linde")
def test_a_guest_is_found_by_a_part_of_a_name_and_the_list_goes_on(office: Office, ana: Browser, plan: Plan) -> None:
    with office.store.transaction() as db:
        newcomers = [(guests.Newcomer(f"guest{n:02}", "secret-pass", f"Name {n}"), office.hash()) for n in range(60)]
        guests.add_all(db, plan, newcomers, office.now())
    first = ana.opens(HOME)
    following = re.search(r'href="([^"]+)" rel="next"', first.html)
    assert following is not None
    rest = ana.opens(following[1].replace("&amp;", "&"))
    assert "guest49" in first
    assert "guest50" in rest
    found = ana.opens(f"{HOME}?q=NAME+7")
    assert "guest07" in found
    assert "guest08" not in found
    assert "No account matches “%”" in ana.opens(f"{HOME}?q=%25")


def test_a_device_that_is_kept_out_is_listed_and_let_in_again(office: Office, ana: Browser, linde: Network) -> None:
    mac = "02:00:00:00:00:07"
    with office.store.transaction() as db:
        guests.block_station(db, linde.id, mac, office.now() + timedelta(hours=1), office.now())
    assert mac in ana.opens(HOME)
    page = ana.sends(f"{HOME}/devices", {"mac": mac})
    assert f"{mac} may come in again" in page
    assert "Devices kept out" not in page
    assert ana.sends(f"{HOME}/devices", {"mac": "nonsense"}).status == 400
    with office.store.read() as db:
        assert mac not in str(operators.record(db, [linde.id]))


def test_when_the_splash_page_has_no_accounts_the_desk_says_so(office: Office, ana: Browser, linde: Network) -> None:
    assert "does not offer this way in" in ana.opens(HOME)
    with office.store.transaction() as db:
        networks.edit(db, linde.id, accounts=True)
    assert "does not offer this way in" not in ana.opens(HOME)
