"""Vouchers: a code forgives typing errors but never mistakes them, is spent by nobody here, and can be taken back."""

from __future__ import annotations

import csv
import io
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import Connection

from portal import access, grants, networks, vouchers
from portal import keys as installation
from portal.fields import Invalid
from portal.keys import Keyring
from portal.store import Store, sql

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

SIGNS = st.sampled_from(vouchers.ALPHABET)
CODES = st.text(vouchers.ALPHABET, min_size=11, max_size=11).map(lambda signs: signs + vouchers.check_character(signs))


@pytest.fixture
def day(db: Connection) -> networks.Plan:
    network = networks.add(db, "linde", "Café Linde", NOW)
    return networks.add_plan(db, network.id, networks.terms("Day", minutes=1440, megabytes=500, valid_days=30), NOW)


def counted(db: Connection, plan: networks.Plan, now: datetime) -> dict[str, int]:
    found = vouchers.overviews(db, plan.network_id, now)[0]
    states = ("unused", "active", "used_up", "expired", "revoked")
    return {state: count for state in states if (count := getattr(found, state))}


def change(db: Connection, grant_id: int, assignments: str, **values: object) -> None:
    db.execute(sql("test.change", f'UPDATE "grant" SET {assignments} WHERE id = :id'), {"id": grant_id, **values})


# Codes


def test_a_code_is_twelve_signs_that_nobody_confuses_in_three_groups() -> None:
    code = vouchers.new_code()
    assert len(code) == 12
    assert set(code) <= set(vouchers.ALPHABET)
    assert not set("ILOU") & set(vouchers.ALPHABET)
    assert vouchers.grouped("7KQM3XVD9TRE") == "7KQM-3XVD-9TRE"


@given(code=CODES, position=st.integers(0, 11), sign=SIGNS)
def test_any_one_wrong_sign_is_noticed(code: str, position: int, sign: str) -> None:
    assume(code[position] != sign)
    assert vouchers.normalise(code) == code
    assert vouchers.normalise(code[:position] + sign + code[position + 1 :]) is None


@given(code=CODES, one=st.integers(0, 11), other=st.integers(0, 11))
def test_any_two_signs_in_each_others_place_are_noticed(code: str, one: int, other: int) -> None:
    assume(code[one] != code[other])
    signs = list(code)
    signs[one], signs[other] = signs[other], signs[one]
    assert vouchers.normalise("".join(signs)) is None


def test_every_single_error_and_every_swap_of_neighbours_of_a_thousand_codes_is_noticed() -> None:
    for _ in range(1000):
        code = vouchers.new_code()
        for at in range(12):
            for sign in vouchers.ALPHABET:
                assert sign == code[at] or vouchers.normalise(code[:at] + sign + code[at + 1 :]) is None
        for at in range(11):
            swapped = code[:at] + code[at + 1] + code[at] + code[at + 2 :]
            assert swapped == code or vouchers.normalise(swapped) is None


@given(code=CODES)
def test_typing_is_forgiving(code: str) -> None:
    grouped = vouchers.grouped(code)
    handwritten = grouped.replace("0", "o").replace("1", "l")
    for typed in (
        grouped,
        grouped.lower(),
        f"  {code[:6]} {code[6:]}\n",
        handwritten,
        handwritten.replace("l", "I").replace("V", "u"),
        "–".join(code),
        "\u200e" + grouped.replace("-", "\u2011") + "\u200f",
        "".join(chr(ord(sign) + 0xFEE0) for sign in code),
        "".join(chr(ord("٠") + int(sign)) if sign.isdigit() else sign for sign in code),
        "".join(chr(ord("०") + int(sign)) if sign.isdigit() else sign for sign in code),
    ):
        assert vouchers.normalise(typed) == code


@given(text=st.text())
def test_what_is_no_code_is_no_code_whatever_it_holds(text: str) -> None:
    code = vouchers.normalise(text)
    assert code is None or (len(code) == 12 and vouchers.check_character(code[:11]) == code[11])


@pytest.mark.parametrize("typed", ["", "7KQM", "7KQM-3XVD-9TRE-9TRE", "7KQM-3XVD-9TR!", "A" * 100_000])
def test_what_is_too_short_too_long_or_strange_is_no_code(typed: str) -> None:
    assert vouchers.normalise(typed) is None
    assert vouchers.hint(typed) is None


def test_a_sign_that_was_taken_for_its_look_alike_is_pointed_at() -> None:
    told = 0
    for _ in range(300):
        code = vouchers.new_code()
        place = next((at for at, sign in enumerate(code) if sign == "8"), None)
        if place is None:
            continue
        misread = code[:place] + "B" + code[place + 1 :]
        hint = vouchers.hint(misread)
        if hint == (place + 1, "8"):
            told += 1
        assert hint is None or vouchers.normalise(misread[: hint[0] - 1] + hint[1] + misread[hint[0] :]) is not None
    assert told > 10


def test_a_right_code_needs_no_hint() -> None:
    assert vouchers.hint(vouchers.new_code()) is None


# Issuing


