"""The operator's command line: what it prints, what it changes, and how it says that something cannot be done."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from portal import __main__, commands, demo, gateways, guests, networks, operators, vouchers
from portal.__main__ import main
from portal.keys import Keyring
from portal.offload import Offload
from portal.store import Store, sql


@dataclass
class Told:
    """What a command printed, and its status."""

    out: str
    remarks: str
    status: int

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out)))


Command = Callable[..., Told]


@pytest.fixture
def portal(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`python -m portal` on an empty database."""
    monkeypatch.setenv("PORTAL_DATABASE__URL", database_url)
    monkeypatch.setenv("PORTAL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PORTAL_SERVER__PORT", "0")

    def run(*arguments: str, typed: str = "") -> Told:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, remarks = capsys.readouterr()
        return Told(out, remarks, status)

    return run


@pytest.fixture
def linde(portal: Command) -> Command:
    """The same with a network and a plan."""
    assert portal("network", "add", "Café Linde", "--slug", "linde", "--time-zone", "Europe/Berlin").status == 0
    assert portal("plan", "add", "--network", "linde", "--name", "Day", "--minutes", "60").status == 0
    return portal


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """The keys that the commands of this test use."""
    return Keyring.load_or_create(tmp_path / "state")


def recorded(store: Store) -> list[tuple[str, str]]:
    with store.read() as db:
        return [(entry.action, entry.subject) for entry in operators.record(db, None)][::-1]


