"""The splash page and the ways in: GET and POST login/.

Promises: a token is minted only for a guest who can be sent back to his gateway; what was typed stays; a wrong code or
password is counted, a mistyped or a good one never is. A sign-in spends nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from flask import Response, request
from markupsafe import Markup
from sqlalchemy import Connection

from portal import gateways, grants, sessions, throttle, vouchers, wifidog
from portal.access import Reason
from portal.gateways import GatewayFacts
from portal.grants import Grant, Refused
from portal.offload import Busy
from portal.signin import account, arrivals, click_through, voucher
from portal.store import Unavailable
from portal.web import languages
from portal.web.guest import pages, words
from portal.web.guest.houses import NOBODY, Home
from portal.web.guest.pages import Fields, Frame, House, Message, Splash, Way
from portal.web.guest.reception import (
    LONGEST_FIELD,
    RETRY_SECONDS,
    TAKE_OVER,
    Reception,
    Viewer,
    away,
    by_himself,
    end,
    told,
    unreadable,
)
from portal.web.guest.words import Device, Notice
from portal.web.languages import say, translated

log = logging.getLogger(__name__)

# Nothing is wrong with what was typed: the same, sent a little later, is good.
TRY_AGAIN = frozenset({Reason.UNAVAILABLE, Reason.TOO_MANY_TRIES})


@dataclass(frozen=True, slots=True)
class Visit:
    """A guest at the splash page: who sent him, to whose house, and the way back."""

    arrival: wifidog.Arrival
    gateway: GatewayFacts
    home: Home
    house: House
    way_back: tuple[str, int]
    now: datetime

    @property
    def network_id(self) -> int:
        return self.home.network.id

    @property
    def mac(self) -> str | None:
        return self.arrival.mac or None

    @property
    def query(self) -> Fields:
        """The arrival, for the language menu to bring along."""
        arrival = self.arrival
        return (
            ("gw_address", arrival.gw_address),
            ("gw_port", str(arrival.gw_port or "")),
            ("gw_id", arrival.gw_id),
            ("ip", arrival.ip),
            ("mac", arrival.mac),
            ("url", arrival.url),
        )


class Arrivals:
    """The splash page's two methods."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._portal = reception.portal

    def arrive(self) -> Response:
        """GET: the splash page."""
        visit = self._visit()
        if isinstance(visit, Response):
            return visit
        return self._splash(visit, translated("Connect"), form={"code": scanned(visit)})

    def sign_in(self) -> Response:
        """POST: one of the ways in; then on to the gateway with a token."""
        visit = self._visit()
        if isinstance(visit, Response):
            return visit
        form = {name: value.replace("\0", "")[:LONGEST_FIELD] for name, value in request.form.items()}
        nonce = form.get("nonce", "")
        version = arrivals.accepted_terms(self._portal.keyring, nonce, visit.gateway.id, visit.arrival.mac, visit.now)
        if version is None:
            return self._once_more(visit, form, say("This page has waited too long. Please send it again."))
        if version != visit.home.network.terms_version:
            return self._once_more(visit, form, say("The terms of use have changed. Read them, then connect again."))
        network, way = visit.home.network, _way_taken(form)
        if (way == "voucher" and not network.vouchers) or (way == "account" and not network.accounts):
            # The operator has closed it since the page was loaded, or somebody writes forms of his own.
            return self._splash(visit, translated("Connect"), form=form)
        try:
            token = self._token(visit, form, version)
        except Refused as refused:
            return self._refused(visit, form, refused)
        except (Unavailable, Busy):
            return self._refused(visit, form, Refused(Reason.UNAVAILABLE))
        self._reception.remember_wish(token, visit.arrival.url)
        return pages.sent_on(wifidog.return_url(*visit.way_back, token, visit.gateway.gw_id))

    def _visit(self) -> Visit | Response:
        """Who arrives, or the page that says why he cannot go on from here."""
        now = self._portal.clock()
        self._reception.speak(NOBODY)
        try:
            arrival = wifidog.parse_arrival(request.query_string)
        except wifidog.Malformed:
            return unreadable(NOBODY)
        if not arrival.gw_id:
            return by_himself()
        gateway = self._reception.gateway(arrival.gw_id)
        if gateway is None or gateway.network_id is None:
            return told(NOBODY, _unknown_gateway(arrival.gw_id), 404)
        try:
            home = self._reception.homes.of(gateway.network_id)
        except Unavailable:
            return away(NOBODY, now)
        if home is None:
            return told(NOBODY, _unknown_gateway(arrival.gw_id), 404)
        seen = self._reception.speak(self._reception.house(home))
        printed = self._reception.fine_print(seen)
        if printed is not None:
            return printed
        try:
            back = arrivals.way_back(gateway, arrival)
        except arrivals.NoWayBack:
            log.warning("an arrival has no way back", extra={"gateway": gateway.id})
            return told(seen, _no_way_back(), 400)
        return Visit(arrival, gateway, home, seen, back, now)

    def _token(self, visit: Visit, form: Mapping[str, str], version: int) -> str:
        """A token for this guest by the way he took. Raises Refused, Unavailable, Busy."""
        way = _way_taken(form)
        try:
            token = self._by(way, visit, form, version)
        except Refused as refused:
            self._portal.metrics.sign_ins.labels(way, refused.reason.value).inc()
            if refused.reason in (Reason.CODE_UNKNOWN, Reason.WRONG_PASSWORD):
                with self._portal.store.transaction("guests", caller="wrong try") as db:
                    throttle.guest_failed(db, visit.network_id, visit.gateway.id, visit.mac, visit.now)
            raise
        self._portal.metrics.sign_ins.labels(way, Reason.OK.value).inc()
        return token

    def _by(self, way: str, visit: Visit, form: Mapping[str, str], version: int) -> str:
        store, network_id, now = self._portal.store, visit.network_id, visit.now
        if way in ("voucher", "account"):
            self._clear_hurdle(visit)
        if way == "account":
            # The password is checked before the transaction begins: that takes time, and must hold no connection.
            offload = self._portal.offload
            typed = form.get("username", ""), request.form.get("password", "")
            grant = account.attempt(store, network_id, *typed, offload.verify_password, offload.renewed, now)
            with store.transaction("guests", caller="sign in") as db:
                return self._open(db, visit, grant, version)
        with store.transaction("guests", caller="sign in") as db:
            if way == "voucher":
                grant = voucher.attempt(db, self._portal.keyring, network_id, form.get("code", ""), now)
            elif way == "take-over":
                grant = self._make_room(db, visit, form["end"])
            else:
                grant = click_through.attempt(db, visit.home.click, visit.mac, now)
            return self._open(db, visit, grant, version)

    def _clear_hurdle(self, visit: Visit) -> None:
        """What stands before the next try of whoever has guessed wrong, or of everybody while somebody guesses."""
        with self._portal.store.read("guests", caller="hurdle") as db:
            hurdle = throttle.guest_hurdle(db, visit.network_id, visit.gateway.id, visit.mac, visit.now)
        if hurdle.wait_seconds:
            raise Refused(Reason.TOO_MANY_TRIES, until=visit.now + timedelta(seconds=hurdle.wait_seconds))
        if hurdle.delay_seconds:
            time.sleep(hurdle.delay_seconds)

    def _open(self, db: Connection, visit: Visit, grant: Grant, version: int) -> str:
        # What the router says of itself, not where we send the browser: the desk compares the two.
        if visit.arrival.gw_port is not None:
            gateways.see_address(db, visit.gateway.id, visit.arrival.gw_address, visit.arrival.gw_port)
        return sessions.open(
            db,
            self._portal.keyring,
            network_id=visit.network_id,
            gateway_id=visit.gateway.id,
            grant=grant,
            mac=visit.mac,
            device=words.device_kind(request.headers.get("User-Agent", "")),
            language=languages.language(),
            terms_version=version,
            now=visit.now,
        )

    def _make_room(self, db: Connection, visit: Visit, order: str) -> Grant:
        """Sign out the device that a guest with a good code chose to give way; its grant, for this one."""
        named = self._reception.signed(TAKE_OVER, order, visit.now, 4)
        if named is None or named[:2] != [visit.gateway.id, visit.network_id]:
            raise Refused(Reason.STALE_TOKEN)
        _, network_id, grant_id, session_id = named
        end(db, Viewer(network_id, grant_id, None), session_id, visit.now)
        return grants.load(db, grant_id, visit.now)

    def _splash(
        self,
        visit: Visit,
        title: str,
        *,
        ways: Sequence[Way] | None = None,
        form: Mapping[str, str] | None = None,
        notice: Notice | None = None,
        another: bool = False,
        devices: Sequence[Device] = (),
        reference: str = "",
        code: int = 200,
    ) -> Response:
        typed = form or {}
        version = visit.home.network.terms_version
        nonce = arrivals.form_nonce(self._portal.keyring, visit.gateway.id, visit.arrival.mac, version, visit.now)
        content = Splash(
            ways=offered(visit) if ways is None else ways,
            hidden=(("nonce", nonce), ("lang", languages.language())),
            notice=notice,
            another=another,
            devices=devices,
            typed_code="" if another else typed.get("code", ""),
            typed_username=typed.get("username", ""),
        )
        back = wifidog.return_url(*visit.way_back, "", "")
        targets = pages.form_targets(back, self._reception.own_host())
        return pages.splash(visit.house, Frame(title, visit.query, reference), content, targets, code)

    def _once_more(self, visit: Visit, form: Mapping[str, str], line: Markup) -> Response:
        """The splash page once more, with what was typed: nothing was wrong with that."""
        return self._splash(visit, translated("Connect"), ways=offered(visit, (_way_taken(form), line)), form=form)

    def _refused(self, visit: Visit, form: Mapping[str, str], refused: Refused) -> Response:
        """The splash page with the reason of a refusal, and what is left to try."""
        reason, grant, way = refused.reason, refused.grant, _way_taken(form)
        reference = self._reception.note(reason, visit.house, visit.gateway, visit.mac, grant, visit.now)
        if reason in (Reason.CODE_MISTYPED, Reason.CODE_UNKNOWN):
            wrong = "voucher", words.unknown_code(*voucher.likely_slip(form.get("code", "")))
            title = translated("Check the code")
            return self._splash(visit, title, ways=offered(visit, wrong), form=form)
        if reason is Reason.WRONG_PASSWORD:
            wrong = "account", words.wrong_password()
            title = translated("Check user name and password")
            return self._splash(visit, title, ways=offered(visit, wrong), form=form)
        code = voucher.as_printed(form.get("code", "")) if way == "voucher" else ""
        later = reason in TRY_AGAIN
        # A click shows no more than a MAC, which anybody can claim: until when its owner is kept out is his affair.
        until = None if reason is Reason.BLOCKED and way == "click-through" else refused.until
        notice = words.refusal(reason, visit.now, grant, until, code)
        devices = self._movable(visit, grant) if reason is Reason.DEVICES_FULL and grant is not None else []
        left = offered(visit, first=way if later else "", after_refusal=True)
        if reason is Reason.BLOCKED:
            left = []  # whatever this device presents, it stays out
        elif way == "click-through" and not later:
            left = [each for each in left if each.kind != way]
        status = {Reason.UNAVAILABLE: 503, Reason.TOO_MANY_TRIES: 429}.get(reason, 200)
        response = self._splash(
            visit,
            notice.title,
            ways=left,
            form=form,
            notice=notice,
            another=way == "voucher" and not later,
            devices=devices,
            reference=reference,
            code=status,
        )
        if status != 200:
            wait = int((refused.until - visit.now).total_seconds()) if refused.until else RETRY_SECONDS
            response.headers["Retry-After"] = str(max(1, wait))
        return response

    def _movable(self, visit: Visit, grant: Grant) -> list[Device]:
        """The devices that a guest with a good code may sign out to make room for the one in his hand."""
        try:
            with self._portal.store.read("guests", caller="devices") as db:
                found = sessions.sharing(db, grant.id)
        except Unavailable:
            return []
        here = visit.gateway.id, visit.network_id, grant.id
        orders = [self._reception.sign(TAKE_OVER, visit.now, *here, each.id) for each in found]
        return [self._reception.device(each, None, order, visit.now) for each, order in zip(found, orders, strict=True)]


