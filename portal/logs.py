"""How the log is written: one line a fact, constant event text, fields as values.

Promises: a line is a line whatever a guest or gateway sent (control characters are escaped, lengths are cut). Never
formats a token, code, password or whole MAC: callers shorten those first (keys.short, keys.mac_short).
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

LONGEST = 4096


def configure(level: str, form: str) -> None:
    """Send the log to standard error, as JSON or as text for people."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _short,
    ]
    last: Any
    if form == "json":
        last = structlog.processors.JSONRenderer(sort_keys=False)
    else:
        last = _text
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("alembic", "PIL", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _short(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and len(value) > LONGEST:
            event[name] = value[:LONGEST] + "…"
    return event


def _text(_logger: Any, _method: str, event: dict[str, Any]) -> str:
    moment = str(event.pop("timestamp", ""))[:19].replace("T", " ")
    level = str(event.pop("level", "")).upper()
    text = str(event.pop("event", ""))
    event.pop("logger", None)
    trace = event.pop("exception", None)
    fields = " ".join(f"{name}={_plain(value)}" for name, value in event.items())
    line = f"{moment} {level:<7} {_plain(text, quote=False)}" + (f"  {fields}" if fields else "")
    return line if trace is None else f"{line}\n{trace}"


def _plain(value: Any, *, quote: bool = True) -> str:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
    return f'"{text}"' if quote and (" " in text or not text) else text
