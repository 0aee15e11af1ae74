"""The gateways' door: /auth and /ping, plain WSGI, in front of Flask.

Promises: a gateway reads one of wifidog.Answer's constants, whatever happens; an unexpected error is no opinion, never
a denial; a Pong needs no database; a logout is always answered 0. Never repeats what was sent, in an answer or a log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from portal import access, gateways, wifidog
from portal.access import Verdict
from portal.frontdoor import Raw
from portal.gateways import Gateways
from portal.metrics import Metrics
from portal.sessions import Sessions
from portal.store import Store, Unavailable
from portal.wifidog import Answer, Fleet, Heartbeat, Malformed, Report, Route, Stage

log = logging.getLogger(__name__)

_CODES = {
    access.Answer.ALLOW: Answer.ALLOW,
    access.Answer.DENY: Answer.DENY,
    access.Answer.NO_OPINION: Answer.NEUTRAL,
}
RAW = {
    answer: Raw(answer.status, answer.body, *(header for header in answer.headers if header[0] != "Content-Length"))
    for answer in Answer
}
# A fleet report of some thousand clients; the largest seen on a real gateway was a few kilobytes.
FLEET_BYTES = 4 * 2**20


class Heard:
    """Heartbeats and the names of strangers, kept until `write` puts them down: nobody waits for the database.

    The newest of each gateway counts; of a flood of names so many are kept, the rest come again with their next ping.
    """

    MOST = 20_000

    def __init__(self, store: Store, gateways: Gateways, wake: Callable[[], object]) -> None:
        self._store = store
        self._gateways = gateways
        self._wake = wake
        self._beats: dict[tuple[str, str], tuple[Heartbeat, str]] = {}

    def heartbeat(self, beat: Heartbeat, source: str) -> None:
        """Keep a ping to be written."""
        if len(self._beats) < self.MOST:
            self._beats[beat.gw_id.lower(), beat.device_id] = beat, source
            self._wake()

    def write(self) -> None:
        """Write what has been heard since the last time. Raises Unavailable; then it is kept unless newer has come."""
        beats, self._beats = self._beats, {}
        if not beats:
            return
        try:
            with self._store.transaction("jobs", caller="heartbeats") as db:
                now = self._store.clock.now()
                # In one order everywhere, so that two processes never wait for each other's rows.
                for _, (beat, source) in sorted(beats.items(), key=lambda item: item[0]):
                    self._write(db, beat, source, now)
        except Unavailable:
            self._beats = beats | self._beats
            raise

    def _write(self, db: Connection, beat: Heartbeat, source: str, now: datetime) -> None:
        called = self._gateways.called(beat)
        if called:
            judged = [(facts, self._gateways.authentic(facts, beat.key, now)) for facts in called]
            gateways.heartbeat(db, judged, beat, source, now)
        elif self._gateways.worth_noting(beat.gw_id):
            gateways.note_unknown(db, beat.gw_id, now, device_id=beat.device_id, dialect=beat.dialect)


class GatewayDoor:
    """Answers gateways. `asks` tells which requests are theirs."""

    def __init__(self, store: Store, sessions: Sessions, gateways: Gateways, heard: Heard, metrics: Metrics) -> None:
        self._store = store
        self._sessions = sessions
        self._gateways = gateways
        self._heard = heard
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes] | Raw:
        route = wifidog.route(environ["PATH_INFO"], environ["QUERY_STRING"].encode("latin-1"))
        try:
            if route is Route.PING:
                return self._ping(environ)
            if route is Route.COUNTERS_V2:
                return self._fleets(environ, start_response)
            return RAW[self._auth(environ)]
        except Exception:
            log.exception("a gateway's request failed", extra={"route": str(route)})
            return RAW[Answer.PONG if route is Route.PING else Answer.NEUTRAL]

    def _auth(self, environ: dict[str, Any]) -> Answer:
        started = time.monotonic()
        try:
            report = wifidog.parse_auth(environ["QUERY_STRING"].encode("latin-1"))
        except Malformed as error:
            self._metrics.malformed.labels(error.field).inc()
            return Answer.DENY if error.logout else Answer.NEUTRAL
        verdict = self._verdicts(report.gw_id, report.key, [report])[0]
        self._count(report.stage, verdict)
        self._metrics.poll_seconds.observe(time.monotonic() - started)
        return _CODES[verdict.answer]

    def _fleets(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes] | Raw:
        started = time.monotonic()
        body = environ["wsgi.input"].read(FLEET_BYTES)
        try:
            fleets = wifidog.parse_counters_v2(environ["QUERY_STRING"].encode("latin-1"), body)
        except Malformed as error:
            self._metrics.malformed.labels(error.field).inc()
            return RAW[Answer.NEUTRAL]
        answered = wifidog.answer_v2((fleet, self._fleet(fleet)) for fleet in fleets)
        self._metrics.poll_seconds.observe(time.monotonic() - started)
        start_response("200 OK", list(wifidog.headers_v2(answered)))
        return [answered]

    def _fleet(self, fleet: Fleet) -> list[Answer]:
        reports = [client.report for client in fleet.clients if client.report is not None]
        verdicts = iter(self._verdicts(fleet.gw_id, fleet.key, reports) if reports else [])
        answers = []
        for client in fleet.clients:
            if client.report is None:
                answers.append(Answer.NEUTRAL)
                continue
            verdict = next(verdicts)
            self._count(Stage.COUNTERS, verdict)
            answers.append(_CODES[verdict.answer])
        return answers

    def _verdicts(self, gw_id: str, key: str, reports: Sequence[Report]) -> list[Verdict]:
        """What is said of guests by a gateway that we know and that proves to be itself; no opinion otherwise."""
        gateway = self._gateways.find(gw_id)
        if gateway is None or gateway.state != "adopted":
            return [_unheard(report) for report in reports]
        if not self._gateways.authentic(gateway, key, self._store.clock.now()).believed:
            return [_unheard(report) for report in reports]
        if len(reports) == 1:
            return [self._sessions.answer(gateway, reports[0])]
        return self._sessions.answer_all(gateway, reports)

    def _ping(self, environ: dict[str, Any]) -> Raw:
        try:
            beat = wifidog.parse_ping(environ["QUERY_STRING"].encode("latin-1"))
        except Malformed as error:
            self._metrics.malformed.labels(error.field).inc()
        else:
            self._metrics.pings.inc()
            self._heard.heartbeat(beat, environ.get("REMOTE_ADDR", ""))
        return RAW[Answer.PONG]

    def _count(self, stage: Stage, verdict: Verdict) -> None:
        self._metrics.polls.labels(stage.value, verdict.answer.value, verdict.reason.value).inc()


def asks(path: str) -> bool:
    """Whether a path is a gateway's call. Decides who answers before Flask sees anything."""
    return wifidog.route(path) in (Route.AUTH, Route.COUNTERS_V2, Route.PING)


def _unheard(report: Report) -> Verdict:
    if report.stage is Stage.LOGOUT:
        return Verdict(access.Answer.DENY, access.Reason.LOGOUT)
    return Verdict(access.Answer.NO_OPINION, access.Reason.FOREIGN_GATEWAY)
