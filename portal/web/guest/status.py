"""The status page: GET and POST portal/. Where a gateway sends a guest who is online, and where he comes back to.

Promises: data is shown only to whoever holds a token, a link that we signed, or the code itself; an order to sign a
device out is signed by the page that shows it, and followed by a page that can be reloaded.
"""

from __future__ import annotations

import time
from datetime import datetime

from flask import Response, request
from markupsafe import Markup

from portal import gateways, grants, sessions, throttle, wifidog
from portal.access import Reason
from portal.grants import Grant, Refused
from portal.sessions import Session
from portal.signin import voucher
from portal.store import Unavailable
from portal.web import languages
from portal.web.guest import pages, words
from portal.web.guest.houses import NOBODY
from portal.web.guest.pages import Frame, House, Message, Status
from portal.web.guest.reception import (
    LONGEST_FIELD,
    ORDER,
    Reception,
    Viewer,
    away,
    by_himself,
    end,
    front_page,
    sign_in_again,
    told,
    unreadable,
)
from portal.web.guest.words import Notice
from portal.web.languages import say, translated


class Statuses:
    """The status page's two methods."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._portal = reception.portal

    def look(self) -> Response:
        """GET: what a guest has left, and how he goes on."""
        now = self._portal.clock()
        self._reception.speak(NOBODY)
        try:
            arrived = wifidog.parse_portal(request.query_string)
        except wifidog.Malformed:
            return unreadable(NOBODY)
        try:
            viewer = self._reception.viewer(arrived.token, now)
            home = None if viewer is None else self._reception.homes.of(viewer.network_id)
            if viewer is None or home is None:
                return self._welcome(arrived.gw_id)
            language = viewer.session.language if viewer.session is not None else None
            seen = self._reception.speak(self._reception.house(home), language)
            printed = self._reception.fine_print(seen)
            if printed is not None:
                return printed
            return self._claim(viewer, seen) if viewer.claimed else self._status(viewer, seen, arrived.token, now)
        except Unavailable:
            return away(self._reception.any_house(arrived.gw_id), now)

    def order(self) -> Response:
        """POST: sign a device out, or show what is left of a code; then on to a page that can be reloaded."""
        now = self._portal.clock()
        self._reception.speak(NOBODY)
        try:
            arrived = wifidog.parse_portal(request.query_string)
        except wifidog.Malformed:
            return unreadable(NOBODY)
        try:
            if "code" in request.form:
                return self._show_code(arrived, request.form["code"].replace("\0", "")[:LONGEST_FIELD], now)
            viewer = self._reception.viewer(arrived.token, now)
            if viewer is None or viewer.claimed:
                return self._welcome(arrived.gw_id)
            named = self._reception.signed(ORDER, request.form.get("end", ""), now, 2)
            if named is not None and named[0] == viewer.grant_id:
                with self._portal.store.transaction("guests", caller="sign out") as db:
                    end(db, viewer, named[1], now)
            return pages.see(self._reception.link(viewer, now))
        except Unavailable:
            return away(self._reception.any_house(arrived.gw_id), now)

    def _status(self, viewer: Viewer, seen: House, token: str, now: datetime) -> Response:
        own = viewer.session
        with self._portal.store.read("guests", caller="status") as db:
            grant = grants.load(db, viewer.grant_id, now)
            sharing = sessions.sharing(db, grant.id)
            code = self._reception.code(db, grant.id)
            gateway = gateways.get(db, own.gateway_id) if own is not None else None
        online = own is not None and own.state == "active"
        notice = why_offline(own, grant, now, code) if own is not None else _used_up(grant, now, code)
        orders = [self._reception.sign(ORDER, now, grant.id, each.id) for each in sharing]
        return pages.status(
            seen,
            Frame(words.status_title(grant, notice, online, now), (("s", self._reception.link_value(viewer, now)),)),
            Status(
                title=translated("You are online") if online else translated("What is left"),
                # A notice that says what is used up has its own meter, and the code is none to keep any more.
                meters=[] if notice is not None and notice.meter_note else words.meters(grant, now),
                as_of=words.as_of(now),
                refresh=self._reception.link(viewer, now),
                online=online,
                notice=notice,
                onward=self._reception.wish(token) if online and notice is None else None,
                again=front_page(gateway) if notice is not None else "",
                devices=[
                    self._reception.device(each, own, order, now) for each, order in zip(sharing, orders, strict=True)
                ],
                devices_title=words.devices_title(grant, len(sharing)),
                code=code if grant.exhausted(now) is None else "",
                own_end=self._reception.sign(ORDER, now, grant.id, own.id) if own is not None and online else "",
                own_order=words.sign_out_this(own.device) if own is not None else "",
                hint=words.sign_out_hint(grant, now),
                hidden=(("lang", languages.language()),),
            ),
        )

    def _show_code(self, arrived: wifidog.Portal, typed: str, now: datetime) -> Response:
        """What is left of a code, for a guest whose gateway did not say which sign-in is his."""
        gw_id, mac = arrived.gw_id, arrived.mac or None
        gateway = self._reception.gateway(gw_id)
        if gateway is None or gateway.network_id is None:
            return self._welcome(gw_id)
        network_id = gateway.network_id
        with self._portal.store.read("guests", caller="hurdle") as db:
            hurdle = throttle.guest_hurdle(db, network_id, gateway.id, mac, now)
        if hurdle.wait_seconds:
            return self._welcome(gw_id, typed, say("Wait a minute, then try again. A right code stays good."))
        if hurdle.delay_seconds:
            time.sleep(hurdle.delay_seconds)
        try:
            with self._portal.store.read("guests", caller="show code") as db:
                grant = voucher.attempt(db, self._portal.keyring, network_id, typed, now)
        except Refused as refused:
            if refused.reason is Reason.CODE_UNKNOWN:
                with self._portal.store.transaction("guests", caller="wrong try") as db:
                    throttle.guest_failed(db, network_id, gateway.id, mac, now)
            return self._welcome(gw_id, typed, words.unknown_code(*voucher.likely_slip(typed)))
        return pages.see(self._reception.link(Viewer(network_id, grant.id, None), now))

    def _claim(self, viewer: Viewer, seen: House) -> Response:
        """A token that no gateway has confirmed: whoever shows it learns nothing of its grant."""
        gateway = None
        if viewer.session is not None:
            with self._portal.store.read("guests", caller="claim") as db:
                gateway = gateways.get(db, viewer.session.gateway_id)
        return told(seen, Message(_not_yet(), link=sign_in_again(gateway)))

    def _welcome(self, gw_id: str, typed: str = "", error: Markup | None = None) -> Response:
        """A guest of whom nothing is known but that his gateway let him in: gateways up to 1.3.0 send no token."""
        if not gw_id:
            return by_himself()
        seen = self._reception.any_house(gw_id)
        printed = self._reception.fine_print(seen)
        if printed is not None:
            return printed
        asked = self._reception.gateway(gw_id) is not None
        lines = [translated("Type your code to see what is left of it.")] if asked else []
        message = Message(
            Notice(translated("You are online"), lines),
            good=True,
            ask_code=asked,
            hidden=(("lang", languages.language()),),
            typed_code=typed,
            error=error or "",
        )
        return told(seen, message, query=(("gw_id", gw_id),))


def why_offline(session: Session, grant: Grant, now: datetime, code: str) -> Notice | None:
    """Why the device of this session is not online, or will not be for long; None while all is well."""
    if session.state == "ended":
        reason = Reason(session.end_reason or Reason.UNKNOWN)
        return words.refusal(reason, now, grant, session.ended_at, code)
    if session.state == "active":
        return _used_up(grant, now, code)
    return _not_yet()


def _not_yet() -> Notice:
    return Notice(
        translated("You are not online yet"),
        [translated("Your sign-in has not reached the router. Sign in again.")],
        bad=False,
    )


def _used_up(grant: Grant, now: datetime, code: str) -> Notice | None:
    over = grant.exhausted(now)
    return None if over is None else words.refusal(over, now, grant, None, code)
