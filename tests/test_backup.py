"""A backup holds everything, is nobody else's to read, and comes back whole or not at all."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal import backup, networks, vouchers
from portal.backup import BackupError
from portal.keys import Keyring, KeysError
from portal.store import Store, sql
from tests.conftest import Cluster


class House:
    """An installation: a database and a state directory."""

    def __init__(self, url: str, state_dir: Path) -> None:
        self.store = Store(url, application="gatepost command")
        self.state_dir = state_dir
        self.now = self.store.database_now()
        self.told: list[str] = []

    def opens(self, slug: str) -> list[str]:
        """A network, with codes."""
        with self.store.transaction() as db:
            network = networks.add(db, slug, f"Häuschen {slug}", self.now)
            plan = networks.add_plan(db, network.id, networks.terms("Day", minutes=60), self.now)
            return vouchers.issue(db, self.keyring, plan, 5, self.now)[1]

    @property
    def keyring(self) -> Keyring:
        return Keyring.load_or_create(self.state_dir)

    def slugs(self) -> list[str]:
        with self.store.read() as db:
            return [network.slug for network in networks.listed(db)]

    def knows(self, codes: list[str]) -> bool:
        with self.store.read() as db:
            network = networks.listed(db)[0]
            found = [
                vouchers.find(db, self.keyring, network.id, vouchers.normalise(code) or "") is not None
                for code in codes
            ]
        return all(found)

    def backs_up(self, file: Path) -> backup.Manifest:
        return backup.backup(self.store, self.state_dir, file, self.now)

    def restores(self, file: Path, *, force: bool = False) -> backup.Manifest:
        return backup.restore(self.store, self.state_dir, file, self.now, force=force, say=self.told.append)

    def run(self, statement: str) -> object:
        with self.store.transaction() as db:
            result = db.execute(sql("test.run", statement))
            return result.scalar() if result.returns_rows else None


@pytest.fixture
def old(database_url: str, tmp_path: Path) -> Iterator[House]:
    house = House(database_url, tmp_path / "old")
    yield house
    house.store.dispose()


@pytest.fixture
def new(cluster: Cluster, tmp_path: Path) -> Iterator[House]:
    with cluster.clone() as url:
        house = House(url, tmp_path / "new")
        yield house
        house.store.dispose()


def test_a_backup_brings_networks_codes_and_keys_to_another_machine(old: House, new: House, tmp_path: Path) -> None:
    codes = old.opens("linde")
    token = old.keyring.mint_token()
    file = tmp_path / "monday.tar"
    made = old.backs_up(file)
    assert made.revision
    restored = new.restores(file)
    assert restored == made
    assert new.slugs() == ["linde"]
    assert new.knows(codes)
    assert new.keyring.genuine(token)
    assert new.opens("zoo")
    assert new.run("SELECT restored_at FROM installation") == new.now


def test_a_backup_is_its_owners_alone_and_nothing_is_left_beside_it(old: House, tmp_path: Path) -> None:
    old.opens("linde")
    place = tmp_path / "backups"
    place.mkdir()
    old.backs_up(place / "monday.tar")
    assert [path.name for path in place.iterdir()] == ["monday.tar"]
    assert (place / "monday.tar").stat().st_mode & 0o777 == 0o600


def test_a_backup_never_replaces_another_file(old: House, tmp_path: Path) -> None:
    old.opens("linde")
    file = tmp_path / "monday.tar"
    file.write_text("something else")
    with pytest.raises(BackupError, match="exists already"):
        old.backs_up(file)
    assert file.read_text() == "something else"


def test_without_keys_there_is_no_backup(old: House, tmp_path: Path) -> None:
    with pytest.raises(KeysError):
        old.backs_up(tmp_path / "monday.tar")
    assert not (tmp_path / "monday.tar").exists()


def test_an_installation_that_is_in_use_is_replaced_only_by_force(old: House, new: House, tmp_path: Path) -> None:
    codes = old.opens("linde")
    theirs = new.opens("zoo")
    file = tmp_path / "monday.tar"
    old.backs_up(file)
    with pytest.raises(BackupError, match="is in use .1 networks, 0 operators"):
        new.restores(file)
    assert new.slugs() == ["zoo"]
    assert new.knows(theirs)
    before = new.keyring
    new.restores(file, force=True)
    assert new.slugs() == ["linde"]
    assert new.knows(codes)
    kept = Path(new.told[0].removeprefix("the keys that stood here are kept as "))
    assert Keyring(kept).genuine(before.mint_token())


def test_nothing_is_restored_under_a_running_server(old: House, new: House, tmp_path: Path) -> None:
    old.opens("linde")
    file = tmp_path / "monday.tar"
    old.backs_up(file)
    server = Store(new.store.url)
    with server.read("polls"):
        for force in (False, True):
            with pytest.raises(BackupError, match="a server uses this database: stop it first"):
                new.restores(file, force=force)
    server.dispose()


def test_a_restore_that_fails_half_way_leaves_everything_as_it_was(old: House, new: House, tmp_path: Path) -> None:
    old.opens("linde")
    theirs = new.opens("zoo")
    keys_before = (new.state_dir / "keys").read_bytes()
    file = tmp_path / "monday.tar"
    old.backs_up(file)
    new.run("ALTER TABLE network RENAME CONSTRAINT network_slug_key TO network_other_key")
    new.run("CREATE VIEW network_slug_key AS SELECT 1 AS one")
    with pytest.raises(BackupError, match="psql failed: .*network_slug_key"):
        new.restores(file, force=True)
    assert new.slugs() == ["zoo"]
    assert new.knows(theirs)
    assert (new.state_dir / "keys").read_bytes() == keys_before


def test_what_is_no_backup_is_refused_before_anything_is_touched(old: House, new: House, tmp_path: Path) -> None:
    theirs = new.opens("zoo")
    old.opens("linde")
    whole, broken = tmp_path / "whole.tar", tmp_path / "broken.tar"
    old.backs_up(whole)
    content = whole.read_bytes()
    for wrong in (b"", b"hello", content[:600], content[: len(content) // 2]):
        broken.write_bytes(wrong)
        with pytest.raises(BackupError):
            new.restores(broken, force=True)
    with tarfile.open(broken, "w") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO())
    with pytest.raises(BackupError, match="no backup of Gatepost"):
        new.restores(broken, force=True)
    assert new.slugs() == ["zoo"]
    assert new.knows(theirs)


def test_a_backup_of_a_newer_release_is_refused(old: House, new: House, tmp_path: Path) -> None:
    old.opens("linde")
    whole, newer = tmp_path / "whole.tar", tmp_path / "newer.tar"
    old.backs_up(whole)
    with tarfile.open(whole) as source, tarfile.open(newer, "w") as target:
        for entry in source.getmembers():
            content = source.extractfile(entry)
            assert content is not None
            data = content.read()
            if entry.name == "manifest.json":
                data = data.replace(b'"revision": "0', b'"revision": "9')
            entry.size = len(data)
            target.addfile(entry, io.BytesIO(data))
    with pytest.raises(BackupError, match="which is newer: update first"):
        new.restores(newer)


def test_guests_data_that_looks_like_sql_is_restored_as_data(old: House, new: House, tmp_path: Path) -> None:
    old.opens("linde")
    nasty = "CREATE SCHEMA public;\nSET transaction_timeout = 0;\n\\.\nCOPY network FROM stdin;\nDROP TABLE network;"
    with old.store.transaction() as db:
        network = networks.listed(db)[0]
        networks.edit(db, network.id, terms=nasty)
    old.backs_up(tmp_path / "monday.tar")
    new.restores(tmp_path / "monday.tar")
    with new.store.read() as db:
        assert networks.listed(db)[0].terms == nasty