def scanned(visit: Visit) -> str:
    """The code of a printed card whose picture brought the guest: it leads to the gateway's own page, with the code.

    "" for whoever comes from anywhere else, or with anything that is no code. It is only filled in, never sent.
    """
    try:
        came_from = urlsplit(visit.arrival.url)
        own_page = (came_from.hostname or "", came_from.port or 80) == visit.way_back
    except ValueError:
        return ""
    code = vouchers.normalise(parse_qs(came_from.query).get("code", [""])[0]) if own_page else None
    return vouchers.grouped(code) if code else ""


def offered(
    visit: Visit, wrong: tuple[str, Markup] | None = None, *, first: str = "", after_refusal: bool = False
) -> list[Way]:
    """The network's ways in, the likeliest first. `wrong` says what was wrong with what was typed for one of them.

    The way with something wrong, or the one named `first`, comes before all others, or a phone would not show it.
    """
    network, click = visit.home.network, visit.home.click
    way, line = wrong or (first, Markup())
    found = []
    if network.vouchers:
        title, button = translated("I have a code"), translated("Connect")
        found.append(Way("voucher", title, button))
    if network.accounts:
        title, button = translated("I have an account"), translated("Sign in")
        found.append(Way("account", title, button))
    # Without a MAC nobody could say whose second click it is.
    if click is not None and visit.mac is not None:
        if not found:
            title = ""
        elif after_refusal:
            title = translated("Go on without a code")
        else:
            title = translated("No code?")
        span = click.seconds or click.period_seconds
        button = say("Connect for %(span)s", span=languages.spelt(span)) if span else translated("Connect")
        found.append(Way("click-through", title, button, words.offer(click)))
    found.sort(key=lambda each: each.kind != way)
    if found and line:
        found[0] = replace(found[0], error=line)
    return found


def _way_taken(form: Mapping[str, str]) -> str:
    """Which way a form was sent for, by its fields; a form sent with the Enter key may not name its button."""
    if form.get("end"):
        return "take-over"
    if "code" in form:
        return "voucher"
    return "account" if "username" in form else "click-through"


def _unknown_gateway(gw_id: str) -> Message:
    notice = Notice(
        translated("This Wi-Fi is not set up yet"),
        [translated("The router that sent you here is not known to this server. Ask the staff.")],
    )
    name = words.as_name(gw_id)
    return Message(notice, staff=say("The router calls itself %(name)s. Adopt it at the desk.", name=name))


def _no_way_back() -> Message:
    notice = Notice(
        translated("We stopped here"),
        [
            translated("This link would take you to an address outside of this Wi-Fi."),
            translated("Switch the Wi-Fi off and on, and open any page."),
        ],
    )
    return Message(notice, staff=translated("Record the address of this router at the desk."))
