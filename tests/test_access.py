"""The rulebook by table, and what must hold of every fact there can be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal import access
from portal.access import Answer, Effect, Facts, Reason

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ONLINE = Facts(
    session_id=1, network_id=1, gateway_id=1, grant_id=1, state="active", mac="02:00:00:00:00:01", minted_at=None,
    active_at=None, end_reason=None, own_gateway=True, own_station=True, blocked_until=None, seconds=None,
    clock="wall", bytes=None, counts="both", devices=1, valid_until=None, idle_seconds=None, period=None,
    period_seconds=None, period_bytes=None, ends_at=None, used_seconds=0.0, used_down=0, used_up=0,
    period_used_seconds=0.0, period_used_down=0, period_used_up=0, revoked_at=None,
)  # fmt: skip

LIMITS: list[tuple[dict[str, Any], Reason | None]] = [
    ({}, None),
    ({"revoked_at": NOW}, Reason.REVOKED),
    ({"valid_until": NOW + SECOND}, None),
    ({"valid_until": NOW}, Reason.EXPIRED),
    ({"seconds": 60, "ends_at": NOW + SECOND, "used_seconds": 99.0}, None),
    ({"seconds": 60, "ends_at": NOW}, Reason.TIME_OVER),
    ({"seconds": 60, "clock": "online", "used_seconds": 59.9}, None),
    ({"seconds": 60, "clock": "online", "used_seconds": 60.0}, Reason.TIME_OVER),
    ({"bytes": 100, "used_down": 60, "used_up": 39}, None),
    ({"bytes": 100, "used_down": 60, "used_up": 40}, Reason.DATA_OVER),
    ({"bytes": 100, "counts": "down", "used_down": 99, "used_up": 900}, None),
    ({"bytes": 100, "counts": "up", "used_down": 900, "used_up": 100}, Reason.DATA_OVER),
    ({"bytes": 0}, Reason.DATA_OVER),
    ({"period": "day", "period_seconds": 60, "period_used_seconds": 60.0}, Reason.PERIOD_TIME_OVER),
    ({"period": "day", "period_bytes": 100, "period_used_down": 100}, Reason.PERIOD_DATA_OVER),
    ({"period": "day", "period_bytes": 100, "used_down": 500, "period_used_down": 99}, None),
    ({"period_bytes": 100, "period_used_down": 100}, None),
    ({"revoked_at": NOW, "valid_until": NOW, "bytes": 0}, Reason.REVOKED),
]


@pytest.mark.parametrize(("terms", "reason"), LIMITS)
def test_what_is_over_cuts_off_who_is_online_and_lets_nobody_in(terms: dict[str, Any], reason: Reason | None) -> None:
    facts = ONLINE._replace(**terms)
    assert access.exhausted(facts, NOW) is reason
    stays = access.decide(facts, access.COUNTERS, NOW)
    comes = access.decide(facts._replace(state="minted", minted_at=NOW), access.LOGIN, NOW)
    if reason is None:
        assert (stays.answer, stays.effect) == (Answer.ALLOW, Effect.NONE)
        assert (comes.answer, comes.effect) == (Answer.ALLOW, Effect.ACTIVATE)
    else:
        assert stays == access.Verdict(Answer.DENY, reason, Effect.END)
        assert comes == access.Verdict(Answer.DENY, reason)


@pytest.mark.parametrize(
    ("changes", "stage", "reason", "effect"),
    [
        ({"own_gateway": False}, "login", Reason.FOREIGN_GATEWAY, Effect.NONE),
        ({"own_station": False}, "counters", Reason.FOREIGN_STATION, Effect.NONE),
        ({}, "logout", Reason.LOGOUT, Effect.NONE),
        ({"blocked_until": NOW + SECOND}, "counters", Reason.BLOCKED, Effect.END),
        ({"blocked_until": NOW}, "counters", Reason.OK, Effect.NONE),
        ({"idle_seconds": 60, "active_at": NOW - 60 * SECOND}, "counters", Reason.IDLE, Effect.END),
        ({"idle_seconds": 60, "active_at": NOW - 60 * SECOND}, "login", Reason.OK, Effect.NONE),
        ({"idle_seconds": 60, "active_at": NOW - 59 * SECOND}, "counters", Reason.OK, Effect.NONE),
        ({"state": "ended", "end_reason": "kicked"}, "login", Reason.KICKED, Effect.NONE),
        ({"state": "ended", "end_reason": "logout"}, "counters", Reason.LOGOUT, Effect.NONE),
        ({"state": "ended", "end_reason": "silent"}, "counters", Reason.OK, Effect.ACTIVATE),
        ({"state": "minted", "minted_at": NOW - access.TOKEN_LIFE}, "counters", Reason.OK, Effect.ACTIVATE),
        ({"state": "minted", "minted_at": NOW - access.TOKEN_LIFE - SECOND}, "login", Reason.STALE_TOKEN, Effect.NONE),
    ],
)
def test_a_verdict_says_why_and_what_must_be_written_first(
    changes: dict[str, Any], stage: str, reason: Reason, effect: Effect
) -> None:
    verdict = access.decide(ONLINE._replace(**changes), stage, NOW)
    assert (verdict.reason, verdict.effect) == (reason, effect)
    assert (verdict.answer is Answer.ALLOW) == (reason is Reason.OK)


moments = st.one_of(st.none(), st.integers(-700, 700).map(lambda seconds: NOW + seconds * SECOND))
amounts = st.integers(0, 200)
limits = st.one_of(st.none(), amounts)
facts_there_can_be = st.builds(
    ONLINE._replace,
    state=st.sampled_from(["minted", "active", "ended"]),
    end_reason=st.sampled_from(["logout", "silent", "kicked", "data_over", "superseded"]),
    minted_at=moments, active_at=moments, own_gateway=st.booleans(), own_station=st.booleans(), blocked_until=moments,
    seconds=limits, clock=st.sampled_from(["wall", "online"]), bytes=limits,
    counts=st.sampled_from(["both", "down", "up"]), valid_until=moments, idle_seconds=limits,
    period=st.sampled_from([None, "day"]), period_seconds=limits, period_bytes=limits, ends_at=moments,
    used_seconds=amounts.map(float), used_down=amounts, used_up=amounts, period_used_seconds=amounts.map(float),
    period_used_down=amounts, period_used_up=amounts, revoked_at=moments,
)  # fmt: skip
stages = st.sampled_from([access.LOGIN, access.COUNTERS, access.LOGOUT])


@given(facts_there_can_be, stages)
def test_who_is_foreign_or_over_never_hears_1_and_memory_never_refuses_by_a_limit(facts: Facts, stage: str) -> None:
    verdict, from_memory = access.decide(facts, stage, NOW), access.remembered(facts, stage, NOW)
    foreign = not (facts.own_gateway and facts.own_station)
    over_for_good = facts.state == "ended" and facts.end_reason != "silent"
    if verdict.answer is Answer.ALLOW:
        assert not foreign
        assert not over_for_good
        assert stage != access.LOGOUT
        assert access.exhausted(facts, NOW) is None
    if from_memory.answer is Answer.ALLOW:
        assert verdict == from_memory
        assert facts.state == "active", "to let somebody in takes a commit"
    if from_memory.answer is Answer.DENY:
        assert foreign or over_for_good or stage == access.LOGOUT
    if stage == access.LOGOUT:
        assert (verdict.answer, from_memory.answer) == (Answer.DENY, Answer.DENY)


@given(facts_there_can_be)
def test_what_a_page_says_is_left_is_never_negative_and_agrees_with_the_verdict(facts: Facts) -> None:
    left = access.allowance(facts, NOW)
    for figure in (left.seconds_left, left.bytes_left, left.period_seconds_left, left.period_bytes_left):
        assert figure is None or figure >= 0
    assert left.over is access.exhausted(facts, NOW)
    if left.bytes_left == 0:
        assert left.over is not None
