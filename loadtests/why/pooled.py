"""A server that gives each connection one of fifty threads for as long as it is open.

So did the servers of the day: Apache's prefork and worker MPMs with mod_wsgi, CherryPy before it learnt to park idle
connections, every tutorial's thread pool. The standard library supplies HTTP/1.1 with connections that are kept.
Started as `python -m loadtests.why.pooled PORT MODULE`.
"""

from __future__ import annotations

import importlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from flask import Flask

THREADS = 50


class Handler(BaseHTTPRequestHandler):
    """Keeps connections, as HTTP/1.1 asks, and has every request answered by the application."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Called for each request of a connection; the thread waits in the base class for the next one."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        answer = self.server.app.test_client().open(
            path, method=self.command, query_string=query, input_stream=io.BytesIO(body)
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """No line per request."""


class Server(HTTPServer):
    """Hands each connection to a pool of threads."""

    request_queue_size = 1024

    def __init__(self, port: int, app: Flask) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.app = app
        self.team = ThreadPoolExecutor(THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called by the accept loop: a thread takes the connection and keeps it."""
        self.team.submit(self.converse, request, client_address)

    def converse(self, request: Any, client_address: Any) -> None:
        """The life of one connection."""
        try:
            self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)


if __name__ == "__main__":
    Server(int(sys.argv[1]), importlib.import_module(sys.argv[2]).create()).serve_forever()
