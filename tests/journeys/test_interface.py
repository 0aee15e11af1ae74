"""What a black box may rely on: commands, environment, paths, forms, redirects, probes, signals.

A table of facts. Whoever automates Gatepost builds on these, so a change here is a change of the product.
"""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from portal.__main__ import main
from portal.emulator.browser import Form, Page
from tests.conftest import Cluster
from tests.journeys.conftest import short_path
from tests.journeys.live import ROOT, Live, free_port

ADDRESS = "10.20.4.1"
MAC = "02:00:00:00:00:51"


class Box:
    """An installation, used from outside: its command line, its port."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.password = ""  # of the account "marta"
        self.issued = ""  # what `voucher issue` printed

    def runs(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m portal …`"""
        return subprocess.run(
            [sys.executable, "-m", "portal", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=self.environment | environment,
        )

    def done(self, *arguments: str) -> str:
        """What a command printed that did what it was told."""
        told = self.runs(*arguments)
        assert told.returncode == 0, told.stderr
        return told.stdout

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        return own | {"PORTAL_STATE_DIR": str(self.live.state), "PORTAL_SERVER__PORT": "8080"}

    def asks(self, method: str, target: str, form: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
        """One request: status, headers, body. Follows nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.live.port, timeout=10)
        body = urlencode(form) if form is not None else None
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        told = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        connection.close()
        return told

    def splash(self, prefix: str = "/wifidog/", mac: str = MAC, gw_id: str = "linde-1") -> str:
        """Where a router sends a guest's first page."""
        arrival = {"gw_address": ADDRESS, "gw_port": "2060", "gw_id": gw_id, "ip": "10.20.4.9", "mac": mac}
        return f"{prefix}login/?{urlencode({**arrival, 'url': 'http://news.example/'})}"

    def form(self, target: str, *fields: str) -> tuple[Form, str]:
        """The form with these fields on the page at `target`, and the page."""
        status, _, page = self.asks("GET", target)
        assert status == 200
        return Page(target, status, {}, page.encode(), ()).form(*fields), page

    def code(self, number: int) -> str:
        return list(csv.DictReader(io.StringIO(self.issued)))[number]["code"]


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """Prepared by commands alone: the first ones before the server ever ran, the others beside it."""
    with short_path() as directory:
        box = Box(Live(directory))
        box.done("network", "add", "Hotel Linde", "--slug", "linde")
        box.live.start()
        try:
            box.done("gateway", "add", "--network", "linde", "--gw-id", "linde-1", "--address", f"{ADDRESS}:2060")
            limits = ("--minutes", "1440", "--megabytes", "500", "--devices", "2")
            box.done("plan", "add", "--network", "linde", "--name", "Day", *limits)
            made = box.done("guest", "add", "--network", "linde", "--plan", "Day", "marta")
            box.password = next(csv.DictReader(io.StringIO(made)))["password"]
            box.issued = box.done("voucher", "issue", "--network", "linde", "--plan", "Day", "--count", "3")
            yield box
            assert box.live.process is not None
            box.live.process.send_signal(signal.SIGTERM)
            assert box.live.process.wait(30) == 0, "SIGTERM drains, and ends with 0"
        finally:
            box.live.close()


# Commands


@pytest.mark.parametrize("target", ["serve", "test", "setup", "demo", "load", "bench", "check", "help"])
def test_make_help_names(target: str) -> None:
    listed = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert re.search(rf"^{target} +\S", listed, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("network add", "NAME --slug"),
        ("gateway add", "--network --gw-id --address"),
        ("plan add", "--network --name --minutes --megabytes --devices"),
        ("voucher issue", "--network --plan --count"),
        ("operator add", "EMAIL --role"),
        ("doctor", ""),
        ("backup", "FILE"),
        ("restore", "FILE"),
        ("demo", "--port --gateway-port"),
        ("config show", ""),
    ],
)
def test_the_command_line_takes(command: str, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])
    told = capsys.readouterr().out
    for option in options.split():
        assert option in told


def test_vouchers_come_as_csv_whose_first_column_is_code_and_nothing_else(box: Box) -> None:
    lines = box.issued.splitlines()
    assert lines[0].split(",")[0] == "code"
    assert len(lines) == 4
    assert all(
        re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){2}", line.split(",")[0]) for line in lines[1:]
    )


def test_an_operator_is_added_and_gets_a_link(box: Box) -> None:
    added = box.done("operator", "add", "ana@linde.example", "--role", "owner")
    assert re.fullmatch(r"http://\S+/desk/password/\S+\n", added)


def test_the_doctor_is_red_without_tls_and_says_how_to_mend_it(box: Box) -> None:
    examined = box.runs("doctor", "--json")
    assert examined.returncode == 1
    red = [found for found in json.loads(examined.stdout) if found["level"] == "bad"]
    assert any("https" in f"{found['said']} {found['remedy']}" for found in red)


def test_what_makes_no_sense_ends_with_2_and_what_cannot_be_done_with_1(box: Box) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["voucher", "issue"])
    failed = box.runs("voucher", "issue", "--network", "nowhere", "--plan", "Day", "--count", "1")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "there is no network 'nowhere'" in failed.stderr


# Settings


