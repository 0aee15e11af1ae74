"""Vouchers at the desk: issued, printed, handed out as a file, followed, taken back."""

from __future__ import annotations

import csv
import io
import re

import pytest

from portal import networks, operators, vouchers
from portal.keys import Keyring
from portal.networks import Network, Plan
from portal.offload import Offload
from portal.store import Store
from portal.vouchers import Overview
from portal.web.desk.vouchers import CARDS_A_PAGE
from tests.web.desk.offices import Browser, Office
from tests.worlds import Cafe

HOME = "/desk/networks/hotel-linde"
CODE = re.compile("[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}")


@pytest.fixture
def plan(office: Office, linde: Network) -> Plan:
    return office.plan(linde, "3 hours, 500 MB", minutes=180, megabytes=500, devices=2, valid_days=30)


def overview(office: Office, plan: Plan) -> Overview:
    with office.store.read() as db:
        return vouchers.overviews(db, plan.network_id, office.now())[0]


@pytest.mark.usefixtures("linde")
def test_without_a_plan_the_page_says_what_comes_first(ana: Browser) -> None:
    page = ana.opens(f"{HOME}/vouchers")
    assert "Codes are made from a plan" in page
    assert "Issue the first batch" not in page


def test_a_batch_is_issued_and_every_code_stands_on_its_page(office: Office, ana: Browser, plan: Plan) -> None:
    page = ana.fills_in(f"{HOME}/vouchers", {"plan": str(plan.id), "count": "12", "label": "Spring fair"})
    assert "12 codes issued" in page
    assert "12 codes, “3 hours, 500 MB”, issued" in page
    assert len(set(CODE.findall(page.html))) == 12
    assert "Unused 12" in page
    with office.store.read() as db:
        entry = operators.record(db, [plan.network_id])[0]
    assert (entry.action, entry.detail) == ("voucher.issue", {"count": 12, "plan": plan.name})


@pytest.mark.parametrize(
    ("count", "told"),
    [("0", "Between 1 and 10,000 at once"), ("20000", "Issue a second batch"), ("many", "whole number")],
)
def test_a_number_of_codes_that_cannot_be_is_refused_in_words(
    office: Office, ana: Browser, plan: Plan, count: str, told: str
) -> None:
    page = ana.fills_in(f"{HOME}/vouchers", {"plan": str(plan.id), "count": count, "label": "Spring fair"})
    assert page.status == 400
    assert told in page
    assert 'value="Spring fair"' in page.html
    with office.store.read() as db:
        assert vouchers.overviews(db, plan.network_id, office.now()) == []


def test_codes_cannot_be_made_from_a_retired_plan_or_another_networks(office: Office, ana: Browser, plan: Plan) -> None:
    other = office.plan(office.network("mirador", "Café Mirador"), "An hour", minutes=60)
    with office.store.transaction() as db:
        networks.retire_plan(db, plan.network_id, plan.id, office.now())
    for plan_id in (plan.id, other.id, "x"):
        page = ana.fills_in(f"{HOME}/vouchers", {"plan": str(plan_id), "count": "3"})
        assert page.status == 400


# On paper


def test_the_sheet_has_ten_cards_a_page_each_with_its_code_and_a_qr_code(
    office: Office, ana: Browser, plan: Plan
) -> None:
    batch, codes = office.codes(plan, 25)
    page = ana.opens(f"{HOME}/vouchers/{batch.id}/print")
    assert "To print, press Ctrl+P" in page
    assert CODE.findall(page.text) == codes
    assert page.html.count('class="sheet"') == 3
    assert page.html.count('class="qr"') == 25
    assert "3 h, 500 MB, 2 devices" in page
    assert "25 cards, of 25 unused" in page


def test_receipts_hold_one_code_each(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, 3)
    page = ana.opens(f"{HOME}/vouchers/{batch.id}/print?paper=80")
    assert "To print, press Ctrl+P" in page
    assert CODE.findall(page.text) == codes
    assert page.html.count('class="receipt"') == 3
    assert 'class="sheet"' not in page.html


