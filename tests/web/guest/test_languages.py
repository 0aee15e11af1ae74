"""Which language a guest is spoken to in, whether each says everything, and how it writes figures and moments."""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from flask import Flask

from portal import fields
from portal.web import catalogues, languages
from tests.web.guest.hotel import Hotel, sessions_of

NOW = datetime(2026, 11, 21, 15, 58, tzinfo=UTC)


@pytest.fixture
def speaking() -> Iterator[None]:
    """A request in which languages can be spoken."""
    app = Flask("portal")
    languages.install(app)
    with app.test_request_context():
        yield


@pytest.mark.parametrize("language", catalogues.TRANSLATED)
def test_every_language_says_everything_with_the_same_figures_in_it(language: str) -> None:
    assert catalogues.faults(language) == []


@pytest.mark.parametrize("language", catalogues.TRANSLATED)
def test_what_the_server_reads_is_what_the_translators_wrote(language: str) -> None:
    with catalogues.compiled_file(language).open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    said = 0
    for message in catalogues.read(language):
        if not message.id:
            continue
        if message.pluralizable:
            forms = [compiled._catalog[message.id[0], number] for number in range(len(message.string))]  # type: ignore[attr-defined]
            assert forms == list(message.string)
        else:
            assert compiled.gettext(message.id) == message.string
        said += 1
    assert said > 150


def test_the_languages_of_the_pages_are_those_an_operator_can_choose() -> None:
    assert tuple(languages.LANGUAGES) == fields.LANGUAGES


@pytest.mark.parametrize(
    ("asked", "accepted", "default", "spoken"),
    [
        (None, "", "de", "de"),
        (None, "pt-BR,pt;q=0.9,en;q=0.8", "de", "pt"),
        (None, "zh-Hans-CN,zh;q=0.9", "de", "zh"),
        (None, "zh-TW", "en", "zh"),
        (None, "ar-EG", "en", "ar"),
        (None, "nl,da;q=0.9", "fr", "fr"),
        (None, "nl,es;q=0.5", "fr", "es"),
        (None, "en-GB;q=0.2,fr;q=0.8", "de", "fr"),
        (None, "*", "hi", "hi"),
        ("hi", "de", "en", "hi"),
        ("xx", "de", "en", "de"),
        ("EN", "de", "en", "de"),
        (None, "x" * 5000, "en", "en"),
        (None, ";;;q=,=\x00", "xx", "en"),
    ],
)
def test_a_language_is_chosen_by_hand_else_by_the_browser_else_by_the_house(
    asked: str | None, accepted: str, default: str, spoken: str
) -> None:
    assert languages.choose(asked, accepted, default) == spoken


def test_a_language_chosen_by_hand_stays_through_a_refusal_the_router_and_back(hotel: Hotel) -> None:
    code = hotel.code(minutes=180)
    guest = hotel.guest(languages="de")
    menu = next(form for form in guest.arrives().forms if form.method == "get")
    assert {button[:2] for button in menu.buttons} == {("lang", code) for code in languages.LANGUAGES}
    query = "&".join(f"{name}={value}" for name, value in menu.fields.items())
    page = guest.opens(f"/login/?{query}&lang=fr")
    assert (page.language, page.direction) == ("fr", "ltr")
    refused = guest.sends(page.form("code"), {"code": "0000-0000-0000"})
    assert "Nous ne connaissons pas ce code." in refused.words
    answer = guest.sends(refused.form("code"), {"code": code})
    guest.token = answer.location.partition("token=")[2].partition("&")[0]
    assert sessions_of(hotel, guest.token).language == "fr"
    guest.router_asks("login")
    assert "Vous êtes en ligne" in guest.portal().words
    denied = guest.opens(f"/gw_message.php?message=denied&token={guest.token}")
    assert denied.language == "fr"


def test_the_language_menu_of_a_status_page_keeps_the_page_without_its_token(hotel: Hotel) -> None:
    guest = hotel.guest()
    page = guest.comes_online(code=hotel.code(minutes=180))
    menu = next(form for form in page.forms if form.method == "get")
    assert guest.token not in menu.fields.values()
    query = "&".join(f"{name}={value}" for name, value in menu.fields.items())
    assert "Sie sind online" in guest.opens(f"/wifidog/portal/?{query}&lang=de").words


def test_arabic_runs_from_right_to_left_and_codes_do_not(hotel: Hotel) -> None:
    page = hotel.guest(languages="ar").arrives()
    assert (page.language, page.direction) == ("ar", "rtl")
    assert "الاتصال بالإنترنت" in page.words
    assert 'class="input code" id="code" name="code" dir="ltr"' in page.html


