"""Metrics: declared once, read when asked, added up over workers."""

from portal.access import Answer, Reason
from portal.metrics import Metrics, Reading, merged


def test_what_others_count_is_read_when_somebody_asks() -> None:
    metrics, sockets = Metrics(), [3]
    metrics.watch(Reading("gatepost_sockets", "Open connections", lambda: [((), sockets[0])]))
    sockets[0] = 5
    assert b"gatepost_sockets 5.0" in metrics.exposition()


def test_every_label_of_a_poll_is_from_a_closed_set() -> None:
    metrics = Metrics()
    metrics.polls.count("counters", Answer.ALLOW, Reason.OK)
    assert b'gatepost_polls_total{answer="allow",reason="ok",stage="counters"} 1.0' in metrics.exposition()


def test_how_soon_polls_are_answered_is_told_as_a_histogram() -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.01, 0.011, 7.0):
        metrics.poll_seconds.observe(seconds)
    lines = metrics.exposition().decode().splitlines()
    assert 'gatepost_poll_seconds_bucket{le="0.001"} 1.0' in lines
    assert 'gatepost_poll_seconds_bucket{le="0.01"} 2.0' in lines, "a bound belongs to its bucket"
    assert 'gatepost_poll_seconds_bucket{le="0.02"} 3.0' in lines
    assert 'gatepost_poll_seconds_bucket{le="+Inf"} 4.0' in lines
    assert "gatepost_poll_seconds_count 4.0" in lines
    assert "gatepost_poll_seconds_sum 7.0214" in lines


def test_workers_are_told_apart_and_each_name_is_described_once() -> None:
    first, second = Metrics(), Metrics()
    first.pings.inc()
    second.pings.inc(2)
    second.sign_ins.labels("voucher", "in").inc()
    text = merged({"1": first.exposition().decode(), "2": second.exposition().decode()})
    lines = text.splitlines()
    assert 'gatepost_pings_total{worker="1"} 1.0' in lines
    assert 'gatepost_pings_total{worker="2"} 2.0' in lines
    assert 'gatepost_sign_ins_total{worker="2",outcome="in",way="voucher"} 1.0' in lines
    assert sum(line.startswith("# TYPE gatepost_pings_total") for line in lines) == 1
    assert text.index("# TYPE gatepost_pings_total") < text.index('gatepost_pings_total{worker="2"}')
