"""The simulation of the ledger's waiting behaves as a queue must."""

from loadtests.scale import Costs, simulate

COSTS = Costs(fixed=0.0015, each=0.00006)


def test_a_lonely_report_waits_for_one_commit() -> None:
    waited = simulate(1.0, COSTS)
    assert abs(waited.p50 - (COSTS.fixed + COSTS.each)) < 1e-6
    assert waited.batch < 1.01


def test_batches_grow_with_the_load_and_waiting_grows_less() -> None:
    light, heavy = simulate(500, COSTS), simulate(10_000, COSTS)
    assert heavy.batch > 10 * light.batch
    assert heavy.p99 < 10 * light.p99


def test_above_what_a_ledger_can_write_the_waiting_has_no_end() -> None:
    assert simulate(0.9 * COSTS.most, COSTS).late == 0.0
    assert simulate(1.3 * COSTS.most, COSTS).late > 0.5