def test_the_house_speaks_its_own_words_in_its_own_language(hotel: Hotel) -> None:
    hotel.edit(language="de", support="Fragen Sie am Empfang.", code_hint="Er steht auf der Zimmerkarte.")
    page = hotel.guest(languages="en").arrives()
    assert page.language == "en"
    assert '<p lang="de" dir="auto">Fragen Sie am Empfang.</p>' in page.html
    assert '<p class="hint" lang="de" dir="auto">Er steht auf der Zimmerkarte.</p>' in page.html
    assert "Er steht auf der Zimmerkarte. Großschreibung" in hotel.guest(languages="de").arrives().words
    assert hotel.guest(languages="nl").arrives().language == "de"


@pytest.mark.parametrize(
    ("count", "english", "french", "arabic"),
    [
        (0, "0 MB", "0 Mo", "0 ميغابايت"),
        (1, "0 MB", "0 Mo", "0 ميغابايت"),
        (999_999, "0.9 MB", "0,9 Mo", "0.9 ميغابايت"),
        (1_000_000, "1 MB", "1 Mo", "1 ميغابايت"),
        (1_259_999, "1.25 MB", "1,25 Mo", "1.25 ميغابايت"),
        (62_499_999, "62.4 MB", "62,4 Mo", "62.4 ميغابايت"),
        (499_999_999, "499 MB", "499 Mo", "499 ميغابايت"),
        (999_999_999, "999 MB", "999 Mo", "999 ميغابايت"),
        (1_500_000_000, "1.5 GB", "1,5 Go", "1.5 غيغابايت"),
        (1_234_567_890_123, "1,234 GB", "1\u202f234 Go", "1,234 غيغابايت"),
    ],
)
@pytest.mark.usefixtures("speaking")
def test_data_is_told_in_three_digits_and_never_rounded_up(count: int, english: str, french: str, arabic: str) -> None:
    for language, told in (("en", english), ("fr", french), ("ar", arabic)):
        languages.speak(language, UTC)
        assert languages.data(count) == told


@pytest.mark.usefixtures("speaking")
def test_spans_are_told_in_two_units_and_limits_as_their_plan_names_them() -> None:
    languages.speak("en", UTC)
    spans = {
        59: "0 min",
        60: "1 min",
        3599: "59 min",
        3600: "1 h",
        6120: "1 h 42 min",
        172_800: "2 days",
        180_000: "2 d 2 h",
    }
    assert {seconds: languages.span(seconds) for seconds in spans} == spans
    limits = {60: "1 minute", 1800: "30 minutes", 3600: "60 minutes", 5400: "90 minutes", 7200: "2 hours"}
    limits |= {86_400: "24 hours", 604_800: "7 days", 9000: "2 h 30 min", 45: "45 seconds"}
    assert {seconds: languages.spelt(seconds) for seconds in limits} == limits


@pytest.mark.parametrize(
    ("count", "said"),
    [(60, "دقيقة واحدة"), (120, "دقيقتين"), (180, "3 دقائق"), (660, "11 دقيقة"), (6000, "100 دقيقة")],
)
@pytest.mark.usefixtures("speaking")
def test_arabic_counts_in_its_six_forms(count: int, said: str) -> None:
    languages.speak("ar", UTC)
    assert languages.spelt(count) == said


@pytest.mark.parametrize(
    ("apart", "when", "until"),
    [
        (timedelta(0), "today at 16:58", "until 16:58 today"),
        (timedelta(hours=7, minutes=2), "tomorrow at 00:00", "until 00:00 tomorrow"),
        (timedelta(days=-1), "yesterday at 16:58", "until 16:58 yesterday"),
        (timedelta(days=4), "on Wednesday 25 November at 16:58", "until 16:58 on Wednesday 25 November"),
        (timedelta(days=41), "on 1 January 2027 at 16:58", "until 16:58 on 1 January 2027"),
    ],
)
@pytest.mark.usefixtures("speaking")
def test_moments_are_told_in_the_networks_time_zone(apart: timedelta, when: str, until: str) -> None:
    languages.speak("en", ZoneInfo("Europe/Berlin"))
    assert languages.when(NOW + apart, NOW) == when
    assert languages.until(NOW + apart, NOW) == until


@pytest.mark.usefixtures("speaking")
def test_days_are_written_as_each_language_writes_them() -> None:
    written = {}
    for language in languages.LANGUAGES:
        languages.speak(language, UTC)
        written[language] = languages.day(NOW + timedelta(days=4), NOW)
    assert written == {
        "en": "Wednesday 25 November",
        "es": "miércoles 25 de noviembre",
        "fr": "mercredi 25 novembre",
        "de": "Mittwoch, 25. November",
        "pt": "quarta-feira, 25 de novembro",
        "ar": "الأربعاء 25 نوفمبر",
        "hi": "बुधवार, 25 नवंबर",
        "zh": "11月25日星期三",
    }