def test_a_large_batch_is_printed_in_parts(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, CARDS_A_PAGE + 5)
    first = ana.opens(f"{HOME}/vouchers/{batch.id}/print")
    following = re.search(r'href="([^"]+)" rel="next"', first.html)
    assert following is not None
    rest = ana.opens(following[1].replace("&amp;", "&"))
    assert CODE.findall(first.text) + CODE.findall(rest.text) == codes
    assert 'rel="next"' not in rest.html


def test_only_codes_that_are_good_are_printed(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, 2)
    with office.store.transaction() as db:
        found = vouchers.find(db, office.keyring, plan.network_id, vouchers.normalise(codes[0]) or "")
        assert found is not None
        vouchers.revoke(db, found, office.now())
    assert CODE.findall(ana.opens(f"{HOME}/vouchers/{batch.id}/print").text) == codes[1:]


def test_a_scanned_code_leads_to_the_gateways_own_page_which_knows_the_rest(
    office: Office, ana: Browser, plan: Plan, linde: Network
) -> None:
    from portal.web.desk import codes as printed

    batch, codes = office.codes(plan, 1)
    page = ana.opens(f"{HOME}/vouchers/{batch.id}/print")
    assert printed.qr(f"http://localhost/?code={codes[0]}").path in page.html
    office.gateway(linde, "linde-lobby", address="10.20.4.1")
    page = ana.opens(f"{HOME}/vouchers/{batch.id}/print")
    assert printed.qr(f"http://10.20.4.1:2060/?code={codes[0]}").path in page.html


# As a file


def test_the_file_holds_every_code_with_its_state(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, 3, "Spring fair")
    page = ana.opens(f"{HOME}/vouchers/{batch.id}/codes.csv")
    assert page.response.content_type.startswith("text/csv")
    assert f'filename="vouchers-hotel-linde-{batch.id}.csv"' in page.response.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(page.html)))
    assert [row["code"] for row in rows] == codes
    assert {row["state"] for row in rows} == {"unused"}


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_of_the_file_begins_a_formula(office: Office, ana: Browser, plan: Plan, label: str) -> None:
    batch, _ = office.codes(plan, 1, label)
    rows = list(csv.reader(io.StringIO(ana.opens(f"{HOME}/vouchers/{batch.id}/codes.csv").html)))
    assert rows[1][2] == f"'{label}"
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)


# What became of them


def test_each_code_is_followed_from_unused_to_used_up(
    store: Store, keyring: Keyring, offload: Offload, cafe: Cafe
) -> None:
    office = Office(store, keyring, offload)
    ana = office.browser(office.operator("ana@cafe.example", operators.Role.OWNER))
    with store.transaction() as db:
        network = networks.get(db, cafe.network_id)
    assert network is not None
    plan = office.plan(network, "1 kB", megabytes="0.001")
    batch, codes = office.codes(plan, 3)
    grants = [cafe.one(
        "SELECT grant_id FROM voucher WHERE batch_id = :id ORDER BY id OFFSET :n LIMIT 1", id=batch.id, n=n
    )[0] for n in range(2)]  # fmt: skip
    with store.read() as db:
        from portal.grants import load

        used_up, in_use = (load(db, grant, office.now()) for grant in grants)
    first, second = cafe.phone(1), cafe.phone(2)
    first.comes_online(used_up)
    first.polls(2_000)
    second.comes_online(in_use)
    second.polls(400)
    page = ana.opens(f"/desk/networks/cafe/vouchers/{batch.id}")
    assert f"{codes[0]} Used up" in page
    assert "2 kB of 1 kB" in page
    assert f"{codes[1]} In use" in page
    assert "600 bytes left, 1 device online" in page
    assert f"{codes[2]} Unused" in page
    assert "Unused 1" in page
    assert "Used up 1" in page
    only = ana.opens(f"/desk/networks/cafe/vouchers/{batch.id}?which=used-up")
    assert set(CODE.findall(only.text)) == {codes[0]}
    assert ana.gets(f"/desk/networks/cafe/vouchers/{batch.id}?which=stolen").status == 404


