"""What machines ask: what /readyz gives away, and who may read /metrics."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
from flask import Flask
from flask.testing import FlaskClient

from portal.web import probes

FIGURES = b"gatepost_accepted_total 1.0\n"


@dataclass
class Process:
    """A process that can be made unwell."""

    wrong: dict[str, str] = field(default_factory=dict)

    def client(self, token: str = "", *, unknown_proxy: bool = False) -> FlaskClient:
        app = Flask(__name__)
        app.register_blueprint(
            probes.blueprint(lambda: FIGURES, lambda: self.wrong, token, unknown_proxy=unknown_proxy)
        )
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


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"])
def test_metrics_are_for_programs_on_this_machine(process: Process, address: str, host: str) -> None:
    answer = process.client().get("/metrics", environ_base={"REMOTE_ADDR": address}, headers={"Host": host})
    assert (answer.status_code, answer.data) == (200, FIGURES)


@pytest.mark.parametrize(
    ("environ", "headers"),
    [
        ({"REMOTE_ADDR": "198.51.100.7"}, {}),
        ({"gatepost.forwarded": True}, {}),
        ({}, {"Via": "1.1 proxy"}),
        ({}, {"Host": "wifi.linde.example"}),
    ],
    ids=["another machine", "a proxy that says for whom", "one that says what it is", "one that keeps the name"],
)
def test_metrics_are_not_for_whoever_comes_through_a_proxy(
    process: Process, environ: dict[str, object], headers: dict[str, str]
) -> None:
    answer = process.client().get(
        "/metrics", environ_overrides={"REMOTE_ADDR": "127.0.0.1", **environ}, headers={"Host": "localhost", **headers}
    )
    assert answer.status_code == 403
    assert FIGURES not in answer.data


def test_metrics_are_closed_where_an_unlisted_proxy_makes_everybody_local(process: Process) -> None:
    assert process.client(unknown_proxy=True).get("/metrics").status_code == 403
    token = "sixteen letters!"
    client = process.client(token, unknown_proxy=True)
    assert client.get("/metrics").status_code == 403
    assert client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).data == FIGURES
