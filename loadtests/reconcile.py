"""Holds what a server charged against what a fleet reported: equal to the byte, or which entries differ and by what.

Promises: what was reported and answered must be charged; what was reported and got no answer may be; anything else is a
difference. Reads no database; `CHARGED` is the question to ask one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from loadtests.fleet import Key, Reported, Sum, Truth, rows_in

CHARGED = """
SELECT g.gw_id, l.mac, l.ip, SUM(l.down) AS charged_down, SUM(l.up) AS charged_up
  FROM (SELECT gateway_id, mac, ip, charged_down AS down, charged_up AS up
          FROM counter_line
         UNION ALL
        SELECT e.gateway_id, e.mac, x.ip, x.down, x.up
          FROM ended_session e, jsonb_to_recordset(e.lines) AS x (ip text, down bigint, up bigint)) AS l
  JOIN gateway g ON g.id = l.gateway_id
 GROUP BY g.gw_id, l.mac, l.ip
"""
"""What was charged of each list entry; `python -m loadtests.charged` asks it."""

COLUMNS = ("gw_id", "mac", "ip", "charged_down", "charged_up")


@dataclass(frozen=True, slots=True)
class Difference:
    """Something whose charge is outside of what was reported of it. Bytes down and up."""

    what: str
    reported: tuple[int, int]
    answered: tuple[int, int]
    charged: tuple[int, int]

    def __str__(self) -> str:
        bounds = f"reported {self.reported[0]:,} down {self.reported[1]:,} up"
        if self.answered != self.reported:
            bounds += f" (answered {self.answered[0]:,} and {self.answered[1]:,})"
        return f"{self.what}: {bounds}, charged {self.charged[0]:,} and {self.charged[1]:,}"


@dataclass(frozen=True, slots=True)
class Balance:
    """The outcome: of `checked` things, `uncertain` bytes were reported without an answer, of which so many charged."""

    kind: str
    checked: int
    reported: int
    charged: int
    uncertain: int
    differences: list[Difference]

    @property
    def good(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def __str__(self) -> str:
        head = f"{self.checked:,} {self.kind}: reported {self.reported:,} bytes, charged {self.charged:,}: "
        if self.differences:
            off = self.charged - self.reported
            return head + f"{len(self.differences):,} DIFFER ({off:+,} bytes)"
        if self.reported == self.charged:
            return head + "equal to the byte"
        return head + f"within the {self.uncertain:,} bytes whose reports got no answer"


def balance(kind: str, truth: Mapping[str, Reported], charged: Mapping[str, tuple[int, int]]) -> Balance:
    """Compares by name. What was charged for something that nobody reported differs too."""
    differences, total, uncertain = [], 0, 0
    for what in truth.keys() | charged.keys():
        row, (down, up) = truth.get(what, Reported()), charged.get(what, (0, 0))
        most, least = row.reported, row.answered
        total += most.total
        uncertain += most.total - least.total
        if not (least.down <= down <= most.down and least.up <= up <= most.up):
            differences.append(Difference(what, (most.down, most.up), (least.down, least.up), (down, up)))
    differences.sort(key=lambda one: one.what)
    all_charged = sum(down + up for down, up in charged.values())
    return Balance(kind, len(truth), total, all_charged, uncertain, differences)


def by_entry(truth: Truth) -> dict[str, Reported]:
    """What was reported, by list entry."""
    return _summed(truth, entry_name)


def by_code(truth: Truth) -> dict[str, Reported]:
    """What was reported, by code, and so by grant."""
    return _summed(truth, lambda key: key.code)


def entry_name(key: Key) -> str:
    """What a list entry is called in a difference."""
    return f"{key.gw_id} {key.mac} {key.ip}"


def _summed(truth: Truth, name: Callable[[Key], str]) -> dict[str, Reported]:
    found: dict[str, Reported] = {}
    for key, row in truth.rows.items():
        one = found.setdefault(name(key), Reported(Sum(), Sum()))
        one.reported.add(row.reported.down, row.reported.up)
        one.answered.add(row.answered.down, row.answered.up)
    return found


def charged_entries(rows: Iterable[Mapping[str, object]]) -> dict[str, tuple[int, int]]:
    """What the rows of `CHARGED` say, by list entry."""
    return {
        f"{row['gw_id']} {row['mac']} {row['ip']}": (int(str(row["charged_down"])), int(str(row["charged_up"])))
        for row in rows
    }


def read_charged(text: str, truth: Truth) -> dict[str, tuple[int, int]]:
    """The same from CSV that another machine printed; of this run's devices only, since others may be online there."""
    ours = {key.mac for key in truth.rows}
    return charged_entries(row for row in rows_in(text, COLUMNS, "what --charged printed") if row["mac"] in ours)
