"""Eight languages: which one a guest is spoken to in, and how each writes amounts, spans of time and moments.

Promises: a language is always one of LANGUAGES; amounts are rounded down, so that nothing looks used up that is not,
and a megabyte is 10^6 bytes; moments are told in the network's time zone, absolute, since nothing counts down without
a script. Never holds a sentence of a page: those stand in the templates and in guest/words.py.

Messages are translated with Flask-Babel. Units are messages too: the tables that Babel ships leave several of them
out for Chinese, Arabic and Portuguese, and prints their English names there.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import flask_babel
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal
from flask import Flask, g
from markupsafe import Markup
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

# Each by its own name, in the order of the menu.
LANGUAGES = {
    "en": "English",
    "es": "Español",
    "fr": "Français",
    "de": "Deutsch",
    "pt": "Português",
    "ar": "العربية",
    "hi": "हिन्दी",
    "zh": "中文",
}
RIGHT_TO_LEFT = frozenset({"ar"})
TRANSLATIONS = Path(__file__).with_name("translations")
DOMAIN = "guest"

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_UTC = ZoneInfo("UTC")


def install(app: Flask) -> None:
    """Lets `app` translate, with everything read that a first guest of each language would wait for: 100 ms in all."""
    babel = flask_babel.Babel(configure_jinja=False)
    babel.init_app(
        app, default_domain=DOMAIN, default_translation_directories=str(TRANSLATIONS), locale_selector=language
    )
    now = datetime.now(_UTC)
    with app.app_context():
        for each in LANGUAGES:
            speak(each, _UTC)
            day(now, now)
            data(0)


def choose(asked: str | None, accept_language: str, default: str) -> str:
    """The language for a guest: the one asked for by hand, else the browser's, else the network's, else English."""
    if asked in LANGUAGES:
        return str(asked)
    house = default if default in LANGUAGES else "en"
    accepted = parse_accept_header(accept_language[:500], LanguageAccept)
    # The house's own comes first, for browsers to which any is the same.
    return accepted.best_match([house, *LANGUAGES], house)


def speak(language: str, zone: tzinfo) -> None:
    """From here on this request speaks `language` and tells moments in `zone`."""
    g.language = language
    g.zone = zone
    flask_babel.refresh()


def language() -> str:
    """The language of this request."""
    return str(g.get("language", "en"))


def direction() -> str:
    """Which way this request's language runs, as HTML's `dir` wants it."""
    return "rtl" if language() in RIGHT_TO_LEFT else "ltr"


def translated(message: str) -> str:
    """`message` in this request's language, its placeholders still in place."""
    return str(flask_babel.gettext(message))


def counted(one: str, many: str, count: int) -> str:
    """The form of a message that `count` things take in this request's language, with `%(num)s` filled in."""
    return str(flask_babel.ngettext(one, many, count))


def say(message: str, **parts: object) -> Markup:
    """`message` in this request's language, with its placeholders filled in."""
    return filled(translated(message), **parts)


def filled(message: str, **parts: object) -> Markup:
    """A translated message with its placeholders filled in. Its own markup stands; every part that is none is escaped.

    Messages come from our own sources and catalogues alone, where a test looks at their markup.
    """
    text = Markup(message)  # noqa: S704
    return text % parts if parts else text


def together(one: str, other: str) -> Markup:
    """Two sentences, one behind the other."""
    return say("%(one)s %(other)s", one=one, other=other)


def decimal(number: float) -> str:
    """A number as the language writes it, with at most two places."""
    return format_decimal(number, "#,##0.##", locale=Locale(language()))


