"""Backup and restore: the database and the keys that open it, in one file.

Promises: a backup is whole or absent, readable by its owner alone, and never replaces another; a restore happens in one
transaction, refuses an installation that is in use or has something in it, and notes its moment, so that guests who are
online stay online (their tokens may be younger than the backup). Passwords never stand on a command line.

A file is a tar archive: `manifest.json`, `keys` (see keys.py) and `database.dump` (pg_dump's custom format).
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Final

import msgspec
import psycopg2.extensions

from portal import __version__, keys
from portal.store import Store, sql
from portal.store.embedded import find_programs
from portal.store.migrations import current, head, migrate
from portal.store.models import Base

FORMAT: Final = 1
_MANIFEST, _KEYS, _DUMP = "manifest.json", "keys", "database.dump"
_SMALL: Final = 1_000_000

OTHERS = sql(
    "backup.others",
    """
    SELECT DISTINCT application_name
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'gatepost%'
       AND application_name NOT LIKE 'gatepost command%'
    """,
)

TABLES = sql(
    "backup.tables",
    """
    SELECT c.relname
      FROM pg_class c
     WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     ORDER BY c.relname
    """,
)

IN_USE = sql(
    "backup.in_use",
    "SELECT (SELECT count(*) FROM network) AS networks, (SELECT count(*) FROM operator) AS operators",
)

SERVER_VERSION = sql("backup.server_version", "SELECT CAST(current_setting('server_version_num') AS integer)")


class BackupError(Exception):
    """A backup or restore cannot be done; the message says why. Nothing was changed."""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: int
    gatepost: str
    revision: str
    made_at: datetime


def backup(store: Store, state_dir: Path, file: Path, now: datetime) -> Manifest:
    """Write a backup to `file`, which must not exist. Works beside a running server. Raises BackupError, KeysError."""
    if file.exists():
        raise BackupError(f"{file} exists already: choose another name")
    if not file.parent.is_dir():
        raise BackupError(f"there is no directory {file.parent}")
    secrets = keys.exported(state_dir)
    revision = current(store.url)
    if revision is None:
        raise BackupError("the database is empty: there is nothing to back up")
    manifest = Manifest(FORMAT, __version__, revision, now)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        dump, whole = Path(folder) / _DUMP, Path(folder) / "whole.tar"
        _run(
            store.url,
            "pg_dump",
            "--format=custom",
            "--schema=public",
            "--no-owner",
            "--no-privileges",
            f"--file={dump}",
        )
        with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
            with tarfile.open(fileobj=output, mode="w") as archive:
                _put(archive, _MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)), now)
                _put(archive, _KEYS, secrets, now)
                entry = _entry(_DUMP, dump.stat().st_size, now)
                with dump.open("rb") as content:
                    archive.addfile(entry, content)
            output.flush()
            os.fsync(output.fileno())
        try:
            os.link(whole, file)  # unlike a rename, never replaces what somebody else has put there meanwhile
        except FileExistsError:
            raise BackupError(f"{file} exists already: choose another name") from None
    return manifest


def restore(
    store: Store, state_dir: Path, file: Path, now: datetime, *, force: bool = False, say: Callable[[str], None]
) -> Manifest:
    """Put a backup in place of what is there. Without `force` only where there is nothing yet. Raises BackupError.

    A key file that differs from the backup's is kept beside the new one; `say` is told.
    """
    with _opened(file) as archive, tempfile.TemporaryDirectory(prefix="gatepost-restore-") as folder:
        manifest = _manifest(file, archive)
        secrets = _member(file, archive, _KEYS).read(_SMALL)
        keys.checked(file, secrets)
        _refuse_where_in_use(store, force=force)
        dump, script = Path(folder) / _DUMP, Path(folder) / "restore.sql"
        with dump.open("wb") as output:
            shutil.copyfileobj(_member(file, archive, _DUMP), output)
        _write_script(store, dump, script, now)
        _run(
            store.url,
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--single-transaction",
            "--output=/dev/null",
            f"--file={script}",
        )
    kept = keys.installed(state_dir, secrets)
    if kept is not None:
        say(f"the keys that stood here are kept as {kept}")
    store.dispose()
    migrate(store.url)
    return manifest


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, mode="r:") as archive:
            yield archive
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{file} cannot be read as a backup: {error}") from None


def _manifest(file: Path, archive: tarfile.TarFile) -> Manifest:
    try:
        manifest = msgspec.json.decode(_member(file, archive, _MANIFEST).read(_SMALL), type=Manifest)
    except msgspec.MsgspecError:
        raise BackupError(f"{file} is no backup of Gatepost") from None
    if manifest.format != FORMAT or manifest.revision > head():
        raise BackupError(f"{file} was made by Gatepost {manifest.gatepost}, which is newer: update first")
    return manifest


def _refuse_where_in_use(store: Store, *, force: bool) -> None:
    with store.read("jobs", caller="restore") as db:
        others = db.execute(OTHERS).scalars().all()
        tables = set(db.execute(TABLES).scalars())
        if others:
            raise BackupError("a server uses this database: stop it first")
        if force:
            return
        found = db.execute(IN_USE).one() if {"network", "operator"} <= tables else None
        if found is not None and (found.networks or found.operators):
            said = f"{found.networks} networks, {found.operators} operators"
            raise BackupError(f"this installation is in use ({said}); --force replaces it all")


def _write_script(store: Store, dump: Path, script: Path, now: datetime) -> None:
    """The dump as SQL, between what makes room for it and the note that it was restored: one transaction for all."""
    with store.read("jobs", caller="restore") as db:
        there = set(db.execute(TABLES).scalars())
        version = db.execute(SERVER_VERSION).scalar_one()
    ours = sorted(there & {*Base.metadata.tables, "alembic_version"})
    plain = script.with_suffix(".plain")
    _run(store.url, "pg_restore", "--no-owner", "--no-privileges", f"--file={plain}", str(dump), connect=False)
    with script.open("w", encoding="utf-8") as output, plain.open(encoding="utf-8") as content:
        for table in ours:
            output.write(f'DROP TABLE IF EXISTS "{table}" CASCADE;\n')
        copying = False
        for line in content:
            if copying:
                copying = line != "\\.\n"
            elif line.startswith("COPY ") and line.endswith("FROM stdin;\n"):
                copying = True
            elif line.startswith(("CREATE SCHEMA public", "ALTER SCHEMA public", "COMMENT ON SCHEMA public")):
                continue
            elif version < 170000 and line.startswith("SET transaction_timeout"):
                continue  # written by newer programs, unknown to older servers
            output.write(line)
        output.write(
            "INSERT INTO public.installation (id, restored_at) VALUES (1, "
            f"'{now.isoformat()}') ON CONFLICT (id) DO UPDATE SET restored_at = EXCLUDED.restored_at;\n"
        )


def _run(url: str, program: str, *arguments: str, connect: bool = True) -> None:
    """Run one of PostgreSQL's programs against the database; BackupError with its last words if it fails."""
    parameters = psycopg2.extensions.parse_dsn(url.replace("+psycopg2", "", 1))
    password = parameters.pop("password", None)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    if password is not None:
        environment["PGPASSWORD"] = password
    target = [f"--dbname={psycopg2.extensions.make_dsn(**parameters)}"] if connect else []
    command: Sequence[str] = [_program(program, url), *target, *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise BackupError(f"{program} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BackupError(f"{program} failed: {said[-1] if said else f'status {done.returncode}'}")


def _program(name: str, url: str) -> str:
    """Our own programs know no TLS, so for a database elsewhere the system's are taken where there are any."""
    away = "host=%2F" not in url and "host=/" not in url
    return (shutil.which(name) if away else None) or str(find_programs() / name)


def _member(file: Path, archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        found = archive.extractfile(name)
    except (KeyError, tarfile.TarError):
        found = None
    if found is None:
        raise BackupError(f"{file} is no backup of Gatepost: it holds no {name}")
    return found


def _entry(name: str, size: int, now: datetime) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(now.timestamp())
    return entry


def _put(archive: tarfile.TarFile, name: str, content: bytes, now: datetime) -> None:
    archive.addfile(_entry(name, len(content), now), io.BytesIO(content))