@pytest.mark.parametrize(
    ("arguments", "idle"),
    [
        (["--help"], ["portal.commands", "sqlalchemy", "gevent", "msgspec"]),
        (["voucher", "issue", "--help"], ["portal.commands", "sqlalchemy", "gevent", "msgspec"]),
        (["config", "show"], ["alembic", "sqlalchemy.orm", "flask", "portal.demo", "portal.backup", "portal.doctor"]),
    ],
)
def test_a_command_imports_no_room_that_it_does_not_enter(arguments: list[str], idle: list[str]) -> None:
    script = (
        "import sys; from portal.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert not set(idle) & set(done.stderr.split())


def test_the_parser_says_what_the_rooms_say_that_it_does_not_import() -> None:
    assert set(__main__.ROLES) == {role.value for role in operators.Role}
    assert __main__.LARGEST_BATCH == vouchers.LARGEST_BATCH


def test_the_demo_says_which_ports_it_takes(portal: Command) -> None:
    told = portal("demo", "--help").out
    assert f"({demo.PORT}, or" in told
    assert f"({demo.GATEWAY_PORT}, or" in told


def test_every_command_of_the_parser_can_be_done() -> None:
    offered = {
        command
        for noun in actions(__main__.parser()).values()
        for made in (actions(noun).values() or [noun])
        if (command := made.get_default("command"))
    }
    assert offered == {*commands.OFFICE, *commands.PLAIN}


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """What may follow on a command line."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def test_a_network_a_plan_and_codes_take_three_commands(linde: Command, store: Store, keyring: Keyring) -> None:
    issued = linde("voucher", "issue", "--network", "linde", "--plan", "Day", "--count", "3", "--label", "Bar")
    assert issued.status == 0
    codes = [row["code"] for row in issued.rows()]
    assert issued.out.startswith("code,")
    assert [row["plan"] for row in issued.rows()] == ["Day"] * 3
    with store.read() as db:
        network = networks.by_slug(db, "linde")
        assert network is not None
        assert network.name == "Café Linde"
        for printed in codes:
            code = vouchers.normalise(printed)
            assert code is not None
            assert vouchers.find(db, keyring, network.id, code) is not None
    assert recorded(store) == [("network.add", "linde"), ("plan.add", "Day"), ("voucher.issue", "batch 1")]


def test_an_added_gateway_prints_nothing_but_the_lines_for_its_router(
    linde: Command, store: Store, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_SERVER__PUBLIC_URL", "https://wifi.linde.example")
    added = linde("gateway", "add", "--network", "linde", "--gw-id", "lobby", "--address", "10.0.0.1:8060")
    with store.read() as db:
        gateway = gateways.by_gw_id(db, "lobby")
        assert gateway is not None
        assert (gateway.address, gateway.port) == ("10.0.0.1", 8060)
        key = gateways.newest_key(db, keyring, gateway.id, store.database_now())
    assert key is not None
    assert added.out == gateways.router_lines("wifi.linde.example", 80, gateway, key)
    assert linde("gateway", "key", "LOBBY").out == added.out
    newer = linde("gateway", "key", "lobby", "--new").out
    assert newer != added.out
    assert linde("gateway", "key", "lobby").out == newer


def test_a_gateway_is_listed_addressed_replaced_and_freed_of_its_key(linde: Command, store: Store) -> None:
    linde("gateway", "add", "--network", "linde", "--gw-id", "lobby", "--name", "Front")
    with store.transaction() as db:
        gateways.note_unknown(db, "stranger", store.database_now())
    listed = linde("gateway", "list").out
    assert [line.split()[:2] for line in listed.splitlines()] == [
        ["gw_id", "network"], ["lobby", "linde"], ["stranger", "(inbox)"],
    ]  # fmt: skip
    assert (
        linde("gateway", "address", "lobby", "router.lan").remarks == "browsers of lobby go back to router.lan:2060\n"
    )
    assert "GatewayID lobby-2\n" in linde("gateway", "replace", "lobby", "lobby-2").out
    assert linde("gateway", "key", "lobby-2", "--forget").status == 0
    with store.read() as db:
        gateway = gateways.by_gw_id(db, "lobby-2")
        assert gateway is not None
        health = gateways.health(db, gateway.id, store.database_now())
    assert health is not None
    assert (health.keys, gateway.address) == (0, "router.lan")


def test_codes_are_revoked_one_by_one_or_by_the_batch(linde: Command, store: Store) -> None:
    issued = linde("voucher", "issue", "--network", "linde", "--plan", "Day", "--count", "4")
    codes = [row["code"] for row in issued.rows()]
    assert linde("voucher", "revoke", "--network", "linde", codes[0].lower()).remarks.startswith("1 revoked")
    wrong = linde("voucher", "revoke", "--network", "linde", codes[1], vouchers.grouped(vouchers.new_code()))
    assert (wrong.status, wrong.remarks) == (
        1, "python -m portal: the 2. code is none of linde's; nothing was revoked\n",
    )  # fmt: skip
    assert linde("voucher", "revoke", "--network", "linde", "--batch", "1").remarks.startswith("3 revoked")
    assert linde("voucher", "list", "--network", "linde").out.splitlines()[1].split()[-1] == "4"
    assert ("voucher.revoke", "batch 1") in recorded(store)


def test_a_guest_is_added_with_a_made_password_that_fits(linde: Command, store: Store) -> None:
    added = linde("guest", "add", "--network", "linde", "--plan", "Day", "ana", "--name", "Ana").rows()
    typed = linde("guest", "add", "--network", "linde", "--plan", "Day", "bea", "--password-stdin", typed="se cret\n")
    assert typed.rows() == [{"username": "bea"}]
    offload = Offload()
    with store.read() as db:
        network = networks.by_slug(db, "linde")
        assert network is not None
        assert network.accounts
        for username, password in ((added[0]["username"], added[0]["password"]), ("bea", "se cret")):
            account = guests.look_up(db, network.id, username)
            assert account is not None
            assert offload.verify_password(account.password_hash, password)
    offload.close()


def test_a_list_of_guests_is_taken_whole_or_refused_line_by_line(linde: Command, tmp_path: Path) -> None:
    file = tmp_path / "guests.csv"
    file.write_text("username,name\nana,Ana\nana,Other\n")
    refused = linde("guest", "import", "--network", "linde", "--plan", "Day", str(file))
    assert refused.status == 1
    assert f"{file}, 2: the user name stands in line 1 already" in refused.remarks
    file.write_text("username,name\nana,Ana\nbea,Bea\n")
    taken = linde("guest", "import", "--network", "linde", "--plan", "Day", str(file))
    assert [row["username"] for row in taken.rows()] == ["ana", "bea"]


def test_an_invited_operator_gets_a_link_that_works(
    portal: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_SERVER__PUBLIC_URL", "https://wifi.linde.example/")
    added = portal("operator", "add", "ana@hotel.example", "--role", "owner")
    again = portal("operator", "link", "ANA@hotel.example")
    prefix = "https://wifi.linde.example/desk/password/"
    tokens = [told.out.strip().removeprefix(prefix) for told in (added, again)]
    assert all(told.out.startswith(prefix) for told in (added, again))
    now = store.database_now()
    with store.read() as db:
        assert operators.invitation(db, tokens[0], now) is None
        link = operators.invitation(db, tokens[1], now)
        assert link is not None
        assert link.email == "ana@hotel.example"
        found = operators.by_email(db, "ana@hotel.example")
    assert found is not None
    assert found.everywhere(operators.Role.OWNER)
    assert portal("operator", "list").out.splitlines()[1].split() == [
        "ana@hotel.example", "invited", "owner", "of", "everything",
    ]  # fmt: skip


def test_a_network_is_changed_where_it_is_told_to_be(linde: Command, store: Store, tmp_path: Path) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("Be kind.\n")
    assert linde("network", "set", "linde", "--accounts", "--no-vouchers", "--click-plan", "Day").status == 0
    assert linde("network", "set", "linde", "--terms", str(terms)).status == 0
    with store.read() as db:
        network = networks.by_slug(db, "linde")
    assert network is not None
    assert (network.accounts, network.vouchers, network.click_plan_id is not None) == (True, False, True)
    assert (network.terms, network.terms_version, network.name) == ("Be kind.", 2, "Café Linde")
    assert linde("network", "list").out.splitlines()[1].endswith("accounts, click")
    assert linde("network", "set", "linde", "--click-plan", "none").status == 0
    assert linde("network", "list").out.splitlines()[1].endswith("accounts")


def test_a_plan_has_every_limit_that_there_is(linde: Command) -> None:
    added = linde(
        "plan", "add", "--network", "linde", "--name", "Staff", "--minutes", "90", "--clock", "online", "--megabytes",
        "1.5", "--counts", "down", "--devices", "any", "--valid-days", "30", "--idle-minutes", "15", "--period", "week",
        "--period-minutes", "120", "--period-megabytes", "10", "--click", "--cooldown-minutes", "60",
    )  # fmt: skip
    assert added.status == 0
    assert linde("plan", "list", "--network", "linde").out.splitlines()[2].split(maxsplit=1)[1] == (
        "90 min online, 1.5 MB down, 120 min a week, 10 MB a week, any number of devices, for 30 days"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("plan", "add", "--network", "linde", "--name", "x", "--minutes", "zero"), 2, "--minutes: expected a whole"),
        (("plan", "add", "--network", "linde", "--name", "x", "--period", "day"), 2, "--period: give minutes or"),
        (("plan", "add", "--network", "linde", "--name", "Day"), 1, "name: another plan of this network"),
        (("plan", "add", "--network", "zoo", "--name", "x"), 1, "there is no network 'zoo'; there are: linde"),
        (("network", "add", "x", "--slug", "linde"), 1, "slug: is taken by another network"),
        (("network", "add", "x", "--slug", "Not a slug"), 1, "slug: expected 1 to 40 of a-z"),
        (("network", "add", "x", "--slug", "x", "--time-zone", "Mars"), 1, "time_zone: expected the name of a time"),
        (("voucher", "issue", "--network", "linde", "--plan", "Week", "--count", "1"), 1, "it has: Day"),
        (("voucher", "issue", "--network", "linde", "--plan", "Day", "--count", "0"), 1, "from 1 to 100000"),
        (("voucher", "revoke", "--network", "linde"), 1, "name either codes or a --batch"),
        (("voucher", "revoke", "--network", "linde", "--batch", "7"), 1, "there is no batch 7 in linde"),
        (("gateway", "add", "--network", "linde", "--gw-id", "a b"), 1, "gw_id: expected 1 to 64 characters"),
        (("gateway", "key", "nobody"), 1, "there is no gateway 'nobody'"),
        (("guest", "add", "--network", "linde", "--plan", "Day", " "), 1, "username: must not be empty"),
        (("operator", "add", "nobody", "--role", "owner"), 1, "email: expected an e-mail address"),
        (("operator", "add", "a@b.example", "--role", "king"), 2, "invalid choice: 'king'"),
        (("operator", "link", "a@b.example"), 1, "there is no operator a@b.example"),
        (("restore", "/nonexistent"), 1, "cannot be read as a backup"),
        (("backup", "/nonexistent/x"), 1, "there is no directory /nonexistent"),
        (("frobnicate",), 2, "invalid choice: 'frobnicate'"),
        ((), 2, "required: COMMAND"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    linde: Command, arguments: tuple[str, ...], status: int, said: str
) -> None:
    told = linde(*arguments)
    assert (told.status, told.out) == (status, "")
    assert said in told.remarks
    assert "Traceback" not in told.remarks


def test_settings_that_cannot_be_used_are_told(portal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_SERVER__PROT", "80")
    told = portal("network", "list")
    assert told.status == 1
    assert "did you mean server.port?" in told.remarks


def test_a_database_that_does_not_answer_is_told(portal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_DATABASE__URL", "postgresql://nobody@127.0.0.1:1/none")
    told = portal("network", "list")
    assert told.status == 1
    assert "the database does not answer" in told.remarks


def test_the_settings_are_shown_without_passwords(portal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_DATABASE__URL", "postgresql://portal:hidden@db.example/portal")
    told = portal("config", "show")
    assert told.status == 0
    assert "hidden" not in told.out
    assert "db.example" in told.out


def test_rotated_keys_open_what_older_ones_sealed(linde: Command, keyring: Keyring, tmp_path: Path) -> None:
    token = keyring.mint_token()
    assert linde("keys", "rotate").status == 0
    assert Keyring.load_or_create(tmp_path / "state").genuine(token)


def test_the_doctor_is_red_without_tls_and_says_how_to_mend_it(linde: Command) -> None:
    told = linde("doctor")
    assert told.status == 1
    assert "RED   TLS: server.public_url is empty" in told.out
    assert "→ Put Caddy or nginx in front" in told.out
    findings = json.loads(linde("doctor", "--json").out)
    assert {"good", "bad", "warn"} >= {finding["level"] for finding in findings}
    assert [finding["thing"] for finding in findings if finding["level"] == "bad"] == ["TLS", "operators"]


def test_commands_work_without_a_server_on_an_installation_that_is_not_there_yet(short_directory: Path) -> None:
    environment = os.environ | {"PORTAL_STATE_DIR": str(short_directory / "fresh"), "PORTAL_SERVER__PORT": "0"}
    command = [sys.executable, "-m", "portal"]
    doctor = subprocess.run([*command, "doctor"], env=environment, capture_output=True, text=True, check=False)
    assert doctor.returncode == 1
    assert "database: none yet" in doctor.stdout
    assert not (short_directory / "fresh").exists()
    added = subprocess.run(
        [*command, "network", "add", "Linde", "--slug", "linde"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (added.returncode, added.stdout) == (0, "")
    together = [
        subprocess.Popen([*command, "network", "list"], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for listing in together:
        assert "linde" in listing.communicate(timeout=60)[0]
        assert listing.returncode == 0


def test_output_that_nobody_reads_to_its_end_is_no_disaster(linde: Command, store: Store) -> None:
    linde("voucher", "issue", "--network", "linde", "--plan", "Day", "--count", "1")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "portal", "network", "list"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
    with store.read() as db:
        assert db.execute(sql("test.batches", "SELECT count(*) FROM voucher_batch")).scalar_one() == 1
