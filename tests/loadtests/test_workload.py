"""The arithmetic that every figure of a load test goes through."""

from __future__ import annotations

import pytest

from loadtests.workload import Latencies, Outcome, Stream


def stream(**changes: object) -> Stream:
    return Stream(**{"name": "polls", "port": 1, "paths": ("/",), "rate": 10.0, "seconds": 2.0, **changes})


def test_a_percentile_is_right_to_one_per_cent():
    latencies = Latencies()
    for number in range(1, 1001):
        latencies.add(number / 1000)
    assert latencies.percentile(0.5) == pytest.approx(0.5, rel=0.011)
    assert latencies.percentile(0.99) == pytest.approx(0.99, rel=0.011)
    assert latencies.percentile(1.0) == 1.0


def test_no_latency_has_no_percentile():
    assert Latencies().percentile(0.5) is None


def test_latencies_merged_and_carried_over_are_the_same_latencies():
    first, second = Latencies(), Latencies()
    first.add(0.001)
    second.add(3.0)
    first.merge(Latencies.from_json(second.as_json()))
    assert (first.count, first.longest) == (2, 3.0)
    assert first.percentile(0.5) == pytest.approx(0.001, rel=0.011)


def test_a_schedule_is_even_and_a_burst_comes_at_once():
    assert stream(begin=1.0).schedule()[:3] == [1.0, 1.1, 1.2]
    assert len(stream().schedule()) == 20
    assert set(stream(burst=True).schedule()) == {0.0}


def test_an_answer_after_the_end_is_right_but_not_in_time():
    outcome = Outcome("polls", 2.0)
    outcome.record(due=1.0, ended=1.5, problem="", late=0.4, end=2.0)
    outcome.record(due=1.9, ended=2.1, problem="", late=0.4, end=2.0)
    outcome.record(due=1.95, ended=2.0, problem="refused", late=0.4, end=2.0)
    assert (outcome.right, outcome.in_time, outcome.late, outcome.failed) == (2, 1, 1, 1)
    assert outcome.rate == 0.5
    assert outcome.summary()["errors"] == {"refused": 1}


def test_an_outcome_survives_the_way_between_processes():
    outcome = Outcome("polls", 2.0, offered=1)
    outcome.record(due=0.5, ended=0.75, problem="", late=None, end=2.0)
    assert Outcome.from_json(outcome.as_json()) == outcome
