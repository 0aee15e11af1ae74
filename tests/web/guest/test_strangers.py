"""What nobody honest would send: hostile arrivals, markup everywhere, and what every page promises all the same."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import msgspec
import pytest

from portal import gateways, wifidog
from portal.config import Server, Settings
from tests.web.guest.hotel import Guest, Hotel, Page

PUBLIC_OR_NAMED = [
    "8.8.8.8",
    "evil.example",
    "evil.example:80",
    "10.77.0.1.evil.example",
    "10.77.0.1@evil.example",
    "10.77.0.1%23@evil.example",
    "10.77.0.1%2f@evil.example",
    "//evil.example",
    "http://evil.example/",
    "evil.example%5c",
    "0x0a4d0001",
    "012.115.0.1",
    "172.1.1.1",
    "10.77.1",
    "10.77.0.1.",
    "10.77.0.1%0d%0aSet-Cookie:x=y",
    "::ffff:8.8.8.8",
    "[::1]",
    "2001:db8::1",
    "%EF%BC%91%EF%BC%90.1.1.1",
    "localhost",
]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_public_or_named_address_is_refused_with_a_page_and_mints_nothing(hotel: Hotel, *, recorded: bool) -> None:
    code, guest = hotel.code(), hotel.guest()
    form = guest.arrives().form("code")
    if not recorded:
        forget_address(hotel)
    for address in PUBLIC_OR_NAMED:
        page = guest.arrives(gw_address=address)
        answer = guest.sends(form, {"code": code}, f"/login/?{guest.arrival(gw_address=address)}")
        for shown in (page, answer):
            assert shown.status == 400, address
            assert "We stopped here" in shown.words
            assert not shown.location
            assert "evil" not in shown.html
    assert hotel.tokens() == 0


def test_while_no_address_is_recorded_a_literal_private_one_will_do(hotel: Hotel) -> None:
    forget_address(hotel)
    code, guest = hotel.code(), hotel.guest()
    for address, port, back in (
        ("192.168.1.1", "2060", "http://192.168.1.1:2060/"),
        ("10.0.0.1", "8080", "http://10.0.0.1:8080/"),
        ("100.64.0.1", None, "http://100.64.0.1:2060/"),
        ("fd00::1", "2060", "http://[fd00::1]:2060/"),
    ):
        arrival = guest.arrival(gw_address=address, gw_port=port)
        form = guest.opens(f"/login/?{arrival}").form("code")
        answer = guest.sends(form, {"code": code}, f"/login/?{arrival}")
        assert answer.status == 302
        assert answer.location.startswith(f"{back}wifidog/auth?token=")
        assert hotel.one("SELECT seen_address FROM gateway") == (address,)


def test_what_a_router_says_of_itself_is_noted_beside_the_recorded_address(hotel: Hotel) -> None:
    code, guest = hotel.code(), hotel.guest()
    arrival = guest.arrival(gw_address="10.9.8.7", gw_port="99")
    answer = guest.sends(guest.opens(f"/login/?{arrival}").form("code"), {"code": code}, f"/login/?{arrival}")
    assert answer.status == 302
    assert "10.9.8.7" not in answer.location
    assert hotel.one("SELECT seen_address, seen_port FROM gateway") == ("10.9.8.7", 99)


def test_without_a_way_back_there_is_no_token(hotel: Hotel) -> None:
    forget_address(hotel)
    without: tuple[dict[str, str | None], ...] = ({"gw_address": None}, {"gw_port": "99999"}, {"gw_port": "2060x"})
    for changes in without:
        page = hotel.guest().arrives(**changes)
        assert page.status == 400
        assert "We stopped here" in page.words


def test_the_recorded_address_counts_whatever_private_one_is_claimed(hotel: Hotel) -> None:
    guest = hotel.guest()
    arrival = guest.arrival(gw_address="192.168.66.66", gw_port="80")
    form = guest.opens(f"/login/?{arrival}").form("code")
    answer = guest.sends(form, {"code": hotel.code()}, f"/login/?{arrival}")
    assert answer.location.startswith("http://10.77.0.1:2060/wifidog/auth?")


def test_a_gateway_that_nobody_set_up_gets_a_page_that_says_what_to_do(hotel: Hotel) -> None:
    with hotel.store.transaction() as db:
        gateways.note_unknown(db, "gw-2", hotel.now)
    for gw_id in ("nobody", "gw-2"):
        page = hotel.guest().arrives(gw_id=gw_id)
        assert page.status == 404
        assert "This Wi-Fi is not set up yet" in page.words
        assert "Hotel Linde" not in page.html
        assert not [form for form in page.forms if form.method == "post"]
    assert "The router calls itself gw-2. Adopt it at the desk." in hotel.guest().arrives(gw_id="gw-2").words
    assert "cannot read this link" in hotel.guest().arrives(gw_id="x" * 65).words


def test_a_gateway_that_was_adopted_a_moment_ago_has_its_splash_page(hotel: Hotel) -> None:
    assert hotel.guest().arrives(gw_id="gw-2").status == 404
    with hotel.store.transaction() as db:
        gateways.note_unknown(db, "gw-2", hotel.now)
    hotel.gateways.refresh()
    assert hotel.guest().arrives(gw_id="gw-2").status == 404
    with hotel.store.transaction() as db:
        asking = gateways.by_gw_id(db, "gw-2")
        assert asking is not None
        gateways.adopt(db, asking.id, hotel.network.id, hotel.now)
    page = hotel.guest().arrives(gw_id="gw-2")
    assert page.status == 200
    assert "Hotel Linde" in page.html


def test_a_parameter_said_twice_is_a_link_that_cannot_be_read(hotel: Hotel) -> None:
    for path in ("login/", "portal/", "gw_message.php"):
        page = hotel.guest().opens(f"/{path}?gw_id=gw-1&gw_id=gw-1")
        assert page.status == 400
        assert "We cannot read this link" in page.words


HOSTILE = [
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "{{7919*7919}}",
    "${7919*7919}",
    "javascript:alert(1)",
    "\x00\r\nSet-Cookie: a=b",
    "%s%d%(code)s",
    "Auth: 1",
    "Pong",
    "\u202eabc",
    "&lt;b&gt;",
]


def test_nothing_that_a_browser_sends_leaves_a_page_as_markup(hotel: Hotel) -> None:
    hotel.click_plan(minutes=5)
    hotel.edit(accounts=True)
    for payload in HOSTILE:
        for page in pages_with(hotel, payload):
            assert page.status < 500, payload
            assert "62710561" not in page.words, "nothing is calculated"
            keeps_every_promise(page)


def pages_with(hotel: Hotel, payload: str) -> list[Page]:
    """Pages that were sent the payload in every place there is."""
    escaped = quote(payload, safe="")
    guest = hotel.guest(
        agent=payload.replace("\r\n", " ").replace("\x00", "").encode("latin-1", "ignore").decode("latin-1")
    )
    pages = [guest.arrives(**{name: escaped}) for name in ("gw_address", "gw_port", "gw_id", "ip", "mac", "url")]
    pages.append(guest.arrives(f"&lang={escaped}&show={escaped}&{escaped}={escaped}"))
    form = guest.arrives().form("code")
    pages.append(guest.sends(form, {"code": payload}))
    pages.append(guest.sends(form, {"code": payload, "nonce": payload, "lang": payload}))
    pages.append(guest.sends(guest.arrives().form("username"), {"username": payload, "password": payload}))
    pages.append(guest.sends(form, {"end": payload}))
    for path in ("portal/", "gw_message.php", ""):
        pages.append(guest.opens(f"/{path}?message={escaped}&token={escaped}&gw_id={escaped}&s={escaped}"))
    pages.append(guest.sends(form, {"end": payload, "code": payload}, "/portal/?gw_id=gw-1"))
    return pages


def test_a_network_with_a_hostile_name_is_still_only_text(hotel: Hotel) -> None:
    for payload in HOSTILE:
        text = payload.replace("\x00", "")
        hotel.change(
            "UPDATE network SET name = :text, support = :text, code_hint = :text, terms = :text, privacy = :text",
            text=text,
        )
        hotel.app = hotel.pages()
        page = hotel.guest().arrives()
        assert "img" not in page.tags
        assert " ".join(text.split()) in page.words
        keeps_every_promise(page)


def test_every_page_keeps_its_promises(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60)
    hotel.account("anna", "correct horse")
    for page in every_page(hotel):
        keeps_every_promise(page)


def test_the_form_may_be_sent_on_to_the_gateway_and_back_and_nowhere_else(hotel: Hotel) -> None:
    """Chromium drops a sign-in whose redirects are not all named, and a gateway without TLS redirects to plain HTTP."""

    def allowed(page: Page) -> list[str]:
        policy = page.response.headers["Content-Security-Policy"]
        return policy.partition("form-action ")[2].partition(";")[0].split()

    guest = hotel.guest()
    assert allowed(guest.arrives()) == ["'self'", "http://10.77.0.1:2060", "http://localhost:*"]
    assert allowed(guest.portal("gw_id=gw-1")) == ["'self'"]
    for host in ("evil.example; script-src *", "a b", "x'y", "-", "", "[::1]:80", "a" * 300):
        answer = hotel.app.test_client().get(f"/login/?{guest.arrival()}", headers={"Host": host})
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            assert "evil" not in str(answer.headers)
            assert allowed(Page(answer))[:2] == ["'self'", "http://10.77.0.1:2060"]
    hotel.settings = msgspec.structs.replace(Settings(), server=Server(public_url="https://wifi.example.org"))
    hotel.app = hotel.pages()
    assert allowed(guest.arrives()) == ["'self'", "http://10.77.0.1:2060", "http://wifi.example.org:*"]
    forget_address(hotel)
    assert allowed(guest.arrives(gw_address="fd00::1"))[1] == "http:"


def test_a_path_that_nobody_serves_is_a_page_like_all_others(hotel: Hotel) -> None:
    client = hotel.app.test_client(use_cookies=False)
    for method, path, code in (
        ("GET", "/nosuch", 404),
        ("GET", "/wifidog/x/y", 404),
        ("POST", "/", 405),
        ("PUT", "/login/", 405),
    ):
        page = Page(client.open(path, method=method))
        assert page.status == code
        assert "There is nothing here" in page.words
        keeps_every_promise(page)


def test_an_error_of_our_own_is_told_in_a_sentence_with_a_reference(
    hotel: Hotel, caplog: pytest.LogCaptureFixture
) -> None:
    guest = hotel.guest()
    guest.comes_online(code=hotel.code())
    hotel.change("UPDATE network SET time_zone = 'Not/Known'")
    hotel.change("ALTER TABLE station RENAME COLUMN blocked_until TO elsewhere")
    page = guest.opens(f"/gw_message.php?message=denied&token={guest.token}")
    assert page.status == 500
    assert "Something went wrong here Try again in a minute." in page.words
    reference = next(record.reference for record in caplog.records if record.message == "a guest's page failed")
    assert f"Reference {reference}" in page.words
    for inside in ("blocked_until", "SELECT", "Traceback", "portal/"):
        assert inside not in page.html
    keeps_every_promise(page)


def every_page(hotel: Hotel) -> Iterator[Page]:
    """One of every sort that a guest can meet."""
    code, small, guest, other = (
        hotel.code(minutes=60, devices=1),
        hotel.code(megabytes=1),
        hotel.guest(1),
        hotel.guest(2),
    )
    yield guest.arrives()
    yield guest.arrives("&show=terms")
    yield guest.arrives(gw_address="8.8.8.8")
    yield guest.arrives(gw_id="nobody")
    yield guest.opens("/login/?gw_id=a&gw_id=b")
    yield guest.signs_in(code="x")
    yield guest.signs_in(code="0000-0000-0000")
    yield guest.signs_in(username="anna", password="wrong")
    yield guest.signs_in(code=code)
    yield guest.portal()
    yield guest.comes_online(code=code)
    yield other.signs_in(code=code)
    yield guest.portal("gw_id=gw-1")
    yield guest.portal("gw_id=nobody")
    other.comes_online(code=small)
    other.router_asks("counters", 1_000_000)
    yield other.portal()
    yield other.signs_in(code=small)
    for kind in wifidog.MessageKind:
        yield guest.opens(f"/gw_message.php?message={kind}")
        yield other.opens(f"/gw_message.php?message={kind}&token={other.token}")
    yield guest.opens("/")
    yield guest.opens("/look/nothing")


def keeps_every_promise(page: Page) -> None:
    """No script, no cookie, nothing that a router could take for an answer, and headers that say so."""
    headers = page.response.headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'")
    assert policy.endswith("base-uri 'none'; frame-ancestors 'none'")
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "Set-Cookie" not in headers
    assert "script" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on") or name in ("style", "srcdoc", "background")]
    assert not [
        address
        for address in page.addresses
        if ":" in address.split("/")[0] and not address.startswith(("http:", "https:", "data:,"))
    ]
    for word in ("Auth: ", "Pong"):
        assert word not in page.html
        assert word not in str(headers)


def forget_address(hotel: Hotel) -> None:
    with hotel.store.transaction() as db:
        gateways.record_address(db, hotel.gateway.id, None)
    hotel.gateways.refresh()


def test_guests_keep_apart(hotel: Hotel) -> None:
    """Whoever holds one guest's link sees nothing of another grant."""
    one, other = hotel.guest(1), hotel.guest(2)
    first, second = hotel.code(minutes=60), hotel.code(minutes=120)
    one.comes_online(code=first)
    page = other.comes_online(code=second)
    assert first not in page.html
    assert "77:01" not in page.html


def test_a_browser_of_a_guest_is_never_sent_elsewhere(hotel: Hotel) -> None:
    guest: Guest = hotel.guest(url="http://evil.example/")
    answer = guest.signs_in(code=hotel.code())
    assert answer.location.startswith("http://10.77.0.1:2060/")
    page = guest.portal()
    assert page.status == 200
    assert not page.location