def test_issued_codes_can_be_found_and_printed_again(db: Connection, keyring: Keyring, day: networks.Plan) -> None:
    batch, codes = vouchers.issue(db, keyring, day, 25, NOW, label="Front desk", by="ana@hotel.example")
    assert (batch.size, batch.label, batch.created_by, batch.plan_id) == (25, "Front desk", "ana@hotel.example", day.id)
    assert len(set(codes)) == 25
    printed = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)
    assert [issued.code for issued in printed] == codes
    for issued in printed:
        code = vouchers.normalise(issued.code.lower())
        assert code is not None
        found = vouchers.find(db, keyring, day.network_id, code)
        assert found is not None
        assert (found.id, found.batch_id, found.grant_id) == (issued.id, batch.id, issued.grant_id)
        assert vouchers.code_of(db, keyring, found.grant_id) == issued.code


def test_a_code_carries_the_terms_its_plan_had(db: Connection, keyring: Keyring, day: networks.Plan) -> None:
    batch, _ = vouchers.issue(db, keyring, day, 1, NOW)
    networks.edit_plan(db, day.network_id, day.id, networks.terms("Day", minutes=5))
    issued = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)[0]
    grant = grants.load(db, issued.grant_id, NOW)
    assert (grant.kind, grant.seconds, grant.bytes) == ("voucher", 86_400, 500_000_000)
    assert (grant.started_at, grant.valid_until) == (None, datetime(2026, 6, 4, tzinfo=UTC))


def test_issuing_more_than_a_portion_gives_every_grant_one_code(
    db: Connection, keyring: Keyring, day: networks.Plan
) -> None:
    batch, codes = vouchers.issue(db, keyring, day, 1203, NOW)
    assert len(set(codes)) == 1203
    issued = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)
    assert [voucher.code for voucher in issued] == codes
    assert len({voucher.grant_id for voucher in issued}) == 1203


def test_a_code_that_is_drawn_twice_is_drawn_again(
    db: Connection, keyring: Keyring, day: networks.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = vouchers.new_code()
    draws = iter([first, first, first, vouchers.new_code()])
    monkeypatch.setattr(vouchers, "new_code", lambda: next(draws))
    _, codes = vouchers.issue(db, keyring, day, 2, NOW)
    assert len(set(codes)) == 2


@pytest.mark.parametrize("count", [0, -1, vouchers.LARGEST_BATCH + 1])
def test_a_batch_has_between_one_and_a_hundred_thousand_codes(
    db: Connection, keyring: Keyring, day: networks.Plan, count: int
) -> None:
    with pytest.raises(Invalid, match="^count"):
        vouchers.issue(db, keyring, day, count, NOW)
    assert vouchers.overviews(db, day.network_id, NOW) == []


def test_a_retired_plan_is_not_sold(db: Connection, keyring: Keyring, day: networks.Plan) -> None:
    networks.retire_plan(db, day.network_id, day.id, NOW)
    with pytest.raises(Invalid, match="^plan: is not sold any more"):
        vouchers.issue(db, keyring, day, 1, NOW)


def test_no_code_stands_in_the_database(store: Store, keyring: Keyring) -> None:
    with store.transaction() as db:
        network = networks.add(db, "linde", "Linde", NOW)
        plan = networks.add_plan(db, network.id, networks.terms("Day"), NOW)
        _, codes = vouchers.issue(db, keyring, plan, 50, NOW)
        rows = db.execute(sql("test.rows", "SELECT CAST(v.* AS text) FROM voucher v")).scalars().all()
    everything = "\n".join(rows).upper()
    for code in codes:
        for form in (code, code.replace("-", "")):
            assert form not in everything
            assert form.encode().hex().upper() not in everything


def test_another_networks_code_is_unknown(db: Connection, keyring: Keyring, day: networks.Plan) -> None:
    batch, codes = vouchers.issue(db, keyring, day, 1, NOW)
    other = networks.add(db, "ana", "ana's", NOW)
    code = vouchers.normalise(codes[0])
    assert code is not None
    assert vouchers.find(db, keyring, other.id, code) is None
    assert vouchers.codes_of(db, keyring, other.id, batch.id, NOW) == []
    assert vouchers.batch(db, other.id, batch.id) is None
    assert vouchers.overview(db, other.id, batch.id, NOW) is None
    assert vouchers.revoke_batch(db, other.id, batch.id, NOW) == 0
    assert counted(db, day, NOW) == {"unused": 1}


def test_codes_outlive_a_rotation_of_the_keys(
    db: Connection, day: networks.Plan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state_dir = tmp_path_factory.mktemp("rotated")
    batch, codes = vouchers.issue(db, Keyring.load_or_create(state_dir), day, 3, NOW)
    installation.rotate(state_dir)
    rotated = Keyring.load_or_create(state_dir)
    vouchers.issue(db, rotated, day, 3, NOW)
    assert [issued.code for issued in vouchers.codes_of(db, rotated, day.network_id, batch.id, NOW)] == codes
    code = vouchers.normalise(codes[0])
    assert code is not None
    assert vouchers.find(db, rotated, day.network_id, code) is not None


# What becomes of them


def test_a_batch_says_what_has_become_of_its_codes(db: Connection, keyring: Keyring, day: networks.Plan) -> None:
    batch, _ = vouchers.issue(db, keyring, day, 6, NOW)
    fresh, online, timed, empty, kicked, _ = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)
    later = NOW + timedelta(hours=2)
    change(db, online.grant_id, "started_at = :at, ends_at = :end", at=NOW, end=NOW + timedelta(days=1))
    change(db, timed.grant_id, "started_at = :at, ends_at = :end", at=NOW, end=NOW + timedelta(hours=1))
    change(db, empty.grant_id, "started_at = :at, used_down = 500000000", at=NOW)
    vouchers.revoke(db, vouchers.Voucher(kicked.id, day.network_id, batch.id, kicked.grant_id, None), NOW)
    assert counted(db, day, later) == {"unused": 2, "active": 1, "used_up": 2, "revoked": 1}
    states = {issued.id: issued.state for issued in vouchers.codes_of(db, keyring, day.network_id, batch.id, later)}
    assert [states[issued.id] for issued in (fresh, online, timed, empty, kicked)] == [
        "unused", "active", "used up", "used up", "revoked",
    ]  # fmt: skip
    assert counted(db, day, NOW + timedelta(days=31)) == {"expired": 5, "revoked": 1}


def test_a_state_agrees_with_the_rules_that_gateways_are_answered_by(
    db: Connection, keyring: Keyring, day: networks.Plan
) -> None:
    batch, _ = vouchers.issue(db, keyring, day, 1, NOW)
    issued = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)[0]
    uses = [(0, 0, 0), (60, 0, 0), (59, 40, 60), (0, 100, 0), (0, 0, 100), (0, 99, 0)]
    limits = [(60, 100), (None, 100), (60, None), (None, None)]
    seen = set()
    for clock, counts, (used, down, up), (seconds, size) in itertools.product(
        ("wall", "online"), ("both", "down", "up"), uses, limits
    ):
        change(
            db, issued.grant_id,
            "started_at = :now, clock = :clock, counts = :counts, seconds = :seconds, bytes = :size, "
            "used_seconds = :used, used_down = :down, used_up = :up, ends_at = :ends",
            now=NOW, clock=clock, counts=counts, seconds=seconds, size=size, used=used, down=down, up=up,
            ends=NOW + timedelta(seconds=seconds - used) if seconds else None,
        )  # fmt: skip
        over = access.exhausted(grants.load(db, issued.grant_id, NOW), NOW)
        state = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)[0].state
        assert state == ("active" if over is None else "used up"), (clock, counts, used, down, up, seconds, size)
        seen.add(over)
    assert seen == {None, access.Reason.TIME_OVER, access.Reason.DATA_OVER}


