"""What a guest's phone loads before it is online: 15 kB at most, 30 kB with a logo of the largest size there is."""

from __future__ import annotations

from portal.offload import logo
from portal.web import languages
from tests.web.guest.hotel import Hotel, Page

MUST, GOAL = 30_000, 15_000


def weight(hotel: Hotel, page: Page) -> int:
    """The page and every style sheet and picture it names, headers left out, nothing compressed."""
    client = hotel.app.test_client(use_cookies=False)
    loaded = [address for address in page.addresses if address.startswith("/look/")]
    assert loaded
    return len(page.html.encode()) + sum(len(client.get(address).data) for address in loaded)


def test_the_splash_page_weighs_less_than_15_kb_in_every_language(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60, cooldown_minutes=24 * 60)
    hotel.edit(
        accounts=True, support="Stuck? Ask at reception or dial 9 from your room.", code_hint="On your room card."
    )
    for language in languages.LANGUAGES:
        guest = hotel.guest(languages=language, url="http://www.example.org/some/page?" + "a=b&" * 50)
        assert weight(hotel, guest.arrives()) < GOAL, language


def test_no_page_weighs_more_than_it_may_with_a_logo_and_long_terms(hotel: Hotel) -> None:
    hotel.click_plan(minutes=60)
    hotel.edit(accounts=True, terms="Be kind. " * 4_000, privacy="We keep little. " * 2_500)
    hotel.change("UPDATE network SET logo = CAST(:logo AS bytea)", logo=b"\x89PNG\r\n\x1a\n".ljust(logo.BYTES))
    hotel.app = hotel.pages()
    guest = hotel.guest()
    page = guest.arrives()
    assert weight(hotel, page) < MUST
    assert "Be kind." not in page.words
    terms = guest.opens(f"/wifidog/login/{page.links['Terms of use']}")
    assert terms.words.count("Be kind.") == 4_000
    assert "Connect to the internet" in guest.opens(f"/wifidog/login/{terms.links['Close']}").words
    assert weight(hotel, guest.comes_online(code=hotel.code(minutes=60, megabytes=500))) < MUST


def test_nothing_is_loaded_from_elsewhere(hotel: Hotel) -> None:
    page = hotel.guest().arrives()
    loaded = [each for each in page.addresses if not each.startswith(("#", "/look/", "data:,"))]
    assert loaded == []
