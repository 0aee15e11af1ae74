"""How operators get in and out, and how nobody else does."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from portal import operators
from portal.keys import Keyring
from portal.offload import Offload
from portal.operators import Operator, Role
from portal.store import Store, sql
from portal.web import look
from tests.web.desk.offices import PASSWORD, Browser, Office

OTHER = "seven green owls read slowly"


def count(db: Connection, table: str) -> int:
    found: int = db.execute(sql("test.count", f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
    return found


# The first operator


def test_the_setup_link_makes_the_first_operator_who_then_owns_everything(office: Office) -> None:
    browser, link = office.browser(), office.setup_link()
    page = browser.fills_in(link, {"email": "ana@linde.example", "name": "Ana Brandt", "password": PASSWORD})
    assert "you are signed in as ana@linde.example" in page
    assert "Create your network" in page
    assert browser.gets("/desk/me").status == 200
    with office.store.read("operators") as db:
        assert [entry.action for entry in operators.record(db, None)] == ["operator.sign_in", "operator.first"]
    assert "Create your network" in office.browser().signs_in("ana@linde.example")


def test_the_setup_link_signs_in_whoever_used_it_and_with_nothing_from_before(office: Office) -> None:
    browser, late, link = office.browser(), office.browser(), office.setup_link()
    late.opens(link)
    browser.opens(link)
    before, token = browser.cookie, browser.token
    page = browser.sends(link, {"email": "ana@linde.example", "name": "Ana", "password": PASSWORD}, follow=False)
    assert page.location == "/desk/"
    assert browser.cookie != before
    assert browser.client.post("/desk/me/sign-out-others", data={"csrf_token": token}).status_code == 400
    assert late.sends(link, {"email": "ana@linde.example", "name": "Eve", "password": PASSWORD}).status == 410
    assert late.gets("/desk/").location.startswith("/desk/sign-in")


def test_the_setup_link_works_once(office: Office) -> None:
    browser, link = office.browser(), office.setup_link()
    browser.fills_in(link, {"email": "ana@linde.example", "name": "Ana", "password": PASSWORD})
    again = office.browser().opens(link)
    assert again.status == 410
    assert "used up or too old" in again


def test_two_people_with_the_same_link_make_one_operator(office: Office) -> None:
    first, second, link = office.browser(), office.browser(), office.setup_link()
    first.opens(link)
    second.opens(link)
    assert first.sends(link, {"email": "ana@linde.example", "name": "Ana", "password": PASSWORD}).status == 200
    assert second.sends(link, {"email": "eve@evil.example", "name": "Eve", "password": OTHER}).status == 410
    with office.store.read() as db:
        assert [each.email for each in operators.listed(db)] == ["ana@linde.example"]


def test_a_link_that_was_never_made_opens_nothing(office: Office) -> None:
    assert office.browser().opens("/setup/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").status == 410
    assert office.browser().opens("/desk/password/AAAAAAAAAAAAAAAAAAAAAAAA").status == 410


@pytest.mark.parametrize("password", ["short", "fourteen signs", "passwordpassword", "ana@linde.example!"])
def test_a_weak_password_is_refused_in_words_and_never_shown_again(office: Office, password: str) -> None:
    browser = office.browser()
    page = browser.fills_in(
        office.setup_link(), {"email": "ana@linde.example", "name": "Ana Brandt", "password": password}
    )
    assert page.status == 400
    assert 'value="Ana Brandt"' in page.html
    assert f'value="{password}"' not in page.html
    assert 'aria-invalid="true" aria-describedby="password-hint password-error"' in page.html
    with office.store.read() as db:
        assert count(db, "operator") == 0


# Signing in


def test_a_wrong_address_and_a_wrong_password_are_told_alike(office: Office, owner: Operator) -> None:
    pages = []
    for email, password in ((owner.email, OTHER), ("nobody@linde.example", PASSWORD)):
        browser = office.browser()
        page = browser.fills_in("/desk/sign-in", {"email": email, "password": password})
        pages.append((page.status, re.sub(r'value="[^"]*"', "", page.html)))
    assert pages[0] == pages[1]
    assert pages[0][0] == 403
    assert "do not match" in pages[0][1]


def test_too_many_tries_are_put_off_but_not_for_a_browser_that_is_known(office: Office, owner: Operator) -> None:
    known = office.browser(owner)
    known.sends("/desk/sign-out")
    stranger = office.browser()
    stranger.opens("/desk/sign-in")
    statuses = [stranger.sends("/desk/sign-in", {"email": owner.email, "password": OTHER}).status for _ in range(5)]
    assert statuses[:3] == [403, 403, 403]
    assert statuses[-1] == 429
    put_off = stranger.sends("/desk/sign-in", {"email": owner.email, "password": PASSWORD})
    assert put_off.status == 429
    assert "Too many tries" in put_off
    assert known.fills_in("/desk/sign-in", {"email": owner.email, "password": PASSWORD}).status == 200


def test_what_the_browser_held_before_a_sign_in_is_worth_nothing_after_it(office: Office, owner: Operator) -> None:
    browser = office.browser()
    browser.opens("/desk/sign-in")
    before, token = browser.cookie, browser.token
    browser.sends("/desk/sign-in", {"email": owner.email, "password": PASSWORD})
    first = browser.cookie
    assert before is not None
    assert first is not None
    assert first != before
    assert browser.client.post("/desk/me/sign-out-others", data={"csrf_token": token}).status_code == 400
    browser.opens("/desk/me")
    browser.sends("/desk/sign-out")
    browser.cookie = first
    assert browser.gets("/desk/").location.startswith("/desk/sign-in")


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(office: Office, owner: Operator) -> None:
    browser = office.browser()
    browser.opens("/desk/sign-in")
    page = browser.sends("/desk/sign-in", {"email": owner.email, "password": PASSWORD}, follow=False)
    cookies = page.response.headers.getlist("Set-Cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Secure" not in cookie


def test_behind_tls_the_cookie_never_travels_in_clear(store: Store, keyring: Keyring, offload: Offload) -> None:
    office = Office(store, keyring, offload, public_url="https://wifi.linde.example")
    page = office.browser().gets("/desk/sign-in")
    assert "Secure" in page.response.headers["Set-Cookie"]


@pytest.mark.usefixtures("linde")
def test_after_signing_in_the_page_that_was_wanted_opens(office: Office, owner: Operator) -> None:
    browser = office.browser()
    wanted = "/desk/networks/hotel-linde/vouchers?before=7"
    sent = browser.gets(wanted)
    assert sent.status == 303
    browser.opens(sent.location)
    answer = browser.sends("/desk/sign-in", {"email": owner.email, "password": PASSWORD, "next": wanted}, follow=False)
    assert answer.location == wanted


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example/", "/desk/\\evil.example", "/desk//evil"]
)
def test_a_sign_in_leads_to_no_other_site(office: Office, owner: Operator, elsewhere: str) -> None:
    browser = office.browser()
    browser.opens("/desk/sign-in")
    form = {"email": owner.email, "password": PASSWORD, "next": elsewhere}
    assert browser.sends("/desk/sign-in", form, follow=False).location == "/desk/"


def test_a_browser_that_is_left_alone_is_signed_out(office: Office, ana: Browser) -> None:
    assert ana.gets("/desk/").status == 200
    office.shift = timedelta(hours=13)
    assert ana.gets("/desk/").location.startswith("/desk/sign-in")


@pytest.mark.usefixtures("owner")
def test_an_operator_who_is_stopped_is_out_at_once(office: Office) -> None:
    ben = office.operator("ben@linde.example", Role.OWNER)
    browser = office.browser(ben)
    with office.store.transaction("operators") as db:
        operators.disable(db, ben, office.now())
    assert browser.gets("/desk/").location.startswith("/desk/sign-in")


def test_two_installations_on_one_host_do_not_sign_each_other_out(
    office: Office, owner: Operator, store: Store, keyring: Keyring, offload: Offload, tmp_path: Path
) -> None:
    """Cookies ignore the port: a browser shows each of the two what the other one set."""
    other = Office(store, Keyring.load_or_create(tmp_path), offload)
    names = {}
    for each in (office, other):
        browser = each.browser()
        browser.opens("/desk/sign-in")
        page = browser.sends("/desk/sign-in", {"email": owner.email, "password": PASSWORD}, follow=False)
        names[each] = {cookie.split("=")[0] for cookie in page.response.headers.getlist("Set-Cookie")}
    assert len(names[office]) == 2
    assert names[office].isdisjoint(names[other])
    again = Office(store, keyring, offload)
    assert again.app.config["SESSION_COOKIE_NAME"] in names[office]  # another worker, or the next start


# Orders of other sites


def test_an_order_without_the_forms_token_is_refused_and_nothing_is_done(office: Office, ana: Browser) -> None:
    before = ana.client.post("/desk/new-network", data={"name": "Evil"})
    assert before.status_code == 400
    ana.token = "forged"  # noqa: S105
    assert ana.sends("/desk/new-network", {"name": "Evil"}).status == 400
    with office.store.read() as db:
        assert count(db, "network") == 0


def test_an_order_that_the_browser_says_comes_from_elsewhere_is_refused(office: Office, ana: Browser) -> None:
    ana.opens("/desk/new-network")
    page = ana.sends("/desk/new-network", {"name": "Evil"}, **{"Sec-Fetch-Site": "cross-site"})
    assert page.status == 400
    with office.store.read() as db:
        assert count(db, "network") == 0


def test_a_form_that_was_open_over_lunch_still_works(office: Office, ana: Browser) -> None:
    ana.opens("/desk/new-network")
    office.shift = timedelta(hours=3)
    form = {"name": "Hotel Linde", "time_zone": "Europe/Berlin", "language": "de", "colour": "#1f5148"}
    assert "Hotel Linde is made" in ana.sends("/desk/new-network", form)


# One's own account


def test_a_new_password_signs_every_other_browser_out(office: Office, owner: Operator, ana: Browser) -> None:
    other = office.browser(owner)
    page = ana.fills_in("/desk/me", {"old": PASSWORD, "password": OTHER})
    assert "The password is changed" in page
    assert ana.gets("/desk/").status == 200
    assert other.gets("/desk/").location.startswith("/desk/sign-in")
    assert office.browser().signs_in(owner.email, OTHER).status == 200


def test_the_old_password_is_asked_for_before_a_new_one_is_taken(office: Office, owner: Operator, ana: Browser) -> None:
    page = ana.fills_in("/desk/me", {"old": OTHER, "password": "a bench of quiet walnuts"})
    assert page.status == 400
    assert "This is not your password" in page
    assert office.browser().signs_in(owner.email).status == 200


def test_one_sees_where_one_is_signed_in_and_ends_it_elsewhere(office: Office, owner: Operator, ana: Browser) -> None:
    phone = office.browser(owner)
    page = ana.opens("/desk/me")
    assert page.html.count("last used") == 2
    assert page.html.count("this browser") == 1
    ana.sends("/desk/me/sign-out-others")
    assert phone.gets("/desk/").location.startswith("/desk/sign-in")
    assert ana.gets("/desk/me").status == 200


def test_one_signs_out_a_single_browser_of_ones_own(office: Office, owner: Operator, ana: Browser) -> None:
    phone, tablet = office.browser(owner), office.browser(owner)
    orders = re.findall(r'action="(/desk/me/sign-out/\d+)"', ana.opens("/desk/me").html)
    assert len(orders) == 2  # and none for the browser in hand
    page = ana.sends(orders[0])
    assert "That browser is signed out." in page
    inside = [browser.gets("/desk/").status == 200 for browser in (phone, tablet, ana)]
    assert sorted(inside[:2]) == [False, True]
    assert inside[2]
    assert "signed out already" in ana.sends(orders[0])
    with office.store.read("operators") as db:
        assert [entry.action for entry in operators.record(db, None)].count("operator.sign_out_one") == 1


def test_nobody_signs_out_another_operators_browser(office: Office, owner: Operator, ana: Browser) -> None:
    order = re.findall(r'action="(/desk/me/sign-out/\d+)"', office.browser(owner).opens("/desk/me").html)[0]
    bea = office.browser(office.operator("bea@hotel.example", Role.OWNER))
    assert "signed out already" in bea.sends(order)
    assert ana.gets("/desk/").status == 200


# What goes wrong


@pytest.mark.usefixtures("office")
def test_what_is_not_there_is_told_in_the_desks_own_page(ana: Browser) -> None:
    for path in ("/desk/nothing", "/desk/networks/hotel-linde/", "/setup/a/b", "/desk/networks//", "/desk/me/x/y"):
        page = ana.gets(path)
        assert page.status == 404
        assert "There is nothing here" in page
        assert "reference" not in page  # nothing failed, so nothing stands in the log


@pytest.mark.usefixtures("linde")
def test_a_failure_inside_is_told_with_a_reference_and_nothing_else(
    office: Office, ana: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    with office.store.transaction() as db:
        db.execute(sql("test.break", "ALTER TABLE plan RENAME COLUMN name TO title"))
    page = ana.gets("/desk/networks/hotel-linde/plans")
    assert page.status == 500
    for secret in ("SELECT", "plan.", "column", "psycopg2", "Traceback", "/portal/"):
        assert secret not in page.html
    reference = re.search(r'class="code">([0-9a-f]{8})<', page.html)
    assert reference is not None
    assert any(record.__dict__.get("reference") == reference[1] for record in caplog.records)


def test_while_the_records_are_away_the_desk_says_so_and_when_to_come_back(
    keyring: Keyring,
    offload: Offload,
    ana: Browser,
    office: Office,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Store(f"postgresql://nobody@/none?host={tmp_path}", connect_seconds=0.2)
    browser = Browser(Office(away, keyring, offload, clock=office.now).app)
    browser.cookie = ana.cookie
    page = browser.gets("/desk/")
    assert page.status == 503
    assert "We cannot reach our records" in page
    assert page.response.headers["Retry-After"]
    reference = re.search(r'class="code">([0-9a-f]{8})<', page.html)
    assert reference is not None
    assert any(record.__dict__.get("reference") == reference[1] for record in caplog.records)


# What every answer has in common


def test_the_desks_style_sheet_stays_within_its_budget() -> None:
    assert len(look.sheet("desk")) <= 16 * 1024


def test_no_page_of_the_desk_needs_a_script_or_brings_a_style_of_its_own() -> None:
    for template in (look.STATIC.parent / "templates" / "desk").glob("*.html"):
        text = template.read_text()
        assert "<script" not in text
        assert "|safe" not in text.replace(" ", "")
        assert re.search(r'\s(style|on[a-z]+)="', text) is None, template.name
