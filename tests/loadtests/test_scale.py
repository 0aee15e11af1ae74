"""The simulation behaves as a queue must, and says of one worker what `make bench` has measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loadtests import scale
from loadtests.scale import LARGEST_BATCH, Costs, measured, newest, saturate, simulate, walls

COSTS = Costs(server=0.0001, each=0.00005, fixed=0.0006, flush=0.0009, wal=600, images=1600)
TOLERANCE = 0.15
"""How far the simulated saturation may be from the measured one: the model leaves out the generator, which shared
PostgreSQL's core, and everything that is not a poll."""


@pytest.mark.parametrize("live", [10_000, 100_000])
def test_one_worker_saturates_where_the_newest_benchmark_did(live: int) -> None:
    found = measured(live)
    assert saturate(found).rate == pytest.approx(found.rate, rel=TOLERANCE)


def test_a_lonely_poll_takes_what_its_parts_take() -> None:
    one = simulate(1.0, COSTS, seconds=50.0)
    assert one.p50 == pytest.approx(COSTS.server + COSTS.fixed + COSTS.each + COSTS.flush)
    assert one.batch < 1.1


def test_the_same_seed_gives_the_same_figures() -> None:
    assert simulate(2000.0, COSTS, workers=2, seconds=1.0) == simulate(2000.0, COSTS, workers=2, seconds=1.0)


def test_batches_grow_with_the_load_and_waiting_grows_less() -> None:
    light, heavy = simulate(300, COSTS), simulate(9000, COSTS)
    assert heavy.batch > 10 * light.batch
    assert heavy.p99 < 10 * light.p99


def test_a_worker_is_as_full_as_its_polls_make_it_and_no_ledger_takes_more_than_its_worker() -> None:
    assert simulate(5000, COSTS).worker == pytest.approx(0.5, abs=0.02)
    over = simulate(1.5 / COSTS.server, COSTS, seconds=5.0)
    assert over.rate < 1 / COSTS.server
    assert over.late > 0.3


def test_a_second_worker_takes_half_and_nothing_where_postgresql_is_full() -> None:
    assert simulate(9000, COSTS, workers=2, cores=2).worker == pytest.approx(0.45, abs=0.02)
    most = COSTS.most(4, 1)[1]
    assert simulate(1.5 * most, COSTS, workers=4, cores=1).rate < most
    assert simulate(1.5 * most, COSTS, workers=4, cores=2).late == 0.0


def test_commits_that_meet_at_the_log_wait_for_one_flush_more_at_most() -> None:
    slow = Costs(server=1e-6, each=1e-6, fixed=1e-6, flush=0.01, wal=0, images=0)
    one = simulate(100, slow, workers=1000, cores=50, seconds=20.0)
    assert 0.01 <= one.p50 < one.p99 <= 0.0202


def test_the_first_wall_is_the_fullest_resource() -> None:
    most, guests = walls(COSTS, 1, 1, 100e6, 60.0, 300.0)
    assert most["workers"] == pytest.approx(10_000)
    assert most["PostgreSQL"] == pytest.approx(1 / (COSTS.each + COSTS.fixed / LARGEST_BATCH))
    assert guests == pytest.approx(0.7 * 10_000 * 60)
    most, _ = walls(COSTS, 8, 1, 1e6, 60.0, 300.0)
    # A guest polls five times from checkpoint to checkpoint, and shares his images among them.
    assert min(most, key=lambda name: most[name]) == "disk"
    assert most["disk"] == pytest.approx(1e6 / (600 + 1600 / 5))


def test_the_newest_result_counts_and_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no bench-DATE\.json"):
        newest("bench", tmp_path)
    for name in ("bench-2026-02-01.json", "bench-2026-11-21.json", "bench-quick.json"):
        (tmp_path / name).write_text("{}")
    assert newest("bench", tmp_path).name == "bench-2026-11-21.json"


def test_the_plan_for_a_million_guests_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale", "--server-us", "100", "--each-us", "50", "--fixed-us", "600"])
    assert scale.main() == 0
    printed = capsys.readouterr().out
    assert "16,667 polls/s" in printed
    assert "\nworkers wanted: " in printed
    assert "more than a worker takes" in printed
    assert "first wall" in printed
