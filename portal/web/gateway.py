"""The gateways' door: /auth and /ping, plain WSGI, in front of Flask.

Promises: a gateway reads one of wifidog.Answer's constants, whatever happens; an unexpected error is no opinion, never
a denial; a Pong needs no database; a logout is always answered 0. Never repeats what was sent, in an answer or a log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from portal import access, wifidog
from portal.access import Verdict
from portal.frontdoor import Raw
from portal.gateways import GatewayFacts, Gateways, Ping, Trust
from portal.metrics import Metrics
from portal.sessions import Sessions
from portal.store import Store, Unavailable
from portal.wifidog import Answer, Dialect, Fleet, Heartbeat, Malformed, Report, Route, Stage

log = logging.getLogger(__name__)

_CODES = {
    access.Answer.ALLOW: Answer.ALLOW,
    access.Answer.DENY: Answer.DENY,
    access.Answer.NO_OPINION: Answer.NEUTRAL,
}
# The door itself says how long the answer is, and whether the connection ends with it.
_DOORS = ("Content-Length", "Connection")
RAW = {
    answer: Raw(answer.status, answer.body, *(header for header in answer.headers if header[0] not in _DOORS))
    for answer in Answer
}
_USUAL = frozenset(
    f"{prefix}{call}{slash}" for prefix in wifidog.PREFIXES for call in (Route.AUTH, Route.PING) for slash in ("", "/")
)
_SAID = {verdict: RAW[answer] for verdict, answer in _CODES.items()}
# A report of as many clients as one device may list, each at full length; the largest seen on a real gateway was a few
# kilobytes. Anybody may send one, and reading it keeps everybody else waiting.
FLEET_BYTES = 2**20


class Heard:
    """What gateways say of themselves, kept until `write` puts it down: nobody waits for the database.

    The newest heartbeat of each gateway and key counts; of a flood of names so many are kept, the rest come again.
    """

    MOST = 20_000

    def __init__(self, store: Store, gateways: Gateways, wake: Callable[[], object]) -> None:
        self._store = store
        self._gateways = gateways
        self._wake = wake
        # By key too, so that a forged ping never takes the place of one that proves itself.
        self._pings: dict[tuple[str, str, str], Ping] = {}
        self._strangers: dict[str, tuple[str, Dialect]] = {}
        self._devices: dict[str, tuple[GatewayFacts, str]] = {}
        self._keyless: dict[int, GatewayFacts] = {}

    def heartbeat(self, beat: Heartbeat, source: str, software: str) -> None:
        """Keep a ping to be written."""
        self._put(self._pings, (beat.gw_id.lower(), beat.device_id, beat.key), Ping(beat, source, software))

    def stranger(self, gw_id: str, device_id: str, dialect: Dialect) -> None:
        """A gateway that nobody knows asked about a guest."""
        self._put(self._strangers, gw_id, (device_id, dialect))

    def device(self, gateway: GatewayFacts, device_id: str) -> None:
        """A gateway that is believed named the device it runs on."""
        self._put(self._devices, gateway.gw_id, (gateway, device_id))

    def keyless(self, gateway: GatewayFacts) -> None:
        """A call about a guest came in the name of a gateway without the key which that one has shown."""
        self._put(self._keyless, gateway.id, gateway)

    def write(self) -> None:
        """Write what has been heard since the last time.

        Raises Unavailable; then heartbeats are kept unless newer ones have come. The rest comes again by itself.
        """
        pings, self._pings = self._pings, {}
        strangers, self._strangers = self._strangers, {}
        devices, self._devices = self._devices, {}
        keyless, self._keyless = self._keyless, {}
        now = self._store.clock.now()
        try:
            for gateway, device_id in devices.values():
                self._gateways.learn(gateway, device_id)
            if pings:
                self._gateways.hear(list(pings.values()), now)
            if keyless:
                self._gateways.miss_key(keyless.values(), now)
            for gw_id, (device_id, dialect) in strangers.items():
                self._gateways.note(gw_id, device_id, dialect, now)
        except Unavailable:
            self._pings = pings | self._pings
            if self._pings:
                self._wake()  # nobody else may call for a minute, and these would wait as long
            raise

    def _put(self, kept: dict[Any, Any], key: object, value: object) -> None:
        if key in kept or len(kept) < self.MOST:
            kept[key] = value
            self._wake()


class GatewayDoor:
    """Answers gateways. `asks` tells which requests are theirs."""

    def __init__(self, sessions: Sessions, gateways: Gateways, heard: Heard, metrics: Metrics) -> None:
        self._sessions = sessions
        self._gateways = gateways
        self._heard = heard
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes] | Raw:
        query = environ["QUERY_STRING"].encode("latin-1")
        route = wifidog.route(environ["PATH_INFO"], query)
        try:
            if route is Route.PING:
                return self._ping(environ, query)
            if route is Route.COUNTERS_V2:
                return self._fleets(environ, query, start_response)
            return self._auth(query)
        except Exception:
            log.exception("a gateway's request failed", extra={"route": str(route)})
            return RAW[Answer.PONG if route is Route.PING else Answer.NEUTRAL]

    def _auth(self, query: bytes) -> Raw:
        started = time.monotonic()
        try:
            report = wifidog.parse_auth(query)
        except Malformed as error:
            self._metrics.malformed.labels(error.field).inc()
            return RAW[Answer.DENY if error.logout else Answer.NEUTRAL]
        gateway = self._believed(report.gw_id, report.key, report.device_id, report.dialect)
        verdict = _unheard(report) if gateway is None else self._sessions.answer(gateway, report)
        self._metrics.polls.count(report.stage, verdict.answer, verdict.reason)
        self._metrics.poll_seconds.observe(time.monotonic() - started)
        return _SAID[verdict.answer]

    def _fleets(
        self, environ: dict[str, Any], query: bytes, start_response: Callable[..., Any]
    ) -> Iterable[bytes] | Raw:
        started = time.monotonic()
        body = environ["wsgi.input"].read(FLEET_BYTES)
        try:
            fleets = wifidog.parse_counters_v2(query, body)
        except Malformed as error:
            self._metrics.malformed.labels(error.field).inc()
            return RAW[Answer.NEUTRAL]
        answered = wifidog.answer_v2((fleet, self._fleet(fleet)) for fleet in fleets)
        self._metrics.poll_seconds.observe(time.monotonic() - started)
        start_response("200 OK", list(wifidog.headers_v2(answered)))
        return [answered]

    def _fleet(self, fleet: Fleet) -> list[Answer]:
        reports = [client.report for client in fleet.clients if client.report is not None]
        gateway = self._believed(fleet.gw_id, fleet.key, fleet.device_id, Dialect.APFREE)
        verdicts = iter(self._verdicts(gateway, reports) if reports else [])
        answers = []
        for client in fleet.clients:
            if client.report is None:
                answers.append(Answer.NEUTRAL)
                continue
            verdict = next(verdicts)
            self._metrics.polls.count(Stage.COUNTERS, verdict.answer, verdict.reason)
            answers.append(_CODES[verdict.answer])
        return answers

    def _believed(self, gw_id: str, key: str, device_id: str, dialect: Dialect) -> GatewayFacts | None:
        """The gateway that called, if we know it and it proves to be itself."""
        gateway = self._gateways.find(gw_id)
        if gateway is None:
            self._heard.stranger(gw_id, device_id, dialect)
            return None
        if gateway.state != "adopted":
            return None
        if self._gateways.trust(gateway, key) is Trust.KEY_MISSING:
            self._heard.keyless(gateway)
            return None
        if device_id and device_id != gateway.device_id:
            self._heard.device(gateway, device_id)
        return gateway

    def _verdicts(self, gateway: GatewayFacts | None, reports: Sequence[Report]) -> list[Verdict]:
        """What is said of guests to a gateway that is believed; no opinion to any other."""
        if gateway is None:
            return [_unheard(report) for report in reports]
        return self._sessions.answer_all(gateway, reports)

    def _ping(self, environ: dict[str, Any], query: bytes) -> Raw:
        try:
            beat = wifidog.parse_ping(query)
        except Malformed as error:
            self._metrics.malformed.labels(error.field).inc()
        else:
            self._metrics.pings.inc()
            self._heard.heartbeat(beat, environ.get("REMOTE_ADDR", ""), environ.get("HTTP_USER_AGENT", "")[:80])
        return RAW[Answer.PONG]


def asks(path: str) -> bool:
    """Whether a path is a gateway's call. Decides who answers before Flask sees anything."""
    return path in _USUAL or wifidog.route(path) in (Route.AUTH, Route.COUNTERS_V2, Route.PING)


def _unheard(report: Report) -> Verdict:
    if report.stage is Stage.LOGOUT:
        return Verdict(access.Answer.DENY, access.Reason.LOGOUT)
    return Verdict(access.Answer.NO_OPINION, access.Reason.FOREIGN_GATEWAY)
