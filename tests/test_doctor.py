"""The doctor: healthy where all is well, and each thing that is not is named with what mends it."""

from __future__ import annotations

import datetime as dt
import resource
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

from portal import doctor, gateways, networks, operators
from portal.config import Database, Server, Settings
from portal.doctor import Finding
from portal.gateways import Ping
from portal.keys import Keyring
from portal.store import Store, sql
from portal.wifidog import Heartbeat


class Patient:
    """An installation to be examined."""

    def __init__(self, store: Store, state_dir: Path) -> None:
        self.store, self.state_dir = store, state_dir
        self.now = store.database_now()
        self.server: dict[str, Any] = {"port": 0, "public_url": "https://127.0.0.1:1"}
        self.keyring = Keyring.load_or_create(state_dir)

    def examined(self) -> list[Finding]:
        settings = Settings(
            state_dir=str(self.state_dir), server=Server(**self.server), database=Database(url=self.store.url)
        )
        return doctor.examine(settings, self.store)

    def finding(self, thing: str, level: str | None = None) -> Finding:
        found = [each for each in self.examined() if each.thing == thing and level in (None, each.level)]
        assert found, [each.thing for each in self.examined()]
        return found[0]

    def run(self, statement: str, **values: object) -> None:
        with self.store.transaction() as db:
            db.execute(sql("test.run", statement), values)


@pytest.fixture
def patient(store: Store, tmp_path: Path) -> Patient:
    return Patient(store, tmp_path / "state")


@pytest.fixture
def gateway(patient: Patient) -> gateways.Gateway:
    """A gateway that is well: it has an address, pings, and shows its key."""
    with patient.store.transaction() as db:
        network = networks.add(db, "linde", "Linde", patient.now)
        networks.add_plan(db, network.id, networks.terms("Day"), patient.now)
        added = gateways.add(db, network.id, "lobby", patient.now, address="10.0.0.1")
        key = gateways.make_key(db, patient.keyring, added.id, patient.now)
    memory = gateways.Gateways(patient.store)
    memory.refresh()
    memory.hear([Ping(Heartbeat("lobby", "", key, 1, 1, 0.1, 60), "198.51.100.7", "WiFiDog 1.3.0")], patient.now)
    return added


def test_every_finding_that_is_not_good_says_what_to_do(patient: Patient, gateway: gateways.Gateway) -> None:
    patient.run("UPDATE heartbeat SET at = at - INTERVAL '1 hour' WHERE gateway_id = :id", id=gateway.id)
    patient.server = {"port": 1}
    findings = patient.examined()
    assert {finding.level for finding in findings} == {"good", "warn", "bad"}
    assert all(bool(finding.remedy) == (finding.level != "good") for finding in findings)


# Outside the database


@pytest.mark.parametrize("public_url", ["", "http://wifi.linde.example"])
def test_without_tls_it_is_red(patient: Patient, public_url: str) -> None:
    patient.server["public_url"] = public_url
    assert patient.finding("TLS").level == "bad"


