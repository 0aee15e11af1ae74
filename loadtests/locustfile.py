"""Load that behaves like the field, for locust: a fleet of gateways, a crowd of guests, an operators' desk.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 --codes codes.csv --keys keys.csv [--desk desk.csv]

One locust user is one gateway, with its own clock: a ping and one poll for each guest in its list every interval, one
after another, HTTP/1.0, a connection each, replies read as the C program reads them. One user is the crowd: it lets
guests sign in, leave and come back at the moments that the shape has drawn. The others are operators at the desk.

Promises: the workload is open. Every request has a scheduled moment, and its latency is counted from there; nothing is
left out because the server was slow. The moment is drawn for what begins by itself: pings, polls, a guest who comes,
logs out or signs in again, a page of the desk. What follows from an answer is due when that answer is there, as it is
for the one who does it: the form after the splash page, the login after the form, the logout of a guest whom a poll
finds idle, what an operator posts from a page. What is not over half a minute after the end is a failure. A run ends
with two more rounds of polls, not measured, so that what was begun is reported; then `--out` holds what was measured
and `fleet.csv` beside it what was reported, for the reconciliation. Runs in one process. Imports nothing of the server:
locust patches it for gevent itself.
"""

from __future__ import annotations

import csv
import heapq
import json
import logging
import os
import random
import re
import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import flask
import gevent
import requests
from gevent.pool import Group
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.day import Day, Leave, Visit
from loadtests.fleet import Entry, Gateway, Guest, Truth, populate, read_codes, read_keys
from loadtests.shapes import HEAD_START, SHAPES, AfterAnOutage, OpeningHour, Shape, SlowGateways, SteadyDay
from loadtests.workload import Latencies, Outcome
from portal.emulator import browser, wire

log = logging.getLogger("loadtests")

PATIENCE = 30.0
"""Seconds for which the gateway program waits for each piece of an answer."""
PACE = 0.02
"""Seconds that a gateway needs between two polls for itself: its ping of the device, a look at the firewall."""
SLOW_PIECES, SLOW_SECONDS = 4, 0.75
"""On a slow line a request comes in so many pieces, over so many seconds."""
BUSY = 0.6
"""The share of an interval that a gateway's round may take by itself, so that there is room for the server's part."""
RETURN = "10.77.0.1", 2060
"""The address that the gateways say they have. A browser is sent back there; nothing connects to it."""
DESK_PAGES = ("", "sessions", "vouchers", "", "sessions", "gateways")
ISSUE_EVERY = 10
"""Every so many pages an operator issues three vouchers instead of looking at one."""
STYLE = re.compile(r'<link[^>]+rel="stylesheet"[^>]+href="([^"]+)"|<link[^>]+href="([^"]+)"[^>]+rel="stylesheet"')
__all__ = ["AfterAnOutage", "Crowd", "Desk", "GatewayOnItsClock", "OpeningHour", "SlowGateways", "SteadyDay"]


class NoAnswer(Exception):
    """A request without a right answer; the text is the word under which it is counted."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody at the desk of a network."""

    email: str
    password: str
    network: str


@dataclass(slots=True)
class World:
    """Everything of one run. Moments are seconds since `began`, a monotonic clock."""

    environment: Environment
    day: Day
    seconds: float
    interval: float
    browsers: str
    gateways: list[Gateway]
    guests: list[Guest]
    operators: list[Operator]
    truth: Truth
    out: Path
    began: float = 0.0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    lag: Latencies = field(default_factory=Latencies)
    online: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[Gateway] = field(default_factory=list)
    at_the_desk: list[Operator] = field(default_factory=list)
    locks: dict[str, threading.Lock] = field(default_factory=dict)
    settled: bool = False

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def wait_until(self, moment: float) -> None:
        """Sleeps until a moment of the run."""
        gevent.sleep(max(0.0, moment - self.now()))

    def lock(self, guest: Guest) -> threading.Lock:
        """A gateway does one thing for a device at a time."""
        return self.locks.setdefault(guest.mac, threading.Lock())

    def record(self, name: str, due: float, problem: str = "", *, kind: str = "GET", size: int = 0) -> None:
        """One request's end, now; `due` is when it should have been sent. `problem` is empty for a right answer."""
        if self.settled:
            return
        ended = self.now()
        outcome = self.outcomes.setdefault(name, Outcome(name, self.seconds))
        outcome.record(due, ended, problem, None, self.seconds)
        self.environment.events.request.fire(
            request_type=kind, name=name, response_time=(ended - due) * 1000, response_length=size,
            exception=NoAnswer(problem) if problem else None, context={},
        )  # fmt: skip

    def never_sent(self, name: str, number: int) -> None:
        """Requests that were due and could not be sent before the run was over, since the one before took so long."""
        outcome = self.outcomes.setdefault(name, Outcome(name, self.seconds))
        for _ in range(number):
            outcome.record(self.seconds, self.seconds, "never sent", None, self.seconds)


