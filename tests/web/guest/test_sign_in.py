"""Stories of the splash page: who is sent to his gateway with a token, and who hears why not."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from argon2 import PasswordHasher

from portal import guests, history
from portal.access import Answer, Reason
from portal.offload import Busy
from tests.web.guest.hotel import LAPTOP, Hotel, Outage, sessions_of


def test_a_guest_with_a_code_is_sent_to_his_gateway_with_a_token(hotel: Hotel) -> None:
    code = hotel.code(minutes=180)
    guest = hotel.guest()
    answer = guest.signs_in(code=code)
    assert answer.status == 302
    assert answer.location == f"http://10.77.0.1:2060/wifidog/auth?token={guest.token}&gw_id=gw-1"
    assert hotel.keyring.genuine(guest.token)
    session = sessions_of(hotel, guest.token)
    assert (session.state, session.mac, session.device, session.language) == ("minted", guest.mac, "phone", "en")
    accepted = hotel.one("SELECT version, language, mac FROM terms_acceptance WHERE session_id = :id", id=session.id)
    assert accepted == (1, "en", guest.mac)
    assert guest.router_asks("login").answer is Answer.ALLOW


def test_the_splash_page_stands_under_every_spelling_of_its_path(hotel: Hotel) -> None:
    for path in ("/login/", "/login", "/wifidog/login/", "/wifidog/login"):
        page = hotel.guest().opens(f"{path}?{hotel.guest().arrival()}")
        assert page.status == 200
        assert "Connect to the internet" in page.words


def test_a_scanned_card_brings_its_code_along_and_nothing_else_does(hotel: Hotel) -> None:
    code = hotel.code()
    scanned = hotel.guest(url=f"http://10.77.0.1:2060/?code={code}").arrives()
    assert scanned.form("code").fields["code"] == code
    for url in (
        f"http://evil.example/?code={code}",
        f"http://10.77.0.1:8080/?code={code}",
        "http://10.77.0.1:2060/?code=%3Cscript%3E",
        "http://10.77.0.1:2060/",
        "http://10.77.0.1:x/",
        "http://[/",
    ):
        assert hotel.guest(url=url).arrives().form("code").fields["code"] == ""


def test_a_code_is_taken_in_any_case_without_its_dashes_and_with_letters_for_digits(hotel: Hotel) -> None:
    code = hotel.code()
    typed = f"  {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} "
    assert hotel.guest().signs_in(code=typed).status == 302


def test_a_mistyped_code_stays_in_its_field_with_a_hint_and_costs_nothing(hotel: Hotel) -> None:
    code = hotel.code()
    wrong = code[:-1] + ("8" if code[-1] != "8" else "B")
    for _ in range(15):
        page = hotel.guest().signs_in(code=wrong)
        assert page.status == 200
        assert "We do not know this code." in page.words
        assert page.form("code").fields["code"] == wrong
    assert hotel.guest().signs_in(code=code).status == 302


def test_a_sign_that_looks_like_another_is_pointed_at(hotel: Hotel) -> None:
    alike = {"8": "B", "5": "S", "2": "Z", "0": "D", "6": "G", "B": "8", "S": "5", "Z": "2", "D": "0", "G": "6"}
    for _ in range(20):
        code = hotel.code()
        place = next((n for n, sign in enumerate(code.replace("-", "")) if sign in alike), None)
        if place is None:
            continue
        signs = list(code.replace("-", ""))
        meant, signs[place] = signs[place], alike[signs[place]]
        words = hotel.guest().signs_in(code="".join(signs)).words
        if "sign again" in words:
            assert f"sign again: it may be {meant}." in words
            return
    raise AssertionError("no hint in twenty codes")


def test_a_code_that_was_never_issued_is_refused_and_after_ten_the_guest_waits(hotel: Hotel) -> None:
    guest = hotel.guest()
    for _ in range(10):
        page = guest.signs_in(code="0000-0000-0000")
        assert page.status == 200
        assert "We do not know this code." in page.words
    page = guest.signs_in(code="0000-0000-0000")
    assert page.status == 429
    assert int(page.response.headers["Retry-After"]) >= 1
    assert "Too many tries" in page.words
    assert hotel.guest(2).signs_in(code=hotel.code()).status == 302, "others are not locked out"


def test_a_code_of_another_network_is_not_known_here(hotel: Hotel) -> None:
    code = hotel.code()
    hotel.change("INSERT INTO network (slug, name) VALUES ('other', 'Other')")
    hotel.change(
        "UPDATE gateway SET network_id = (SELECT id FROM network WHERE slug = 'other'), changed_at = clock_timestamp()"
    )
    hotel.gateways.refresh()
    assert "We do not know this code." in hotel.guest().signs_in(code=code).words


def test_a_code_used_up_by_data_is_refused_with_its_figures_and_the_time(hotel: Hotel) -> None:
    code = hotel.code(minutes=180, megabytes=500)
    guest = hotel.guest()
    guest.comes_online(code=code)
    assert guest.router_asks("counters", 500_000_000, 123).reason is Reason.DATA_OVER
    yesterday = hotel.now.astimezone(UTC) - timedelta(days=1)
    over_at = yesterday.replace(hour=11, minute=40, second=0)
    hotel.change('UPDATE "grant" SET over_at = :at', at=over_at)
    local = over_at.astimezone(tz=ZoneInfo("Europe/Berlin"))
    page = guest.signs_in(code=code)
    assert page.status == 200
    assert "This code is used up" in page.words
    assert f"{code} reached its limit yesterday at {local:%H:%M}: 500 MB of 500 MB." in page.words
    assert "0 MB left. Its time, 3 hours, was not the reason." in page.words
    assert "Type another code" in page.words


def test_a_refusal_tells_the_staff_when_why_where_and_the_end_of_the_mac_that_the_desk_finds(
    hotel: Hotel, caplog: pytest.LogCaptureFixture
) -> None:
    code = hotel.code(minutes=180)
    guest = hotel.guest()
    guest.comes_online(code=code)
    session_id = hotel.one("SELECT id FROM session")[0]
    hotel.change("UPDATE \"grant\" SET started_at = now() - INTERVAL '4 hours', ends_at = now() - INTERVAL '1 hour'")
    with caplog.at_level(logging.INFO, "portal.web.guest"):
        page = guest.signs_in(code=code)
    told = re.search(r"Reference (\S+ \S+) · time over · gw-1 · (\S+)", page.words)
    assert told is not None
    noon = hotel.now.astimezone(ZoneInfo("Europe/Berlin"))
    assert told[1] in (f"{noon - timedelta(minutes=1):%Y-%m-%d %H:%M}", f"{noon:%Y-%m-%d %H:%M}")
    assert told[2] == guest.mac[-5:]
    with hotel.store.read() as db:
        found = history.live(db, hotel.network.id, hotel.now, text=told[2])
    assert [each.id for each in found] == [session_id]
    assert not any(guest.mac in str(vars(record)) for record in caplog.records)


def test_a_code_used_up_by_time_says_so(hotel: Hotel) -> None:
    code = hotel.code(minutes=180)
    hotel.guest().comes_online(code=code)
    hotel.change("UPDATE \"grant\" SET started_at = now() - INTERVAL '4 hours', ends_at = now() - INTERVAL '1 hour'")
    words = hotel.guest().signs_in(code=code).words
    assert "This code is used up" in words
    assert ": 3 hours of 3 hours." in words


def test_an_allowance_for_the_day_says_when_it_starts_anew(hotel: Hotel) -> None:
    code = hotel.code(period="day", period_megabytes=100)
    guest = hotel.guest()
    guest.comes_online(code=code)
    assert guest.router_asks("counters", 100_000_000).reason is Reason.PERIOD_DATA_OVER
    words = guest.signs_in(code=code).words
    assert "Used up for today" in words
    assert "100 MB of 100 MB. It starts anew tomorrow at 00:00." in words


def test_an_expired_code_says_until_when_it_was_valid(hotel: Hotel) -> None:
    code = hotel.code(valid_days=1)
    hotel.change("UPDATE \"grant\" SET valid_until = now() - INTERVAL '1 minute'")
    words = hotel.guest().signs_in(code=code).words
    assert "This code is out of date" in words
    assert f"{code} was valid until" in words


def test_a_code_taken_back_says_so(hotel: Hotel) -> None:
    code = hotel.code()
    hotel.change('UPDATE "grant" SET revoked_at = now()')
    words = hotel.guest().signs_in(code=code).words
    assert "This code was taken back" in words
    assert "The staff did that today at" in words


def test_a_code_full_of_devices_lists_them_and_one_can_make_room(hotel: Hotel) -> None:
    code = hotel.code(minutes=180, devices=2)
    first, second, third = hotel.guest(1), hotel.guest(2, agent=LAPTOP), hotel.guest(3)
    first.comes_online(code=code)
    second.comes_online(code=code)
    page = third.signs_in(code=code)
    assert page.status == 200
    assert "This code is in use" in page.words
    assert "It is on 2 devices, and that is its limit." in page.words
    assert "A phone, ending 77:01" in page.words
    assert "A computer, ending 77:02" in page.words
    answer = third.sends(page.button("Sign out: A computer, ending 77:02"), {})
    assert answer.status == 302
    third.token = parse_qs(urlsplit(answer.location).query)["token"][0]
    assert third.router_asks("login").answer is Answer.ALLOW
    assert second.router_asks("counters").reason is Reason.LOGOUT
    assert first.router_asks("counters").answer is Answer.ALLOW


def test_an_order_to_make_room_is_worth_nothing_from_another_device_or_later(hotel: Hotel) -> None:
    code = hotel.code(devices=1)
    hotel.guest(1).comes_online(code=code)
    second, thief = hotel.guest(2), hotel.guest(3)
    order = second.signs_in(code=code).button("Sign out: A phone").fields["end"]
    own_form = thief.arrives().form("code")
    stolen = thief.sends(own_form, {"end": order[:-2] + "xx"})
    assert stolen.status == 200
    assert hotel.one("SELECT count(*) FROM session WHERE state = 'active'") == (1,)
    hotel.ahead = timedelta(hours=2)
    late = second.sends(second.arrives().form("code"), {"end": order})
    assert "This sign-in waited too long" in late.words


def test_the_same_device_comes_back_with_its_code_after_a_router_restart(hotel: Hotel) -> None:
    code = hotel.code(minutes=180, devices=1)
    guest = hotel.guest()
    guest.comes_online(code=code)
    guest.router_asks("counters", 5_000)
    # The router has restarted: it sent no logout, knows nobody, and redirects the guest again.
    page = guest.comes_online(code=code)
    assert "You are online" in page.words
    assert guest.router_asks("counters", 700).answer is Answer.ALLOW
    assert hotel.one("SELECT count(*) FROM session WHERE state = 'active'") == (1,)


def test_an_account_lets_its_guest_in(hotel: Hotel) -> None:
    hotel.account("room 12", "correct horse", minutes=60)
    page = hotel.guest().comes_online(username="Room 12", password="correct horse")
    assert "You are online" in page.words
    assert "Keep your code" not in page.words


def test_a_wrong_password_and_an_unknown_name_are_refused_in_the_same_words(hotel: Hotel) -> None:
    hotel.account("anna", "correct horse")
    guest = hotel.guest()
    wrong = guest.signs_in(username="anna", password="battery staple")
    unknown = guest.signs_in(username="bert", password="battery staple")
    for page, name in ((wrong, "anna"), (unknown, "bert")):
        assert page.status == 200
        assert "User name and password do not match." in page.words
        assert page.form("username").fields["username"] == name
        assert page.form("username").fields["password"] == ""
        assert page.words.index("do not match") < page.words.index("I have a code"), "what went wrong comes first"
    assert wrong.words == unknown.words


def test_an_account_whose_password_was_hashed_by_older_rules_has_it_hashed_anew(hotel: Hotel) -> None:
    account = hotel.account("anna", "correct horse")
    older = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash("correct horse")
    with hotel.store.transaction() as db:
        guests.set_password(db, hotel.network.id, account.id, older)
    hotel.guest().signs_in(username="anna", password="battery staple")
    assert hotel.one("SELECT password_hash FROM guest") == (older,)
    assert "You are online" in hotel.guest().comes_online(username="anna", password="correct horse").words
    renewed = hotel.one("SELECT password_hash FROM guest")[0]
    assert not hotel.offload.is_outdated(renewed)
    assert hotel.offload.verify_password(renewed, "correct horse")
    assert "You are online" in hotel.guest().comes_online(username="anna", password="correct horse").words
    assert hotel.one("SELECT password_hash FROM guest") == (renewed,)


def test_an_account_comes_online_though_its_password_cannot_be_hashed_anew(
    hotel: Hotel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_stored: str, _password: str) -> str:
        raise Busy

    monkeypatch.setattr(hotel.offload, "renewed", busy)
    hotel.account("anna", "correct horse")
    assert "You are online" in hotel.guest().comes_online(username="anna", password="correct horse").words


def test_a_blocked_account_hears_it_only_with_its_password(hotel: Hotel) -> None:
    account = hotel.account("anna", "correct horse")
    with hotel.store.transaction() as db:
        guests.block(db, hotel.network.id, account.id, hotel.now)
    guest = hotel.guest()
    assert "User name and password do not match." in guest.signs_in(username="anna", password="x").words
    assert "Your account is closed" in guest.signs_in(username="anna", password="correct horse").words


def test_a_click_lets_a_guest_in_and_the_next_one_waits_for_its_turn(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60, cooldown_minutes=24 * 60)
    guest = hotel.guest()
    page = guest.arrives()
    assert "60 minutes, once a day, free" in page.words
    assert "Connect for 60 minutes" in page.words
    assert "You are online" in guest.comes_online().words
    assert "You are online" in guest.comes_online().words, "the same click again, while something is left of it"
    assert hotel.one("SELECT count(*) FROM \"grant\" WHERE kind = 'click'") == (1,)
    hotel.change("UPDATE \"grant\" SET started_at = now() - INTERVAL '2 hours', ends_at = now() - INTERVAL '1 hour'")
    page = guest.signs_in()
    assert "You have had your free time" in page.words
    assert "You can connect again" in page.words
    assert "No code?" not in page.words, "a way that just refused him is not offered again"
    assert "Type another code" not in page.words, "he typed none"


def test_a_click_is_not_offered_to_a_device_whose_mac_is_not_known(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60)
    assert "No code?" in hotel.guest().arrives().words
    assert "No code?" not in hotel.guest().arrives(mac=None).words


def test_a_code_works_also_behind_a_gateway_that_names_no_mac(hotel: Hotel) -> None:
    guest = hotel.guest()
    page = guest.arrives(mac=None, ip=None)
    path = f"/wifidog/login/?{guest.arrival(mac=None, ip=None)}"
    answer = guest.sends(page.form("code"), {"code": hotel.code()}, path)
    assert answer.status == 302
    guest.token = parse_qs(urlsplit(answer.location).query)["token"][0]
    assert guest.router_asks("login").answer is Answer.ALLOW


def test_a_blocked_device_hears_until_when(hotel: Hotel) -> None:
    code = hotel.code()
    guest = hotel.guest()
    with hotel.store.transaction() as db:
        guests.block_station(db, hotel.network.id, guest.mac, hotel.now + timedelta(minutes=30), hotel.now)
    words = guest.signs_in(code=code).words
    assert "This device is blocked" in words
    assert "another code" not in words, "no code would be let in"
    assert "By connecting" not in words
    assert "It can come back" in words
    assert hotel.tokens() == 0


def test_who_only_claims_a_mac_does_not_hear_until_when_it_is_blocked(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60)
    guest = hotel.guest()
    with hotel.store.transaction() as db:
        guests.block_station(db, hotel.network.id, guest.mac, hotel.now + timedelta(minutes=30), hotel.now)
    page = guest.signs_in()
    assert "This device is blocked Ask the staff" in page.words
    assert "come back" not in page.words
    assert "<p></p>" not in page.html
    assert hotel.tokens() == 0


def test_the_ways_in_stand_in_the_order_of_their_likelihood(hotel: Hotel) -> None:
    hotel.click_plan(minutes=30)
    hotel.edit(accounts=True)
    words = hotel.guest().arrives().words
    assert words.index("Your code") < words.index("I have an account") < words.index("No code?")
    hotel.edit(vouchers=False, accounts=False)
    page = hotel.guest().arrives()
    assert "Your code" not in page.words
    assert "details" not in page.tags[page.tags.index("main") :]
    assert "Connect for 30 minutes" in page.words


def test_a_way_that_was_closed_since_the_page_was_loaded_lets_nobody_in(hotel: Hotel) -> None:
    code, guest = hotel.code(), hotel.guest()
    hotel.edit(accounts=True)
    form = guest.arrives().form("code")
    hotel.edit(vouchers=False)
    page = guest.sends(form, {"code": code})
    assert page.form("username")
    assert "Your code" not in page.words
    assert hotel.tokens() == 0


def test_a_network_without_a_way_in_says_so(hotel: Hotel) -> None:
    hotel.edit(vouchers=False)
    assert "There is no way in here just now." in hotel.guest().arrives().words


def test_a_form_without_a_nonce_or_with_a_made_up_one_mints_nothing(hotel: Hotel) -> None:
    code, guest = hotel.code(), hotel.guest()
    form = guest.arrives().form("code")
    for nonce in ("", "x", "A" * 80, form.fields["nonce"][:-1] + "?"):
        form.fields["nonce"] = nonce
        page = guest.sends(form, {"code": code})
        assert page.status == 200
        assert "This page has waited too long." in page.words
        assert page.form("code").fields["code"] == code, "what was typed stays"
    assert hotel.tokens() == 0


def test_a_form_is_good_for_its_own_gateway_and_station_for_ten_minutes(hotel: Hotel) -> None:
    code, guest, other = hotel.code(), hotel.guest(1), hotel.guest(2)
    form = guest.arrives().form("code")
    assert "waited too long" in other.sends(form, {"code": code}).words
    hotel.ahead = timedelta(minutes=11)
    assert "waited too long" in guest.sends(form, {"code": code}).words
    hotel.ahead = timedelta(minutes=9)
    assert guest.sends(form, {"code": code}).status == 302


def test_terms_that_changed_meanwhile_are_shown_before_they_are_accepted(hotel: Hotel) -> None:
    code, guest = hotel.code(), hotel.guest()
    form = guest.arrives().form("code")
    hotel.edit(terms="Be kind.")
    page = guest.sends(form, {"code": code})
    assert "The terms of use have changed." in page.words
    assert "Be kind." in page.words
    assert guest.sends(page.form("code"), {"code": code}).status == 302
    assert hotel.one("SELECT version FROM terms_acceptance") == (2,)


def test_a_form_sent_with_the_enter_key_needs_no_button(hotel: Hotel) -> None:
    guest = hotel.guest()
    assert "way" not in guest.arrives().form("code").fields
    assert guest.signs_in(code=hotel.code()).status == 302


def test_while_our_records_are_away_the_page_says_when_to_come_back(hotel: Hotel, outage: Outage) -> None:
    code, guest = hotel.code(), hotel.guest()
    form = guest.arrives().form("code")
    with outage:
        assert "Connect to the internet" in guest.arrives().words, "what was read a moment ago can still be shown"
        page = guest.sends(form, {"code": code})
        assert page.status == 503
        assert int(page.response.headers["Retry-After"]) >= 1
        assert "We cannot reach our records just now" in page.words
        assert page.form("code").fields["code"] == code, "nothing is wrong with it"
        assert "Try again in a minute." in page.words
        hotel.app = hotel.pages()
        fresh = guest.arrives()
        assert fresh.status == 503
        assert "We cannot reach our records just now" in fresh.words
    assert hotel.guest().signs_in(code=code).status == 302


def test_a_moment_of_another_year_is_told_with_its_year(hotel: Hotel) -> None:
    code = hotel.code(valid_days=1)
    hotel.change('UPDATE "grant" SET valid_until = :at', at=datetime(2021, 3, 5, 12, 0, tzinfo=UTC))
    assert f"{code} was valid until 13:00 on 5 March 2021." in hotel.guest().signs_in(code=code).words