def test_a_code_is_found_however_it_was_typed(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, 60)
    typed = codes[55].lower().replace("-", " ").replace("0", "o")
    page = ana.opens(f"{HOME}/vouchers/find?code={typed}")
    assert set(CODE.findall(page.text)) == {codes[55]}
    assert "The code that was looked for" in page


@pytest.mark.usefixtures("plan")
def test_a_code_that_nobody_was_sold_is_told_apart_from_one_that_cannot_be(ana: Browser) -> None:
    unknown = vouchers.grouped("0" * 11 + vouchers.check_character("0" * 11))
    assert "We do not know this code" in ana.opens(f"{HOME}/vouchers/find?code={unknown}")
    assert "cannot be one" in ana.opens(f"{HOME}/vouchers/find?code=hello")


@pytest.mark.usefixtures("plan")
def test_another_networks_code_is_not_found(office: Office, ana: Browser) -> None:
    other = office.plan(office.network("mirador", "Café Mirador"), "An hour", minutes=60)
    _, codes = office.codes(other, 1)
    assert "We do not know this code" in ana.opens(f"{HOME}/vouchers/find?code={codes[0]}")


def test_batches_and_codes_go_on_on_the_next_page(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, 60)
    first = ana.opens(f"{HOME}/vouchers/{batch.id}")
    following = re.search(r'href="([^"]+)" rel="next"', first.html)
    assert following is not None
    rest = ana.opens(following[1].replace("&amp;", "&"))
    assert list(dict.fromkeys(CODE.findall(first.text) + CODE.findall(rest.text))) == codes


# Taken back


def test_a_batch_is_taken_back_only_when_that_was_asked_and_answered(office: Office, ana: Browser, plan: Plan) -> None:
    batch, _ = office.codes(plan, 4, "Spring fair")
    asked = ana.opens(f"{HOME}/vouchers/{batch.id}/revoke")
    assert "4 unused codes will open nothing any more" in asked
    assert overview(office, plan).unused == 4
    page = ana.sends(f"{HOME}/vouchers/{batch.id}/revoke")
    assert "4 codes taken back" in page
    assert overview(office, plan).revoked == 4
    assert "Taken back" in ana.opens(f"{HOME}/vouchers")
    assert "No code of this batch is left to print" in ana.opens(f"{HOME}/vouchers/{batch.id}/print")


def test_one_code_is_taken_back_and_the_record_does_not_hold_it(office: Office, ana: Browser, plan: Plan) -> None:
    batch, codes = office.codes(plan, 2)
    with office.store.read() as db:
        issued = vouchers.codes_of(db, office.keyring, plan.network_id, batch.id, office.now())
    ana.opens(f"{HOME}/vouchers/{batch.id}/codes/{issued[1].id}/revoke")
    page = ana.sends(f"{HOME}/vouchers/{batch.id}/codes/{issued[1].id}/revoke")
    assert f"{codes[1]} is taken back" in page
    assert (overview(office, plan).unused, overview(office, plan).revoked) == (1, 1)
    with office.store.read() as db:
        entry = operators.record(db, [plan.network_id])[0]
    assert entry.action == "voucher.revoke"
    assert codes[1] not in f"{entry.subject} {entry.detail}"


def test_a_code_is_reached_through_its_own_batch_only(office: Office, ana: Browser, plan: Plan) -> None:
    first, _ = office.codes(plan, 1)
    second, _ = office.codes(plan, 1)
    with office.store.read() as db:
        issued = vouchers.codes_of(db, office.keyring, plan.network_id, second.id, office.now())
    assert ana.gets(f"{HOME}/vouchers/{first.id}/codes/{issued[0].id}/revoke").status == 404
