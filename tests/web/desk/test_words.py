"""The desk's words, forms, pictures and files: all that needs no database."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, date, datetime, timedelta

import pytest
import segno
from hypothesis import given
from hypothesis import strategies as st

from portal.access import Reason
from portal.fields import LARGEST_MEGABYTES, MEGABYTE
from portal.history import Hour
from portal.web.desk import charts, codes, words
from portal.web.desk.forms import DAYS, MEGABYTES, MINUTES, Form, measure, slug_of
from portal.web.desk.words import Clock, zone

NOW = datetime(2026, 5, 14, 14, 58, tzinfo=UTC)  # 16:58 in Berlin
BERLIN = Clock(NOW, zone("Europe/Berlin"))


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (438_000_000, "438 MB"),
        (62_049_999, "62 MB"),
        (499_999_999, "499 MB"),
        (1_310_000_000, "1.31 GB"),
        (84_250_000_000, "84.2 GB"),
        (9_999_999_999, "9.99 GB"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_sizes_are_told_in_three_figures_and_never_rounded_up(count: int, told: str) -> None:
    assert words.size(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (41, "41 s"),
        (300, "5 min"),
        (6_120, "1 h 42 min"),
        (7_200, "2 h"),
        (86_400, "1 day"),
        (183_600, "2 days 3 h"),
    ],
)
def test_spans_are_told_in_their_two_largest_units(seconds: int, told: str) -> None:
    assert words.span(seconds) == told


@pytest.mark.parametrize(
    ("moment", "short", "behind_since", "when"),
    [
        (NOW - timedelta(minutes=78), "15:40", "15:40 today", "at 15:40 today"),
        (NOW - timedelta(hours=20), "yesterday 20:58", "yesterday at 20:58", "yesterday at 20:58"),
        (NOW + timedelta(hours=20), "tomorrow 12:58", "tomorrow at 12:58", "tomorrow at 12:58"),
        (NOW - timedelta(days=3), "Mon 16:58", "Mon, 16:58", "on Mon at 16:58"),
        (NOW - timedelta(days=30), "14 Apr 16:58", "14 Apr, 16:58", "on 14 Apr at 16:58"),
        (NOW - timedelta(days=400), "9 Apr 2025 16:58", "9 Apr 2025, 16:58", "on 9 Apr 2025 at 16:58"),
    ],
)
def test_a_moment_is_told_no_longer_than_it_must_be(moment: datetime, short: str, behind_since: str, when: str) -> None:
    assert (BERLIN.at(moment), BERLIN.in_words(moment), BERLIN.when(moment)) == (short, behind_since, when)


def test_a_day_begins_at_midnight_of_its_place_also_when_the_clocks_change() -> None:
    assert BERLIN.midnight == datetime(2026, 5, 13, 22, 0, tzinfo=UTC)
    spring = date(2026, 3, 29)
    assert BERLIN.start_of(spring + timedelta(days=1)) - BERLIN.start_of(spring) == timedelta(hours=23)
    assert zone("Mars/Base").key == "UTC"


def test_every_reason_there_is_has_words() -> None:
    assert set(words.REASONS) == set(Reason)
    assert words.reason("from_a_later_version") == "from a later version"


# Forms


@given(st.integers(min_value=1, max_value=LARGEST_MEGABYTES * MEGABYTE))
def test_an_amount_shown_in_a_form_is_read_back_to_the_byte(count: int) -> None:
    from decimal import Decimal

    figure, unit = measure(Decimal(count) / MEGABYTE, MEGABYTES)
    form = Form({"data": figure, "data_unit": unit})
    read = form.measured("data", MEGABYTES)
    assert form.good, form.errors
    assert Decimal(read) * MEGABYTE == count


@pytest.mark.parametrize(
    ("amount", "units", "shown"),
    [
        (180, MINUTES, ("3", "hours")),
        (90, MINUTES, ("90", "minutes")),
        (14, DAYS, ("2", "weeks")),
        (None, MINUTES, ("", "minutes")),
    ],
)
def test_an_amount_is_shown_in_the_largest_unit_without_a_fraction(
    amount: int | None, units: dict[str, int], shown: tuple[str, str]
) -> None:
    assert measure(amount, units) == shown


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Hôtel  Linde", "hotel-linde"), ("Café № 5!", "cafe-no-5"), ("مقهى", ""), ("A" * 60, "a" * 40), ("--", "")],
)
def test_a_short_name_is_made_from_a_long_one(name: str, slug: str) -> None:
    assert slug_of(name) == slug


# Pictures


def hour(moment: datetime, down: int) -> Hour:
    return Hour(moment.replace(minute=0, second=0, microsecond=0), down, 0)


def test_a_chart_of_nothing_is_none() -> None:
    today = charts.hours_between([], BERLIN.midnight, NOW)
    assert charts.draw_day(today, [], BERLIN, "last week") is None


def test_a_chart_shows_every_hour_and_nothing_of_the_future() -> None:
    tomorrow = BERLIN.start_of(BERLIN.today + timedelta(days=1))
    today = charts.hours_between(
        [hour(NOW, 3_000_000), hour(NOW - timedelta(hours=4), 1_000_000)], BERLIN.midnight, tomorrow
    )
    assert len(today) == 24
    chart = charts.draw_day(today, [], BERLIN, "Thursday last week")
    assert chart is not None
    assert chart.y_labels == ["3 MB", "2", "1", "0"]
    points = [tuple(map(float, point.split())) for point in re.findall(r"[0-9.]+ [0-9.]+", chart.line)]
    assert points[0][0] == 0
    assert points[-1][0] == pytest.approx(960 * (16 + 58 / 60) / 24, rel=1e-3)
    assert min(y for _, y in points) == 0
    assert len(chart.rows) == 17
    assert chart.rows[0].down == 3_000_000
    assert "4 MB in all; the fullest hour was that of 16:00, with 3 MB." in chart.finding


def test_days_hold_what_was_moved_in_their_own_time_zone() -> None:
    late = datetime(2026, 5, 13, 22, 0, tzinfo=UTC)  # the first hour of the 14th in Berlin
    days = charts.days_between([hour(late, 5), hour(late - timedelta(hours=1), 7)], BERLIN, date(2026, 5, 12), 3)
    assert [day.total for day in days] == [0, 7, 5]


@given(st.integers(min_value=1, max_value=10**15))
def test_the_scale_of_a_chart_is_even_and_holds_its_peak(most: int) -> None:
    top = charts._round_up(most)
    assert most <= top <= max(3 * most, 30)
    assert top % 3 == 0


# Codes on paper


def test_a_qr_code_drawn_as_a_path_is_the_qr_code() -> None:
    text = "http://10.20.4.1:2060/?code=7KQM-3XVD-9TRE"
    drawn = codes.qr(text)
    dark = set()
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", drawn.path):
        dark |= {(int(x) + step - codes.QUIET, int(y) - codes.QUIET) for step in range(int(width))}
    matrix = segno.make_qr(text, error="m", boost_error=False).matrix
    assert dark == {(x, y) for y, row in enumerate(matrix) for x, module in enumerate(row) if module}
    assert drawn.side == len(matrix) + 8


def test_cards_are_set_ten_to_a_sheet() -> None:
    cards = list(codes.cards([(f"code {number}", "") for number in range(23)], "http://x/?code="))
    assert [len(sheet.cards) for sheet in codes.sheets(cards)] == [10, 10, 3]
    assert [sheet.number for sheet in codes.sheets(cards)] == [1, 2, 3]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_cell_of_any_file_begins_a_formula(cells: list[str]) -> None:
    read = list(csv.reader(io.StringIO(codes.csv_text(["a"] * len(cells), [cells]), newline="")))
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in read[1])
