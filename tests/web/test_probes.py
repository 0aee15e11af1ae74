"""What machines ask: what /readyz gives away, and who may read /metrics."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.web import probes


@dataclass
class Process:
    """A process that can be made unwell."""

    wrong: dict[str, str] = field(default_factory=dict)

    def client(self, token: str = "") -> FlaskClient:
        app = Flask(__name__)
        app.register_blueprint(probes.blueprint(lambda: b"gatepost_accepted_total 1.0\n", lambda: self.wrong, token))
        return app.test_client()


@pytest.fixture
def process() -> Process:
    return Process()


def test_a_process_that_is_well_is_ready(process: Process) -> None:
    answer = process.client().get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ready\n")


def test_readiness_names_causes_and_keeps_what_the_database_said_to_the_log(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.wrong = {"draining": "was told to stop", "database": 'database "linde" at 10.0.0.7 is starting up (57P03)'}
    with caplog.at_level(logging.WARNING, "portal.web.probes"):
        answer = process.client().get("/readyz")
    assert (answer.status_code, answer.text) == (503, "database\ndraining\n")
    assert answer.headers["Cache-Control"] == "no-store"
    kept = {(vars(record)["cause"], vars(record)["detail"]) for record in caplog.records}
    assert kept == set(process.wrong.items())


def test_a_trouble_is_logged_once_and_again_when_it_comes_back(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    client = process.client()
    with caplog.at_level(logging.WARNING, "portal.web.probes"):
        for said in ("lost", "lost", "starting up", "", "lost"):
            process.wrong = {"database": said} if said else {}
            client.get("/readyz")
    assert [vars(record)["detail"] for record in caplog.records] == ["lost", "starting up", "lost"]
