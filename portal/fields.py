"""What people type, into forms and commands: checked once, refused in the same words at every door.

Promises: what comes back is safe to store and to show (no control characters, bounded length, one spelling); what is
refused is refused by the name of its field and by what was expected. Never repeats a value in an error: it could be a
password. Pure; knows no table.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import secrets
import unicodedata
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

LANGUAGES: Final = ("en", "es", "fr", "de", "pt", "ar", "hi", "zh")
"""The languages guests' pages speak."""

MEGABYTE: Final = 1_000_000
LARGEST_MEGABYTES: Final = 1_000_000_000
LARGEST_MINUTES: Final = 5_256_000  # ten years

_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+")
_SLUG = re.compile("[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_COLOUR = re.compile("#[0-9a-f]{6}")
_HOST_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_UTC = frozenset({"Etc/UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu", "UCT", "Universal", "Zulu"})
_WHOLE = re.compile("[0-9]{1,18}")
# What a spreadsheet takes for a formula when a cell begins with it (OWASP ASVS 5.0, 1.2.10).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# Without letters and digits that look alike when they are written by hand.
_READABLE = "abcdefghjkmnpqrstuvwxyz23456789"


class Invalid(ValueError):
    """Something typed cannot be taken. `field` is its name, `expected` says in words what would be."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}")
        self.field = field
        self.expected = expected


def line(field: str, value: str, longest: int, *, empty: bool = False) -> str:
    """One line of text, its blanks tidied, in Unicode's composed form."""
    text = " ".join(unicodedata.normalize("NFC", value).split())
    if not text and not empty:
        raise Invalid(field, "must not be empty")
    return _bounded(field, text, longest)


def lines(field: str, value: str, longest: int) -> str:
    """Text of several lines; may be empty. Line ends become one newline."""
    text = unicodedata.normalize("NFC", value).replace("\r\n", "\n").replace("\r", "\n")
    return _bounded(field, "\n".join(part.rstrip() for part in text.split("\n")).strip("\n"), longest)


def _bounded(field: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise Invalid(field, f"at most {longest} characters")
    # Cc: control characters. Bidirectional overrides would let a name rewrite the line it is shown in.
    if any(unicodedata.category(letter) == "Cc" and letter != "\n" for letter in text) or any(
        letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" for letter in text
    ):
        raise Invalid(field, "must not hold control characters")
    return text


def whole(field: str, value: str | int, least: int, most: int) -> int:
    """A whole number between `least` and `most`, both included."""
    text = str(value).strip()
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise Invalid(field, f"expected a whole number from {least} to {most}")
    return int(text)


def minutes(field: str, value: str | int | None) -> int | None:
    """Minutes as seconds; None and "" are no limit."""
    if value is None or value == "":
        return None
    return whole(field, value, 1, LARGEST_MINUTES) * 60


def megabytes(field: str, value: str | int | None) -> int | None:
    """Megabytes, of 10^6 bytes, as bytes; fractions down to a byte are fine; None and "" are no limit."""
    if value is None or value == "":
        return None
    try:
        given = Decimal(str(value).strip().replace(",", "."))
    except InvalidOperation:
        given = Decimal("NaN")
    if not given.is_finite() or not 0 < given <= LARGEST_MEGABYTES:
        raise Invalid(field, f"expected megabytes, above 0 and at most {LARGEST_MEGABYTES}")
    return max(1, int(given * MEGABYTE))


def one_of(field: str, value: str, choices: Iterable[str]) -> str:
    """One of the words in `choices`."""
    allowed = tuple(choices)
    if value not in allowed:
        raise Invalid(field, f"expected one of {', '.join(allowed)}")
    return value


def slug(value: str) -> str:
    """A network's short name in addresses and commands."""
    if not _SLUG.fullmatch(value):
        raise Invalid("slug", "expected 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit")
    return value


def colour(value: str) -> str:
    """A colour as `#rrggbb`, in lower case."""
    text = value.strip().lower()
    if not _COLOUR.fullmatch(text):
        raise Invalid("colour", "expected a colour such as #24463f")
    return text


def time_zone(value: str) -> str:
    """The name of an IANA time zone, which decides where a day, week or month begins."""
    if value not in _time_zones():
        raise Invalid("time_zone", "expected the name of a time zone, such as Europe/Madrid")
    return "UTC" if value in _UTC else ZoneInfo(value).key


@functools.cache
def places() -> tuple[str, ...]:
    """The time zones to choose from, one for each place, by tzdata's zone.tab; the other names are old or the same."""
    table = resources.files("tzdata").joinpath("zoneinfo", "zone.tab").read_text(encoding="utf-8")
    named = {line.split("\t")[2] for line in table.splitlines() if line and not line.startswith("#")}
    return ("UTC", *sorted(named & _time_zones()))


@functools.cache
def _time_zones() -> set[str]:
    return available_timezones()  # walks a directory tree


def language(value: str) -> str:
    """One of the languages that guests' pages speak."""
    return one_of("language", value, LANGUAGES)


def email(value: str) -> str:
    """An e-mail address as it was typed; whether two are the same is decided without regard to case."""
    text = value.strip()
    if len(text) > 254 or not _EMAIL.fullmatch(text):
        raise Invalid("email", "expected an e-mail address")
    return text


def host(field: str, value: str) -> str:
    """An IP address in its usual spelling, or a host name in lower case."""
    text = value.strip().removeprefix("[").removesuffix("]").lower().removesuffix(".")
    if "%" not in text:
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            pass
    labels = text.split(".")
    # A name whose last label is a number would be read as an odd spelling of an IPv4 address by browsers.
    if len(text) > 253 or labels[-1].isdigit() or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise Invalid(field, "expected an IP address or a host name")
    return text


def host_and_port(field: str, value: str, port: int) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`; `port` where none is given."""
    text = value.strip()
    head, colon, tail = text.rpartition(":")
    if text.startswith("["):
        bracketed = text.endswith("]")
        return host(field, text if bracketed else head), port if bracketed else whole(field, tail, 1, 65535)
    if not colon or ":" in head:
        return host(field, text), port
    return host(field, head), whole(field, tail, 1, 65535)


def made_password() -> str:
    """A password that can be read aloud: twelve signs in three groups, 59 bits."""
    signs = "".join(secrets.choice(_READABLE) for _ in range(12))
    return f"{signs[:4]}-{signs[4:8]}-{signs[8:]}"


def cell(value: object) -> str:
    """A value for a CSV file that no spreadsheet will take for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