WORLD: list[World] = []
"""The run that is on, if one is: locust makes its users itself and hands them only its own environment."""


def world() -> World:
    """The run that is on."""
    return WORLD[-1]


# Gateways


def talk(server: wire.AuthServer, request: bytes, *, slow: float, sent: Callable[[], None]) -> bytes | None:
    """One call of a gateway: connect, send, over `slow` seconds, read to the end. `sent` is called once all is out.

    None where the server cannot be reached, breaks off, or stays silent for too long.
    """
    try:
        with socket.create_connection((server.host, server.port), timeout=PATIENCE) as connection:
            if slow:
                step = -(-len(request) // SLOW_PIECES)
                for begin in range(0, len(request), step):
                    if begin:
                        gevent.sleep(slow / (SLOW_PIECES - 1))
                    connection.sendall(request[begin : begin + step])
            else:
                connection.sendall(request)
            sent()
            return wire.read_reply(connection, PATIENCE)
    except OSError:
        return None


def ask(gateway: Gateway, stage: str, entry: Entry, token: str, *, counters: bool) -> int:
    """A login, poll or logout, booked; the code of the answer."""
    down, up = (entry.shown.down, entry.shown.up) if counters else (0, 0)

    def sent() -> None:
        if counters:
            gateway.sent(entry, down, up)

    request = gateway.request(stage, entry, token, down, up)
    code = wire.auth_code(talk(gateway.server, request, slow=gateway.slow, sent=sent))
    if counters and code != wire.ERROR:
        gateway.answered(entry, down, up)
    return code


def due_on(gateway: Gateway, due: float) -> float:
    """When the last byte of a request that is due then can be out at the earliest."""
    return due + gateway.slow


def poll(run: World, gateway: Gateway, entry: Entry, due: float) -> None:
    """One poll, and what the gateway makes of its answer."""
    guest = entry.guest
    with run.lock(guest):
        if not gateway.holds(entry):
            return
        gateway.ping_station(entry)
        code = ask(gateway, "counters", entry, entry.token, counters=True)
        name = "polls, slow line" if gateway.slow else "polls"
        limit = guest.code.bytes
        spent = limit is not None and run.truth.used(guest.code.code) >= limit
        if code == wire.DENIED:
            guest.used_up = guest.used_up or spent
            run.record(name, due_on(gateway, due), "" if spent else "denied without a reason")
            gateway.drop(entry)
        elif code == wire.ALLOWED:
            run.record(name, due_on(gateway, due), "let on beyond the limit" if spent else "")
            entry.online = True
        else:
            run.record(name, due_on(gateway, due), "no opinion or no answer")
        if gateway.idle(entry, run.now()):
            logout(run, gateway, entry, run.now())


def logout(run: World, gateway: Gateway, entry: Entry, due: float) -> None:
    """The gateway drops an entry and says so. Whoever calls it holds the guest's lock."""
    if gateway.holds(entry):
        gateway.drop(entry)
        code = ask(gateway, "logout", entry, entry.token, counters=True)
        run.record("logouts", due_on(gateway, due), "" if code == wire.DENIED else "no opinion or no answer")


def login(run: World, gateway: Gateway, guest: Guest, token: str, due: float) -> None:
    """What the browser's return to the gateway sets off."""
    with run.lock(guest):
        entry = gateway.enter(guest, token, run.now())
        code = ask(gateway, "login", entry, token, counters=False)
        gateway.logged_in(entry, token, code)
        if code == wire.ALLOWED:
            guest.present = True
        problem = {wire.ALLOWED: "", wire.DENIED: "denied without a reason"}.get(code, "no opinion or no answer")
        run.record("logins", due_on(gateway, due), problem)


def ping(run: World, gateway: Gateway, due: float) -> None:
    """A heartbeat."""
    reply = talk(gateway.server, gateway.heartbeat(run.now()), slow=gateway.slow, sent=lambda: None)
    run.record("pings", due_on(gateway, due), "" if wire.says_pong(reply) else "no answer")


def cycle(run: World, gateway: Gateway, due: float) -> None:
    """A ping, and a poll for each entry, one after another, at the gateway's own pace."""
    ping(run, gateway, due)
    gateway.count(run.now())
    entries = gateway.entries()
    pace = min(PACE + gateway.slow, BUSY * gateway.interval / max(1, len(entries)))
    for number, entry in enumerate(entries, 1):
        moment, free = due + number * pace, run.now()
        run.wait_until(moment)
        # Late is the generator only where it had nothing to wait for but the clock.
        run.lag.add(max(0.0, run.now() - max(moment, free)))
        poll(run, gateway, entry, moment)


class GatewayOnItsClock(User):
    """One gateway of the fleet."""

    fixed_count = 1

    def on_start(self) -> None:
        self.run_of = world()
        self.gateway = self.run_of.waiting.pop()
        self.dark = self.run_of.day.dark(self.run_of.seconds)
        # Spread over the interval, as clocks that nobody has set.
        self.due = self.run_of.interval * (self.run_of.gateways.index(self.gateway) / len(self.run_of.gateways))
        self.run_of.wait_until(self.due)

    def wait_time(self) -> float:
        return max(0.0, self.due - self.run_of.now())

    @task
    def once_an_interval(self) -> None:
        dark = self.dark
        if dark is not None and dark.begin <= self.due < dark.end:
            # All power comes back at the same moment, and every gateway begins with its first call.
            self.run_of.wait_until(dark.end)
            self.gateway.restart(self.run_of.now())
            self.due = dark.end
        cycle(self.run_of, self.gateway, self.due)
        self.due += self.run_of.interval

    def on_stop(self) -> None:
        run = self.run_of
        missed = int(max(0.0, run.seconds - self.due) / run.interval)
        if missed:
            run.never_sent("pings", missed)
            run.never_sent("polls", missed * len(self.gateway.entries()))


# Guests


@dataclass(order=True, slots=True)
class Moment:
    """Something that a guest does."""

    at: float
    number: int
    act: str = field(compare=False)
    visit: Visit = field(compare=False)


def moments(visits: list[Visit]) -> list[Moment]:
    """What the visits consist of, in order."""
    found = []
    for visit in visits:
        found.append(Moment(visit.begin, len(found), "arrive", visit))
        if visit.again is not None:
            found.append(Moment(visit.again, len(found), "again", visit))
        if visit.leave not in (Leave.STAYS, Leave.CUT):
            found.append(Moment(visit.end, len(found), "leave", visit))
    heapq.heapify(found)
    return found


class Crowd(User):
    """All guests: one user lets each of them go at his moment, however many are still busy."""

    fixed_count = 1

    def on_start(self) -> None:
        self.run_of = world()
        self.house = {guest.number: gateway for gateway in self.run_of.gateways for guest in gateway.guests}
        visits = self.run_of.day.visits(len(self.run_of.guests), self.run_of.seconds)
        self.todo = moments(visits)
        self.busy = Group()
        self.under_way: dict[int, Moment] = {}
        self.sampled = 0.0

    def wait_time(self) -> float:
        run = self.run_of
        if run.now() >= self.sampled:
            self.sampled = run.now() + 1.0
            run.online.append((run.now(), sum(one.online for each in run.gateways for one in each.entries())))
        return min(1.0, max(0.0, self.todo[0].at - run.now())) if self.todo else 1.0

    @task
    def let_go(self) -> None:
        while self.todo and self.todo[0].at <= self.run_of.now():
            moment = heapq.heappop(self.todo)
            self.run_of.lag.add(max(0.0, self.run_of.now() - moment.at))
            self.busy.spawn(self.do, moment)

    def do(self, moment: Moment) -> None:
        self.under_way[moment.number] = moment
        guest = self.run_of.guests[moment.visit.guest]
        act(self.run_of, self.house[guest.number], guest, moment)
        del self.under_way[moment.number]

    def on_stop(self) -> None:
        self.busy.join(timeout=PATIENCE)
        self.busy.kill()
        # Of a sign-in nobody can tell here at which of its steps it hangs.
        for moment in self.under_way.values():
            self.run_of.record("logouts" if moment.act == "leave" else "sign-ins", moment.at, "never over")


def act(run: World, gateway: Gateway, guest: Guest, moment: Moment) -> None:
    """One thing that a guest does."""
    entry = gateway.entry(guest)
    if moment.act == "leave":
        leave(run, gateway, guest, moment)
    elif moment.act == "arrive" and entry is not None and entry.online:
        # He is back before the gateway has noticed that he was gone.
        guest.present = True
    elif moment.act == "arrive" or (entry is not None and entry.online and not guest.light):
        sign_in(run, gateway, guest, moment.at)


def leave(run: World, gateway: Gateway, guest: Guest, moment: Moment) -> None:
    """A guest goes, one way or another; nothing happens if he is not online."""
    with run.lock(guest):
        entry = gateway.entry(guest)
        if entry is None:
            guest.present = False
        elif moment.visit.leave is Leave.LOGOUT and not guest.light:
            guest.present = False
            logout(run, gateway, entry, moment.at)
        elif moment.visit.leave is Leave.LOST and not guest.light:
            guest.present = False
            gateway.forget_quietly(entry)
        else:
            guest.present = False


def sign_in(run: World, gateway: Gateway, guest: Guest, due: float) -> None:
    """Caught by the gateway: the splash page, the form with the code, back to the gateway with a token."""
    fragment = wire.login_fragment(
        gateway.server, address=RETURN[0], port=RETURN[1], gw_id=gateway.gw_id, ip=guest.ip, mac=guest.mac,
        url="http://captive.example/generate_204",
    )  # fmt: skip
    headers = {"User-Agent": "Mozilla/5.0 (Linux; Android 14; Mobile)", "Accept-Language": "en"}
    try:
        page = browser.visit(fetch, "GET", urljoin(run.browsers, fragment), headers)
        look = STYLE.search(page.text)
        if look is not None:
            browser.visit(fetch, "GET", urljoin(page.url, look[1] or look[2]), headers)
        form = page.form("code")
    except (OSError, LookupError) as error:
        run.record("splash pages", due, "no form" if isinstance(error, LookupError) else "no answer")
        return
    run.record("splash pages", due, size=len(page.body))
    typed = run.now()
    try:
        last = browser.submit(fetch, page, {"code": guest.code.code}, headers)
    except OSError:
        run.record("sign-ins", typed, "no answer", kind="POST")
        return
    del form
    token = parse_qs(urlsplit(last.url).query).get("token", [""])[0]
    sent_back = urlsplit(last.url).netloc == f"{RETURN[0]}:{RETURN[1]}" and bool(token)
    if guest.used_up and not sent_back:
        # In words, and rightly: his code was used up.
        run.record("sign-ins", typed, "" if last.status == 200 else f"status {last.status}", kind="POST")
        return
    run.record("sign-ins", typed, "" if sent_back else f"refused, status {last.status}", kind="POST")
    if sent_back:
        login(run, gateway, guest, token, run.now())


def fetch(method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """A browser's request; the way back to the gateway is not walked, since no gateway listens there."""
    if urlsplit(url).netloc == f"{RETURN[0]}:{RETURN[1]}":
        return 200, {}, b""
    return browser.ask(method, url, headers, body)


# Operators


class Desk(User):
    """An operator: signs in, then looks at a page every two seconds, and now and then issues vouchers."""

    fixed_count = 1
    every = 2.0

    def on_start(self) -> None:
        self.run_of = world()
        self.operator = self.run_of.at_the_desk.pop()
        self.browser = requests.Session()
        self.turn = 0
        self.due = self.every * self.run_of.operators.index(self.operator) / len(self.run_of.operators)
        self.run_of.wait_until(self.due)
        self.base = urljoin(self.run_of.browsers, "/desk/")
        self.network = urljoin(self.base, f"networks/{self.operator.network}/")
        self.signed_in = False

    def wait_time(self) -> float:
        return max(0.0, self.due - self.run_of.now())

    @task
    def once_in_a_while(self) -> None:
        due, self.due = self.due, self.due + self.every
        if not self.signed_in:
            self._sign_in(due)
            return
        self.turn += 1
        if self.turn % ISSUE_EVERY == 0:
            self._issue(due)
        else:
            self._page("desk pages", urljoin(self.network, DESK_PAGES[self.turn % len(DESK_PAGES)]), due)

    def _page(self, name: str, url: str, due: float, form: dict[str, str] | None = None) -> browser.Page | None:
        """One page, its redirects followed; with `form`, posted. None where it did not come, which is recorded."""
        kind = "POST" if form is not None else "GET"
        origin = urljoin(self.base, "/").rstrip("/")
        try:
            if form is None:
                answer = self.browser.get(url, timeout=PATIENCE)
            else:
                answer = self.browser.post(url, data=form, headers={"Origin": origin}, timeout=PATIENCE)
        except requests.RequestException:
            self.run_of.record(name, due, "no answer", kind=kind)
            return None
        problem = "" if answer.status_code == 200 else f"status {answer.status_code}"
        if not problem and name != "desk sign-ins" and urlsplit(answer.url).path.endswith("/sign-in"):
            problem, self.signed_in = "signed out", False
        self.run_of.record(name, due, problem, kind=kind, size=len(answer.content))
        return None if problem else browser.Page(answer.url, 200, {}, answer.content, (answer.url,))

    def _sign_in(self, due: float) -> None:
        page = self._page("desk sign-ins", urljoin(self.base, "sign-in"), due)
        if page is not None:
            typed = {"email": self.operator.email, "password": self.operator.password}
            form = page.form("email", "password")
            page = self._page("desk sign-ins", page.url, self.run_of.now(), {**form.fields, **typed})
            self.signed_in = page is not None

    def _issue(self, due: float) -> None:
        page = self._page("desk pages", urljoin(self.network, "vouchers"), due)
        if page is not None:
            form = page.form("count", "plan")
            asked = {**form.fields, "count": "3", "label": "load test"}
            self._page("vouchers issued", page.url, self.run_of.now(), asked)


# A run


@events.init_command_line_parser.add_listener
def options(parser: LocustArgumentParser) -> None:
    """Our own options, on the command line and on locust's web page."""
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the run lasts")
    parser.add_argument("--gateways", type=int, default=50, help="how many gateways, of those in --keys")
    parser.add_argument("--guests", type=int, default=1000, help="how many guests, as far as the codes go")
    parser.add_argument("--operators", type=int, default=2, help="how many at the desk, if --desk names one")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two polls of a guest")
    # Locust's page has its own list of shapes, with --class-picker.
    parser.add_argument(
        "--shape", default="steady", choices=list(SHAPES), help="what the day looks like", include_in_web_ui=False
    )
    parser.add_argument("--keys", default="", help="CSV with the columns gw_id and key")
    parser.add_argument("--codes", default="", help="CSV with the column code (and devices, bytes)")
    parser.add_argument("--desk", default="", help="CSV with the columns email, password and network (its slug)")
    parser.add_argument("--router-url", default="", help="where gateways talk plain HTTP, if not to --host")
    parser.add_argument("--out", default="loadtests/out", help="directory for load.json and fleet.csv")


@events.init.add_listener
def choose_shape(environment: Environment, **_others: object) -> None:
    """The shape named by `--shape`, unless locust's web page lets one pick it; there it is the one for "Default"."""
    given = environment.parsed_options
    if environment.web_ui is not None:
        environment.web_ui.app.before_request(lambda: look_at_form(environment))
    environment.stop_timeout = environment.stop_timeout or 2 * PATIENCE
    if environment.shape_class is not None and not getattr(given, "class_picker", False):
        chosen = SHAPES[given.shape]()
        chosen.runner = environment.runner
        environment.shape_class = chosen


def look_at_form(environment: Environment) -> flask.Response | None:
    """Before the web page starts a run: "Default", the first in its list of shapes, stands for `--shape`; and what
    would end the run at its beginning, and locust with it, is answered in words."""
    if flask.request.method != "POST" or flask.request.path.rpartition("/")[2] != "swarm":
        return None
    given, form = environment.parsed_options, flask.request.form.copy()
    files = {name: form.get(name, getattr(given, name)) for name in ("keys", "codes", "desk")}
    if problem := missing(form.get("host") or environment.host or "", **files):
        return flask.jsonify({"success": False, "message": problem, "host": environment.host})
    if form.get("shape_class", "Default") == "Default":
        # Locust means a number of users that is typed by hand; our users come from the files.
        form["shape_class"] = SHAPES[given.shape].__name__
        flask.request.form = form
    return None


def missing(host: str, keys: str, codes: str, desk: str) -> str:
    """What a run cannot do without and has not been told, in words; empty if there is nothing."""
    if not host or not keys or not codes:
        return "--host, --keys and --codes are needed: where the server is, which gateways it knows, which codes"
    lost = [path for path in (keys, codes, desk) if path and not Path(path).is_file()]
    return f"there is no file {', '.join(lost)}" if lost else ""


@events.test_start.add_listener
def begin(environment: Environment, **_others: object) -> None:
    """Reads the files, makes gateways and guests, and starts the clock."""
    given = environment.parsed_options
    host = (environment.host or "").rstrip("/")
    if problem := missing(host, given.keys, given.codes, given.desk):
        sys.exit(problem)
    shape = environment.shape_class
    if not isinstance(shape, Shape):
        sys.exit("a shape is needed: one of " + ", ".join(SHAPES))
    truth, draw = Truth(), random.Random(7)  # noqa: S311 - the same load each time
    gateways = []
    for gw_id, key in list(read_keys(Path(given.keys)).items())[: given.gateways]:
        server = wire.auth_server(given.router_url or host, path="/", key=key)
        gateways.append(Gateway(gw_id, server, given.interval, truth, random.Random(gw_id)))  # noqa: S311
    guests = populate(gateways, read_codes(Path(given.codes)), given.guests, draw, secrets.randbits(16))
    for gateway in gateways[: round(shape.day.slow * len(gateways))]:
        gateway.slow = max(0.01, min(SLOW_SECONDS, BUSY * given.interval / (len(gateway.guests) + 1) - PACE))
    operators = []
    if given.desk:
        with Path(given.desk).open(newline="") as file:
            staff = [Operator(row["email"], row["password"], row["network"]) for row in csv.DictReader(file)]
        operators = [staff[number % len(staff)] for number in range(given.operators)]
    shape.seconds, shape.users = given.minutes * 60, len(gateways) + 1 + len(operators)
    GatewayOnItsClock.fixed_count, Desk.fixed_count = len(gateways), len(operators)
    Desk.weight = 1 if operators else 0
    run = World(
        environment, shape.day, shape.seconds, given.interval, host + "/", gateways, guests, operators, truth,
        Path(given.out), began=time.monotonic() + HEAD_START, waiting=list(gateways), at_the_desk=list(operators),
    )  # fmt: skip
    WORLD[:] = [run]
    log.info("%s: %d gateways, %d guests, %d at the desk", shape.day.title, len(gateways), len(guests), len(operators))


@events.test_stop.add_listener
def finish(environment: Environment, **_others: object) -> None:
    """Two more rounds of polls, so that what was begun is reported; then the files."""
    del environment
    if not WORLD:
        return
    run = WORLD.pop()
    run.settled = True
    rounds = Group()
    for gateway in run.gateways:
        gateway.slow = 0.0
        rounds.spawn(settle, run, gateway)
    rounds.join()
    run.out.mkdir(parents=True, exist_ok=True)
    run.truth.write(run.out / "fleet.csv")
    (run.out / "load.json").write_text(json.dumps(measured(run)))


def settle(run: World, gateway: Gateway) -> None:
    """The last rounds of one gateway: two, since a total that has fallen is believed when it is seen a second time, and
    more while a report has no real answer."""
    for rounds in range(1, 6):
        cycle(run, gateway, run.now())
        if rounds >= 2 and all(entry.answered == entry.sent for entry in gateway.entries()):
            return


def measured(run: World) -> dict[str, Any]:
    """What a report is made of, as JSON."""
    usage = os.times()
    late = run.lag.percentile(0.99)
    return {
        "shape": run.day.title,
        "seconds": run.seconds,
        "interval": run.interval,
        "gateways": len(run.gateways),
        "guests": len(run.guests),
        "operators": len(run.operators),
        "outcomes": [outcome.as_json() for outcome in run.outcomes.values()],
        "online": run.online,
        "generator": {
            "late_p99_ms": None if late is None else round(late * 1000, 1),
            "cpu_seconds": usage.user + usage.system,
            "used_up": Counter(guest.used_up for guest in run.guests)[True],
        },
    }
