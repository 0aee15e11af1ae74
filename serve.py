"""The process: patch, configure, compose, open the door.

    .venv/bin/python serve.py [--config FILE]

Ends with 0 after SIGTERM or SIGINT, drained; with 1 when it cannot start, or when background work is lost for good.
"""

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import patch_psycopg  # noqa: E402

patch_psycopg()

import sys  # noqa: E402

from portal.app import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
