"""How operators get in and out: the set-up link, invitations, sign-in, their own account.

Promises: a wrong address and a wrong password are told alike; a browser gets a new secret at each sign-in, and none
survives a sign-out; passwords are hashed and compared beside the event loop, and shown again nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from flask import Response, make_response, request, session

from portal import fields, operators
from portal.fields import Invalid
from portal.offload import Busy
from portal.operators import Browser, Operator, SignInRefused
from portal.web.desk import pages
from portal.web.desk.forms import Form
from portal.web.desk.frame import clock_of, show, to
from portal.web.desk.words import Clock, span
from portal.web.guards import SECRET, Route, Visit, Who, cookie_name

KNOWN_COOKIE: Final = "gatepost_known"
KNOWN_LIFE: Final = timedelta(days=365)
MOST_KNOWN: Final = 5
BUSY: Final = "Many passwords are being checked at the moment. Try again in some seconds."


@dataclass(frozen=True, slots=True)
class BrowserRow:
    """A browser where the operator is signed in."""

    session_id: int
    agent: str
    told: str
    here: bool


def setup(visit: Visit, token: str) -> Response:
    """The page of the one-time link: makes the first operator, and signs him in."""
    with visit.portal.store.read("operators", caller="desk setup") as db:
        found = operators.invitation(db, token, visit.now)
    if found is None or found.purpose != "setup":
        return _over("A server without any operator prints a new link when it starts.")
    form = Form(request.form)
    if request.method == "POST":
        email = form.read("email", fields.email, "")
        name = form.line("name", 100)
        hashed = _hashed(visit, form, email)
        if form.good and hashed:
            try:
                with visit.writing("setup") as db:
                    operator = operators.use_setup(db, token, email, name, hashed, visit.now)
                    secret = operators.start_session(db, operator.id, hashed, visit.now, **_whence())
                # The link works once and the password was just typed: asking for it again would prove nothing more.
                notice = f"The account is made, and you are signed in as {operator.email}."
                return _admitted(visit, operator, secret, pages.url("networks"), notice)
            except Invalid as error:
                if error.field == "link":
                    return _over("Somebody else used it a moment ago.")
                form.refuse(error)
    return pages.html("setup.html", {"form": form}, 400 if form.errors else 200)


def new_password(visit: Visit, token: str) -> Response:
    """The page of an invitation: its operator chooses a password."""
    with visit.portal.store.read("operators", caller="desk invitation") as db:
        found = operators.invitation(db, token, visit.now)
        operator = None
        if found is not None and found.purpose == "password" and found.operator_id is not None:
            operator = operators.get(db, found.operator_id)
    if operator is None:
        return _over("Ask who sent it for a new one.")
    form = Form(request.form)
    if request.method == "POST":
        hashed = _hashed(visit, form, operator.email)
        if form.good and hashed:
            try:
                with visit.writing("invitation") as db:
                    operators.use_invitation(db, token, hashed, visit.now)
                return _welcome("The password is set. Sign in with it.")
            except Invalid:
                return _over("It was used a moment ago.")
    return pages.html("new_password.html", {"form": form, "operator": operator}, 400 if form.errors else 200)


def _hashed(visit: Visit, form: Form, email: str) -> str:
    """The hash of the password that was chosen; "" where it will not do, which is reported."""
    try:
        return visit.portal.offload.hash_password(operators.check_password(form.secret("password"), email))
    except Invalid as error:
        form.refuse(error)
    except Busy:
        form.wrong("", BUSY)
    return ""


def _over(remedy: str) -> Response:
    return pages.html("link_over.html", {"remedy": remedy}, 410)


def _welcome(notice: str) -> Response:
    """On to the sign-in page; what the browser was before, it is no longer."""
    session.clear()
    return to(pages.url("sign_in"), notice)


def sign_in(visit: Visit) -> Response:
    """The sign-in page."""
    form = Form(request.form if request.method == "POST" else {"next": request.args.get("next", "")})
    status = 200
    if request.method == "POST":
        password = form.secret("password")
        email = form.value("email").strip()[:256]
        try:
            secret, operator = operators.sign_in(
                visit.portal.store,
                email,
                password,
                verify=visit.portal.offload.verify_password,
                renew=visit.portal.offload.renewed,
                now=visit.now,
                known=_mark(visit, email) in _known(visit),
                **_whence(),
            )
        except SignInRefused as refused:
            status = 429 if refused.retry_seconds != 0 else 403
            form.wrong("", _refusal(refused))
        except Busy:
            status = 503
            form.wrong("", BUSY)
        else:
            return _admitted(visit, operator, secret, _inside(form.value("next")))
    elif visit.signed_in is not None:
        return to(pages.url("networks"))
    return pages.html("sign_in.html", {"form": form}, status)


def _admitted(visit: Visit, operator: Operator, secret: str | None, target: str, notice: str = "") -> Response:
    """On to `target` as that operator. Nothing of what the browser held before goes on: neither its secret nor the
    token of its forms."""
    session.clear()
    session[SECRET] = secret
    return _remember(visit, operator, to(target, notice))


def _whence() -> dict[str, str]:
    """Where a sign-in comes from, as it is kept."""
    return {"address": request.remote_addr or "", "agent": request.headers.get("User-Agent", "")}


def _refusal(refused: SignInRefused) -> str:
    if refused.retry_seconds == 0:
        return "E-mail and password do not match."
    if refused.retry_seconds is None:
        return "Too many wrong passwords in a row. Ask an owner for a new link, or make one on the command line."
    return f"Too many tries. The next one is looked at in {span(refused.retry_seconds)}."


def _inside(wanted: str) -> str:
    """A page of the desk to go on to; never another site's."""
    if wanted.startswith("/desk/") and "\\" not in wanted and "//" not in wanted and wanted.isprintable():
        return wanted
    return pages.url("networks")


