"""Traffic as a picture: paths for an SVG that is stretched to its box, with its words kept outside so that they never
stretch.

Promises: pure; time runs left to right; the finding in words says what the picture shows, and the rows say it in
figures. A bucket without traffic is drawn at zero; one that lies in the future is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from portal.history import Hour
from portal.web.desk.words import Clock, size, size_parts

WIDTH, HEIGHT = 960.0, 200.0
_LINES = 3


@dataclass(frozen=True, slots=True)
class Bucket:
    """A stretch of time, and what was moved in it; `until` is exclusive."""

    since: datetime
    until: datetime
    down: int
    up: int

    @property
    def total(self) -> int:
        return self.down + self.up


@dataclass(frozen=True, slots=True)
class TableRow:
    at: str
    down: int
    up: int


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws."""

    finding: str
    y_labels: Sequence[str]
    x_labels: Sequence[str]
    grid: str
    area: str
    line: str
    then: str
    now_label: str
    then_label: str
    bucket: str
    rows: Sequence[TableRow]


def hours_between(hours: Sequence[Hour], since: datetime, until: datetime) -> list[Bucket]:
    """An hour a bucket, also for the hours in which nothing was moved."""
    moved = {hour.at: hour for hour in hours}
    start = since.replace(minute=0, second=0, microsecond=0)
    found = []
    while start < until:
        hour = moved.get(start)
        end = start + timedelta(hours=1)
        found.append(Bucket(start, end, hour.down if hour else 0, hour.up if hour else 0))
        start = end
    return found


def days_between(hours: Sequence[Hour], clock: Clock, first: date, days: int) -> list[Bucket]:
    """A day of the network's time zone a bucket."""
    edges = [clock.start_of(first + timedelta(days=count)) for count in range(days + 1)]
    found = []
    for since, until in zip(edges, edges[1:], strict=False):
        floor = since.replace(minute=0)
        inside = [hour for hour in hours if floor <= hour.at < until.replace(minute=0)]
        found.append(Bucket(since, until, sum(hour.down for hour in inside), sum(hour.up for hour in inside)))
    return found


def draw_day(today: Sequence[Bucket], before: Sequence[Bucket], clock: Clock, then_label: str) -> Chart | None:
    """Today by the hour, with the same day of last week dotted behind it; None where neither moved anything."""
    return _draw(
        today,
        before,
        clock,
        each="hour",
        x_labels=("00", "04", "08", "12", "16", "20", "24"),
        now_label="Today",
        then_label=then_label,
        name=lambda each: clock.at(each.since),
    )


def draw_days(days: Sequence[Bucket], clock: Clock, now_label: str) -> Chart | None:
    """Several days, a point a day."""
    last = len(days) - 1
    marks = [0, last // 3, last * 2 // 3, last]
    return _draw(
        days,
        (),
        clock,
        each="day",
        x_labels=[clock.date(days[index].since) for index in marks],
        now_label=now_label,
        then_label="",
        name=lambda each: clock.day(each.since),
    )


def _draw(
    buckets: Sequence[Bucket],
    before: Sequence[Bucket],
    clock: Clock,
    *,
    each: str,
    x_labels: Sequence[str],
    now_label: str,
    then_label: str,
    name: Callable[[Bucket], str],
) -> Chart | None:
    begun = [bucket for bucket in buckets if bucket.since <= clock.now]
    most = max((bucket.total for bucket in (*begun, *before)), default=0)
    if most == 0:
        return None
    top = _round_up(most)
    points = _points(begun, len(buckets), top, clock.now)
    then = _points(before, max(len(before), 1), top) if any(bucket.total for bucket in before) else []
    peak = max(begun, key=lambda bucket: bucket.total, default=None)
    finding = f"Traffic, {now_label.lower()}: "
    if peak is None or peak.total == 0:
        finding += "nothing yet."
    else:
        total = sum(bucket.total for bucket in begun)
        finding += f"{size(total)} in all; the fullest {each} was that of {name(peak)}, with {size(peak.total)}."
    step = HEIGHT / _LINES
    grid = "".join(f"M0 {max(0.5, index * step):.4g}H{WIDTH:g}" for index in range(_LINES + 1))
    return Chart(
        finding=finding,
        y_labels=_labels(top),
        x_labels=x_labels,
        grid=grid,
        area=_path(points) + f"V{HEIGHT:g}H{points[0][0]:.4g}z" if points else "",
        line=_path(points),
        then=_path(then),
        now_label=f"{now_label}, by the {each}",
        then_label=then_label,
        bucket=each.capitalize(),
        rows=[TableRow(name(bucket), bucket.down, bucket.up) for bucket in reversed(begun)],
    )


def _points(buckets: Sequence[Bucket], across: int, top: int, now: datetime | None = None) -> list[tuple[float, float]]:
    """Bucket middles, scaled; the first and the last reach to the edges of what they stand for, at most to `now`."""
    if not buckets:
        return []
    width = WIDTH / max(across, 1)
    last = buckets[-1]
    part = 1.0 if now is None else min(1.0, (now - last.since) / (last.until - last.since))
    heights = [HEIGHT - HEIGHT * each.total / top for each in buckets]
    points = [((index + 0.5) * width, height) for index, height in enumerate(heights)]
    end = (len(buckets) - 1 + part) * width
    return [(0.0, heights[0]), *(point for point in points if point[0] < end), (end, heights[-1])]


def _path(points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return ""
    return "M" + " ".join(f"{x:.4g} {y:.4g}" for x, y in points)


def _round_up(most: int) -> int:
    """The least of 3, 6, 9, 12, 15, 18, 24, 30 times a power of ten that is not below `most`: three even steps."""
    scale = int(10 ** max(0, math.floor(math.log10(most)) - 1))
    return next(
        factor * scale for factor in (3, 6, 9, 12, 15, 18, 24, 30, 36, 45, 60, 75, 90, 120) if factor * scale >= most
    )


def _labels(top: int) -> list[str]:
    figure, unit = size_parts(top)
    scale = float(figure) / top
    steps = [f"{top * (_LINES - index) / _LINES * scale:.3g}" for index in range(1, _LINES)]
    return [f"{figure} {unit}", *steps, "0"]
