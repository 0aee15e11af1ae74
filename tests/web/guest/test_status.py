"""Stories of the status page: what a guest sees of his own, and what he may order from there."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

from portal.access import Answer, Reason
from tests.web.guest.hotel import LAPTOP, Hotel, Outage, sessions_of


def test_a_guest_sees_what_is_left_which_devices_share_it_and_the_code_to_keep(hotel: Hotel) -> None:
    code = hotel.code(minutes=180, megabytes=500, devices=2)
    phone, laptop = hotel.guest(1), hotel.guest(2, agent=LAPTOP)
    laptop.comes_online(code=code)
    laptop.router_asks("counters", 100_000_000, 20_000_000)
    phone.comes_online(code=code)
    phone.router_asks("counters", 300_000_000, 18_000_000)
    page = phone.portal()
    assert page.status == 200
    assert "You are online" in page.words
    assert "3 h left" in page.words
    assert "of 3 hours, until" in page.words
    assert "62 MB left" in page.words
    assert "of 500 MB. Nearly used up: when it is gone, you go offline." in page.words
    assert "Devices on this code, 2 of 2" in page.words
    assert "This phone since" in page.words
    assert "318 MB" in page.words
    assert "A computer, ending 77:02 since" in page.words
    assert f"Keep your code. If you are asked again, type it again.{code}" in page.words
    assert "Your time runs on until" in page.words
    assert page.title.startswith("Online until")


def test_the_way_on_is_a_link_with_its_host_in_plain_sight_and_never_a_probe(hotel: Hotel) -> None:
    code = hotel.code(devices=9)
    page = hotel.guest(1, url="https://news.example/today?a=b").comes_online(code=code)
    assert page.links["Go on to news.example"] == "https://news.example/today?a=b"
    assert page.response.status_code == 200
    for number, url in enumerate(
        (
            "http://captive.apple.com/hotspot-detect.html",
            "http://connectivitycheck.gstatic.com/generate_204",
            "http://10.77.0.1:2060/",
            "javascript:alert(1)",
            "http://user@evil.example/",
            "",
        ),
        2,
    ):
        page = hotel.guest(number, url=url).comes_online(code=code)
        assert not [words for words in page.links if words.startswith("Go on")], url


def test_time_that_runs_only_online_stands_still_for_whoever_signs_out(hotel: Hotel) -> None:
    page = hotel.guest().comes_online(code=hotel.code(minutes=120, clock="online"))
    assert "2 h left" in page.words
    assert "of 2 hours. It runs only while you are online." in page.words
    assert "Your time stands still while you are signed out." in page.words


def test_a_guest_without_limits_is_told_so(hotel: Hotel) -> None:
    page = hotel.guest().comes_online(code=hotel.code())
    assert "There is no limit of time or data." in page.words


def test_an_allowance_for_each_day_shows_what_is_left_of_today(hotel: Hotel) -> None:
    guest = hotel.guest()
    guest.comes_online(code=hotel.code(period="day", period_minutes=60, period_megabytes=200))
    guest.router_asks("counters", 50_000_000)
    words = guest.portal().words
    assert "150 MB left" in words
    assert "of 200 MB for today. It starts anew tomorrow at 00:00." in words


def test_a_gateway_that_sends_no_token_gets_a_friendly_page_without_data(hotel: Hotel) -> None:
    code = hotel.code(minutes=180)
    guest = hotel.guest()
    guest.comes_online(code=code)
    page = guest.portal("gw_id=gw-1")
    assert page.status == 200
    assert "You are online" in page.words
    assert "Hotel Linde" in page.words
    assert "left" not in page.words.replace("what is left", "")
    assert code not in page.html
    assert "77:01" not in page.html


def test_a_minute_begun_is_told_as_a_whole_one_and_never_one_more(hotel: Hotel) -> None:
    guest = hotel.guest()
    refresh = guest.comes_online(code=hotel.code(minutes=180)).links["Refresh"]
    for gone, left in ((0, "3 h"), (55, "3 h"), (65, "2 h 59 min"), (179 * 60 + 5, "1 min"), (180 * 60, None)):
        hotel.ahead = timedelta(seconds=gone)
        words = hotel.guest(2).opens(refresh).words
        assert (f"{left} left" in words) if left else "This code is used up" in words, (gone, words)


def test_with_the_code_that_page_shows_what_is_left_under_an_address_to_keep(hotel: Hotel) -> None:
    code = hotel.code(minutes=180, devices=2)
    guest = hotel.guest()
    guest.comes_online(code=code)
    page = guest.portal("gw_id=gw-1")
    answer = guest.sends(page.form("code"), {"code": code}, "/wifidog/portal/?gw_id=gw-1")
    assert answer.status == 303
    assert guest.token not in answer.location
    kept = hotel.guest(9).opens(answer.location)
    assert "What is left" in kept.words
    assert "3 h left" in kept.words
    assert "Devices on this code, 1 of 2" in kept.words
    wrong = guest.sends(page.form("code"), {"code": "0000-0000-0000"}, "/wifidog/portal/?gw_id=gw-1")
    assert "We do not know this code." in wrong.words
    for _ in range(11):
        path = f"/wifidog/portal/?gw_id=gw-1&mac={guest.mac}"
        wrong = guest.sends(page.form("code"), {"code": "0000-0000-0000"}, path)
    assert "Wait a minute, then try again." in wrong.words


def test_the_refresh_link_needs_neither_a_cookie_nor_the_token(hotel: Hotel) -> None:
    guest = hotel.guest()
    page = guest.comes_online(code=hotel.code(minutes=60))
    link = page.links["Refresh"]
    assert guest.token not in link
    assert "Set-Cookie" not in page.response.headers
    assert "1 h left" in hotel.guest(2).opens(link).words
    hotel.ahead = timedelta(days=31)
    assert "1 h left" not in hotel.guest(2).opens(link).words


def test_a_made_up_link_or_token_shows_nothing(hotel: Hotel) -> None:
    guest = hotel.guest()
    page = guest.comes_online(code=hotel.code(minutes=60))
    link = page.links["Refresh"]
    for query in (
        link.partition("?")[2].replace("s=", "s=A"),
        "s=",
        "s=" + "A" * 500,
        "token=" + "a" * 40,
        "token=Auth%3A%201",
        "gw_id=gw-1&token=" + guest.token[:-1] + ("a" if guest.token[-1] != "a" else "b"),
    ):
        shown = guest.portal(query)
        assert shown.status == 200
        assert "1 h left" not in shown.words
        assert "Sign out" not in shown.words


def test_a_guest_signs_himself_out_and_reads_what_is_left(hotel: Hotel) -> None:
    code = hotel.code(minutes=180)
    guest = hotel.guest()
    page = guest.comes_online(code=code)
    answer = guest.sends(page.button("Sign out this phone"), {}, f"/wifidog/portal/?gw_id=gw-1&token={guest.token}")
    assert answer.status == 303
    shown = guest.opens(answer.location)
    assert "You are signed out" in shown.words
    assert "3 h left" in shown.words
    assert shown.links["Sign in again"] == "http://10.77.0.1:2060/"
    assert guest.router_asks("counters").reason is Reason.LOGOUT
    assert "You are online" in guest.comes_online(code=code).words


def test_a_guest_signs_another_device_out(hotel: Hotel) -> None:
    code = hotel.code(devices=2)
    phone, laptop = hotel.guest(1), hotel.guest(2, agent=LAPTOP)
    laptop.comes_online(code=code)
    page = phone.comes_online(code=code)
    order = page.button("Sign out: A computer, ending 77:02")
    answer = phone.sends(order, {}, page.links["Refresh"])
    assert answer.status == 303
    assert "Devices on this code, 1 of 2" in phone.opens(answer.location).words
    assert laptop.router_asks("counters").answer is Answer.DENY
    assert phone.router_asks("counters").answer is Answer.ALLOW


def test_an_order_is_good_for_its_own_grant_alone_and_for_an_hour(hotel: Hotel) -> None:
    one, other = hotel.guest(1), hotel.guest(2)
    page = one.comes_online(code=hotel.code())
    other_page = other.comes_online(code=hotel.code())
    stolen = page.button("Sign out this phone")
    other.sends(stolen, {}, other_page.links["Refresh"])
    assert one.router_asks("counters").answer is Answer.ALLOW
    hotel.ahead = timedelta(hours=2)
    one.sends(stolen, {}, page.links["Refresh"])
    assert one.router_asks("counters").answer is Answer.ALLOW
    assert sessions_of(hotel, one.token).state == "active"


def test_a_guest_who_was_cut_off_reads_why_on_his_status_page(hotel: Hotel) -> None:
    guest = hotel.guest()
    code = hotel.code(megabytes=1)
    guest.comes_online(code=code)
    guest.router_asks("counters", 2_000_000)
    words = guest.portal().words
    assert "This code is used up" in words
    assert f"{code} reached its limit today at" in words
    assert "2 MB of 1 MB." in words


def test_a_sign_in_that_never_reached_the_router_says_so(hotel: Hotel) -> None:
    guest = hotel.guest()
    guest.signs_in(code=hotel.code(minutes=60))
    page = guest.portal()
    assert "You are not online yet" in page.words
    assert page.links["Sign in again"] == "http://10.77.0.1:2060/"


def test_the_portal_page_of_an_apfree_gateway_says_hello(hotel: Hotel) -> None:
    page = hotel.guest().portal("gw_id=gw-1&gw_channel=ch&mac=02:00:00:00:77:01&name=phone")
    assert page.status == 200
    assert "You are online" in page.words
    assert "77:01" not in page.words, "a MAC that is claimed opens nothing"


def test_while_our_records_are_away_the_status_page_says_when_to_come_back(hotel: Hotel, outage: Outage) -> None:
    guest = hotel.guest()
    guest.comes_online(code=hotel.code())
    with outage:
        page = guest.portal()
        assert page.status == 503
        assert page.response.headers["Retry-After"] == "30"
        assert "Whoever is online stays online." in page.words
        assert "Hotel Linde" in page.words
        query = urlencode({"gw_id": "gw-1", "token": guest.token})
        assert page.links["Try again"] == f"?{query}"
    assert "There is no limit" in guest.portal().words


def test_a_click_for_a_claimed_mac_shows_and_orders_nothing_of_its_owner(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60)
    owner, thief = hotel.guest(1), hotel.guest(2)
    page = owner.comes_online()
    thief.mac = owner.mac
    assert thief.signs_in().status == 302
    for shown in (thief.portal(), thief.opens(f"/gw_message.php?message=denied&token={thief.token}")):
        assert shown.status == 200
        assert "left" not in shown.words
        assert "Sign out" not in shown.words
        assert "s=" not in "".join(shown.addresses)
    stolen = page.button("Sign out this phone")
    thief.sends(stolen, {}, f"/wifidog/portal/?gw_id=gw-1&token={thief.token}")
    assert owner.router_asks("counters").answer is Answer.ALLOW
