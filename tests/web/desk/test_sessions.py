"""Sessions at the desk: who is online, why somebody was cut off, the sum that proves it, and the kick."""

from __future__ import annotations

import pytest

from portal import grants, networks, operators, vouchers
from portal.access import Answer, Reason
from portal.networks import Network
from tests.web.desk.offices import Browser, Office
from tests.worlds import Cafe, Phone

HOME = "/desk/networks/cafe/sessions"


@pytest.fixture
def ana(office: Office) -> Browser:
    return office.browser(office.operator("ana@cafe.example", operators.Role.OWNER))


@pytest.fixture
def network(office: Office, cafe: Cafe) -> Network:
    with office.store.read() as db:
        found = networks.get(db, cafe.network_id)
    assert found is not None
    return found


def coded(office: Office, network: Network, **terms: object) -> tuple[grants.Grant, str]:
    """A grant with a code."""
    plan = office.plan(network, "3 hours, 500 MB", **terms)
    _, codes = office.codes(plan, 1)
    with office.store.read() as db:
        voucher = vouchers.find(db, office.keyring, network.id, vouchers.normalise(codes[0]) or "")
        assert voucher is not None
        return grants.load(db, voucher.grant_id, office.now()), codes[0]


def id_of(cafe: Cafe, phone: Phone) -> int:
    return cafe.session_of(phone.token).id


def test_who_is_online_is_listed_with_what_is_left(office: Office, cafe: Cafe, ana: Browser, network: Network) -> None:
    grant, code = coded(office, network, minutes=180, megabytes=500, devices=2)
    phone = cafe.phone()
    phone.comes_online(grant)
    phone.polls(50_000_000, 5_000_000)
    page = ana.opens(HOME)
    assert f"{code} {phone.mac} Phone gw-1 Online" in page
    assert "50 MB 5 MB up" in page
    assert "445 MB" in page
    assert "Online 1" in page


def test_a_session_is_found_by_its_code_its_device_and_its_gateway(
    office: Office, cafe: Cafe, ana: Browser, network: Network
) -> None:
    grant, code = coded(office, network)
    phone, other = cafe.phone(1), cafe.phone(2, router=cafe.new_router("lobby"))
    phone.comes_online(grant)
    other.comes_online(cafe.grant())
    for typed, found, missed in (
        (code.lower(), phone, other),
        (phone.mac.replace(":", "-").upper(), phone, other),
        ("lob", other, phone),
        ("10.0.0.2", other, phone),
    ):
        page = ana.opens(f"{HOME}?q={typed}")
        assert found.mac in page.text, typed
        assert missed.mac not in page.text, typed
    assert "Nothing here matches “zzz”" in ana.opens(f"{HOME}?q=zzz")


def test_who_waits_for_the_gateway_and_who_is_gone_stand_apart(cafe: Cafe, ana: Browser) -> None:
    waiting, gone = cafe.phone(1), cafe.phone(2)
    waiting.signs_in(cafe.grant())
    gone.comes_online(cafe.grant())
    gone.logs_out(10, 1)
    assert "Nobody is online" in ana.opens(HOME)
    assert waiting.mac in ana.opens(f"{HOME}?tab=waiting")
    ended = ana.opens(f"{HOME}?tab=ended")
    assert gone.mac in ended
    assert "Signed out, or let go by the gateway" in ended
    assert ana.gets(f"{HOME}?tab=refused").status == 404


def test_a_session_proves_its_verdict_with_a_sum(office: Office, cafe: Cafe, ana: Browser, network: Network) -> None:
    grant, code = coded(office, network, megabytes=500, devices=2)
    phone, tablet = cafe.phone(1), cafe.phone(2)
    phone.comes_online(grant)
    phone.polls(30_000_000, 2_000_000)
    tablet.comes_online(grant)
    tablet.polls(7_000_000, 1_000_000)
    page = ana.opens(f"{HOME}/{id_of(cafe, phone)}")
    assert f"{code} Online at gw-1 since" in page
    assert "Allowed. The code has used 40 MB of 500 MB." in page
    assert "It will be refused at 460 MB more." in page
    assert "the gateway’s totals stand at 30,000,000 down, 2,000,000 up" in page
    assert "This session 30,000,000 2,000,000 32,000,000" in page
    assert "Other sessions of the code 7,000,000 1,000,000 8,000,000" in page
    assert "Used by the code 40,000,000 Allowed by “3 hours, 500 MB” 500,000,000 Left 460,000,000" in page
    assert tablet.mac in page
    assert "do not add up" not in page


