"""Operators' journeys: from the one-time link to a printed voucher that lets a guest in, and what the desk then does.

All of it in a browser, as an operator does it; the router is configured with the very lines that the desk prints.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from portal import operators
from portal.emulator import AuthServer, Gateway
from portal.offload import Offload
from portal.operators import Role
from tests.journeys.house import PATIENCE_MS, Device, House
from tests.journeys.live import Live, free_port

PASSWORD = "orchard lantern copper tide"


@pytest.fixture
def desk(browser: Browser) -> Iterator[Page]:
    """An operator's browser."""
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page
    context.close()


@pytest.fixture(scope="package")
def owner(live: Live) -> str:
    """The e-mail address of somebody who owns the shared installation."""
    with contextlib.closing(Offload()) as offload:
        hashed = offload.hash_password(PASSWORD)
    with live.store.transaction() as db:
        now = live.store.database_now()
        operator, link = operators.add(db, "ana@linde.example", Role.OWNER, None, now, name="Ana Brandt")
        operators.use_invitation(db, link, hashed, now)
    return operator.email


def signs_in(desk: Page, url: str, email: str) -> None:
    desk.goto(f"{url}/desk/")
    desk.get_by_label("E-mail").fill(email)
    desk.get_by_label("Password").fill(PASSWORD)
    desk.get_by_role("button", name="Sign in").click()


def shown(desk: Page) -> str:
    return " ".join(desk.inner_text("body").split())


def goes_to(desk: Page, section: str) -> None:
    desk.get_by_role("navigation", name="Desk").get_by_role("link", name=section).click()


def field(desk: Page, label: str) -> Locator:
    """The field under that label; the hint below it belongs to the label as well."""
    return desk.locator(f".field:has(b:text-is('{label}')) .input").first


def setting(lines: str, name: str) -> str:
    """A value out of wifidog.conf."""
    found = re.search(rf"^\s*{name} (.+)$", lines, re.MULTILINE)
    assert found is not None, f"{name} is not among the lines"
    return found[1]


def router(lines: str, port: int) -> Gateway:
    """The router that somebody has pasted these lines into."""
    server = AuthServer(
        host=setting(lines, "Hostname"),
        port=int(setting(lines, "HTTPPort")),
        path=setting(lines, "Path"),
        auth_fragment=setting(lines, "AuthScriptPathFragment"),
        ping_fragment=setting(lines, "PingScriptPathFragment"),
    )
    gateway = Gateway(server, setting(lines, "GatewayID"), interval=float(setting(lines, "CheckInterval")), port=port)
    gateway.start(loops=False)
    return gateway


def test_from_the_setup_link_to_the_first_guest_all_in_the_browser(
    desk: Page, browser: Browser, directory: Path
) -> None:
    live = Live(directory)
    live.start()
    try:
        link = live.prints(r"http://\S+/setup/\S+")
        desk.goto(link)
        desk.get_by_label("E-mail").fill("ana@linde.example")
        desk.get_by_label("Your name").fill("Ana Brandt")
        desk.get_by_label("Password").fill(PASSWORD)
        desk.get_by_role("button", name="Create the account").click()
        desk.get_by_role("link", name="New network").click()
        field(desk, "Name").fill("Hotel Linde")
        field(desk, "Colour").fill("#7a2e1d")
        field(desk, "Terms of use").fill("Be kind to the others.")
        desk.get_by_role("button", name="Create the network").click()

        goes_to(desk, "Plans")
        desk.get_by_role("link", name="Make the first plan").click()
        field(desk, "Name").fill("3 hours, 500 MB")
        field(desk, "How long").fill("3")
        desk.get_by_label("How long: unit").select_option("hours")
        field(desk, "How much").fill("500")
        field(desk, "Devices at once").fill("2")
        desk.get_by_role("button", name="Make the plan").click()

        port = free_port()
        goes_to(desk, "Gateways")
        desk.get_by_role("link", name="Add a gateway").click()
        field(desk, "Gateway id").fill("linde-1")
        field(desk, "Address guests return to").fill(f"127.0.0.1:{port}")
        desk.get_by_role("button", name="Add it and show the lines").click()
        gateway = router(desk.inner_text("pre.lines"), port)
        desk.reload()
        assert "Key last shown" in shown(desk), "the router was heard, and showed its key"

        goes_to(desk, "Vouchers")
        field(desk, "How many").fill("10")
        desk.get_by_role("button", name="Issue").click()
        desk.get_by_role("link", name="Print A4").click()
        codes = desk.locator("article.card p.code").all_inner_texts()
        assert len(set(codes)) == 10
        assert desk.locator("article.card svg.qr").count() == 10

        with contextlib.closing(browser.new_context(proxy={"server": gateway.guest("phone").link})) as context:
            phone = Device(gateway.guest("phone"), context.new_page())
            phone.signs_in(codes[0])
            assert "Hotel Linde" in phone.says
            assert phone.online
            phone.loads(4_000_000)
            gateway.cycle()
            reported = gateway.account(phone.guest.mac).reported
            assert reported.down >= 4_000_000
            assert live.charged() == (reported.down, reported.up)

        desk.goto(f"{live.url}/desk/")
        desk.get_by_role("link", name="Hotel Linde").first.click()
        goes_to(desk, "Sessions")
        assert codes[0] in shown(desk)
        gateway.stop()
        answer = desk.goto(link)
        assert answer is not None
        assert answer.status == 410, "the link works once"
        assert live.stop() == 0
    finally:
        live.close()