def _mark(visit: Visit, email: str) -> str:
    """What a browser remembers of an operator who has signed in with it: it says nothing to anybody else."""
    return visit.portal.keyring.short(f"known {email.lower()}")


def _known(visit: Visit) -> list[str]:
    """Whose sign-ins this browser remembers, by a cookie that we signed."""
    cookie = request.cookies.get(cookie_name(visit.portal, KNOWN_COOKIE), "")[:512]
    payload = visit.portal.keyring.unsign("known browser", cookie, int(visit.now.timestamp())) if cookie else None
    return payload.decode("ascii", "replace").split() if payload else []


def _remember(visit: Visit, operator: Operator, response: Response) -> Response:
    mark = _mark(visit, operator.email)
    marks = [mark, *(other for other in _known(visit) if other != mark)][:MOST_KNOWN]
    until = visit.now + KNOWN_LIFE
    response.set_cookie(
        cookie_name(visit.portal, KNOWN_COOKIE),
        visit.portal.keyring.sign("known browser", " ".join(marks).encode(), int(until.timestamp())),
        max_age=int(KNOWN_LIFE.total_seconds()),
        path="/desk/",
        secure=visit.portal.settings.server.public_url.startswith("https:"),
        httponly=True,
        samesite="Strict",
    )
    return response


def sign_out(visit: Visit) -> Response:
    """Ends this browser's session."""
    secret = session.get(SECRET)
    session.clear()
    if isinstance(secret, str):
        with visit.writing("sign out") as db:
            operators.sign_out(db, secret)
    response = make_response(to(pages.url("sign_in"), "You are signed out."))
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def sign_out_one(visit: Visit, session_id: int) -> Response:
    """Ends one of the operator's own sessions, in a browser that he left behind or does not know."""
    with visit.writing("sign out one") as db:
        ended = operators.sign_out_one(db, visit.operator, session_id)
        if ended:
            visit.record_in(db, None, "operator.sign_out_one", visit.operator.email)
    return to(pages.url("me"), "That browser is signed out." if ended else "That browser was signed out already.")


def sign_out_others(visit: Visit) -> Response:
    """Ends the operator's sessions in every other browser."""
    with visit.writing("sign out others") as db:
        operators.sign_out_everywhere(db, visit.operator, but=_own(visit))
        visit.record_in(db, None, "operator.sign_out_others", visit.operator.email)
    return to(pages.url("me"), "Only this browser is signed in now.")


def me(visit: Visit) -> Response:
    """The operator's own account: where he is signed in, another password."""
    form = Form(request.form)
    if request.method == "POST" and (response := _change_password(visit, form)) is not None:
        return response
    clock = clock_of(visit)
    with visit.portal.store.read("operators", caller="desk me") as db:
        browsers = operators.browsers(db, visit.operator, visit.now)
    rows = [_browser(each, clock, own=each.id == _own(visit)) for each in browsers]
    return show(visit, "me.html", "me", 400 if form.errors else 200, form=form, browsers=rows)


def _own(visit: Visit) -> int:
    assert visit.signed_in is not None, "only for whoever is signed in"
    return visit.signed_in.session_id


def _browser(each: Browser, clock: Clock, *, own: bool) -> BrowserRow:
    told = f"Since {clock.in_words(each.created_at)}, last used {clock.ago(each.seen_at)} ago"
    return BrowserRow(each.id, browser_name(each.agent), f"{told}, from {each.address}" if each.address else told, own)


def browser_name(agent: str) -> str:
    """A browser and its system, as people call them; the header itself says five names at once."""
    browser = next((name for sign, name in _BROWSERS if sign in agent), "A browser")
    system = next((name for sign, name in _SYSTEMS if sign in agent), "")
    return f"{browser} on {system}" if system else browser


# In this order: most browsers name others as well, and Android names Linux.
_BROWSERS: Final = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("Chrom", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def confirmed(visit: Visit, form: Form, name: str = "password") -> bool:
    """Whether the operator typed his own password again; where not, that is reported."""
    verify = visit.portal.offload.verify_password
    try:
        operators.confirm(visit.portal.store, visit.operator, form.secret(name), verify=verify, now=visit.now)
    except SignInRefused as refused:
        form.wrong(name, _refusal(refused) if refused.retry_seconds != 0 else "This is not your password.")
    except Busy:
        form.wrong(name, BUSY)
    else:
        return True
    return False


def _change_password(visit: Visit, form: Form) -> Response | None:
    """Changes the operator's own password; None when the form has to be shown again."""
    proved = confirmed(visit, form, "old")
    hashed = _hashed(visit, form, visit.operator.email) if proved else ""
    if not form.good or not hashed:
        return None
    with visit.writing("password") as db:
        operators.set_password(db, visit.operator, hashed, but=_own(visit))
        visit.record_in(db, None, "operator.password", visit.operator.email)
    return to(pages.url("me"), "The password is changed. Every other browser is signed out.")


ROUTES = (
    Route("/setup/<token>", setup, Who.ANYONE, "setup", posts=True),
    Route("/desk/password/<token>", new_password, Who.ANYONE, "new_password", posts=True),
    Route("/desk/sign-in", sign_in, Who.ANYONE, "sign_in", posts=True),
    Route("/desk/sign-out", sign_out, Who.OPERATOR, "sign_out", gets=False, posts=True),
    Route("/desk/me", me, Who.OPERATOR, "me", posts=True),
    Route("/desk/me/sign-out/<int:session_id>", sign_out_one, Who.OPERATOR, "sign_out_one", gets=False, posts=True),
    Route("/desk/me/sign-out-others", sign_out_others, Who.OPERATOR, "sign_out_others", gets=False, posts=True),
)
