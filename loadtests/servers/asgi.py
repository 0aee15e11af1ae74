"""The Flask application behind the two adapters that let an ASGI server run it."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi

from loadtests.servers.app import create


def a2wsgi() -> WSGIMiddleware:
    """Through a2wsgi, with fifty threads like everybody else (its default is ten)."""
    return WSGIMiddleware(create(), workers=50)


def wsgi_to_asgi() -> WsgiToAsgi:
    """Through asgiref's adapter as it comes: it has no setting for threads."""
    return WsgiToAsgi(create())
