"""People at the desk: invited, given a part, stopped; and the record of it."""

from __future__ import annotations

import re

import pytest

from portal import operators
from portal.networks import Network
from portal.operators import Operator, Role
from tests.web.desk.offices import PASSWORD, Browser, Office

HOME = "/desk/networks/hotel-linde/people"
LINK = re.compile(r'aria-label="Link">http://localhost(/[^<]+)<')
OTHER = "seven green owls read slowly"


@pytest.fixture
def lin(office: Office, linde: Network, owner: Operator) -> Browser:
    """An owner of one network, and of nothing else; somebody else owns everything."""
    assert owner.everywhere(Role.OWNER)
    return office.browser(office.operator("lin@linde.example", Role.OWNER, linde))


def one(office: Office, email: str) -> Operator:
    with office.store.read() as db:
        found = operators.by_email(db, email)
    assert found is not None
    return found


def invite(browser: Browser, email: str, role: str, path: str = HOME, password: str = PASSWORD) -> str:
    page = browser.fills_in(path, {"email": email, "name": "Ben", "role": role, "password": password})
    found = LINK.search(page.html)
    assert found is not None, page.text
    return found[1]


def test_an_invited_person_chooses_a_password_and_gets_as_far_as_the_part_reaches(
    office: Office, lin: Browser, linde: Network
) -> None:
    link = invite(lin, "ben@linde.example", "desk")
    assert "Invited" in lin.opens(HOME)
    ben = office.browser()
    assert "who signs in as ben@linde.example" in ben.opens(link)
    assert "Sign in with it" in ben.sends(link, {"name": "Ben", "password": OTHER})
    ben.signs_in("ben@linde.example", OTHER)
    assert ben.gets("/desk/networks/hotel-linde/vouchers").status == 200
    assert ben.gets("/desk/networks/hotel-linde/people").status == 403
    assert ben.gets(link).status == 410
    assert linde.id in (one(office, "ben@linde.example").networks() or ())


def test_whoever_hands_out_power_types_his_own_password_again(office: Office, lin: Browser) -> None:
    form = {"email": "ben@linde.example", "name": "Ben", "role": "owner", "password": OTHER}
    page = lin.fills_in(HOME, form)
    assert page.status == 400
    assert "This is not your password" in page
    assert OTHER not in page.html
    with office.store.read() as db:
        assert operators.by_email(db, "ben@linde.example") is None


def test_somebody_who_has_an_account_joins_with_it(office: Office, lin: Browser, linde: Network) -> None:
    other = office.network("mirador", "Café Mirador")
    office.operator("ben@mirador.example", Role.MANAGER, other)
    form = {"email": "Ben@Mirador.example", "role": "desk", "password": PASSWORD}
    page = lin.fills_in(HOME, form)
    assert "has an account already, and signs in here with it" in page
    ben = one(office, "ben@mirador.example")
    assert (ben.role_in(linde.id), ben.role_in(other.id)) == (Role.DESK, Role.MANAGER)
    assert "has a part here already" in lin.fills_in(HOME, form)


def test_a_part_is_changed_and_taken_away_where_it_is_held_and_nowhere_else(
    office: Office, lin: Browser, linde: Network
) -> None:
    other = office.network("mirador", "Café Mirador")
    ben = office.operator("ben@linde.example", Role.DESK, linde)
    with office.store.transaction() as db:
        operators.set_role(db, ben, Role.OWNER, other.id)
    lin.fills_in(f"{HOME}/{ben.id}", {"role": "manager", "password": PASSWORD})
    assert one(office, ben.email).role_in(linde.id) is Role.MANAGER
    lin.fills_in(f"{HOME}/{ben.id}", {"role": "none", "password": PASSWORD})
    assert one(office, ben.email).role_in(linde.id) is None
    assert one(office, ben.email).role_in(other.id) is Role.OWNER


def test_an_owner_of_one_network_changes_neither_himself_nor_those_above(
    office: Office, lin: Browser, owner: Operator
) -> None:
    me = one(office, "lin@linde.example")
    assert lin.gets(f"{HOME}/{me.id}").status == 404
    assert lin.gets(f"{HOME}/{owner.id}").status == 404