def test_a_public_address_that_does_not_answer_is_told(patient: Patient) -> None:
    finding = patient.finding("TLS")
    assert (finding.level, "could not be reached" in finding.said) == ("warn", True)
    assert patient.finding("proxy").level == "warn"
    patient.server["trusted_proxies"] = ("127.0.0.1",)
    assert "proxy" not in [each.thing for each in patient.examined()]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that nobody vouches for, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_a_certificate_that_browsers_refuse_is_told(patient: Patient, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = StreamServer(("127.0.0.1", 0), lambda connection, _address: connection.close(), ssl_context=context)
    server.start()
    patient.server["public_url"] = f"https://localhost:{server.server_port}"
    finding = patient.finding("TLS")
    server.stop()
    assert (finding.level, "its certificate is refused" in finding.said) == ("warn", True)


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        ("200 OK", "# HELP gatepost_accepted_total\n", True),
        ("403 Forbidden", "This is for programs on this machine.\n", False),
        ("200 OK", "<title>Something else</title>", False),
    ],
)
def test_metrics_that_a_proxy_shows_to_anybody_are_red(
    patient: Patient, certificate: Path, monkeypatch: pytest.MonkeyPatch, status: str, body: str, *, found: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    asked: list[str] = []

    def proxy(environ: Any, start_response: Any) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response(status, [])
        return [body.encode()]

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = WSGIServer(("127.0.0.1", 0), proxy, log=None, ssl_context=context)
    server.start()
    patient.server["public_url"] = f"https://localhost:{server.server_port}"
    findings = {each.thing: each.level for each in patient.examined()}
    server.stop()
    assert findings["TLS"] == "good"
    assert findings.get("metrics") == ("bad" if found else None)
    assert asked == ["/metrics"]


def test_keys_that_others_can_read_are_red(patient: Patient) -> None:
    assert patient.finding("keys").level == "good"
    (patient.state_dir / "keys").chmod(0o644)
    assert patient.finding("keys").level == "bad"
    (patient.state_dir / "keys").unlink()
    assert patient.finding("keys").level == "warn"


def test_a_state_directory_that_others_may_change_is_red(patient: Patient) -> None:
    patient.state_dir.chmod(0o777)
    assert patient.finding("state directory").level == "bad"


@pytest.mark.parametrize(("free", "level"), [(5e9, "good"), (5e8, "warn"), (1e8, "bad")])
def test_a_disk_that_fills_up_is_told_in_time(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, free: float, level: str
) -> None:
    usage = shutil.disk_usage(patient.state_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=int(free)))
    assert patient.finding("disk").level == level


@pytest.mark.parametrize(("allowed", "level"), [(1024, "warn"), (65536, "good"), (-1, "good")])
def test_too_few_open_files_are_told(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, allowed: int, level: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (allowed, 65536))
    assert patient.finding("open files").level == level


@pytest.fixture
def answering(patient: Patient) -> Iterator[dict[str, str]]:
    """Something on the configured port, which says what the test wants."""
    says = {"status": "200 OK", "body": "ready\n"}

    def answer(_environ: object, start_response: Any) -> list[bytes]:
        start_response(says["status"], [])
        return [says["body"].encode()]

    server = WSGIServer(("127.0.0.1", 0), answer, log=None)
    server.start()
    patient.server["port"] = server.server_port
    yield says
    server.stop()


def test_a_server_that_is_ready_is_seen(patient: Patient, answering: dict[str, str]) -> None:
    assert answering
    assert patient.finding("server").level == "good"


def test_a_server_that_is_not_ready_says_why(patient: Patient, answering: dict[str, str]) -> None:
    answering |= {"status": "503 Service Unavailable", "body": "background\ndatabase\n"}
    finding = patient.finding("server")
    assert finding.level == "bad"
    assert "background, database" in finding.said


def test_something_else_on_the_port_is_red(patient: Patient, answering: dict[str, str]) -> None:
    answering["body"] = "It works!"
    assert patient.finding("server").said.startswith("something else answers")


def test_a_server_that_does_not_run_is_told(patient: Patient) -> None:
    patient.server["port"] = 1
    assert patient.finding("server").level == "warn"


# The database


def test_a_database_that_does_not_answer_is_one_finding_and_no_end(patient: Patient) -> None:
    patient.store = Store("postgresql://nobody@127.0.0.1:1/none", connect_seconds=0.5)
    assert patient.finding("database").level == "bad"
    assert patient.finding("disk").level == "good"


def test_without_a_database_the_first_start_is_advised(patient: Patient) -> None:
    found = doctor.examine(Settings(state_dir=str(patient.state_dir), server=Server(port=0)), None)
    assert [each.thing for each in found][-1] == "database"
    assert "make serve" in found[-1].remedy


def test_a_sound_database_is_good(patient: Patient) -> None:
    for thing in ("database", "durability", "schema", "clock"):
        assert patient.finding(thing).level == "good"


def test_a_database_that_forgets_what_it_answered_is_red(patient: Patient) -> None:
    name = patient.store.url.partition("?")[0].rpartition("/")[2]
    patient.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    patient.store.dispose()
    assert patient.finding("durability").level == "bad"


