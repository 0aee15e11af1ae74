"""Gunicorn's settings for its gevent worker: psycopg2 must be told to yield, in every worker, after the fork."""

from __future__ import annotations

from psycogreen.gevent import patch_psycopg


def post_fork(_arbiter: object, _worker: object) -> None:
    """Called by Gunicorn in the new worker."""
    patch_psycopg()
