"""What all guests' pages share: whose house it is, which language is spoken, and the links and orders that we signed.

Promises: a link or an order is a number of numbers under our signature, good for one purpose and a limited time, and
needs no cookie; whoever holds a status link sees one grant and may sign its devices out, nothing else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode, urlsplit

from flask import Response, request
from markupsafe import Markup
from sqlalchemy import Connection

from portal import grants, sessions, vouchers, wifidog
from portal.access import Reason
from portal.gateways import Gateway, GatewayFacts
from portal.grants import Grant
from portal.keys import Unreadable
from portal.sessions import Session
from portal.store import Unavailable
from portal.web import languages
from portal.web.context import Portal
from portal.web.guest import pages, words
from portal.web.guest.houses import NOBODY, Home, Homes, house
from portal.web.guest.pages import House, Link, Message
from portal.web.guest.words import Device, Notice
from portal.web.languages import say, translated

log = logging.getLogger(__name__)

# How long the links and orders of a status page are good: a link may be kept, an order is for the page that shows it.
LINK_LIFE: Final = timedelta(days=30)
ORDER_LIFE: Final = timedelta(hours=1)
RETRY_SECONDS: Final = 30
LONGEST_FIELD: Final = 256
# Where guests wanted to go is remembered until they are online, for so many at once. It is a convenience: another
# process, or a restart, does not know it, and the page then shows no such link.
MOST_WISHES: Final = 10_000
LONGEST_WISH: Final = 500

LINK: Final = "guest status"
ORDER: Final = "guest sign-out"
TAKE_OVER: Final = "guest take-over"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whoever holds a token or a status link: the grant he may see, and his own session, where he has one.

    `claimed`: nothing is proven yet. A click asks for no more than a MAC, which anybody can claim; until the gateway
    has shown the token, its holder sees and orders nothing.
    """

    network_id: int
    grant_id: int
    session: Session | None
    claimed: bool = False


class Reception:
    """The parts, and what is remembered of networks and of where guests wanted to go."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal
        self.homes = Homes(portal.store)
        self._wishes: dict[bytes, str] = {}

    # Whose house, which language

    def house(self, home: Home) -> House:
        return house(home, self.portal.settings.retention.sessions_days)

    def gateway(self, gw_id: str) -> GatewayFacts | None:
        """The adopted gateway that calls itself so."""
        found = self.portal.gateways.adopted(gw_id) if gw_id else None
        return found if found is not None and found.network_id is not None else None

    def any_house(self, gw_id: str) -> House:
        """The house of a gateway, or the only one there is, or nobody's. Never raises: every page needs a plate."""
        gateway = self.gateway(gw_id)
        try:
            if gateway is not None and gateway.network_id is not None:
                home = self.homes.of(gateway.network_id)
            else:
                home = self.homes.only()
        except Unavailable:
            home = None
        return self.speak(NOBODY if home is None else self.house(home))

    def speak(self, seen: House, session_language: str | None = None) -> House:
        """From here on, the guest's language in the house's time zone: the one chosen by hand, else the session's."""
        asked = request.form.get("lang") or request.args.get("lang") or session_language
        accepted = request.headers.get("Accept-Language", "")
        languages.speak(languages.choose(asked, accepted, seen.language), seen.time_zone)
        return seen

    def own_host(self) -> str:
        """The name that browsers know us by: the public one, else what this browser calls us; "" if that is none."""
        public = self.portal.settings.server.public_url
        try:
            return urlsplit(public or f"//{request.host}").hostname or ""
        except ValueError:
            return ""

    def fine_print(self, seen: House) -> Response | None:
        """The page of the terms or the privacy statement, if it is asked for."""
        asked = request.args.get("show", "")
        return pages.fine_print(seen, asked) if asked in pages.FINE_PRINT else None

    # Links, orders

    def sign(self, purpose: str, now: datetime, *numbers: int, life: timedelta = ORDER_LIFE) -> str:
        """Numbers, signed for one purpose."""
        payload = " ".join(map(str, numbers)).encode()
        return self.portal.keyring.sign(purpose, payload, int((now + life).timestamp()))

    def signed(self, purpose: str, text: str, now: datetime, count: int) -> list[int] | None:
        """The `count` numbers that were signed for `purpose`, or None for anything else."""
        if not text or len(text) > LONGEST_FIELD:
            return None
        payload = self.portal.keyring.unsign(purpose, text, int(now.timestamp()))
        numbers = [int(number) for number in payload.split()] if payload is not None else []
        return numbers if len(numbers) == count else None

    def link_value(self, viewer: Viewer, now: datetime) -> str:
        session_id = viewer.session.id if viewer.session is not None else 0
        return self.sign(LINK, now, viewer.network_id, viewer.grant_id, session_id, life=LINK_LIFE)

    def link(self, viewer: Viewer, now: datetime) -> str:
        """The address of a guest's own status page: it holds for a month, and shows no token."""
        return f"{request.path}?{urlencode({'s': self.link_value(viewer, now), 'lang': languages.language()})}"

    def viewer(self, token: str, now: datetime) -> Viewer | None:
        """Whose status is asked for: by a link that we signed, or by a token, as the gateway brings it."""
        named = self.signed(LINK, request.args.get("s", ""), now, 3)
        if named is None and not self.portal.keyring.genuine(token):
            return None
        with self.portal.store.read("guests", caller="viewer") as db:
            if named is not None:
                network_id, grant_id, session_id = named
                session = sessions.load(db, network_id, session_id) if session_id else None
                return Viewer(network_id, grant_id, session)
            session = sessions.of_token(db, self.portal.keyring, token)
            if session is None:
                return None
            claimed = session.activated_at is None and grants.load(db, session.grant_id, now).kind == "click"
            return Viewer(session.network_id, session.grant_id, session, claimed)

    # Where the guest wanted to go

    def remember_wish(self, token: str, url: str) -> None:
        """Where a guest wanted to go, if it may be offered to him once he is online."""
        onward = wifidog.onward(url)
        # A private address is the gateway's own page, which sent him here.
        if (
            onward is None
            or len(onward) > LONGEST_WISH
            or wifidog.private_literal(urlsplit(onward).hostname or "") is not None
        ):
            return
        while len(self._wishes) >= MOST_WISHES:
            self._wishes.pop(next(iter(self._wishes)), None)
        self._wishes[self.portal.keyring.token_hash(token)] = onward

    def wish(self, token: str) -> Link | None:
        """That address as a link, with its host in plain sight."""
        url = self._wishes.get(self.portal.keyring.token_hash(token)) if token else None
        if url is None:
            return None
        return Link(url, say("Go on to %(host)s", host=Markup("<bdi>{}</bdi>").format(urlsplit(url).hostname)))

    # Parts of pages

    def code(self, db: Connection, grant_id: int) -> str:
        """The code of a grant, for whoever may see the grant; "" where it has none, or its key is lost."""
        try:
            return vouchers.code_of(db, self.portal.keyring, grant_id) or ""
        except Unreadable:
            return ""

    def device(self, session: Session, own: Session | None, order: str, now: datetime) -> Device:
        """A device in a list, with the order that signs it out; one's own has a button of its own."""
        mine = own is not None and session.id == own.id
        name = words.other_device(session.device, session.mac)
        return Device(
            kind=session.device,
            label=Markup.escape(words.this_device(session.device)) if mine else name,
            note=words.device_note(session.activated_at, session.used_down + session.used_up, now),
            end="" if mine else order,
            order=say("Sign out: %(device)s", device=name.striptags()),
        )

    def note(
        self,
        reason: Reason,
        house: House,
        gateway: Gateway | GatewayFacts | None,
        mac: str | None,
        grant: Grant | None,
        now: datetime,
    ) -> str:
        """Log a refusal; the line about it that its page has for the staff: when, why, where, and the end of the MAC.

        In words that need no translation, and that the desk's search knows: nothing has to be stored for it, which
        would let whoever is refused fill our tables.
        """
        log.info(
            "guest refused",
            extra={
                "reason": reason.value,
                "gateway": None if gateway is None else gateway.id,
                "grant": None if grant is None else grant.id,
                "station": self.portal.keyring.mac_short(mac),
            },
        )
        when = f"{now.astimezone(house.time_zone):%Y-%m-%d %H:%M}"
        where = "" if gateway is None else gateway.gw_id
        told = (when, reason.value.replace("_", " "), where, "" if mac is None else mac[-len("00:00") :])
        return " · ".join(part for part in told if part)


