"""A form that was sent: its fields read by the rules of `fields`, and what is wrong with each, in words.

Promises: what was typed stays, also where it was wrong, except passwords; every error found is told at once; nothing
is believed that was not offered. What only the database knows (a name that is taken) is reported by `refuse`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import TypeVar

from portal import fields
from portal.fields import Invalid

Value = TypeVar("Value")

MINUTES: Mapping[str, int] = {"minutes": 1, "hours": 60, "days": 1_440}
DAYS: Mapping[str, int] = {"days": 1, "weeks": 7}
MEGABYTES: Mapping[str, int] = {"MB": 1, "GB": 1_000}


class Form:
    """The values of one form, as typed, and the errors found while they are read."""

    def __init__(self, typed: Mapping[str, str] | None = None) -> None:
        self.typed = dict(typed or {})
        self.errors: dict[str, str] = {}

    @property
    def good(self) -> bool:
        return not self.errors

    def value(self, name: str) -> str:
        """What stands in the field, for showing it again."""
        return self.typed.get(name, "")

    def flag(self, name: str) -> bool:
        """Whether a box is ticked."""
        return name in self.typed

    def wrong(self, name: str, message: str) -> None:
        """Reports `message` beside the field; the first one found stands. The name "" is the form as a whole."""
        self.errors.setdefault(name, message)

    def refuse(self, error: Invalid) -> None:
        """Reports what a noun would not take."""
        self.wrong(error.field, sentence(error.expected))

    def read(self, name: str, check: Callable[[str], Value], otherwise: Value) -> Value:
        """The field's value as `check` gives it back; `otherwise` where that raises Invalid, which is reported."""
        try:
            return check(self.value(name))
        except Invalid as error:
            self.wrong(name, sentence(error.expected))
            return otherwise

    def line(self, name: str, longest: int, *, empty: bool = False) -> str:
        """One line of text."""
        return self.read(name, lambda typed: fields.line(name, typed, longest, empty=empty), "")

    def lines(self, name: str, longest: int) -> str:
        """Several lines of text, or none."""
        return self.read(name, lambda typed: fields.lines(name, typed, longest), "")

    def secret(self, name: str) -> str:
        """A password exactly as typed; it is not shown again."""
        return self.typed.pop(name, "")

    def whole(self, name: str, least: int, most: int) -> int:
        """A whole number; blanks and commas between its digits are fine."""
        return self.read(name, lambda typed: fields.whole(name, re.sub(r"[\s,]", "", typed), least, most), least)

    def choice(self, name: str, among: Collection[str]) -> str:
        """One of the values that were offered."""
        typed = self.value(name)
        if typed not in among:
            self.wrong(name, "Choose one of those offered.")
        return typed

    def measured(self, name: str, units: Mapping[str, int]) -> str:
        """A number with a unit beside it (field `<name>_unit`), in the unit that counts 1; "" for an empty field."""
        typed = self.value(name).strip().replace(",", ".")
        unit = self.value(f"{name}_unit")
        if not typed:
            return ""
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", typed) is None or unit not in units:
            self.wrong(name, "A number such as 90 or 1.5, or nothing for no limit.")
            return ""
        amount = Decimal(typed) * units[unit]
        if not amount:
            self.wrong(name, "More than 0, or nothing for no limit.")
        return f"{amount.normalize():f}"


def sentence(said: str) -> str:
    """What a check said, as a sentence of its own."""
    return f"{said[:1].upper()}{said[1:]}{'' if said.endswith('.') else '.'}"


def measure(amount: Decimal | int | None, units: Mapping[str, int]) -> tuple[str, str]:
    """An amount as figure and unit, for filling a form: the largest unit that leaves no fraction."""
    smallest = next(iter(units))
    if amount is None:
        return "", smallest
    exact = Decimal(amount)
    for unit, factor in sorted(units.items(), key=lambda each: -each[1]):
        if exact % factor == 0:
            return f"{(exact / factor).normalize():f}", unit
    return f"{exact.normalize():f}", smallest


def slug_of(name: str) -> str:
    """A short name for addresses, proposed from a long one: "Hôtel Linde" gives hotel-linde. May be empty."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
