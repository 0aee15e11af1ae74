"""What people type: taken in one spelling, or refused by the name of the field and never by its value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal import fields
from portal.fields import Invalid


@pytest.mark.parametrize(
    ("typed", "address", "port"),
    [
        ("192.168.1.1", "192.168.1.1", 2060),
        ("192.168.1.1:8080", "192.168.1.1", 8080),
        (" Router.Lan ", "router.lan", 2060),
        ("router.lan.:80", "router.lan", 80),
        ("fe80::1", "fe80::1", 2060),
        ("FD00:0::1", "fd00::1", 2060),
        ("[fd00::1]", "fd00::1", 2060),
        ("[fd00::1]:81", "fd00::1", 81),
    ],
)
def test_an_address_is_a_host_and_perhaps_a_port(typed: str, address: str, port: int) -> None:
    assert fields.host_and_port("address", typed, 2060) == (address, port)


@pytest.mark.parametrize(
    "typed",
    ["", ":80", "192.168.1.1:", "192.168.1.1:0", "192.168.1.1:65536", "192.168.1", "0x7f.1", "010.0.0.1", "a b",
     "a_b.c", "user@host", "http://host", "host/path", "fe80::1%eth0", "[fe80::1", "[fe80::1]80", "-a.example", "höst",
     "1.2.3.4.5"],
)  # fmt: skip
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(Invalid, match="^address: expected"):
        fields.host_and_port("address", typed, 2060)


def test_a_megabyte_is_a_million_bytes_and_nothing_is_no_limit() -> None:
    assert fields.megabytes("megabytes", "500") == 500_000_000
    assert fields.megabytes("megabytes", "1,5") == fields.megabytes("megabytes", "1.5") == 1_500_000
    assert fields.megabytes("megabytes", "0.0000001") == 1
    assert fields.megabytes("megabytes", "") is fields.megabytes("megabytes", None) is None


@pytest.mark.parametrize("typed", ["0", "-1", "NaN", "Infinity", "1e30", "ten", "1.2.3", "1000000001"])
def test_no_other_amount_of_megabytes_is_taken(typed: str) -> None:
    with pytest.raises(Invalid, match="^megabytes: expected megabytes"):
        fields.megabytes("megabytes", typed)


def test_minutes_become_seconds() -> None:
    assert fields.minutes("minutes", "90") == 5400
    assert fields.minutes("minutes", "") is None


@pytest.mark.parametrize("typed", ["0", "-5", "1.5", "٣", "9" * 400, "5256001"])
def test_no_other_number_of_minutes_is_taken(typed: str) -> None:
    with pytest.raises(Invalid, match="^minutes: expected a whole number from 1 to 5256000$"):
        fields.minutes("minutes", typed)


@pytest.mark.parametrize("name", ["Europe/Madrid", "UTC", "Asia/Kolkata"])
def test_a_time_zone_is_known_by_its_name(name: str) -> None:
    assert fields.time_zone(name) == name


def test_utc_has_one_name_and_each_place_that_is_offered_is_taken() -> None:
    assert {fields.time_zone(name) for name in ("UTC", "Etc/UTC", "Zulu")} == {"UTC"}
    assert all(fields.time_zone(name) == name for name in fields.places())


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "europe/madrid", "posixrules"])
def test_no_other_time_zone_is_taken(name: str) -> None:
    with pytest.raises(Invalid, match="Europe/Madrid"):
        fields.time_zone(name)


@pytest.mark.parametrize("typed", ["ana@hotel.example", " o'neil+wifi@mail.hotel.example "])
def test_an_address_for_mail_is_taken_as_typed(typed: str) -> None:
    assert fields.email(typed) == typed.strip()


@pytest.mark.parametrize("typed", ["", "ana", "ana@hotel", "a b@c.de", "ana@@hotel.example", "a@hotel.example\nBcc: x"])
def test_what_is_no_address_for_mail_is_refused(typed: str) -> None:
    with pytest.raises(Invalid, match="^email"):
        fields.email(typed)


def test_a_line_has_its_blanks_tidied_and_one_form_for_each_letter() -> None:
    assert fields.line("name", "  Cafe\u0301 \t Linde ", 20) == "Café Linde"


@pytest.mark.parametrize("typed", ["a\x00b", "a\x1bb", "safe\u202egnp.exe"])
def test_a_line_with_signs_that_cannot_be_seen_is_refused(typed: str) -> None:
    with pytest.raises(Invalid, match="control characters"):
        fields.line("name", typed, 20)


def test_texts_of_several_lines_keep_them() -> None:
    assert fields.lines("terms", "Be kind. \r\n\r\nNo torrents.\n\n", 100) == "Be kind.\n\nNo torrents."


@given(typed=st.text(min_size=3).filter(lambda text: text.strip() and len(text) > 2))
def test_no_refusal_repeats_what_was_typed(typed: str) -> None:
    for check in (fields.slug, fields.colour, fields.time_zone, fields.email, fields.language):
        with pytest.raises(Invalid) as refused:
            check("\x01" + typed)
        assert "\x01" not in str(refused.value)


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_a_cell_never_begins_as_a_formula_does(formula: str) -> None:
    assert fields.cell(formula) == "'" + formula


def test_other_cells_stay_as_they_are() -> None:
    assert [fields.cell(value) for value in ("7KQM-3XVD", 5, None)] == ["7KQM-3XVD", "5", ""]


def test_made_passwords_differ_and_can_be_read_aloud() -> None:
    made = {fields.made_password() for _ in range(100)}
    assert len(made) == 100
    assert not any(letter in password for password in made for letter in "il10oO")
    assert all(len(password) == 14 for password in made)