def end(db: Connection, viewer: Viewer, session_id: int, now: datetime) -> None:
    """Sign a device of the viewer's grant out; nothing for any other session."""
    session = sessions.load(db, viewer.network_id, session_id)
    if session is not None and session.grant_id == viewer.grant_id:
        sessions.end(db, session.id, session.grant_id, Reason.LOGOUT, now)


def front_page(gateway: Gateway | GatewayFacts | None) -> str:
    """The gateway's own address, which sends a browser to us with all that we need to know; "" if not recorded."""
    if gateway is None or gateway.address is None:
        return ""
    host = f"[{gateway.address}]" if ":" in gateway.address else gateway.address
    return f"http://{host}:{gateway.port}/"


def sign_in_again(gateway: Gateway | GatewayFacts | None) -> Link | None:
    """A link to a fresh splash page, where we know one."""
    url = front_page(gateway)
    return Link(url, translated("Sign in again")) if url else None


def told(seen: House, message: Message, code: int = 200, query: pages.Fields = (), reference: str = "") -> Response:
    """A message page."""
    return pages.message(seen, pages.Frame(message.notice.title, query, reference), message, code)


def away(seen: House, now: datetime) -> Response:
    """Our records cannot be reached: when to come back, and a link that does."""
    again = Link(f"?{request.query_string.decode('latin-1')}", translated("Try again"))
    response = told(seen, Message(words.refusal(Reason.UNAVAILABLE, now, None, None), link=again), 503)
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def unreadable(seen: House, code: int = 400) -> Response:
    """A query that says something twice, or has no form at all."""
    notice = Notice(
        translated("We cannot read this link"),
        [translated("It was cut or changed on its way. Switch the Wi-Fi off and on, and open any page.")],
    )
    return told(seen, Message(notice), code)


def by_himself() -> Response:
    """For whoever was sent by no gateway: what this is, and how to get online; the way to the desk."""
    notice = Notice(
        translated("This is the sign-in server of a guest Wi-Fi"),
        [words.how_to_begin()],
        bad=False,
    )
    desk = Markup('<a href="/desk/">{}</a>').format(translated("To the desk"))
    return told(NOBODY, Message(notice, staff=desk))