def test_a_schema_of_another_release_is_red(patient: Patient) -> None:
    patient.run("UPDATE alembic_version SET version_num = '0000'")
    finding = patient.finding("schema")
    assert (finding.level, finding.said.startswith("revision 0000, and this release has")) == ("bad", True)


@pytest.mark.parametrize(("ahead", "level"), [(0.2, "good"), (-3.0, "warn"), (60.0, "bad"), (-60.0, "bad")])
def test_clocks_that_disagree_are_told(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, ahead: float, level: str
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert patient.finding("clock").level == level


def test_a_database_with_few_connections_is_told(patient: Patient) -> None:
    patient.server["workers"] = 64
    assert patient.finding("connections").level == "warn"


# What is in it


def test_until_somebody_can_sign_in_it_is_red(patient: Patient) -> None:
    assert patient.finding("operators").level == "bad"
    with patient.store.transaction() as db:
        _, token = operators.add(db, "ana@hotel.example", operators.Role.OWNER, None, patient.now)
    assert patient.finding("operators").level == "warn"
    with patient.store.transaction() as db:
        operators.use_invitation(db, token, "hash", patient.now)
    assert patient.finding("operators").level == "good"


def test_an_empty_installation_is_told_the_next_steps(patient: Patient) -> None:
    assert "network add" in patient.finding("networks").remedy
    assert "gateway add" in patient.finding("gateways").remedy


def test_a_network_that_lets_nobody_in_is_told(patient: Patient) -> None:
    with patient.store.transaction() as db:
        network = networks.add(db, "linde", "Linde", patient.now)
    assert patient.finding("network linde").said == "has no plan, so nothing can be issued"
    with patient.store.transaction() as db:
        networks.edit(db, network.id, vouchers=False)
    assert patient.finding("network linde").said == "guests have no way in"


def test_a_gateway_that_is_well_is_good(patient: Patient, gateway: gateways.Gateway) -> None:
    assert gateway.gw_id == "lobby"
    assert patient.finding("gateway lobby").level == "good"
    assert patient.finding("network linde").level == "good"


@pytest.mark.parametrize(
    ("change", "level", "said"),
    [
        ("UPDATE heartbeat SET at = at - INTERVAL '5 minutes'", "bad", "silent since"),
        ("DELETE FROM heartbeat", "warn", "has never pinged"),
        ("UPDATE heartbeat SET key_missing_at = key_seen_at + INTERVAL '1 second'", "bad", "without its key"),
        ("DELETE FROM gateway_key", "warn", "shows no key"),
        ("UPDATE gateway SET address = NULL, seen_address = '10.9.8.7', seen_port = 2060", "warn", "10.9.8.7:2060"),
        ("UPDATE gateway SET address = '10.0.0.1', seen_address = '10.0.0.2'", "warn", "come with 10.0.0.2:2060"),
        ("UPDATE heartbeat SET source_changed_at = at", "warn", "calls from another address"),
    ],
)
def test_a_gateway_that_is_not_well_is_told(
    patient: Patient, gateway: gateways.Gateway, change: str, level: str, said: str
) -> None:
    assert gateway.gw_id == "lobby"
    patient.run(change)
    finding = patient.finding("gateway lobby")
    assert finding.level == level
    assert said in finding.said


def test_who_waits_in_the_inbox_is_named(patient: Patient) -> None:
    with patient.store.transaction() as db:
        for number in range(7):
            gateways.note_unknown(db, f"stranger-{number}", patient.now)
    finding = patient.finding("inbox")
    assert finding.said.startswith("7 unknown gateways called: 'stranger-6'")
    assert finding.said.endswith(", …")


def test_work_that_failed_and_a_recent_restore_are_mentioned(patient: Patient) -> None:
    patient.run("INSERT INTO job (name, ran_at, outcome) VALUES ('retention', now(), 'failed')")
    patient.run("INSERT INTO installation (id, restored_at) VALUES (1, now())")
    assert patient.finding("upkeep").said == "retention: failed"
    assert patient.finding("restore").level == "good"
