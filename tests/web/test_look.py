"""The style sheets as they are served: light, whole, and good enough for a browser that is ten years old."""

from __future__ import annotations

import re

from portal.web import look

# What the look allows itself, in bytes, before compression.
BUDGETS = {"guest": 7_000, "desk": 16_000, "print": 4_000}
RULE = re.compile(r"([^{}]+){([^{}]*)}")


def test_each_style_sheet_keeps_its_budget_and_loses_nothing_on_the_way_out() -> None:
    for name, budget in BUDGETS.items():
        served = look.sheet(name).decode()
        assert len(served) <= budget, name
        written = re.sub(r"/\*.*?\*/", "", (look.STATIC / f"{name}.css").read_text(encoding="utf-8"), flags=re.DOTALL)
        assert [rule(*found) for found in RULE.findall(served)] == [rule(*found) for found in RULE.findall(written)], (
            name
        )
        assert served.count("{") == served.count("}")


def rule(selector: str, declarations: str) -> tuple[str, list[str]]:
    """A rule without regard to its blanks."""
    return " ".join(selector.split()), [" ".join(each.split()) for each in declarations.split(";") if each.strip()]


def test_a_phone_without_custom_properties_shows_a_guest_every_type_and_ground() -> None:
    for selector, declarations in RULE.findall(look.sheet("guest").decode()):
        plain = set()
        for each in declarations.split(";"):
            name, _, value = each.partition(":")
            if "var(" not in value:
                plain.add(name.strip())
            assert name.strip() not in {"font", "background"} - plain, f"{selector}: {each}"