def test_a_sum_that_does_not_come_out_is_said(cafe: Cafe, ana: Browser) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    phone.polls(1_000, 10)
    cafe.change("UPDATE counter_line SET charged_down = charged_down - 1")
    assert "do not add up" in ana.opens(f"{HOME}/{id_of(cafe, phone)}")


def test_why_somebody_was_cut_off_is_told_with_the_figures_of_the_moment(
    office: Office, cafe: Cafe, ana: Browser, network: Network
) -> None:
    grant, _ = coded(office, network, megabytes=1)
    phone = cafe.phone()
    phone.comes_online(grant)
    assert phone.polls(1_500_000, 0).reason is Reason.DATA_OVER
    page = ana.opens(f"{HOME}/{id_of(cafe, phone)}")
    assert "Cut off: the data is used up." in page
    assert "1.5 MB of 1 MB" in page
    assert "Kick" not in page.text.split("Sessions")[-1]


def test_nothing_is_spent_while_the_gateway_has_not_shown_the_device(cafe: Cafe, ana: Browser) -> None:
    phone = cafe.phone()
    phone.signs_in(cafe.grant(seconds=3_600))
    assert "Waiting for gw-1." in ana.opens(f"{HOME}/{id_of(cafe, phone)}")


# The kick


def test_a_kick_is_asked_about_first_and_then_heard_at_the_next_poll(cafe: Cafe, ana: Browser) -> None:
    phone = cafe.phone()
    grant = cafe.grant()
    phone.comes_online(grant)
    session_id = id_of(cafe, phone)
    assert f"Kick {phone.mac}?" in ana.opens(f"{HOME}/{session_id}/kick")
    assert phone.polls(10).answer is Answer.ALLOW
    assert "Kicked" in ana.sends(f"{HOME}/{session_id}/kick", {"minutes": "0"})
    assert phone.polls(20).reason is Reason.KICKED
    assert cafe.phone().comes_online(grant).answer is Answer.ALLOW


def test_a_kicked_device_may_be_kept_out_for_a_while(office: Office, cafe: Cafe, ana: Browser) -> None:
    phone = cafe.phone()
    grant = cafe.grant(devices=5)
    phone.comes_online(grant)
    ana.opens(f"{HOME}/{id_of(cafe, phone)}/kick")
    page = ana.sends(f"{HOME}/{id_of(cafe, phone)}/kick", {"minutes": "15"})
    assert "kept out for 15 min" in page
    with pytest.raises(grants.Refused) as refused:
        cafe.phone().signs_in(grant)
    assert refused.value.reason is Reason.BLOCKED
    assert phone.mac in ana.opens("/desk/networks/cafe/guests")
    with office.store.read() as db:
        entry = operators.record(db, [cafe.network_id])[0]
    assert (entry.action, entry.detail) == ("session.kick", {"minutes": 15})


def test_only_an_offered_time_keeps_a_device_out(cafe: Cafe, ana: Browser) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    ana.opens(f"{HOME}/{id_of(cafe, phone)}/kick")
    assert ana.sends(f"{HOME}/{id_of(cafe, phone)}/kick", {"minutes": "999999"}).status == 400
    assert phone.polls(10).answer is Answer.ALLOW


def test_whoever_is_gone_already_is_not_kicked_again(cafe: Cafe, ana: Browser) -> None:
    phone = cafe.phone()
    phone.comes_online(cafe.grant())
    ana.opens(f"{HOME}/{id_of(cafe, phone)}/kick")
    phone.logs_out(10)
    assert "It had ended already" in ana.sends(f"{HOME}/{id_of(cafe, phone)}/kick", {"minutes": "0"})
    assert cafe.session_of(phone.token).end_reason == "logout"
