"""The settings: config.toml and the environment, read once into one frozen tree.

Promises: every key is checked before anything else happens; an unknown one is refused by name, with the nearest that
exists; every problem found is told at once. The environment (`PORTAL_SECTION__KEY`) wins over the file, the file over
the defaults, and `config.toml` names each key with its default. Never reads anything else, never changes while running.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit, urlunsplit

import msgspec

PREFIX = "PORTAL_"
HIDDEN = "********"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Milliseconds = Annotated[int, msgspec.Meta(ge=10, le=3_600_000)]
Connections = Annotated[int, msgspec.Meta(ge=1, le=200)]


class Invalid(Exception):
    """The settings cannot be used; the message has one line for each thing to mend."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where we listen, and how much we take at once."""

    host: str = "0.0.0.0"  # noqa: S104
    port: Port = 8080
    public_url: str = ""
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    trusted_proxies: tuple[str, ...] = ()
    backlog: Annotated[int, msgspec.Meta(ge=128, le=65535)] = 4096
    sockets: Count = 10_000
    polls: Count = 2_000
    guests: Count = 400
    operators: Count = 50
    head_seconds: Seconds = 5.0
    idle_seconds: Seconds = 15.0
    drain_seconds: Seconds = 10.0


class Database(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which PostgreSQL, and how much of it each class of caller may use, in each worker."""

    url: str = ""
    polls: Connections = 3
    guests: Connections = 8
    operators: Connections = 4
    jobs: Connections = 3
    polls_statement_ms: Milliseconds = 700
    guests_statement_ms: Milliseconds = 3_000
    operators_statement_ms: Milliseconds = 10_000
    jobs_statement_ms: Milliseconds = 60_000

    @property
    def connections(self) -> int:
        """All connections of one worker."""
        return self.polls + self.guests + self.operators + self.jobs


class Polls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What gateways ask once a minute for every guest."""

    deadline_ms: Annotated[int, msgspec.Meta(ge=50, le=10_000)] = 1_000
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000
    pending: Annotated[int, msgspec.Meta(ge=1_000, le=10_000_000)] = 200_000
    interval_seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long what has happened is kept."""

    sessions_days: Days = 365
    usage_days: Days = 365
    stations_days: Days = 365
    audit_days: Days = 730


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may read /metrics."""

    access: Literal["loopback", "token"] = "loopback"  # noqa: S105
    token: str = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    state_dir: str = "state"
    server: Server = Server()
    database: Database = Database()
    polls: Polls = Polls()
    retention: Retention = Retention()
    log: Log = Log()
    metrics: Metrics = Metrics()

    @property
    def state(self) -> Path:
        """The state directory; absolute once loaded."""
        return Path(self.state_dir)


def load(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of `path` (the config.toml of this installation when None) and the environment.

    A relative `state_dir` is taken from the file's directory. Raises Invalid.
    """
    file = path or Path(__file__).parent.parent / "config.toml"
    problems: list[str] = []
    values: dict[str, tuple[str, object]] = {}
    for name, value in _in_file(file, required=path is not None):
        values[name] = (f"{file.name}: {name}", value)
    known = keys()
    for variable, text in sorted(environment.items()):
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            values[name] = (f"{variable} in the environment", _from_text(text, known.get(name)))
    tree: dict[str, Any] = {}
    for name, (said, value) in values.items():
        if name not in known:
            problems.append(f"{said} is not a setting{_nearest(name, known)}")
            continue
        try:
            checked = msgspec.convert(value, known[name])
        except msgspec.ValidationError as error:
            problems.append(f"{said}: {_in_words(error, known[name])}, not {_shown(name, value)}")
            continue
        section, _, key = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[key] = checked
    settings = msgspec.convert(tree, Settings)
    problems += _contradictions(settings)
    if problems:
        raise Invalid("\n".join(problems))
    state_dir = (file.resolve().parent / Path(settings.state_dir).expanduser()).resolve()
    return msgspec.structs.replace(settings, state_dir=str(state_dir))


def keys() -> dict[str, Any]:
    """Every key, as `section.key`, with the type its value must have."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= {f"{field.name}.{inner.name}": inner.type for inner in msgspec.structs.fields(field.type)}
        else:
            found[field.name] = field.type
    return found


def show(settings: Settings) -> str:
    """The settings in force, as TOML, without passwords."""
    plain = msgspec.to_builtins(settings)
    lines = []
    for name, value in plain.items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {_shown(name, value)}")
    for section, values in plain.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{name} = {_shown(f'{section}.{name}', value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _in_file(file: Path, *, required: bool) -> Iterator[tuple[str, object]]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise Invalid(f"there is no file {file}") from None
        return
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}") from None
    for name, value in content.items():
        if isinstance(value, dict):
            for inner, inner_value in value.items():
                yield f"{name}.{inner}", inner_value
        else:
            yield name, value


def _from_text(text: str, expected: Any) -> object:
    """A value from the environment, where everything is text; left as text when it does not look like its type."""
    if get_origin(expected) is tuple:
        return text.replace(",", " ").split()
    # A number out of range stays a number, so that it is refused for its size and not for being text.
    for likely in (expected, int, float) if expected is not None else ():
        with suppress(msgspec.ValidationError):
            return msgspec.convert(text, likely, strict=False)
    return text


def _nearest(name: str, known: Mapping[str, object]) -> str:
    last = name.rpartition(".")[2]
    same = [key for key in known if key.rpartition(".")[2] == last]
    near = same or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _in_words(error: msgspec.ValidationError, expected: Any) -> str:
    """What was expected; the library says so after `Expected`, and then what it got instead."""
    if get_origin(expected) is Literal:
        return "expected " + " or ".join(json.dumps(choice) for choice in get_args(expected))
    said = str(error).split(" - at ")[0].split(", got ")[0].replace("`", "").replace("Expected", "expected")
    return said.replace("expected int", "expected a whole number").replace("expected float", "expected a number")


def _shown(name: str, value: object) -> str:
    """A value as TOML writes it; a secret only as far as it may be seen."""
    if name == "metrics.token" and value:
        value = HIDDEN
    if name == "database.url" and isinstance(value, str):
        value = _without_password(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown("", item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)


def _without_password(url: str) -> str:
    """The URL, fit to be shown: neither the password before the host nor any parameter, where another may stand."""
    parts = urlsplit(url)
    who, at, where = parts.netloc.rpartition("@")
    name, colon, _ = who.partition(":")
    return urlunsplit((parts.scheme, f"{name}{colon and ':' + HIDDEN}{at}{where}", parts.path, "", ""))


def _contradictions(settings: Settings) -> list[str]:
    """What each key alone cannot show."""
    problems = []
    server, database, polls = settings.server, settings.database, settings.polls
    if server.public_url:
        parts = urlsplit(server.public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            problems.append(
                f'server.public_url: expected something like "https://wifi.example.org", not "{server.public_url}"'
            )
    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            problems.append(f'server.trusted_proxies: expected an address or a network like 10.0.0.0/8, not "{proxy}"')
    if database.url and not database.url.startswith(("postgresql://", "postgres://", "postgresql+psycopg2://")):
        problems.append("database.url: expected postgresql://USER:PASSWORD@HOST/NAME, or nothing for the embedded one")
    if database.polls_statement_ms >= polls.deadline_ms:
        problems.append(
            f"database.polls_statement_ms ({database.polls_statement_ms}) must be below polls.deadline_ms "
            f"({polls.deadline_ms}): the statement has to end before the answer is due"
        )
    if settings.metrics.access == "token" and len(settings.metrics.token) < 16:  # noqa: S105
        problems.append('metrics.token: expected at least 16 characters, since metrics.access is "token"')
    if not settings.state_dir.strip():
        problems.append("state_dir: expected a directory")
    return problems
