"""A process that owns an embedded PostgreSQL, as serve.py does: `python -m tests.store.owner STATE_DIR [UID]`.

Prints the server's pid when it runs, and stops it when its standard input ends.
"""

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import patch_psycopg  # noqa: E402

patch_psycopg()

import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from portal.store.embedded import Postgres  # noqa: E402

if __name__ == "__main__":
    postgres = Postgres(Path(sys.argv[1]), settings={"fsync": "off"})
    if len(sys.argv) > 2:
        # What is imported late must be there before: Python's own library may lie in a private home.
        subprocess.run(["true"], check=True)
        os.setgroups([])
        os.setgid(int(sys.argv[2]))
        os.setuid(int(sys.argv[2]))
    postgres.start()
    print(postgres.pid, flush=True)  # noqa: T201
    sys.stdin.read()
    postgres.stop()
