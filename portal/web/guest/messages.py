"""Message pages, the page for those who come by themselves, style sheets and logos.

Promises: a gateway's word for what happened becomes a sentence, with the reason and its figures where a token was
shown; the words themselves are never repeated. A reason is given for a token, never for a MAC that is claimed.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from datetime import datetime
from typing import Final

from flask import Response, request
from werkzeug.exceptions import HTTPException

from portal import gateways, grants, guests, networks, sessions, wifidog
from portal.access import TOKEN_LIFE, Reason
from portal.grants import Grant
from portal.sessions import Session
from portal.store import Unavailable
from portal.web import look
from portal.web.guest import words
from portal.web.guest.houses import NOBODY
from portal.web.guest.pages import Fields, Message
from portal.web.guest.reception import Reception, Viewer, away, by_himself, sign_in_again, told, unreadable
from portal.web.guest.status import why_offline
from portal.web.guest.words import Notice
from portal.web.languages import translated
from portal.wifidog import MessageKind

log = logging.getLogger(__name__)

CSS: Final = "text/css; charset=utf-8"
PNG: Final = "image/png"


class Messages:
    """Pages that tell a guest something."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._portal = reception.portal

    def message(self) -> Response:
        """GET gw_message.php and its cousins: what a gateway has to tell, in words, with the reason if known."""
        now = self._portal.clock()
        self._reception.speak(NOBODY)
        try:
            told_by = wifidog.parse_message(request.query_string)
        except wifidog.Malformed:
            return unreadable(NOBODY)
        try:
            viewer = self._reception.viewer(told_by.token, now)
            if viewer is not None and viewer.session is not None and not viewer.claimed:
                return self._explain(told_by.kind, viewer, viewer.session, now)
        except Unavailable:
            return away(self._reception.any_house(told_by.gw_id), now)
        seen = self._reception.any_house(told_by.gw_id)
        printed = self._reception.fine_print(seen)
        if printed is not None:
            return printed
        if told_by.token and told_by.kind is MessageKind.DENIED and viewer is None:
            notice = words.refusal(Reason.UNKNOWN, now, None, None)
        else:
            notice = words.from_gateway(told_by.kind, now)
        if told_by.kind is MessageKind.ACTIVATE:
            return told(seen, Message(notice), query=_carried(told_by))
        link = sign_in_again(self._reception.gateway(told_by.gw_id))
        if link is None:
            notice = replace(notice, lines=[*notice.lines, words.how_to_begin()])
        return told(seen, Message(notice, link=link), query=_carried(told_by))

    def _explain(self, kind: MessageKind | None, viewer: Viewer, session: Session, now: datetime) -> Response:
        """The same for a guest whose token says which sign-in it is about."""
        home = self._reception.homes.of(viewer.network_id)
        seen = self._reception.speak(NOBODY if home is None else self._reception.house(home), session.language)
        printed = self._reception.fine_print(seen)
        if printed is not None:
            return printed
        with self._portal.store.read("guests", caller="explain") as db:
            grant = grants.load(db, viewer.grant_id, now)
            gateway = gateways.get(db, session.gateway_id)
            sharing = sessions.sharing(db, grant.id)
            blocked = guests.blocked_until(db, session.network_id, session.mac, now)
            code = self._reception.code(db, grant.id)
        others = [each for each in sharing if each.mac != session.mac]
        notice, reference = words.from_gateway(kind, now), ""
        if kind is MessageKind.DENIED or kind is None:
            notice = why_denied(session, grant, now, code, blocked, full=len(others) >= (grant.devices or 1 << 31))
            reason = Reason(session.end_reason or "unknown")
            reference = self._reception.note(reason, seen, gateway, session.mac, grant, now)
        query = (("message", kind.value if kind else ""), ("s", self._reception.link_value(viewer, now)))
        return told(
            seen, Message(notice, link=sign_in_again(gateway)), query=query, reference=reference if notice.bad else ""
        )

    def landing(self) -> Response:
        """GET /: somebody who came by himself."""
        self._reception.speak(NOBODY)
        return by_himself()

    def look(self, name: str) -> Response:
        """GET /look/…: style sheets and logos."""
        path = f"{look.PREFIX}{name}"
        colour, sheet, network_id = look.colour_in(path), look.sheet_in(path), look.network_in(path)
        if colour is not None:
            return look.answer(look.colours(colour), CSS, current=look.colours_name(colour) == path)
        if sheet is not None:
            return look.answer(look.sheet(sheet), CSS, current=look.sheet_name(sheet) == path)
        now = self._portal.clock()
        self._reception.speak(NOBODY)
        if network_id is not None:
            try:
                with self._portal.store.read("guests", caller="logo") as db:
                    logo, network = networks.logo(db, network_id), networks.get(db, network_id)
            except Unavailable:
                return away(NOBODY, now)
            if logo is not None and network is not None and network.logo_mark is not None:
                return look.answer(logo, PNG, current=look.logo_name(network_id, network.logo_mark) == path)
        return self._nothing(404)

    def refused(self, error: HTTPException) -> Response:
        """A request that fits no page: an unknown path, a method that means nothing here, a body that is too large."""
        self._reception.speak(NOBODY)
        code = error.code or 400
        return self._nothing(code) if code in (404, 405) else unreadable(NOBODY, code)

    def failed(self, error: Exception) -> Response:
        """An error of our own: a sentence and a reference for the guest, the rest for the log."""
        self._reception.speak(NOBODY)
        reference = secrets.token_hex(3)
        log.error("a guest's page failed", extra={"reference": reference}, exc_info=error)
        notice = Notice(
            translated("Something went wrong here"),
            [translated("Try again in a minute. Whoever is online stays online.")],
        )
        return told(NOBODY, Message(notice), 500, reference=reference)

    def _nothing(self, code: int) -> Response:
        notice = Notice(translated("There is nothing here"), [words.how_to_begin()], bad=False)
        return told(NOBODY, Message(notice), code)


def why_denied(
    session: Session, grant: Grant, now: datetime, code: str, blocked: datetime | None, *, full: bool
) -> Notice:
    """Why the gateway was told no about this session's token."""
    if session.state != "ended":
        if blocked is not None:
            return words.refusal(Reason.BLOCKED, now, grant, blocked, code)
        over = grant.exhausted(now)
        if over is not None:
            return words.refusal(over, now, grant, None, code)
        if session.state == "active":
            return words.refusal(Reason.FOREIGN_STATION, now, grant, None, code)
        if now - session.minted_at > TOKEN_LIFE:
            return words.refusal(Reason.STALE_TOKEN, now, grant, None, code)
        if full:
            return words.refusal(Reason.DEVICES_FULL, now, grant, None, code)
    return why_offline(session, grant, now, code) or words.refusal(Reason.UNKNOWN, now, grant, None, code)


def _carried(message: wifidog.Message) -> Fields:
    kind = message.kind.value if message.kind is not None else ""
    return (("message", kind), ("token", message.token), ("gw_id", message.gw_id))