def test_a_stopped_account_is_out_and_is_let_in_again(office: Office, ana: Browser, linde: Network) -> None:
    ben = office.operator("ben@linde.example", Role.MANAGER, linde)
    browser = office.browser(ben)
    path = f"/desk/people/{ben.id}"
    assert "Saved" in ana.fills_in(path, {"role": "none", "disabled": "yes", "password": PASSWORD})
    assert browser.gets("/desk/").location.startswith("/desk/sign-in")
    assert "Stopped" in ana.opens("/desk/people")
    ana.fills_in(path, {"role": "none", "password": PASSWORD})
    assert one(office, ben.email).disabled_at is None
    assert one(office, ben.email).role_in(linde.id) is Role.MANAGER


def test_who_forgot_the_password_gets_a_link_for_a_new_one(office: Office, ana: Browser, linde: Network) -> None:
    ben = office.operator("ben@linde.example", Role.MANAGER, linde)
    page = ana.fills_in(f"/desk/people/{ben.id}", {"role": "none", "link": "yes", "password": PASSWORD})
    found = LINK.search(page.html)
    assert found is not None
    browser = office.browser()
    browser.fills_in(found[1], {"name": "Ben", "password": OTHER})
    assert browser.signs_in(ben.email, OTHER).status == 200


def test_somebody_always_owns_everything(office: Office, ana: Browser, owner: Operator) -> None:
    ben = office.operator("ben@linde.example", Role.OWNER)
    browser = office.browser(ben)
    browser.fills_in(f"/desk/people/{owner.id}", {"role": "desk", "password": PASSWORD})
    assert one(office, owner.email).role_in(1) is Role.DESK
    with office.store.transaction() as db, pytest.raises(operators.Invalid):
        operators.set_role(db, ben, None, None)
    assert ana.gets("/desk/people").status == 403


def test_an_owner_of_everything_invites_to_everything(office: Office, ana: Browser) -> None:
    invite(ana, "ben@linde.example", "manager", "/desk/people")
    ben = one(office, "ben@linde.example")
    assert ben.everywhere(Role.MANAGER)
    assert not ben.everywhere(Role.OWNER)
    assert "Manager everywhere" in ana.opens("/desk/people")


# The record


@pytest.mark.usefixtures("linde")
def test_the_record_says_who_did_what_in_words(ana: Browser) -> None:
    ana.fills_in("/desk/networks/hotel-linde/plans/new", {
        "name": "An hour", "minutes": "60", "minutes_unit": "minutes", "clock": "wall", "counts": "both",
        "devices": "1", "period": "",
    })  # fmt: skip
    page = ana.opens("/desk/networks/hotel-linde/audit")
    assert "ana@linde.example made the plan An hour terms: 1 h, 1 device" in page


def test_a_change_that_is_refused_leaves_no_line(office: Office, ana: Browser, linde: Network) -> None:
    ana.fills_in("/desk/networks/hotel-linde/plans/new", {"name": ""})
    with office.store.read() as db:
        assert operators.record(db, [linde.id]) == []


def test_the_record_goes_on_on_the_next_page(office: Office, ana: Browser, linde: Network) -> None:
    with office.store.transaction() as db:
        for number in range(60):
            operators.audit(db, "ana", "plan.add", f"plan {number:02}", office.now(), network_id=linde.id)
    first = ana.opens("/desk/networks/hotel-linde/audit")
    following = re.search(r'href="([^"]+)" rel="next"', first.html)
    assert following is not None
    assert "plan 59" in first
    assert "plan 10" in first
    rest = ana.opens(following[1].replace("&amp;", "&"))
    assert "plan 09" in rest
    assert "plan 10" not in rest


def test_the_owner_of_everything_reads_the_record_of_everything(office: Office, ana: Browser) -> None:
    for slug, name in (("linde", "Hotel Linde"), ("mirador", "Café Mirador")):
        network = office.network(slug, name)
        with office.store.transaction() as db:
            operators.audit(db, "ana", "plan.add", "An hour", office.now(), network_id=network.id)
    page = ana.opens("/desk/audit")
    assert "made the plan An hour at Café Mirador" in page
    assert "made the plan An hour at Hotel Linde" in page
    assert "ana@linde.example signed in from 127.0.0.1" in page
