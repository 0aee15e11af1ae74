"""What a person who runs the emulator sees: events as they happen, and a live table of transferred, reported, charged.

Promises: holds no token; every byte figure comes from the gateway's book. `run` returns a process's exit status: 0 only
when every loop was well to the end.
"""

import csv
import io
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TextIO

from portal.emulator.gateway import Gateway
from portal.emulator.lan import Account, total

# Bytes charged by MAC.
Charged = Callable[[], Mapping[str, int]]

_LOOK = 0.25  # how long a dead loop may go unnoticed, in seconds


def charged_by(command: str) -> Charged:
    """Asks a command what the server charged: CSV with the columns mac, charged_down, charged_up, a line an entry.

    Asking raises OSError when the command does not end well within 10 s and ValueError when it prints something else.
    """

    def fetch() -> Mapping[str, int]:
        try:
            done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=10, check=False)  # noqa: S602
        except subprocess.TimeoutExpired:
            raise OSError("no end of the command within 10 s") from None
        if done.returncode:
            raise OSError(f"the command ended with status {done.returncode}")
        found: Counter[str] = Counter()
        for row in csv.DictReader(io.StringIO(done.stdout)):
            try:
                charged = int(row["charged_down"]) + int(row["charged_up"])
                found[row["mac"].lower()] += charged
            except (KeyError, TypeError, ValueError):
                raise ValueError("expected CSV with the columns mac, charged_down and charged_up") from None
        return found

    return fetch


class Console:
    """Prints for one gateway. `event` may be called from any thread; on a terminal the table stays at the bottom."""

    def __init__(self, out: TextIO, *, every: float = 5.0) -> None:
        self._out = out
        self._every = every
        self._lock = threading.Lock()
        self._terminal = out.isatty()
        self._shown = ""
        self._last_trouble = ""

    def event(self, text: str) -> None:
        with self._lock:
            self._erase()
            self._write(text + "\n")

    def alarm(self, text: str) -> None:
        self.event(f"ALARM: {text}")

    def run(self, gateway: Gateway, wait: Callable[[float], bool], charged: Charged | None = None) -> int:
        """Shows the table until `wait(seconds)` returns True, or a loop of the gateway has died; then stops it.

        Returns 0, or 1 when any loop is failing or dead.
        """
        since = self._every
        stopped = False
        while not stopped and not gateway.failure.is_set():
            if since >= self._every:
                self._show(gateway, charged, "")
                since = 0.0
            stopped = wait(_LOOK)
            since += _LOOK
        failing = gateway.failing()
        gateway.stop()
        self._show(gateway, charged, "totals\n")
        if failing:
            self.alarm(f"ended with failing loops: {', '.join(sorted(set(failing)))}")
            return 1
        return 0

    def _show(self, gateway: Gateway, charged: Charged | None, title: str) -> None:
        figures: Mapping[str, int] | None = None
        if charged is not None:
            try:
                figures = charged()
            except (OSError, ValueError) as error:
                self._trouble(f"what was charged cannot be asked: {error}")
            else:
                self._last_trouble = ""
        table = title + render(gateway, figures, asked=charged is not None)
        with self._lock:
            if table == self._shown:
                return
            self._erase()
            self._write(table)
            self._shown = table

    def _trouble(self, text: str) -> None:
        if text != self._last_trouble:
            self.alarm(text)
            self._last_trouble = text

    def _erase(self) -> None:
        """Takes the table off a terminal again, so that events scroll by above it."""
        if self._terminal and self._shown:
            self._out.write(f"\x1b[{self._shown.count(chr(10))}F\x1b[J")
        self._shown = ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def render(gateway: Gateway, charged: Mapping[str, int] | None, *, asked: bool) -> str:
    """The table as text. `asked`: with the columns of what was charged, and a question mark where it is not known.

    `reported` holds the pings as well, so that it may exceed what a guest transferred; the last column is what was
    charged beyond what was reported.
    """
    heads = ["guest", "IP", "access", "transferred", "pings", "reported"] + (["charged", "too much"] if asked else [])
    rows = []
    for station in gateway.stations:
        account = gateway.account(station.mac)
        cells = [station.name, station.ip, str(gateway.access(station)), *_figures(account)]
        if asked:
            cells += _compared(account, None if charged is None else charged.get(station.mac or "", 0))
        rows.append(cells)
    everyone = total(gateway.accounts.values())
    last = ["all", "", "", *_figures(everyone)]
    if asked:
        last += _compared(everyone, None if charged is None else sum(charged.get(mac, 0) for mac in gateway.accounts))
    rows.append(last)
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    return "".join(_line(row, widths) for row in [heads, *rows])


def _figures(account: Account) -> list[str]:
    return [f"{account.transferred.total:,}", f"{account.pings.total:,}", f"{account.reported.total:,}"]


def _compared(account: Account, charged: int | None) -> list[str]:
    if charged is None:
        return ["?", "?"]
    return [f"{charged:,}", f"{charged - account.reported.total:+,}"]


def _line(cells: list[str], widths: list[int]) -> str:
    parts = [
        cell.ljust(width) if column < 3 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip() + "\n"
