"""What the gateway's own web server answers a guest's browser, in the words and shapes of the two programs.

Promises: any path but the gateway's own leads to the auth server's login page, with all that WiFiDog says about the
gateway, the guest and the page asked for; statuses, header lines, cuts and empty answers are the captured ones. The
pages' look is ours; the status page is for people and shows the book beside the program's own text. Where apfree leaves
a browser hanging until it gives up (a log-out), it is let go with an empty answer.
Sources: wifidog-gateway src/http.c, auth.c, wd_util.c; apfree-wifidog src/http.c, wd_client.c.
"""

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from html import escape as quoted

from portal.emulator import wire
from portal.emulator.lan import Account, Station
from portal.emulator.program import Apfree, Classic, Program

# The real program fills a template file; this is ours.
_PAGE = (
    "<!DOCTYPE html><html><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    "<title>{title}</title>{extra}<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;"
    "padding:0 1rem;color-scheme:light dark}}table{{border-collapse:collapse}}td,th{{padding:.3rem .8rem;"
    "text-align:right;border-bottom:1px solid #8886}}th:first-child,td:first-child{{text-align:left}}</style></head>"
    "<body><h1>{title}</h1>{body}</body></html>"
)
_REFRESH = "<meta http-equiv='refresh' content='2'>"
_WRONG_METHOD = "\n<B>ERROR : Method Not Implemented</B>\n\n"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the web server may see of the gateway while it answers one request."""

    port: int
    stations: list[Station]
    account: Callable[[str | None], Account]


def answer(program: Classic | Apfree, sight: Sight, station: Station, head: bytes) -> bytes:
    """The whole answer to a request head; no bytes where the program closes without a word."""
    if isinstance(program, Apfree):
        return _apfree(program, sight, station, head)
    return _classic(program, sight, station, head)


def _date() -> str:
    return formatdate(usegmt=True)


# --- classic ---


def _classic(program: Classic, sight: Sight, station: Station, head: bytes) -> bytes:
    method, path, query, host = wire.first_line(head)
    if method.upper() not in ("GET", "POST"):
        return wire.to_bytes(_WRONG_METHOD + method)
    given = wire.variables(query)
    if path == b"/wifidog/auth":
        return _classic_auth(program, station, given)
    if path == b"/wifidog/disconnect":
        return _classic_disconnect(program, given)
    if path == b"/wifidog/about":
        return _shown("About WiFiDog", f"This is WiFiDog version <strong>{wire.VERSION}</strong>")
    if path == b"/wifidog/status":
        return _shown("WiFiDog Status", _status(program, sight), extra=_REFRESH)
    if path in (b"/wifidog", b"/wifidog/"):
        return _shown("WiFiDog", "Please use the menu to navigate the features of this WiFiDog installation.")
    asked = wire.to_text(b"http://" + host + path + (b"?" + query if query else b""))
    if not program.is_online():
        return _shown("Uh oh! Internet access unavailable!", _apology("the Internet connection is down", asked))
    if not program.is_auth_online():
        return _shown("Uh oh! Login screen unavailable!", _apology("the login screen cannot be reached", asked))
    server = program.servers()[0]
    fragment = wire.login_fragment(
        server,
        address=program.settings.address,
        port=sight.port,
        gw_id=program.settings.gw_id,
        ip=station.ip,
        mac=station.mac,
        url=asked,
    )
    return _moved(server.browser_url(fragment), "Redirect to login page")


def _classic_auth(program: Classic, station: Station, given: dict[str, str]) -> bytes:
    token = given.get("token")
    if token is None:
        return _shown("WiFiDog error", "Invalid token")
    if station.mac is None:
        return _shown("WiFiDog Error", "Failed to retrieve your MAC address")
    code = program.auth(station.ip, station.mac, token, logout="logout" in given)
    if code is None:
        return b""
    server = program.servers()[0]
    if code == wire.ALLOWED:
        fragment = f"{server.portal_fragment}gw_id={program.settings.gw_id}&token={token}"
        return _moved(server.browser_url(fragment), "Redirect to portal")
    if code in _MESSAGES:
        name, text = _MESSAGES[code]
        # The token is not escaped here, though it was on its way to the server.
        return _moved(server.browser_url(f"{server.message_fragment}message={name}&token={token}"), text)
    if code == wire.ERROR:
        return _shown("Error!", "Error: We did not get a valid answer from the central server")
    return _shown("Internal Error", "We can not validate your request at this time")


_MESSAGES = {
    wire.DENIED: ("denied", "Redirect to denied message"),
    wire.VALIDATION: ("activate", "Redirect to activate message"),
    wire.VALIDATION_FAILED: ("failed_validation", "Redirect to failed validation message"),
}


def _classic_disconnect(program: Classic, given: dict[str, str]) -> bytes:
    token, mac = given.get("token"), given.get("mac")
    if token is None or mac is None:
        return wire.page("200 Output Follows", "Both the token and MAC need to be specified", _date())
    client = program.find_by_mac(mac)
    if client is None or client.token != token:
        return wire.page("200 Output Follows", "Invalid token for MAC", _date())
    program.logout(client)
    return b""


def _shown(title: str, body: str, extra: str = "") -> bytes:
    return wire.page("200 Output Follows", _PAGE.format(title=title, body=body, extra=extra), _date())


def _moved(url: str, text: str) -> bytes:
    body = _PAGE.format(title=text, body=f"Please <a href='{quoted(url)}'>click here</a>.", extra="")
    return wire.page(f"302 {text}", body, _date(), location=url)


def _apology(what: str, asked: str) -> str:
    return (
        f"<p>We apologize: {what} at the moment.</p><p>In a couple of minutes please "
        f"<a href='{quoted(asked)}'>try your request again</a>.</p>"
    )


# --- apfree ---


def _apfree(program: Apfree, sight: Sight, station: Station, head: bytes) -> bytes:
    _, path, query, host = wire.first_line(head)
    given = wire.variables(query)
    if path == b"/wifidog/auth":
        return _apfree_auth(program, station, given)
    if path == b"/wifidog/disconnect":
        return _apfree_disconnect(program, given)
    if path == b"/wifidog/about":
        return wire.apfree_page("OK", f"This is apfree WiFiDog version {wire.APFREE_VERSION}", _date(), shared=False)
    if path == b"/wifidog/status":
        body = _PAGE.format(title="WiFiDog Status", body=_status(program, sight), extra=_REFRESH)
        return wire.apfree_page("OK", body, _date(), shared=False)
    asked = wire.to_text(b"http://" + host + path + (b"?" + query if query else b""))
    if not program.is_auth_online():
        body = _PAGE.format(title="Offline", body=_apology("the login screen cannot be reached", asked), extra="")
        return wire.apfree_page("OK", body, _date(), shared=False)
    url = wire.apfree_login_url(
        program.servers()[0],
        address=program.settings.address,
        port=sight.port,
        device_id=program.settings.device_id,
        gw_id=program.settings.gw_id,
        channel=program.settings.channel,
        ip=station.ip,
        mac=station.mac,
        url=asked,
    )
    return _scripted(url, "Redirect to login page", shared=False)


def _apfree_auth(program: Apfree, station: Station, given: dict[str, str]) -> bytes:
    token = given.get("token")
    if token is None:
        return _apfree_error("Invalid token")
    if given.get("gw_id") != program.settings.gw_id:
        return _apfree_error("Invalid gateway id")
    # Whoever names another device's address and MAC speaks for it.
    ip, mac = given.get("client_ip"), given.get("client_mac")
    if ip is None or mac is None:
        ip, mac = station.ip, station.mac
    if mac is None:
        return _apfree_error("Failed to retrieve your MAC address")
    logout = "logout" in given
    if logout and program.find_by_mac(mac) is None:
        return _apfree_error("Logout request from unknown client")
    code = program.auth(ip, mac, token, logout=logout)
    if code is None:
        return b""
    server = program.servers()[0]
    if code == wire.ALLOWED:
        fragment = (
            f"{server.portal_fragment}gw_id={program.settings.gw_id}&gw_channel={program.settings.channel}"
            f"&mac={mac}&name=null"
        )
        return _scripted(server.browser_url(fragment), "Redirect to portal", shared=True)
    if code in _APFREE_MESSAGES:
        name, text = _APFREE_MESSAGES[code]
        return _scripted(server.browser_url(f"{server.message_fragment}message={name}"), text, shared=True)
    return _apfree_error("Internal Error: Unable to validate your request at this time")


_APFREE_MESSAGES = {
    wire.DENIED: ("denied", "Access denied"),
    wire.VALIDATION: ("activate", "Activate account"),
    wire.VALIDATION_FAILED: ("failed_validation", "Validation failed"),
}


def _apfree_disconnect(program: Apfree, given: dict[str, str]) -> bytes:
    token, mac = given.get("token"), given.get("mac")
    if token is None or mac is None:
        return _apfree_error("Both the token and MAC need to be specified")
    client = program.find_by_mac(mac)
    if client is None or client.token != token:
        return _apfree_error("Invalid token for MAC")
    program.logout(client)
    return b""


def _apfree_error(reason: str) -> bytes:
    body = f"<HTML><HEAD>\n<TITLE>200 {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    return wire.apfree_page(reason, body, _date(), shared=True)


def _scripted(url: str, reason: str, *, shared: bool) -> bytes:
    return wire.apfree_page(reason, wire.apfree_redirect_body(url), _date(), shared=shared)


# --- the status page ---


def _status(program: Program, sight: Sight) -> str:
    rows = []
    for station in sight.stations:
        account = sight.account(station.mac)
        access = program.firewall.access(station.ip, station.mac)
        cells = (
            quoted(station.name),
            station.ip,
            station.mac or "not in ARP",
            access,
            f"{account.transferred.down:,} / {account.transferred.up:,}",
            f"{account.pings.total:,}",
            f"{account.reported.down:,} / {account.reported.up:,}",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("guest", "IP", "MAC", "access", "transferred, down / up", "pings", "reported, down / up")
    header = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<pre>{quoted(status_text(program))}</pre>"
    )


def status_text(program: Program) -> str:
    """What `wdctl status` says. Beware: like the real one, it names every client's token."""
    uptime = program.uptime()
    days, hours, minutes = uptime // 86400, uptime // 3600 % 24, uptime // 60 % 60
    clients = program.clients()
    restarted = f"yes (from PID {program.parent})" if program.parent is not None else "no"
    lines = [
        "WiFiDog status",
        "",
        f"Version: {wire.VERSION}",
        f"Uptime: {days}d {hours}h {minutes}m {uptime % 60}s",
        f"Has been restarted: {restarted}",
        f"Internet Connectivity: {'yes' if program.is_online() else 'no'}",
        f"Auth server reachable: {'yes' if program.is_auth_online() else 'no'}",
        f"Clients served this session: {program.served}",
        "",
        f"{len(clients)} clients connected.",
    ]
    for number, client in enumerate(clients, 1):
        lines += [
            "",
            f"Client {number}",
            f"  IP: {client.ip} MAC: {client.mac}",
            f"  Token: {client.token}",
            f"  Downloaded: {client.incoming}",
            f"  Uploaded: {client.outgoing}",
        ]
    lines += ["", "Authentication servers:"]
    lines += [f"  Host: {server.host} ({server.host})" for server in program.servers()]
    return "\n".join(lines) + "\n"
