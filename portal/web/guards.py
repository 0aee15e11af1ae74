"""Who may: one gate in front of every page of the desk.

Promises: a route that does not say who may use it keeps the server from starting (`check`); whoever is not meant gets
nothing, not even whether a network exists; every order of an operator carries a token that other sites cannot know;
every answer has the same headers. A view is handed a `Visit` and has nothing left to decide about who may.

Guests' pages and machines' paths have gates of their own (a signed nonce, a gateway's key, the settings), and are only
declared here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from flask import Blueprint, Flask, Response, abort, make_response, request, session, url_for
from flask_wtf.csrf import CSRFProtect
from sqlalchemy import Connection

from portal import networks, operators
from portal.networks import Network
from portal.operators import Operator, Role, SignedIn
from portal.web.context import Portal

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Where the browser's secret stands in its signed cookie.
SECRET: Final = "browser"
_DECLARED: Final = "gatepost.who"


class Who(Enum):
    """Who may use a route."""

    GUEST = "guests, by the nonce in their forms"
    MACHINE = "machines, as the settings say"
    ANYONE = "anyone"
    OPERATOR = "whoever is signed in"
    DESK = "the network's desk, managers and owners"
    MANAGER = "the network's managers and owners"
    OWNER = "the network's owners"
    HEAD = "owners of the whole installation"


_LEAST: Final = {Who.DESK: Role.DESK, Who.MANAGER: Role.MANAGER, Who.OWNER: Role.OWNER}


class Unguarded(Exception):
    """Routes that do not say who may use them; the message names them."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who may make it. `network` is the one of the path, where it names one."""

    portal: Portal
    now: datetime
    signed_in: SignedIn | None
    network: Network | None

    @property
    def operator(self) -> Operator:
        """Who asks. Only a route that is open to anyone may be without, and asks `signed_in` instead."""
        assert self.signed_in is not None, "the route is open to anyone"
        return self.signed_in.operator

    @property
    def here(self) -> Network:
        """The network of the path."""
        assert self.network is not None, "the route names no network"
        return self.network

    @property
    def role(self) -> Role | None:
        """What the visitor is in the network of the path."""
        return self.operator.role_in(self.network.id) if self.network else None

    def allows(self, needed: Role) -> bool:
        """Whether the visitor is at least that in the network of the path."""
        return self.role is not None and self.role.covers(needed)

    def everywhere(self, needed: Role) -> bool:
        """Whether the visitor is at least that in every network."""
        return self.operator.everywhere(needed)

    @contextlib.contextmanager
    def writing(self, caller: str) -> Iterator[Connection]:
        """A transaction of this visit. What is done in it is told to `record` in it."""
        with self.portal.store.transaction("operators", caller=f"desk {caller}") as db:
            yield db

    def record(self, db: Connection, action: str, subject: str, **detail: object) -> None:
        """Notes in the same transaction what was done, by whom, in the network of the path."""
        self.record_in(db, self.network.id if self.network else None, action, subject, **detail)

    def record_in(self, db: Connection, network_id: int | None, action: str, subject: str, **detail: object) -> None:
        """The same for another network: one that was just made, or none."""
        who = self.operator
        operators.audit(
            db, who.email, action, subject, self.now, operator_id=who.id, network_id=network_id, detail=detail
        )


