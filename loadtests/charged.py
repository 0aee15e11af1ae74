"""What this installation has charged, by list entry, as CSV: run where the measured server is, beside it.

    .venv/bin/python -m loadtests.charged [--config FILE] > charged.csv

Reads only. The settings are those of `serve.py`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from loadtests.reconcile import CHARGED, COLUMNS
from portal import config
from portal.commands import database
from portal.store import Store, sql


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.charged", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, metavar="FILE", help="as serve.py takes it")
    settings = config.load(parser.parse_args().config)
    with database(settings, prepare=False) as url:
        store = Store(url)
        try:
            with store.read("jobs", caller="charged") as db:
                rows = db.execute(sql("load.charged", CHARGED)).all()
        finally:
            store.dispose()
    out = csv.writer(sys.stdout)
    out.writerow(COLUMNS)
    out.writerows(tuple(row) for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
