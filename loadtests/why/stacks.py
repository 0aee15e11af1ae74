"""What the threads of a server are doing at one moment, as py-spy sees them from outside; alike ones are counted."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.harness import tree
from loadtests.servers.catalog import BIN

INNERMOST = 3
MOST = 4
PORTAL = "/loadtests/"


@dataclass(frozen=True, slots=True)
class Stack:
    """So many threads with this stack, innermost call first; `state` is running, on the interpreter or waiting."""

    count: int
    state: str
    frames: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.count:3} {self.state}" + ": " * bool(self.frames) + " ← ".join(self.frames)


def dump(pid: int) -> list[Stack] | str:
    """The stacks of a server and its workers, the commonest first; or, where they cannot be had, why."""
    threads: list[dict[str, Any]] = []
    complaint = "it has no Python in it"
    for one in tree(pid):
        done = subprocess.run(
            [str(BIN / "py-spy"), "dump", "--json", "--pid", str(one)],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        if done.returncode:
            complaint = (done.stderr.strip().splitlines() or ["py-spy said nothing"])[-1]
            continue
        threads += json.loads(done.stdout)
    return group(threads) if threads else f"no stacks: {complaint}"


def group(threads: Sequence[dict[str, Any]]) -> list[Stack]:
    """Counts threads that do the same, the commonest first; in the end those that are not in the portal's code."""
    busy = [thread for thread in threads if any(PORTAL in frame["filename"] for frame in thread["frames"])]
    counted = Counter((state(thread), trimmed(thread["frames"])) for thread in busy)
    stacks = [Stack(count, how, frames) for (how, frames), count in counted.most_common(MOST)]
    idle = len(threads) - len(busy)
    return [*stacks, Stack(idle, "have no request", ())] if idle else stacks


def state(thread: dict[str, Any]) -> str:
    """What a thread is doing: holding the interpreter, running without it or wanting it, or waiting for something."""
    if thread["owns_gil"]:
        return "holds the interpreter"
    return "runs or wants to" if thread["active"] else "waits"


def trimmed(frames: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The three innermost calls, and the portal's own beyond them; what lies between belongs to the libraries."""
    return tuple(
        f"{frame['name'].rpartition('.')[2]} ({short(frame['filename'])}:{frame['line']})"
        for depth, frame in enumerate(frames)
        if depth < INNERMOST or PORTAL in frame["filename"]
    )


def short(filename: str) -> str:
    """A file by its last two names: enough to find it, without where this machine keeps it."""
    return "/".join(Path(filename).parts[-2:])