View = Callable[..., Response]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, the view behind it and who may use it. `name` is what links call it by."""

    path: str
    view: View
    who: Who
    name: str
    gets: bool = True
    posts: bool = False

    @property
    def methods(self) -> list[str]:
        return [method for method, wanted in (("GET", self.gets), ("POST", self.posts)) if wanted]


def cookie_name(portal: Portal, name: str) -> str:
    """The name of one of the desk's cookies: this installation's own, and the same in each of its processes.

    Browsers keep cookies by host and ignore the port: two installations on one host would sign each other out.
    """
    return f"{name}_{portal.keyring.short('desk cookies')}"


def install(app: Flask, portal: Portal) -> None:
    """What the gate needs of the application: keys, and cookies that no script and no other site gets hold of."""
    app.secret_key = portal.keyring.secret("desk cookies")
    app.config.update(
        SESSION_COOKIE_NAME=cookie_name(portal, "gatepost"),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=portal.settings.server.public_url.startswith("https:"),
        # The gate asks for the token itself, where it knows that an operator is meant.
        WTF_CSRF_CHECK_DEFAULT=False,
        # As long as the browser is signed in: nobody loses what he typed over lunch.
        WTF_CSRF_TIME_LIMIT=None,
        # Needs a Referer, which some browsers keep to themselves; `_same_site` asks for better.
        WTF_CSRF_SSL_STRICT=False,
    )
    CSRFProtect(app)


def mount(blueprint: Blueprint, portal: Portal, routes: Sequence[Route]) -> None:
    """Puts the gate in front of each route's view."""
    for route in routes:
        if (route.who in _LEAST) != ("<slug>" in route.path):
            raise Unguarded(f"{route.path}: a part in a network needs a network in the path, and the other way round")
        blueprint.add_url_rule(route.path, route.name, _guarded(portal, route), methods=route.methods)
        blueprint.record_once(_declaration(f"{blueprint.name}.{route.name}", route.who))


def declare(app: Flask, endpoints: Collection[str], who: Who) -> None:
    """Says who may use endpoints that have a gate of their own; "guest.*" means all of a blueprint."""
    declared: dict[str, Who] = app.extensions.setdefault(_DECLARED, {})
    for endpoint in endpoints:
        declared[endpoint] = who


def check(app: Flask) -> None:
    """Raises Unguarded if any route of the application does not say who may use it."""
    declared: dict[str, Who] = app.extensions.get(_DECLARED, {})
    silent = sorted(
        f"{rule.rule} ({rule.endpoint})"
        for rule in app.url_map.iter_rules()
        if rule.endpoint not in declared and f"{rule.endpoint.split('.')[0]}.*" not in declared
    )
    if silent:
        raise Unguarded(f"these routes do not say who may use them: {', '.join(silent)}")


def dress(response: Response) -> Response:
    """The response with the desk's headers."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _declaration(endpoint: str, who: Who) -> Callable[[Any], None]:
    return lambda state: declare(state.app, [endpoint], who)


def _guarded(portal: Portal, route: Route) -> Callable[..., Response]:
    def gate(slug: str | None = None, **path: Any) -> Response:
        now = portal.clock()
        signed_in, network = _look(portal, slug, now)
        if route.who is not Who.ANYONE and signed_in is None:
            return dress(_to_sign_in())
        if signed_in is not None and route.who is not Who.ANYONE:
            _admit(route.who, signed_in.operator, network)
        if request.method == "POST":
            _same_site()
        visit = Visit(portal, now, signed_in, network)
        return dress(make_response(route.view(visit, **path)))

    return gate


def _look(portal: Portal, slug: str | None, now: datetime) -> tuple[SignedIn | None, Network | None]:
    """Who asks, and about which network."""
    secret = session.get(SECRET)
    if not isinstance(secret, str):
        return None, None
    with portal.store.read("operators", caller="gate") as db:
        signed_in = operators.current(db, secret, now)
        network = networks.by_slug(db, slug) if signed_in is not None and slug is not None else None
    return signed_in, network


def _admit(who: Who, operator: Operator, network: Network | None) -> None:
    """Lets the right ones through. A stranger to a network is not told whether there is one of that name."""
    if who is Who.HEAD and not operator.everywhere(Role.OWNER):
        abort(403)
    needed = _LEAST.get(who)
    if needed is None:
        return
    role = operator.role_in(network.id) if network is not None else None
    if role is None:
        abort(404)
    if not role.covers(needed):
        abort(403)


def _same_site() -> None:
    """Refuses an order that another site had the browser send: by the form's token, and by what the browser says."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        abort(400)
    CSRFProtect().protect()


def _to_sign_in() -> Response:
    """On to the sign-in page, which comes back here if this was a page and not an order."""
    wanted = request.full_path.rstrip("?") if request.method == "GET" else ""
    target = url_for("desk.sign_in", next=wanted) if wanted not in ("", "/desk/") else url_for("desk.sign_in")
    return Response(status=303, headers={"Location": target})
