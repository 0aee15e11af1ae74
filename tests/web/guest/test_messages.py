"""Stories of the message pages, of whoever comes by himself, and of style sheets and logos."""

from __future__ import annotations

import io
from datetime import timedelta

from PIL import Image

from portal import guests, networks, sessions
from portal.access import Answer, Reason
from portal.web import look
from tests.web.guest.hotel import Hotel, Outage, sessions_of

PATHS = [
    f"{prefix}{path}"
    for prefix in ("/", "/wifidog/")
    for path in ("gw_message.php", "gw_message", "messages/", "messages")
]


def test_every_message_of_every_gateway_becomes_a_sentence(hotel: Hotel) -> None:
    guest = hotel.guest()
    for path in PATHS:
        for kind, words in {
            "denied": "You are not online",
            "activate": "Nearly there You are online for a short while.",
            "failed_validation": "The time to confirm is over",
            "logged-out": "You are signed out",
            "": "You are not online",
            "<b>hacked</b>": "You are not online",
        }.items():
            page = guest.opens(f"{path}?message={kind}")
            assert page.status == 200
            assert words in page.words, (path, kind)
            assert "hacked" not in page.html
            assert "Hotel Linde" in page.words, "there is only one house here"


def test_a_denial_with_a_token_gives_its_reason_in_the_guests_language(hotel: Hotel) -> None:
    guest = hotel.guest(languages="de-DE,de;q=0.9")
    code = hotel.code(megabytes=1)
    guest.comes_online(code=code)
    guest.router_asks("counters", 1_500_000)
    page = guest.opens(f"/wifidog/gw_message.php?message=denied&token={guest.token}")
    assert "Dieser Code ist aufgebraucht" in page.words
    assert f"{code} hat heute um " in page.words
    assert "1,5 MB verbraucht, 1 MB erlaubt." in page.words
    assert page.links["Neu anmelden"] == "http://10.77.0.1:2060/"
    assert page.language == "de"


def test_a_guest_who_was_kicked_reads_that_the_staff_did_it(hotel: Hotel) -> None:
    guest = hotel.guest()
    guest.comes_online(code=hotel.code())
    session = sessions_of(hotel, guest.token)
    with hotel.store.transaction() as db:
        sessions.end(db, session.id, session.grant_id, Reason.KICKED, hotel.now)
    assert guest.router_asks("counters").reason is Reason.KICKED
    page = guest.opens(f"/gw_message.php?message=denied&token={guest.token}")
    assert "The staff signed this device out" in page.words
    assert "That was today at" in page.words


def test_a_denied_sign_in_that_never_began_is_explained(hotel: Hotel) -> None:
    code = hotel.code(devices=1)
    first, second, third = hotel.guest(1), hotel.guest(2), hotel.guest(3)
    second.signs_in(code=code)
    first.comes_online(code=code)
    assert second.router_asks("login").reason is Reason.DEVICES_FULL
    page = second.opens(f"/gw_message?message=denied&token={second.token}")
    assert "This code is in use It is on 1 device, and that is its limit." in page.words
    third.token, third.mac = first.token, third.mac
    assert third.router_asks("login").reason is Reason.FOREIGN_STATION
    page = third.opens(f"/gw_message?message=denied&token={first.token}")
    assert "This sign-in belongs to another device" in page.words
    late = hotel.guest(4)
    late.signs_in(code=hotel.code())
    hotel.ahead = timedelta(minutes=30)
    page = late.opens(f"/gw_message?message=denied&token={late.token}")
    assert "This sign-in waited too long" in page.words


def test_a_blocked_device_is_told_until_when_by_its_token(hotel: Hotel) -> None:
    guest = hotel.guest()
    guest.signs_in(code=hotel.code())
    with hotel.store.transaction() as db:
        guests.block_station(db, hotel.network.id, guest.mac, hotel.now + timedelta(minutes=30), hotel.now)
    assert guest.router_asks("login").answer is Answer.DENY
    page = guest.opens(f"/messages/?message=denied&token={guest.token}")
    assert "This device is blocked" in page.words
    assert "It can come back" in page.words


