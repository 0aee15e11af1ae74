"""Printed codes: QR pictures as SVG paths, and sheets of cards; CSV that a spreadsheet cannot be tricked with.

Promises: pure. A QR code keeps its quiet zone of four modules. Drawing one takes about a millisecond, so whoever draws
a sheet lets others have a turn after each (offload.in_turns).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import segno

from portal import fields

QUIET = 4
CARDS_A_SHEET = 10


@dataclass(frozen=True, slots=True)
class Qr:
    """A QR code as one SVG path in a square of `side` units, the quiet zone included."""

    side: int
    mask: int
    path: str


@dataclass(frozen=True, slots=True)
class Card:
    """What is printed for one code."""

    code: str
    until: str
    qr: Qr


@dataclass(frozen=True, slots=True)
class Sheet:
    number: int
    cards: Sequence[Card]


def qr(text: str, mask: int | None = None) -> Qr:
    """`text` as a QR code that still reads with a tenth of it lost (level M).

    Without `mask` the best of the eight is looked for, which takes nine times as long.
    """
    symbol = segno.make_qr(text, error="m", boost_error=False, mask=mask)
    rows = [bytes(row) for row in symbol.matrix]
    parts = []
    for y, row in enumerate(rows):
        x = 0
        while x < len(row):
            if not row[x]:
                x += 1
                continue
            start = x
            while x < len(row) and row[x]:
                x += 1
            parts.append(f"M{start + QUIET} {y + QUIET}h{x - start}v1h-{x - start}z")
    return Qr(len(rows) + 2 * QUIET, symbol.mask, "".join(parts))


def cards(codes: Iterable[tuple[str, str]], address: str) -> Iterator[Card]:
    """Cards for (code, last day in words or ""), one by one; scanned, each opens `address` with its code filled in.

    The texts differ in a few signs only, so the mask that suits the first suits them all.
    """
    mask: int | None = None
    for code, until in codes:
        picture = qr(f"{address}{code}", mask)
        mask = picture.mask
        yield Card(code, until, picture)


def sheets(cards: Sequence[Card]) -> list[Sheet]:
    """Cards, ten to a page."""
    return [
        Sheet(number, cards[start : start + CARDS_A_SHEET])
        for number, start in enumerate(range(0, len(cards), CARDS_A_SHEET), 1)
    ]


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with every cell quoted and none that begins a formula."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    for row in rows:
        writer.writerow([fields.cell(value) for value in row])
    return out.getvalue()