def test_every_key_can_be_set_in_the_environment(box: Box) -> None:
    shown = box.done("config", "show")
    environment = {}
    for name, value in tomllib.loads(shown).items():
        inside = value.items() if isinstance(value, dict) else ()
        environment |= {f"PORTAL_{name}__{key}".upper(): _as_text(each) for key, each in inside}
        if not inside:
            environment[f"PORTAL_{name}".upper()] = _as_text(value)
    assert len(environment) > 30
    again = box.runs("config", "show", **environment | {"PORTAL_SERVER__PORT": "8099"})
    assert again.returncode == 0, again.stderr
    assert again.stdout == shown.replace("\nport = 8080\n", "\nport = 8099\n") != shown


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def test_the_public_url_and_a_database_of_ones_own_come_from_the_environment(cluster: Cluster, directory: Path) -> None:
    with cluster.clone() as url:
        live = Live(directory, url, server__public_url="https://wifi.linde.example")
        live.port = free_port()
        live.start()
        try:
            assert live.prints(r"https://\S+/setup/\S+").startswith("https://wifi.linde.example/setup/")
            assert not (live.state / "postgres").exists()
            assert live.stop() == 0
        finally:
            live.close()


# Guests


@pytest.mark.parametrize("prefix", ["/", "/wifidog/"])
@pytest.mark.parametrize("fields", [("code",), ("username", "password")])
def test_a_sign_in_form_posts_to_its_own_url_with_these_fields_and_the_rest_hidden(
    box: Box, prefix: str, fields: tuple[str, ...]
) -> None:
    form, page = box.form(box.splash(prefix), *fields)
    assert form.method == "POST"
    assert form.action == "", "to its own URL"
    shown = re.findall(r'<input (?![^>]*type="hidden")[^>]*name="([^"]+)"', page)
    assert set(fields) <= set(shown) <= {"code", "username", "password"}
    assert all(form.fields[name] for name in form.names - set(fields)), "every other field is filled in"
    assert "<script" not in page


def test_a_code_leads_to_the_gateways_recorded_address(box: Box) -> None:
    form, _ = box.form(box.splash(), "code")
    status, headers, _ = box.asks("POST", box.splash(), {**form.fields, "code": box.code(0)})
    leads_to_the_gateway(status, headers)


def test_an_account_leads_there_too(box: Box) -> None:
    form, _ = box.form(box.splash(), "username", "password")
    filled = {**form.fields, "username": "marta", "password": box.password}
    status, headers, _ = box.asks("POST", box.splash(), filled)
    leads_to_the_gateway(status, headers)


def leads_to_the_gateway(status: int, headers: dict[str, str]) -> None:
    assert status == 302
    target = urlsplit(headers["location"])
    assert (target.scheme, target.netloc, target.path) == ("http", f"{ADDRESS}:2060", "/wifidog/auth")
    asked = parse_qs(target.query)
    assert set(asked) == {"token", "gw_id"}
    assert asked["gw_id"] == ["linde-1"]
    assert re.fullmatch("[a-z2-7]{40}", asked["token"][0])
    assert "set-cookie" not in headers


def test_a_wrong_code_leads_nowhere(box: Box) -> None:
    form, _ = box.form(box.splash(mac="02:00:00:00:00:52"), "code")
    target = box.splash(mac="02:00:00:00:00:52")
    status, headers, page = box.asks("POST", target, {**form.fields, "code": "2222-2222-2222"})
    assert status == 200
    assert "location" not in headers
    assert "We do not know this code." in page


# Routers


@pytest.mark.parametrize("prefix", ["/", "/wifidog/"])
@pytest.mark.parametrize(
    ("path", "query", "status", "body"),
    [
        ("ping", "gw_id=linde-1&sys_uptime=1&sys_memfree=1&sys_load=0.1&wifidog_uptime=1", 200, "Pong"),
        ("auth", f"stage=login&ip=10.20.4.9&mac={MAC}&token={'a' * 40}&incoming=0&outgoing=0&gw_id=linde-1", 200,
         "Auth: 0\n"),
        ("auth", f"stage=counters&ip=10.20.4.9&mac={MAC}&token=abc&incoming=1&outgoing=1&gw_id=linde-1", 200,
         "Auth: 0\n"),
        ("auth", f"stage=logout&ip=10.20.4.9&mac={MAC}&token=abc&incoming=1&outgoing=1&gw_id=linde-1", 200,
         "Auth: 0\n"),
        ("auth", "stage=counters&gw_id=linde-1", 503, "Auth: -1\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("slash", ["/", ""])
def test_a_router_is_answered(box: Box, prefix: str, path: str, slash: str, query: str, status: int, body: str) -> None:
    assert box.asks("GET", f"{prefix}{path}{slash}?{query}")[::2] == (status, body)


@pytest.mark.parametrize("prefix", ["/", "/wifidog/"])
@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("login/", "gw_address=10.20.4.1&gw_port=2060&gw_id=linde-1&ip=10.20.4.9&mac=02:00:00:00:00:53&url="),
        ("portal/", "gw_id=linde-1"),
        ("gw_message.php", "message=denied"),
        ("gw_message", "message=denied"),
        ("messages/", "message=denied"),
    ],
)
def test_a_browser_finds_a_page_at(box: Box, prefix: str, path: str, query: str) -> None:
    status, headers, page = box.asks("GET", f"{prefix}{path}?{query}")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "Auth: " not in page
    assert "Pong" not in page


# Machines


def test_a_monitor_finds_health_readiness_and_metrics(box: Box) -> None:
    assert box.asks("GET", "/healthz")[0] == 200
    assert box.asks("GET", "/readyz")[0] == 200
    status, _, metrics = box.asks("GET", "/metrics")
    assert status == 200
    assert re.search(r"^gatepost_accepted_total [\d.]+$", metrics, re.MULTILINE)
