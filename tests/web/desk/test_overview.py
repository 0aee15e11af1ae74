"""The overview: four figures, what needs attention, the way to the first guest, the traffic."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from portal import gateways, networks, operators
from portal.networks import Network
from portal.store import sql
from tests.web.desk.offices import Browser, Office
from tests.worlds import Cafe

HOME = "/desk/networks/hotel-linde/"


def steps(browser: Browser, path: str = HOME) -> tuple[int, str]:
    """How many steps are done, and which comes next."""
    page = browser.opens(path)
    done = page.html.count('class="done"')
    following = page.html.split('class="next"')[-1].split("<b>")[1].split("<")[0] if 'class="next"' in page.html else ""
    return done, following


def test_an_empty_network_leads_step_by_step_to_the_first_guest(office: Office, ana: Browser, linde: Network) -> None:
    assert steps(ana) == (1, "Make a plan")
    plan = office.plan(linde, "An hour", minutes=60)
    assert steps(ana) == (2, "Connect the router")
    gateway = office.gateway(linde, "linde-lobby")
    assert steps(ana) == (3, "Hear from it")
    for path in ("/desk/", HOME, f"{HOME}gateways"):
        page = ana.opens(path)
        assert "not heard yet" in page
        assert "all heard" not in page.text.lower()
    with office.store.transaction() as db:
        db.execute(
            sql("test.heard", "INSERT INTO heartbeat (gateway_id, at, steady_since) VALUES (:id, now(), now())"),
            {"id": gateway.id},
        )
    assert steps(ana) == (4, "Issue vouchers")
    office.codes(plan, 3)
    assert steps(ana) == (5, "Welcome the first guest")


def test_the_page_without_a_network_shows_the_same_steps(office: Office) -> None:
    cleo = office.browser(office.operator("cleo@linde.example", operators.Role.OWNER))
    assert steps(cleo, "/desk/") == (0, "Create your network")
    before = cleo.opens("/desk/").html
    office.network("hotel-linde", "Hotel Linde")
    after = cleo.opens(HOME).html
    told = [
        re.findall(
            r'<b>([^<]+)</b>.*?<p class="soft">([^<]+)</p>', html.split('<ol class="steps">')[1].split("</ol>")[0]
        )
        for html in (before, after)
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 6
    assert "0 of 6 done" in before
    assert "1 of 6 done" in after


def test_a_way_in_by_a_click_is_as_good_as_codes(office: Office, ana: Browser, linde: Network) -> None:
    plan = office.plan(linde, "An hour", minutes=60)
    with office.store.transaction() as db:
        networks.set_click_plan(db, linde.id, plan.id)
    assert steps(ana)[0] == 3


def test_the_desk_is_shown_the_steps_without_what_it_may_not_do(office: Office, linde: Network) -> None:
    browser = office.browser(office.operator("ben@linde.example", operators.Role.DESK, linde))
    page = browser.opens(HOME)
    assert "Make a plan" in page
    assert "plans/new" not in page.html
    assert "gateways/new" not in page.html


@pytest.fixture
def busy(office: Office, cafe: Cafe) -> Browser:
    """A café with guests."""
    cafe.heartbeat(9_000)
    for number in (1, 2):
        phone = cafe.phone(number)
        phone.comes_online(cafe.grant())
        phone.polls(30_000_000, 5_000_000)
    return office.browser(office.operator("ana@cafe.example", operators.Role.OWNER))


def test_four_figures_tell_the_day(busy: Browser, cafe: Cafe) -> None:
    gone = cafe.phone(3)
    gone.comes_online(cafe.grant())
    gone.logs_out(1_000_000, 0)
    page = busy.opens("/desk/networks/cafe/")
    assert "Online now 2 3 came in the last hour" in page
    assert "Traffic today 71 MB 61 MB down, 10 MB up" in page
    assert "Signed in today 3 3 by code" in page
    assert "Gateways silent 0 of 1 all heard" in page
    assert "From here to the first guest" not in page


@pytest.mark.usefixtures("office")
def test_a_silent_gateway_comes_first_with_whom_it_leaves_online(busy: Browser, cafe: Cafe) -> None:
    cafe.change("INSERT INTO gateway (gw_id, state) VALUES ('newcomer', 'inbox')")
    cafe.change("UPDATE heartbeat SET at = at - INTERVAL '20 minutes'")
    page = busy.opens("/desk/networks/cafe/")
    assert "Gateways silent 1 of 1 since" in page
    assert "It had 2 guests; they stay online until it returns." in page
    assert page.text.index("gw-1 is silent") < page.text.index("newcomer asks to join")
    assert "Needs attention 2" in page


def test_codes_that_run_out_are_told_before_they_are_gone(office: Office, busy: Browser, cafe: Cafe) -> None:
    with office.store.read() as db:
        network = networks.get(db, cafe.network_id)
    assert network is not None
    batch, _ = office.codes(office.plan(network, "An hour", minutes=60), 10, "Spring fair")
    assert "running out" not in busy.opens("/desk/networks/cafe/")
    cafe.change(
        """
        UPDATE "grant" SET started_at = now(), ends_at = now()
         WHERE id IN (SELECT grant_id FROM voucher WHERE batch_id = :id ORDER BY id LIMIT 9)
        """,
        id=batch.id,
    )
    page = busy.opens("/desk/networks/cafe/")
    assert "Spring fair is running out 1 of 10 codes left, gone today, at this pace." in page


def test_when_nothing_is_wrong_nothing_is_said_to_be(busy: Browser, cafe: Cafe, office: Office) -> None:
    cafe.change("UPDATE gateway SET address = '10.0.0.1'")
    with office.store.transaction() as db:
        gateways.make_key(db, office.keyring, cafe.router.id, office.now())
    cafe.change("UPDATE heartbeat SET key_seen_at = now()")
    assert "Needs attention 0 Nothing." in busy.opens("/desk/networks/cafe/")


@pytest.mark.usefixtures("cafe")
def test_the_traffic_is_drawn_told_and_tabled(office: Office, busy: Browser) -> None:
    for span, bucket in (("", "hour"), ("week", "day"), ("month", "day")):
        page = busy.opens(f"/desk/networks/cafe/?span={span}")
        assert f"70 MB in all; the fullest {bucket} was that of" in page.html
        assert '<path class="line" d="M0 ' in page.html
        assert f"<th>{bucket.capitalize()}</th>" in page.html
        assert "60 MB" in page
    assert busy.gets("/desk/networks/cafe/?span=century").status == 404
    office.shift = timedelta(days=40)
    browser = office.browser(office.operator("ben@cafe.example", operators.Role.OWNER))
    assert "No traffic in this time" in browser.opens("/desk/networks/cafe/?span=week")