def test_a_reason_is_given_for_a_token_never_for_a_mac(hotel: Hotel) -> None:
    guest = hotel.guest()
    guest.comes_online(code=hotel.code(megabytes=1))
    guest.router_asks("counters", 2_000_000)
    page = guest.opens(f"/gw_message.php?message=denied&gw_id=gw-1&mac={guest.mac}")
    assert "used up" not in page.words.replace("may be used up", "")


def test_a_token_that_is_none_of_ours_is_not_known(hotel: Hotel) -> None:
    page = hotel.guest().opens("/gw_message.php?message=denied&token=abc")
    assert "We do not know this sign-in" in page.words


def test_where_there_are_several_houses_a_nameless_message_names_none(hotel: Hotel) -> None:
    hotel.change("INSERT INTO network (slug, name) VALUES ('other', 'Other')")
    page = hotel.guest().opens("/gw_message.php?message=denied")
    assert "Hotel Linde" not in page.words
    assert page.status == 200
    assert "Hotel Linde" in hotel.guest().opens("/gw_message.php?message=denied&gw_id=GW-1").words


def test_whoever_comes_by_himself_hears_what_this_is(hotel: Hotel) -> None:
    for path in ("/", "/wifidog/", "/login/", "/wifidog/portal", "/login/?gw_address=10.0.0.1"):
        page = hotel.guest().opens(path)
        assert page.status == 200
        assert "This is the sign-in server of a guest Wi-Fi" in page.words
        assert page.links["To the desk"] == "/desk/"


def test_a_message_can_be_read_while_our_records_are_away(hotel: Hotel, outage: Outage) -> None:
    guest = hotel.guest()
    guest.comes_online(code=hotel.code())
    with outage:
        assert guest.opens("/gw_message.php?message=denied").status == 200
        assert guest.opens(f"/gw_message.php?message=denied&token={guest.token}").status == 503
        assert guest.opens("/").status == 200


def test_style_sheets_stand_under_the_hash_of_their_content_and_are_kept_for_ever(hotel: Hotel) -> None:
    html = hotel.guest().arrives().html
    for address in (look.sheet_name("guest"), look.colours_name("#24463f")):
        assert f'href="{address}"' in html
        page = hotel.guest().opens(address)
        assert page.status == 200
        assert page.response.content_type == "text/css; charset=utf-8"
        assert page.response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        other = hotel.guest().opens(address.replace(address[-14:-4], "0123456789"))
        assert other.status == 200
        assert other.response.headers["Cache-Control"] == "no-cache"


def test_a_logo_stands_above_the_name_and_changes_its_address_with_its_picture(hotel: Hotel) -> None:
    addresses = []
    for colour in ("red", "blue"):
        picture = io.BytesIO()
        Image.new("RGB", (40, 20), colour).save(picture, "PNG")
        with hotel.store.transaction() as db:
            networks.set_logo(db, hotel.network.id, picture.getvalue())
        hotel.app = hotel.pages()
        page = hotel.guest().arrives()
        html = page.html
        address = html.partition('<img src="')[2].partition('"')[0]
        assert 'alt=""' in html  # the name stands beside it, and is not read twice
        assert "Hotel Linde Guest Wi-Fi" in page.words
        answer = hotel.app.test_client().get(address)
        assert answer.data == picture.getvalue()
        assert answer.content_type == "image/png"
        assert "immutable" in answer.headers["Cache-Control"]
        addresses.append(address)
    assert addresses[0] != addresses[1]
    stale = hotel.app.test_client().get(addresses[0])
    assert stale.headers["Cache-Control"] == "no-cache"


def test_what_is_not_there_is_a_page_that_says_so(hotel: Hotel) -> None:
    for address in ("x", "..%2f..%2fconfig.py", "logo-9-0123456789ab.png", "nosuch-0123456789.css"):
        assert hotel.app.test_client().get(f"/look/{address}").status_code == 404