def data(count: int) -> str:
    """Bytes in three digits, rounded down: "438 MB", "1.31 GB", "62.4 MB"; below a megabyte in tenths of one."""
    scale, unit = (10**9, translated("%(amount)s GB")) if count >= 10**9 else (10**6, translated("%(amount)s MB"))
    places = 10 if count < scale else 1 if count >= 100 * scale else 10 if count >= 10 * scale else 100
    return unit % {"amount": decimal(count * places // scale / places)}


def span(seconds: float) -> str:
    """A length of time in its two largest units, rounded down: "42 min", "1 h 42 min", "3 d 4 h"; never seconds."""
    minutes = int(seconds) // _MINUTE
    if minutes < 60:
        return translated("%(minutes)s min") % {"minutes": decimal(minutes)}
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        if not minutes:
            return translated("%(hours)s h") % {"hours": decimal(hours)}
        return translated("%(hours)s h %(minutes)s min") % {"hours": decimal(hours), "minutes": decimal(minutes)}
    days, hours = divmod(hours, 24)
    if not hours:
        return counted("%(num)s day", "%(num)s days", days)
    return translated("%(days)s d %(hours)s h") % {"days": decimal(days), "hours": decimal(hours)}


def spelt(seconds: int) -> str:
    """A limit as a plan names it, in one whole unit where it is one: "30 minutes", "3 hours", "7 days"."""
    if seconds >= 2 * _DAY and seconds % _DAY == 0:
        return counted("%(num)s day", "%(num)s days", seconds // _DAY)
    if seconds >= 2 * _HOUR and seconds % _HOUR == 0:
        return counted("%(num)s hour", "%(num)s hours", seconds // _HOUR)
    if seconds < 2 * _HOUR and (seconds % _MINUTE == 0 or seconds > 10 * _MINUTE):
        return counted("%(num)s minute", "%(num)s minutes", seconds // _MINUTE)
    if seconds < 10 * _MINUTE:
        return counted("%(num)s second", "%(num)s seconds", seconds)
    return span(seconds)


def clock(moment: datetime) -> str:
    """The time of day: "18:40"."""
    return f"{moment.astimezone(_zone()):%H:%M}"


def day(moment: datetime, now: datetime) -> str:
    """A day by its name and date, with the year where that is another: "Friday 3 October"."""
    here, today = moment.astimezone(_zone()), now.astimezone(_zone())
    # Translators: how a day is written, in the letters of Unicode's date patterns. Keep EEEE, d and MMMM.
    pattern = translated("EEEE d MMMM")
    if here.year != today.year:
        # Translators: the same, for a day of another year. Keep d, MMMM and y.
        pattern = translated("d MMMM y")
    return format_date(here.date(), pattern, locale=Locale(language()))


def when(moment: datetime, now: datetime) -> str:
    """A moment as a part of a sentence: "yesterday at 18:40", "on Friday 3 October at 18:40"."""
    apart = _days_apart(moment, now)
    if apart == 0:
        message = translated("today at %(time)s")
    elif apart == -1:
        message = translated("yesterday at %(time)s")
    elif apart == 1:
        message = translated("tomorrow at %(time)s")
    else:
        message = translated("on %(day)s at %(time)s")
    return message % {"day": day(moment, now), "time": clock(moment)}


def until(moment: datetime, now: datetime) -> str:
    """The end of something as a part of a sentence: "until 18:40 today", "until 18:40 on Friday 3 October"."""
    apart = _days_apart(moment, now)
    if apart == 0:
        message = translated("until %(time)s today")
    elif apart == 1:
        message = translated("until %(time)s tomorrow")
    elif apart == -1:
        message = translated("until %(time)s yesterday")
    else:
        message = translated("until %(time)s on %(day)s")
    return message % {"day": day(moment, now), "time": clock(moment)}


def since(moment: datetime, now: datetime) -> str:
    """The beginning of something, short: "since 15:40", "since Friday 3 October, 15:40"."""
    if _days_apart(moment, now) == 0:
        return translated("since %(time)s") % {"time": clock(moment)}
    return translated("since %(day)s, %(time)s") % {"day": day(moment, now), "time": clock(moment)}


def listed(parts: list[str]) -> str:
    """Short things side by side: "60 minutes, once a day, free"."""
    return translated(", ").join(part for part in parts if part)


def _zone() -> tzinfo:
    zone: tzinfo = g.get("zone", _UTC)
    return zone


def _days_apart(moment: datetime, now: datetime) -> int:
    """How many calendar days `moment` is from `now` in the network's zone."""
    here = moment.astimezone(_zone())
    return (here.date() - now.astimezone(_zone()).date()) // timedelta(days=1)
