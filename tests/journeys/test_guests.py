"""Guests' journeys: from the first page that the router catches, through the splash page, to the Internet, and out.

Judged by what the guest's browser shows, what the router's firewall lets through, and, at the end of each, by what was
charged: exactly what the router reported.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from playwright.sync_api import Response

from portal.emulator import Dialect
from tests.journeys.house import LAPTOP, WISH, Device, House, host_of
from tests.journeys.live import Live


def test_a_code_opens_the_internet_and_shows_what_is_left(house: House) -> None:
    code = house.code(minutes=180, megabytes=500, devices=2)
    phone = house.device()
    fetched: list[Response] = []
    phone.page.on("response", lambda response: fetched.append(response))
    splash = phone.opens(WISH)
    assert splash.status == 200
    assert phone.title == "Connect to the internet"
    assert "Hotel Linde" in phone.says
    asked = [each for each in fetched if each.ok]
    assert {host_of(each.url) for each in asked} == {host_of(house.live.url)}, "a guest's page asks nobody else"
    assert sum(len(each.body()) for each in asked) <= 30_000, "the splash page, with everything"

    phone.types_code(code.lower().replace("-", " "))
    assert phone.title == "You are online"
    assert "500 MB left" in phone.says
    assert re.search(r"of 3 hours, until \d\d:\d\d", phone.says)
    assert "Devices on this code, 1 of 2 This phone" in phone.says
    assert code in phone.says, "a code to keep"

    phone.follows("Go on to news.example")
    assert phone.title == "You are on the Internet"
    assert phone.page.url == WISH
    phone.loads(20_000_000)
    house.reports()
    phone.page.go_back()
    phone.page.reload()
    assert re.search(r"4(80|79) MB left", phone.says)

    phone.presses("Sign out this phone")
    assert phone.title == "You are signed out"
    house.reports()
    assert not phone.online
    phone.signs_in(code)
    assert phone.online


def test_an_account_asks_for_user_name_and_password(house: House) -> None:
    house.account("Marta Ruiz", "breakfast at eight", minutes=60, devices=3)
    phone = house.device()
    phone.opens()
    phone.page.get_by_text("I have an account").click()
    phone.page.get_by_label("User name").fill("marta ruiz")
    phone.page.get_by_label("Password").fill("breakfast at nine")
    phone.presses("Sign in")
    assert "User name and password do not match." in phone.says
    assert phone.page.get_by_label("User name").input_value() == "marta ruiz", "what was typed stays"
    assert phone.page.get_by_label("Password").input_value() == ""
    assert not phone.online

    phone.page.get_by_label("Password").fill("breakfast at eight")
    phone.presses("Sign in")
    assert phone.title == "You are online"
    assert "Devices on your account, 1 of 3" in phone.says
    assert phone.online
    phone.loads(2_000_000)


def test_a_click_accepts_the_terms_and_gives_the_free_hour_once(house: House) -> None:
    house.edits(terms="Be kind to the others.\nThe house closes the line at midnight.", vouchers=False)
    house.opens_by_click(minutes=60, cooldown_minutes=1440)
    phone = house.device()
    phone.opens()
    assert "60 minutes, once a day, free" in phone.says
    phone.follows("terms of use")
    assert "The house closes the line at midnight." in phone.says
    phone.opens()
    phone.presses("Connect for 60 minutes")
    assert phone.title == "You are online"
    accepted = house.live.one("SELECT version, mac FROM terms_acceptance WHERE network_id = :n", n=house.network.id)
    assert accepted == (house.network.terms_version, phone.guest.mac), "which terms he accepted is kept"
    phone.loads(3_000_000)
    house.reports()

    house.an_hour_passes()
    house.reports()
    assert not phone.online
    phone.opens()
    phone.presses("Connect for 60 minutes")
    assert phone.title == "You have had your free time"
    assert re.search(r"You can connect again tomorrow at \d\d:\d\d", phone.says)
    assert not phone.online


def test_data_that_is_used_up_cuts_off_and_is_told_with_its_figures(house: House) -> None:
    code = house.code(megabytes="0.5", minutes=180)
    phone = house.device()
    phone.signs_in(code)
    phone.loads(450_000)
    house.reports()
    assert phone.online
    phone.page.reload()
    assert "Nearly used up" in phone.says
    phone.loads(150_000)
    house.reports()
    assert not phone.online
    assert phone.guest.download(1) == 0

    phone.page.reload()
    assert phone.title == "This code is used up"
    assert "Nearly used up" not in phone.says
    assert "Keep your code" not in phone.says
    phone.opens()
    assert phone.title == "Connect to the internet", "caught again"
    phone.types_code(code)
    assert phone.title == "This code is used up"
    assert re.search(rf"{code} reached its limit today at \d\d:\d\d: 0\.6 MB of 0\.5 MB\.", phone.says)
    assert "Its time, 3 hours, was not the reason." in phone.says
    assert not phone.online
    phone.types_code(house.code(minutes=60))
    assert phone.online, "another code opens at once"


def test_time_that_is_over_cuts_off_and_is_told_with_its_figures(house: House) -> None:
    code = house.code(minutes=60, megabytes=500)
    phone = house.device()
    phone.signs_in(code)
    phone.loads(1_000_000)
    house.reports()
    assert phone.online
    house.an_hour_passes()
    house.reports()
    assert not phone.online
    phone.opens()
    phone.types_code(code)
    assert phone.title == "This code is used up"
    assert re.search(rf"{code} reached its limit today at \d\d:\d\d: 60 minutes of 60 minutes\.", phone.says)
    assert "Its data, 500 MB, was not the reason." in phone.says
    assert not phone.online


def test_a_wrong_code_is_met_with_help_and_spends_nothing(house: House) -> None:
    code = house.code(minutes=60)
    signs = code.replace("-", "")
    slip = "8" if signs[3] != "8" else "9"
    phone = house.device()
    phone.opens()
    phone.types_code(signs[:3] + slip + signs[4:])
    assert "We do not know this code." in phone.says
    assert re.search(r"Look at the \w+ sign again|Compare it sign by sign", phone.says)
    assert phone.page.get_by_label("Your code").get_attribute("aria-invalid") == "true"
    assert not phone.online
    phone.page.get_by_label("Your code").fill("hello")
    phone.presses("Connect")
    assert "We do not know this code." in phone.says
    phone.types_code(code)
    assert phone.title == "You are online"
    assert re.search(r"(1 h|59 min) left of 60 minutes", phone.says)


def test_a_code_that_was_used_up_yesterday_says_so_to_whoever_tries_it(house: House) -> None:
    code = house.code(megabytes=1, devices=5)
    first = house.device("first")
    first.signs_in(code)
    first.loads(1_000_000)
    house.reports()
    house.passes("1 day")
    second = house.device("second", agent=LAPTOP)
    second.opens()
    second.types_code(code)
    assert second.title == "This code is used up"
    assert re.search(rf"{code} reached its limit yesterday at \d\d:\d\d: 1 MB of 1 MB\.", second.says)
    assert not second.online


def test_after_the_router_was_switched_off_and_on_the_same_code_comes_back(house: House) -> None:
    code = house.code(minutes=180, megabytes=500, devices=1)
    phone = house.device()
    phone.signs_in(code)
    phone.loads(30_000_000)
    house.reports()
    house.gateway.restart()
    assert not phone.online
    phone.signs_in(code)
    assert phone.online
    assert re.search(r"4(70|69) MB left", phone.says)
    phone.loads(20_000_000)
    house.reports()
    phone.page.reload()
    assert re.search(r"4(50|49) MB left", phone.says), "what was used before and after is one sum"


def test_without_the_database_the_page_says_so_and_works_again_after(house: House, live: Live) -> None:
    online, newcomer = house.device("online"), house.device("newcomer")
    online.signs_in(house.code(minutes=60))
    code = house.code(minutes=60)
    newcomer.opens()
    with live.stalled_database():
        begun = time.monotonic()
        with newcomer.page.expect_navigation() as sent:
            newcomer.types_code(code)
        assert sent.value.status == 503
        assert int(sent.value.headers["retry-after"]) > 0
        assert newcomer.title == "We cannot reach our records just now"
        assert "Try again in a minute. Whoever is online stays online." in newcomer.says
        assert time.monotonic() - begun < 8, "told before the guest gives up"
        online.loads(5_000_000)
        house.reports()
        assert online.online, "our failure throws nobody off"
        assert online.opens(WISH).ok
        assert online.title == "You are on the Internet"
    end = time.monotonic() + 10
    while not newcomer.online and time.monotonic() < end:
        newcomer.opens()
        if newcomer.title == "Connect to the internet":
            newcomer.types_code(code)
    assert newcomer.online
    online.loads(1_000_000)


def test_a_code_for_two_devices_takes_two_and_either_can_make_room(house: House) -> None:
    code = house.code(minutes=180, devices=2)
    phone, laptop = house.device("phone"), house.device("laptop", agent=LAPTOP)
    tablet, console = house.device("tablet"), house.device("console")
    phone.signs_in(code)
    laptop.signs_in(code)
    laptop.loads(7_000_000)
    house.reports()

    tablet.opens()
    tablet.types_code(code)
    assert tablet.title == "This code is in use"
    assert "It is on 2 devices, and that is its limit." in tablet.says
    assert not tablet.online

    phone.page.reload()
    assert "Devices on this code, 2 of 2" in phone.says
    assert re.search(r"A computer, ending [0-9A-F]{2}:[0-9A-F]{2} since \d\d:\d\d, 7 MB", phone.says)
    phone.page.get_by_role("button", name="Sign out: A computer").click()
    assert "Devices on this code, 1 of 2" in phone.says
    house.reports()
    assert not laptop.online
    assert phone.online
    tablet.types_code(code)
    assert tablet.online

    console.opens()
    console.types_code(code)
    assert console.title == "This code is in use"
    console.page.get_by_role("button", name=f"Sign out: A phone, ending {phone.guest.mac[-5:].upper()}").click()
    assert console.title == "You are online", "room is made from the page that refused"
    house.reports()
    assert not phone.online
    assert tablet.online
    assert console.online


def test_arabic_on_a_phone_reads_from_right_to_left(opened: Callable[..., House]) -> None:
    house = opened("فندق الواحة")
    code = house.code(minutes=180, megabytes=500)
    phone = house.device(locale="ar", viewport={"width": 320, "height": 640})
    phone.opens()
    reads_from_right_to_left(phone)
    assert "فندق الواحة" in phone.says
    field = phone.page.locator("input[name=code]")
    assert field.get_attribute("dir") == "ltr", "a code is typed from left to right in every language"
    field.fill(code)
    phone.page.locator("form:has(input[name=code]) button.main").click()
    assert phone.online
    reads_from_right_to_left(phone)
    assert phone.page.locator("h1.good").count() == 1

    phone.page.locator("details.lang summary").click()
    phone.page.get_by_role("button", name="Français").click()
    assert phone.page.locator("html").get_attribute("lang") == "fr"
    assert phone.page.locator("html").get_attribute("dir") == "ltr"
    assert phone.title == "Vous êtes en ligne"


def reads_from_right_to_left(device: Device) -> None:
    root = device.page.locator("html")
    assert (root.get_attribute("lang"), root.get_attribute("dir")) == ("ar", "rtl")
    title = device.page.locator("h1").bounding_box()
    assert title is not None
    assert title["x"] + title["width"] > 270, "the page begins at the right"
    wide = device.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], "nothing sticks out sideways"


def test_an_apfree_router_lets_guests_in_and_out_all_the_same(opened: Callable[..., House]) -> None:
    house = opened(dialect=Dialect.APFREE)
    code = house.code(minutes=180, megabytes=50)
    phone = house.device()
    phone.opens()
    phone.follows("click here")  # its redirect is a script, and this browser runs none
    phone.types_code(code)
    phone.follows("click here")
    assert phone.title == "You are online"
    phone.loads(20_000_000)
    house.reports()
    assert phone.online
    phone.page.get_by_label("Your code").fill(code)  # this router brings no token to the welcome page
    phone.presses("Show what is left")
    assert re.search(r"(30|29) MB left", phone.says)
    phone.loads(30_000_000)
    house.reports()
    assert not phone.online