def test_revoking_a_batch_takes_back_what_is_left_of_it_once(
    db: Connection, keyring: Keyring, day: networks.Plan
) -> None:
    batch, codes = vouchers.issue(db, keyring, day, 5, NOW)
    issued = vouchers.codes_of(db, keyring, day.network_id, batch.id, NOW)
    change(db, issued[0].grant_id, "started_at = :at, used_down = 500000000", at=NOW)
    assert vouchers.revoke_batch(db, day.network_id, batch.id, NOW) == 4
    assert vouchers.revoke_batch(db, day.network_id, batch.id, NOW) == 0
    assert counted(db, day, NOW) == {"used_up": 1, "revoked": 4}
    revoked = vouchers.batch(db, day.network_id, batch.id)
    assert revoked is not None
    assert revoked.revoked_at == NOW
    assert [grants.load(db, voucher.grant_id, NOW).revoked_at for voucher in issued] == [None, NOW, NOW, NOW, NOW]
    code = vouchers.normalise(codes[1])
    assert code is not None
    found = vouchers.find(db, keyring, day.network_id, code)
    assert found is not None
    assert found.revoked_at == NOW
    assert not vouchers.revoke(db, found, NOW)


def test_batches_are_listed_newest_first_page_by_page(db: Connection, keyring: Keyring, day: networks.Plan) -> None:
    made = [vouchers.issue(db, keyring, day, 1, NOW, label=str(number))[0] for number in range(5)]
    first = vouchers.overviews(db, day.network_id, NOW, most=3)
    second = vouchers.overviews(db, day.network_id, NOW, before=first[-1].batch.id, most=3)
    assert [found.batch for found in first + second] == made[::-1]
    assert {found.plan for found in first} == {"Day"}


def test_the_table_for_a_spreadsheet_begins_with_the_codes_and_holds_no_formula() -> None:
    file = io.StringIO()
    csv.writer(file).writerows(vouchers.table(["7KQM-3XVD-9TRE"], "=cmd()", "Tür, links"))
    assert list(csv.DictReader(io.StringIO(file.getvalue()))) == [
        {"code": "7KQM-3XVD-9TRE", "plan": "'=cmd()", "label": "Tür, links"}
    ]