def test_a_guest_who_is_kicked_is_offline_and_told_and_may_come_back(
    house: House, live: Live, owner: str, desk: Page
) -> None:
    code = house.code(minutes=180, megabytes=500)
    phone = house.device()
    phone.signs_in(code)
    phone.loads(9_000_000)
    house.reports()

    signs_in(desk, live.url, owner)
    desk.goto(f"{live.url}/desk/networks/{house.network.slug}/sessions")
    assert code in shown(desk)
    assert "9 MB" in shown(desk)
    desk.get_by_role("link", name=f"Kick {phone.guest.mac}").click()
    desk.get_by_role("button", name="Kick").click()
    assert "Kicked." in shown(desk)
    assert code not in shown(desk)

    phone.loads(1_000_000)
    house.reports()
    assert not phone.online
    phone.page.reload()
    assert phone.title == "The staff signed this device out"
    phone.follows("Sign in again")
    phone.types_code(code)
    assert phone.title == "You are online"
    assert re.search(r"4(90|89) MB left", phone.says), "what is left of the code stays"


def test_on_a_phone_nothing_of_the_desk_is_cut_without_a_sign(house: House, live: Live, owner: str, desk: Page) -> None:
    phone = house.device()
    phone.signs_in(house.code(minutes=180))
    phone.loads(123_456_789)
    house.reports()
    signs_in(desk, live.url, owner)
    for width, whole in ((390, 5), (320, 5), (600, 9)):
        desk.set_viewport_size({"width": width, "height": 844})
        desk.goto(f"{live.url}/desk/networks/{house.network.slug}/sessions")
        desk.locator("main table a").first.click()
        edges = desk.locator(".side nav li").evaluate_all(
            "each => each.map(li => [li.getBoundingClientRect().left, li.getBoundingClientRect().right])"
        )
        sign = 24 if whole < len(edges) else 0
        assert sum(right <= width - sign + 0.5 for _, right in edges) == whole
        assert all(left >= width - sign - 0.5 for left, _ in edges[whole:]), "none is cut in the middle"
        lines = desk.locator(".sum tbody th").evaluate_all("each => each.map(th => th.getBoundingClientRect().height)")
        assert max(lines) < 100, "a row's name has the whole width"
        assert desk.evaluate("document.documentElement.scrollWidth") <= width


def test_a_guest_who_is_kept_out_hears_until_when(house: House, live: Live, owner: str, desk: Page) -> None:
    code = house.code(minutes=180)
    phone = house.device()
    phone.signs_in(code)
    signs_in(desk, live.url, owner)
    desk.goto(f"{live.url}/desk/networks/{house.network.slug}/sessions")
    desk.get_by_role("link", name=f"Kick {phone.guest.mac}").click()
    desk.get_by_label("Keep this device out").select_option(label="for an hour")
    desk.get_by_role("button", name="Kick").click()
    house.reports()
    assert not phone.online
    phone.opens()
    phone.types_code(code)
    assert phone.title == "This device is blocked"
    assert re.search(r"It can come back today at \d\d:\d\d|tomorrow at \d\d:\d\d", phone.says)
    assert not phone.online


def test_a_router_that_calls_by_itself_waits_in_the_inbox_until_it_is_adopted(
    opened: Callable[..., House], live: Live, owner: str, desk: Page
) -> None:
    house = opened()
    stranger = Gateway(f"{live.url}/wifidog/", "attic", port=free_port())
    stranger.start(loops=False)
    lost = stranger.guest("lost")
    assert "This Wi-Fi is not set up yet" in lost.browse().text
    signs_in(desk, live.url, owner)
    desk.goto(f"{live.url}/desk/networks/{house.network.slug}/gateways")
    assert "Asking to join" in shown(desk)
    assert "attic" in shown(desk)
    desk.get_by_role("button", name="Adopt attic").click()
    stranger.stop()
    adopted = router(desk.inner_text("pre.lines"), stranger.port)
    desk.reload()
    assert "Asking to join" not in shown(desk)
    found = adopted.guest("found")
    found.sign_in(code=house.code(minutes=5))
    assert found.online
    adopted.stop()
