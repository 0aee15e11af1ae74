"""The wire rulebook, by tables and by properties. What real gateways sent is in tests/vectors."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from itertools import product
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal import wifidog
from portal.wifidog import (
    LARGEST_COUNTER,
    PARAMETERS,
    Answer,
    Client,
    Dialect,
    Fleet,
    Malformed,
    MessageKind,
    Report,
    Route,
    Stage,
    onward,
    parse_arrival,
    parse_auth,
    parse_counters_v2,
    parse_message,
    parse_ping,
    parse_portal,
    private_literal,
    return_url,
    route,
)

MAC = "02:00:00:00:77:02"
OURS = "abcdefghijklmnopqrstuvwxyz234567abcdefgh"

POLL = f"stage=counters&ip=10.77.0.2&mac={MAC}&token={OURS}&incoming=52928&outgoing=1130&gw_id=gw-1"
APFREE_POLL = (
    f"stage=counters&ip=10.77.0.2&mac={MAC}&token={OURS}&incoming_bytes=714&outgoing_bytes=31407&incoming_packets=12"
    "&outgoing_packets=12&incoming_bytes_v6=0&outgoing_bytes_v6=0&incoming_packets_v6=0&outgoing_packets_v6=0"
    "&first_login=1795250200&online_time=8&gw_id=gw-1&gw_channel=chan1&name=N/A&wired=0&device_id=dev-1"
    "&incoming_rate=178&outgoing_rate=0&incoming_rate_v6=0&outgoing_rate_v6=0"
)
WIFIDOG_NG_LOGIN = f"gw_id=gw-1&stage=login&ip=10.77.0.2&mac={MAC}&token={OURS}"
PING = "gw_id=gw-1&sys_uptime=2800&sys_memfree=23675348&sys_load=0.23&wifidog_uptime=7"
ARRIVAL = f"gw_address=10.77.0.1&gw_port=2060&gw_id=gw-1&ip=10.77.0.2&mac={MAC}&url=http%3A%2F%2Fexample.org%2F"


def poll(**changes: str | None) -> bytes:
    """The classic poll with some parameters changed, and those set to None left out."""
    values = dict(piece.split("=", 1) for piece in POLL.split("&")) | changes
    return "&".join(f"{name}={value}" for name, value in values.items() if value is not None).encode()


def refusal(parse: Callable[[bytes], object], query: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(query)
    return caught.value


# --- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/auth/", Route.AUTH),
        ("/auth", Route.AUTH),
        ("/wifidog/auth/", Route.AUTH),
        ("/wifidog/auth", Route.AUTH),
        ("/anything/at/all/auth/", Route.AUTH),
        ("//wifidog//auth//", Route.AUTH),
        ("/wifidog/Auth/", Route.AUTH),
        ("/WIFIDOG/AUTH", Route.AUTH),
        ("/auth/index.php", Route.AUTH),
        ("/wifidog/auth.php", Route.AUTH),
        ("auth", Route.AUTH),
        ("/ping/", Route.PING),
        ("/anything/ping", Route.PING),
        ("/ping/index.php", Route.PING),
        ("/login/", Route.LOGIN),
        ("/wifidog/login", Route.LOGIN),
        ("/portal/", Route.PORTAL),
        ("/gw_message.php", Route.MESSAGE),
        ("/wifidog/gw_message", Route.MESSAGE),
        ("/wifidog/messages/", Route.MESSAGE),
        ("/", None),
        ("", None),
        ("/index.php", None),
        ("/wifidog/", None),
        ("/authority/", None),
        ("/auth/extra", None),
        ("/oauth", None),
        ("/auth/ping.html", None),
        ("/%61uth/", None),
    ],
)
def test_a_path_is_known_by_its_last_word(path: str, expected: Route | None) -> None:
    assert route(path) is expected
    assert route(path.encode()) is expected


def test_the_paths_our_own_pages_use_are_known() -> None:
    for prefix in wifidog.PREFIXES:
        for paths, expected in (
            (wifidog.LOGIN_PATHS, Route.LOGIN),
            (wifidog.PORTAL_PATHS, Route.PORTAL),
            (wifidog.MESSAGE_PATHS, Route.MESSAGE),
        ):
            assert {route(prefix + path) for path in paths} == {expected}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"stage=counters_v2", Route.COUNTERS_V2),
        (b"k=KEY&stage=counters_v2", Route.COUNTERS_V2),
        (b"stage=counters", Route.AUTH),
        (b"stage=counters_v22", Route.AUTH),
        (b"stage=counters&token=stage=counters_v2", Route.AUTH),
        (b"", Route.AUTH),
    ],
)
def test_counters_v2_is_told_by_its_stage(query: bytes, expected: Route) -> None:
    assert route("/wifidog/auth/", query) is expected
    assert route("/wifidog/ping/", query) is Route.PING


# --- auth calls -----------------------------------------------------------------------------------------------------


def test_a_classic_poll_is_read_whole() -> None:
    assert parse_auth(POLL.encode()) == Report(Stage.COUNTERS, "gw-1", OURS, MAC, "10.77.0.2", 52928, 1130)


def test_an_apfree_poll_is_read_whole() -> None:
    assert parse_auth(APFREE_POLL.encode()) == Report(
        Stage.COUNTERS, "gw-1", OURS, MAC, "10.77.0.2", 714, 31407, device_id="dev-1", dialect=Dialect.APFREE
    )


def test_wifidog_ng_names_itself_first_and_counts_nothing() -> None:
    assert parse_auth(WIFIDOG_NG_LOGIN.encode()) == Report(Stage.LOGIN, "gw-1", OURS, MAC, "10.77.0.2", None, None)


def test_the_key_of_a_router_line_is_read_from_the_query() -> None:
    assert parse_auth(b"k=abc123&" + POLL.encode()).key == "abc123"
    assert parse_auth(POLL.encode()).key == ""
    assert parse_ping(b"k=abc123&" + PING.encode()).key == "abc123"


@pytest.mark.parametrize("stage", Stage)
def test_each_stage_is_known(stage: Stage) -> None:
    assert parse_auth(poll(stage=stage)).stage is stage


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stage": None}, "stage"),
        ({"stage": ""}, "stage"),
        ({"stage": "LOGIN"}, "stage"),
        ({"stage": "roam"}, "stage"),
        ({"stage": "counters_v2"}, "stage"),
        ({"token": None}, "token"),
        ({"gw_id": None}, "gw_id"),
        ({"gw_id": ""}, "gw_id"),
        ({"gw_id": "x" * 65}, "gw_id"),
        ({"gw_id": "a%00b"}, "gw_id"),
        ({"gw_id": "a%0d%0aSet-Cookie:x"}, "gw_id"),
        ({"mac": "02:00:00:00:77"}, "mac"),
        ({"mac": "02:00:00:00:77:0g"}, "mac"),
        ({"mac": "' OR 1=1"}, "mac"),
        ({"device_id": "d" * 65}, "device_id"),
        ({"incoming_bytes": "1"}, "incoming"),
        ({"outgoing": None, "outgoing_bytes": "1"}, "incoming"),
        ({"incoming": None, "incoming_bytes": "1"}, "incoming"),
    ],
)
def test_a_request_that_lacks_or_garbles_what_matters_is_malformed(changes: dict[str, str | None], field: str) -> None:
    malformed = refusal(parse_auth, poll(**changes))
    assert malformed.field == field
    assert not malformed.logout


@pytest.mark.parametrize(
    "query",
    [
        b"stage=logout",
        b"stage=logout&gw_id=&token=x",
        b"k=KEY&stage=logout&token=x&token=y&gw_id=g",
        b"gw_id=g&gw_id=h&stage=logout",
        poll(stage="logout", mac="nonsense"),
        # What a guest of apfree can add stands behind the gateway's own stage.
        b"stage=logout&token=x&stage=login&gw_id=g",
    ],
)
def test_a_malformed_logout_is_still_known_as_a_logout(query: bytes) -> None:
    assert refusal(parse_auth, query).logout


@pytest.mark.parametrize("query", [b"", b"stage=counters&token=x&stage=logout&gw_id=g", b"gw_id=g&token=stage=logout"])
def test_nothing_else_is_taken_for_a_logout(query: bytes) -> None:
    assert not refusal(parse_auth, query).logout


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (OURS, OURS),
        ("", ""),
        ("a+b%2Fc", "a+b/c"),
        ("Auth:%201", "Auth: 1"),
        ("100%", "100%"),
        ("%zz%4", "%zz%4"),
        ("%E9", "é"),
        ("%C3%A9", "é"),
        ("a=b=c", "a=b=c"),
    ],
)
def test_a_token_is_unescaped_but_a_plus_stays_a_plus(sent: str, read: str) -> None:
    assert parse_auth(poll(token=sent)).token == read


@pytest.mark.parametrize(
    "token",
    ["", "abc", OURS[:-1], OURS + "a", OURS.upper(), OURS[:-1] + "1", OURS[:-1] + "8", OURS + "\n", "é" * 40, "٣" * 40],
)
def test_only_forty_characters_of_our_alphabet_look_like_a_token(token: str) -> None:
    assert not wifidog.is_token(token)
    assert wifidog.is_token(OURS)


COUNTERS = [
    ("0", 0),
    ("52928", 52928),
    ("00000000000000000007", 7),
    (str(LARGEST_COUNTER), LARGEST_COUNTER),
    (str(LARGEST_COUNTER + 1), None),
    (str(2**64 - 1), None),
    ("9" * 300, None),
    ("0" * 21, None),
    ("-1", None),
    ("+1", None),
    ("%2B1", None),
    ("1e9", None),
    ("1_000", None),
    ("0x10", None),
    ("1.0", None),
    (" 1", None),
    ("1 ", None),
    ("%31", None),
    ("", None),
    ("N/A", None),
    ("٣", None),
    ("²", None),
    (None, None),
]


@pytest.mark.parametrize(("sent", "read"), COUNTERS)
def test_a_counter_is_a_plain_number_or_nothing(sent: str | None, read: int | None) -> None:
    report = parse_auth(poll(incoming=sent))
    assert (report.incoming, report.outgoing) == (read, 1130)
    report = parse_auth(poll(outgoing=sent))
    assert (report.incoming, report.outgoing) == (52928, read)


@pytest.mark.parametrize(
    ("v4", "v6", "total"),
    [
        ("5", "7", 12),
        ("5", None, 5),
        ("5", "N/A", 5),
        ("5", "", 5),
        ("5", "x", None),
        ("5", "-1", None),
        ("N/A", "7", None),
        (None, "7", None),
        (str(LARGEST_COUNTER), "0", LARGEST_COUNTER),
        (str(LARGEST_COUNTER), "1", None),
    ],
)
def test_apfree_counters_include_ipv6(v4: str | None, v6: str | None, total: int | None) -> None:
    for name, other in (("incoming", "outgoing"), ("outgoing", "incoming")):
        sent = {f"{name}_bytes": v4, f"{name}_bytes_v6": v6, f"{other}_bytes": "1"}
        report = parse_auth(poll(incoming=None, outgoing=None, **sent))
        assert getattr(report, name) == total
        assert getattr(report, other) == 1
        assert report.dialect is Dialect.APFREE


def test_deltas_are_not_read() -> None:
    assert parse_auth(poll(incomingdelta="7", outgoingdelta="oops")) == parse_auth(POLL.encode())


def test_unknown_parameters_are_ignored_however_often_they_come() -> None:
    assert parse_auth(b"new=1&" + POLL.encode() + b"&new=2&x&=&&") == parse_auth(POLL.encode())


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (MAC, MAC),
        ("02:00:00:00:77:0A", "02:00:00:00:77:0a"),
        ("02-00-00-00-77-0A", "02:00:00:00:77:0a"),
        ("0200.0000.770A", "02:00:00:00:77:0a"),
        ("02000000770A", "02:00:00:00:77:0a"),
        ("2:0:0:0:77:a", "02:00:00:00:77:0a"),
        ("02%3A00%3A00%3A00%3A77%3A0a", "02:00:00:00:77:0a"),
        ("", ""),
        (None, ""),
        ("N/A", ""),
        ("null", ""),
        ("00:00:00:00:00:00", ""),
    ],
)
def test_a_mac_is_read_in_every_spelling_gateways_use(sent: str | None, read: str) -> None:
    assert parse_auth(poll(mac=sent)).mac == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:00:00:00:00:00",
        "000000000000",
        "02:00:00:00:77",
        "02:00:00:00:77:02:03",
        "02:00-00:00-77:02",
        "02:00:00:00:77:002",
        "0200.0000.77",
        "02000000770",
        "0x0200000077",
        " 02:00:00:00:77:02",
        "02:00:00:00:77:02\n",
        "٠٢:00:00:00:77:02",
        "02:00:00:00:77:0Ａ",
    ],
)
def test_what_is_no_mac_is_not_made_one(text: str) -> None:
    assert wifidog.normal_mac(text) is None


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("10.77.0.2", "10.77.0.2"),
        ("255.255.255.255", "255.255.255.255"),
        ("fd00::0:2", "fd00::2"),
        ("FE80::1", "fe80::1"),
        ("fd00%3A%3A2", "fd00::2"),
        ("N/A", ""),
        ("", ""),
        (None, ""),
        ("10.77.0.256", ""),
        ("10.77.0.02", ""),
        ("10.77.2", ""),
        ("fe80::1%eth0", ""),
        (":" * 5000, ""),
        ("nonsense", ""),
    ],
)
def test_an_address_is_canonical_or_nothing(sent: str | None, read: str) -> None:
    assert parse_auth(poll(ip=sent)).ip == read


# --- the gateway's name, which nobody escapes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"020000007701", "020000007701"),
        (b"Salt&Pepper", "Salt&Pepper"),
        (b"A&B&C", "A&B&C"),
        (b"A&&B&", "A&B"),
        (b"a+b", "a+b"),
        (b"50%", "50%"),
        (b"50%off", "50%off"),
        (b"cafe#2", "cafe#2"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "café"),
        (b"a%20b", "a b"),
        (b"Auth: 1", "Auth: 1"),
        (b"a;b|c", "a;b|c"),
        (b"x" * 64, "x" * 64),
        ("é".encode() * 64, "é" * 64),
        # Cut at the ampersand, everywhere alike.
        (b"a&b=c", "a"),
    ],
)
def test_a_gateways_name_is_the_same_in_all_its_calls(raw: bytes, read: str) -> None:
    assert parse_auth(poll(gw_id=None) + b"&gw_id=" + raw).gw_id == read
    assert parse_ping(b"gw_id=" + raw + b"&sys_uptime=1").gw_id == read
    assert parse_auth(APFREE_POLL.encode().replace(b"gw_id=gw-1", b"gw_id=" + raw)).gw_id == read
    assert parse_arrival(b"gw_address=10.0.0.1&gw_port=2060&gw_id=" + raw + b"&url=x").gw_id == read
    assert parse_portal(b"gw_id=" + raw + b"&token=t") == wifidog.Portal(read, "t", "")


def test_a_bare_word_belongs_to_the_name_only_right_behind_it() -> None:
    assert parse_auth(b"gw_id=a&b&stage=login&c&token=t&d").gw_id == "a&b"
    assert parse_auth(b"gw_id=a&b&stage=login&c&token=t&d").token == "t"


def in_a_browser(raw: bytes) -> bytes:
    """What a browser makes of bytes in a redirect's query: text, then UTF-8, then escapes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return quote(text, safe="!$%&()*+,-./:;=?@[\\]^_`{|}~").encode()


@given(
    st.tuples(
        st.sampled_from(["", "k=abc123&", "k=&", "k=Key&"]),
        st.sampled_from(["stage=counters", "stage=login", "stage=", "Stage=counters"]),
        st.sampled_from(["10.77.0.2", "256.1.1.1", "", "fd00::1", "010.1.1.1"]).map("&ip={}".format),
        st.sampled_from([MAC, MAC.upper(), "00:00:00:00:00:00", "", "junk"]).map("&mac={}".format),
        st.sampled_from([OURS, OURS.upper(), OURS[1:], OURS + "a", "%41", ""]).map("&token={}".format),
        st.sampled_from(["0", "007", str(10**18 - 1), str(10**18), "-1", "", "\N{ARABIC-INDIC DIGIT TWO}"]).map(
            "&incoming={}&outgoing=5".format
        ),
        st.sampled_from(["gw-1", "020000007701", "a b", "Salt&Pepper", "é", "%41", "", "x" * 65]).map(
            "&gw_id={}".format
        ),
        st.sampled_from(["", "", "", "&gw_id=two", "&", "\n", "&token=other"]),
    ).map("".join)
)
def test_the_usual_spelling_means_what_it_means_when_it_is_taken_apart(query: str) -> None:
    def read(raw: bytes) -> Report | str:
        try:
            return parse_auth(raw)
        except Malformed as malformed:
            return str(malformed)

    # An empty parameter at the end says nothing, but is not usual.
    assert read(query.encode()) == read(query.encode() + b"&")


@given(st.binary(max_size=70))
def test_gateway_and_browser_agree_on_the_name(raw: bytes) -> None:
    raw = re.sub(rb"[\x00-\x20\x7f=#]", b"", raw)  # The configuration holds words; a browser stops at the hash.

    def name(query: bytes) -> str:
        try:
            return parse_ping(query).gw_id
        except Malformed as malformed:
            return f"malformed {malformed.field}"

    assert name(b"gw_id=" + raw + b"&device_id=d") == name(b"gw_id=" + in_a_browser(raw) + b"&device_id=d")


# --- a parameter that comes twice -----------------------------------------------------------------------------------

CALLS: list[tuple[Callable[[bytes], object], str]] = [
    (parse_auth, POLL),
    (parse_auth, POLL.replace("&gw_id", "&incomingdelta=1&outgoingdelta=1&gw_id")),
    (parse_auth, APFREE_POLL),
    (parse_auth, WIFIDOG_NG_LOGIN),
    (parse_ping, PING),
    (parse_arrival, ARRIVAL),
    (parse_message, "message=denied&token=t"),
    (parse_portal, "gw_id=gw-1&token=t"),
]


def doubled() -> Iterable[tuple[Callable[[bytes], object], str, bytes]]:
    """Every known parameter, a second time behind every parameter of every call."""
    for (parse, call), name in product(CALLS, sorted(PARAMETERS)):
        pieces = call.encode().split(b"&")
        for at in range(len(pieces)):
            pair = [*pieces[: at + 1], name + b"=1", *pieces[at + 1 :]]
            if not any(piece.startswith(name + b"=") for piece in pieces):
                pair.insert(0, name + b"=2")
            yield parse, name.decode(), b"&".join(pair)


def test_no_parameter_may_come_twice() -> None:
    cases = list(doubled())
    assert len(cases) > 2500
    for parse, name, query in cases:
        assert refusal(parse, query).field == name, query


def test_a_guests_token_cannot_speak_for_an_apfree_gateway() -> None:
    """apfree unescapes what the guest typed and pastes it in front of its own parameters."""
    for typed in (
        "t&gw_id=other",
        "t&incoming_bytes=0",
        "t&incoming=0&outgoing=0",
        "t&mac=02:00:00:00:00:99",
        "t&stage=login",
        "t&device_id=other",
        "t&incoming_bytes=0&outgoing_bytes=0&gw_id=other&",
    ):
        refusal(parse_auth, APFREE_POLL.replace(OURS, typed).encode())


# --- heartbeats -----------------------------------------------------------------------------------------------------


def test_a_heartbeat_survives_measurements_that_cannot_be_read() -> None:
    heartbeat = parse_ping(b"gw_id=g&sys_uptime=-1&sys_memfree=&sys_load=nan&wifidog_uptime=1e3&cpu_usage=%31")
    assert heartbeat == wifidog.Heartbeat("g", "", "", None, None, None, None)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("0.15", 0.15),
        ("3", 3.0),
        ("18.00", 18.0),
        ("inf", None),
        ("-1", None),
        ("1.", None),
        (".5", None),
        ("1e5", None),
        ("9" * 400, None),
    ],
)
def test_a_load_is_a_plain_decimal(sent: str, read: float | None) -> None:
    assert parse_ping(f"gw_id=g&sys_load={sent}".encode()).sys_load == read


def test_an_apfree_heartbeat_is_read_whole() -> None:
    query = (
        b"device_id=d&sys_uptime=1&sys_memfree=2&sys_load=0.3&nf_conntrack_count=4&cpu_usage=5.5&wifidog_uptime=6"
        b"&online_clients=7&offline_clients=8&ssid=Guests&fm_version=f&type=t&name=n&wired_passed=9&aw_version=v"
    )
    assert parse_ping(query) == wifidog.Heartbeat(
        *("", "d", "", 1, 2, 0.3, 6, Dialect.APFREE),
        cpu_usage=5.5,
        connections=4,
        online_clients=7,
        offline_clients=8,
        ssid="Guests",
        name="n",
        model="t",
        firmware="f",
        version="v",
    )


def test_apfrees_words_for_unknown_are_empty_and_its_texts_are_clean() -> None:
    heartbeat = parse_ping(b"device_id=d&ssid=null&name=N/A&type=(null)&fm_version=1.2%00%0a3&aw_version=" + b"9" * 99)
    assert (heartbeat.ssid, heartbeat.name, heartbeat.model) == ("", "", "")
    assert (heartbeat.firmware, heartbeat.version) == ("1.23", "9" * 64)
    assert heartbeat.dialect is Dialect.APFREE


@pytest.mark.parametrize("query", [b"", b"sys_uptime=1", b"gw_id=&device_id=", b"gw_id=%00", b"device_id=" + b"d" * 65])
def test_a_heartbeat_of_nobody_is_malformed(query: bytes) -> None:
    refusal(parse_ping, query)


# --- counters_v2 ----------------------------------------------------------------------------------------------------

V2 = b"stage=counters_v2"


def listing(*clients: str, gw_id: str = "g", device_id: str = '"d"') -> bytes:
    gateway = f'{{"gw_id":{json.dumps(gw_id)},"gw_channel":"c","clients":[{",".join(clients)}]}}'
    return f'{{"device_id":{device_id},"gateway":[{gateway}]}}'.encode()


def listed(text: str) -> tuple[Client, ...]:
    (fleet,) = parse_counters_v2(V2, listing(text))
    return fleet.clients


GOOD = f'{{"id":1,"token":"{OURS}","mac":"{MAC}","ip":"10.0.0.9","incoming_bytes":5,"outgoing_bytes":6}}'
GOOD_REPORT = Report(Stage.COUNTERS, "g", OURS, MAC, "10.0.0.9", 5, 6, "", "d", 1, Dialect.APFREE)


def test_every_client_of_every_gateway_is_reported() -> None:
    body = (
        b'{"device_id":"d","gateway":[{"gw_id":"g","clients":[' + GOOD.encode() + b"]},"
        b'{"gw_id":"h","clients":[]},{"gw_id":"i"}],"later":{"we":["know"]}}'
    )
    assert parse_counters_v2(b"k=KEY&" + V2, body) == (
        Fleet("g", "d", "KEY", (Client(1, GOOD_REPORT._replace(key="KEY")),)),
        Fleet("h", "d", "KEY", ()),
        Fleet("i", "d", "KEY", ()),
    )


@pytest.mark.parametrize(
    ("members", "attributes"),
    [
        ("", {"mac": "", "ip": "", "incoming": None, "outgoing": None}),
        ('"mac":null,"ip":null,"ip6":null', {"mac": "", "ip": ""}),
        ('"mac":"N/A","ip":"N\\/A","ip6":"N\\/A"', {"mac": "", "ip": ""}),
        ('"ip":"N/A","ip6":"fd00::0:9"', {"ip": "fd00::9"}),
        ('"ip":"10.0.0.9","ip6":"fd00::9"', {"ip": "10.0.0.9"}),
        ('"ip":"10.0.0.9","ip6":""', {"ip": "10.0.0.9"}),
        ('"incoming_bytes":5,"incoming_bytes_v6":7', {"incoming": 12, "outgoing": None}),
        (f'"incoming_bytes":{LARGEST_COUNTER},"incoming_bytes_v6":1', {"incoming": None}),
        ('"outgoing_bytes":null', {"outgoing": None}),
        ('"name":7,"wired":"yes","first_login":1e999', {"token": "T"}),
        (f'"mac":"{MAC.upper()}"', {"mac": MAC}),
    ],
)
def test_what_is_missing_or_new_does_no_harm(members: str, attributes: dict[str, object]) -> None:
    (client,) = listed('{"id":1,"token":"T"' + ("," + members if members else "") + "}")
    assert client.report is not None
    assert {name: getattr(client.report, name) for name in attributes} == attributes
    assert client.report.client_id == client.id == 1


@pytest.mark.parametrize(
    "members",
    [
        '"mac":"02:00:00:00:77:02"',
        '"token":null',
        '"token":7',
        '"token":"T","mac":"nonsense"',
        '"token":"T","mac":7',
        '"token":"T","ip":7',
        '"token":"T","incoming_bytes":-1',
        '"token":"T","incoming_bytes":9223372036854775808',
        '"token":"T","incoming_bytes":123456789012345678901234567890',
        '"token":"T","incoming_bytes":"5"',
        '"token":"T","incoming_bytes":0.5',
        '"token":"T","outgoing_bytes_v6":true',
        '"token":"T","outgoing_bytes":[]',
    ],
)
def test_a_client_that_cannot_be_read_is_named_and_harms_no_other(members: str) -> None:
    (fleet,) = parse_counters_v2(V2, listing('{"id":7,' + members + "}", GOOD))
    assert fleet.clients == (Client(7, None), Client(1, GOOD_REPORT))


@pytest.mark.parametrize(
    "client", ["7", "null", "[]", "{}", '{"id":"7","token":"T"}', '{"id":-1,"token":"T"}', '{"id":1.5}']
)
def test_a_client_without_a_number_is_left_out(client: str) -> None:
    (fleet,) = parse_counters_v2(V2, listing(client, GOOD))
    assert fleet.clients == (Client(1, GOOD_REPORT),)


def test_a_device_name_in_another_encoding_spoils_nothing() -> None:
    body = listing(GOOD[:-1] + ',"name":"X"}').replace(b"X", "客厅".encode("gbk"))
    (fleet,) = parse_counters_v2(V2, body)
    assert fleet.clients == (Client(1, GOOD_REPORT),)


def test_a_gateways_name_in_another_encoding_is_the_same_in_body_and_query() -> None:
    (fleet,) = parse_counters_v2(V2, listing(GOOD, gw_id="X", device_id='"Y"').replace(b"X", b"caf\xe9"))
    assert fleet.gw_id == parse_auth(poll(gw_id=None) + b"&gw_id=caf\xe9").gw_id == "café"
    assert fleet.clients == (Client(1, GOOD_REPORT._replace(gw_id="café", device_id="Y")),)


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (V2, b""),
        (V2, b"\xff\xfe"),
        (V2, b"null"),
        (V2, b"[]"),
        (V2, b"{"),
        (V2, b'{"gateway":7}'),
        (V2, b'{"gateway":[7]}'),
        (V2, b'{"gateway":[{}]}'),
        (V2, b'{"gateway":[{"gw_id":""}]}'),
        (V2, b'{"gateway":[{"gw_id":"\\u0000"}]}'),
        (V2, b'{"gateway":[{"gw_id":"\\ud800"}]}'),
        (V2, b'{"gateway":[{"gw_id":7}]}'),
        (V2, b'{"device_id":7}'),
        (V2, listing(gw_id="g" * 65)),
        (V2, listing(device_id=json.dumps("d" * 65))),
        (V2, b"[" * 100_000),
        (V2, b'{"gateway":' * 50_000),
        (V2, listing("[" * 50_000)),
        (b"stage=counters", listing(GOOD)),
        (b"", listing(GOOD)),
        (b"stage=counters_v2&stage=counters_v2", listing(GOOD)),
        (b"k=a&stage=counters_v2&k=b", listing(GOOD)),
    ],
)
def test_a_body_or_query_of_another_shape_is_malformed(query: bytes, body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_counters_v2(query, body)


def test_of_a_key_longer_than_any_little_is_kept() -> None:
    long = b"k=" + b"a" * 8_000
    assert len(wifidog.parse_ping(long + b"&gw_id=g").key) == wifidog.LONGEST_ID
    assert len(wifidog.parse_auth(long + b"&stage=login&token=&gw_id=g").key) == wifidog.LONGEST_ID


def test_no_call_lists_so_many_that_reading_them_keeps_everybody_waiting() -> None:
    (fleet,) = parse_counters_v2(V2, listing(*["1"] * wifidog.MOST_CLIENTS))
    assert fleet.clients == ()
    with pytest.raises(Malformed, match="at most"):
        parse_counters_v2(V2, listing(*["1"] * (wifidog.MOST_CLIENTS + 1)))
    gateways = [{"gw_id": f"gw-{number}"} for number in range(wifidog.MOST_GATEWAYS + 1)]
    assert len(parse_counters_v2(V2, json.dumps({"gateway": gateways[1:]}).encode())) == wifidog.MOST_GATEWAYS
    with pytest.raises(Malformed, match="at most"):
        parse_counters_v2(V2, json.dumps({"gateway": gateways}).encode())


def test_a_device_without_gateways_gets_an_answer_without_results() -> None:
    assert parse_counters_v2(V2, b"{}") == ()
    assert json.loads(wifidog.answer_v2([])) == {"result": []}


def test_the_answer_names_every_client_with_a_number() -> None:
    one = Fleet("g", "d", "", (Client(4, GOOD_REPORT), Client(7, None)))
    two = Fleet("h", "d", "", ())
    body = wifidog.answer_v2([(one, [Answer.DENY, Answer.NEUTRAL]), (two, [])])
    assert json.loads(body) == {
        "result": [
            {"gw_id": "g", "auth_op": [{"id": 4, "auth_code": 0}, {"id": 7, "auth_code": -1}]},
            {"gw_id": "h", "auth_op": []},
        ]
    }
    headers = dict(wifidog.headers_v2(body))
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert headers["Connection"] == "close"


@pytest.mark.parametrize("answers", [[], [Answer.ALLOW, Answer.ALLOW], [Answer.PONG]])
def test_a_client_is_never_left_without_an_answer(answers: list[Answer]) -> None:
    with pytest.raises(ValueError, match="argument 2|is no answer"):
        wifidog.answer_v2([(Fleet("g", "d", "", (Client(1, None),)), answers)])


@given(st.lists(st.sampled_from(["Auth: ", "Pong", "Auth: 1", "\\", '"', "\\u0041", "é", "P", "ong", "A"])))
def test_no_name_of_a_gateway_puts_words_into_our_answer(pieces: list[str]) -> None:
    gw_id = "".join(pieces)
    body = wifidog.answer_v2([(Fleet(gw_id, "", "", ()), [])])
    assert json.loads(body)["result"][0]["gw_id"] == gw_id
    assert b"Auth: " not in body
    assert b"Pong" not in body


# --- what the browser brings ----------------------------------------------------------------------------------------


def test_an_arrival_of_1_1_5_knows_neither_address_nor_mac() -> None:
    assert parse_arrival(b"gw_address=10.0.0.1&gw_port=2060&gw_id=g&url=http%3A%2F%2Fa.example%2F") == wifidog.Arrival(
        "g", "10.0.0.1", 2060, "", "", "http://a.example/", "", ""
    )


def test_an_arrival_without_anything_is_still_an_arrival() -> None:
    assert parse_arrival(b"") == wifidog.Arrival("", "", 2060, "", "", "", "", "")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2060", 2060),
        ("1", 1),
        ("65535", 65535),
        ("65536", None),
        ("99999999999999", None),
        ("0", None),
        ("02060", None),
        ("-1", None),
        ("+80", None),
        ("", None),
        (" 80", None),
        ("80%0a", None),
        ("80@evil.example", None),
        ("٨٠", None),
        ("８０", None),
    ],
)
def test_a_port_is_strict(sent: str, read: int | None) -> None:
    assert parse_arrival(b"gw_id=g&gw_port=" + sent.encode()).gw_port == read


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"http%3A%2F%2Fa.example%2F", "http://a.example/"),
        (b"http%3A%2F%2Fa.example%2F%", "http://a.example/"),
        (b"http%3A%2F%2Fa.example%2F%2", "http://a.example/"),
        (b"http%3A%2F%2Fa.example%2F%2Fb+c", "http://a.example//b+c"),
        (b"http%3A%2F%2Fa.example%2F%ff", "http://a.example/ÿ"),
        (b"null", ""),
        (b"", ""),
    ],
)
def test_the_wanted_address_may_be_cut_in_the_middle_of_an_escape(sent: bytes, read: str) -> None:
    assert parse_arrival(b"gw_id=g&url=" + sent).url == read


def test_an_arrivals_unreadable_values_are_empty() -> None:
    arrival = parse_arrival(b"gw_id=g&mac=nonsense&ip=999.1.1.1&ssid=null&gw_address=evil.example%00")
    assert (arrival.mac, arrival.ip, arrival.ssid) == ("", "", "")
    assert private_literal(arrival.gw_address) is None


def test_an_arrival_of_another_mac_spelling_is_the_same_station() -> None:
    assert parse_arrival(b"mac=02-00-00-00-77-02").mac == parse_arrival(b"mac=" + MAC.encode()).mac == MAC


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"message=denied", (MessageKind.DENIED, "", "", "")),
        (b"message=activate&token=T", (MessageKind.ACTIVATE, "T", "", "")),
        (b"message=failed_validation&token=T", (MessageKind.FAILED_VALIDATION, "T", "", "")),
        (b"message=logged-out", (MessageKind.LOGGED_OUT, "", "", "")),
        (b"message=DENIED", (None, "", "", "")),
        (b"message=<script>", (None, "", "", "")),
        (b"", (None, "", "", "")),
        (b"gw_id=g&mac=" + MAC.encode(), (None, "", "g", MAC)),
    ],
)
def test_the_messages_of_every_gateway_are_known(query: bytes, expected: tuple[object, ...]) -> None:
    message = parse_message(query)
    assert (message.kind, message.token, message.gw_id, message.mac) == expected


# --- the way back to the gateway ------------------------------------------------------------------------------------

PRIVATE = [
    ("10.0.0.1", "10.0.0.1"),
    ("172.16.0.1", "172.16.0.1"),
    ("172.31.255.254", "172.31.255.254"),
    ("192.168.1.1", "192.168.1.1"),
    ("100.64.0.1", "100.64.0.1"),
    ("100.127.255.254", "100.127.255.254"),
    ("169.254.1.1", "169.254.1.1"),
    ("127.0.0.1", "127.0.0.1"),
    ("fd00:0:0::1", "fd00::1"),
    ("FC00::A", "fc00::a"),
    ("fe80::1", "fe80::1"),
    ("::1", "::1"),
]
REFUSED = [
    "",
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "192.167.255.255",
    "0.0.0.0",  # noqa: S104
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "evil.example",
    "localhost",
    "10.0.0.1.evil.example",
    "10.0.0.1.",
    ".10.0.0.1",
    "10.0.0.1:80",
    "10.0.0.1/",
    "10.0.0.1#",
    "10.0.0.1?",
    "10.0.0.1\\@evil.example",
    "10.0.0.1@evil.example",
    "evil.example@10.0.0.1",
    "user:10.0.0.1",
    " 10.0.0.1",
    "10.0.0.1 ",
    "10.0.0.1\n",
    "10.0.0.1\x00",
    "10.0.1",
    "10.1",
    "010.0.0.1",
    "0xa.0.0.1",
    "0x0a000001",
    "167772161",
    "012000000001",
    "10.0.0.256",
    "10.0.0.-1",
    "10.0.0.1e0",
    "10,0,0,1",
    "10。0。0。1",
    "１０.0.0.1",
    "١٠.0.0.1",
    "²0.0.0.1",
    "::",
    "::ffff:10.0.0.1",
    "::ffff:a00:1",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:a00:1::",
    "2001:db8::1",
    "2a00:1450::1",
    "ff02::1",
    "fec0::1",
    "[fd00::1]",
    "fe80::1%eth0",
    "fe80::1%25eth0",
    "fd00::1/64",
    "fd00:::1",
    "fd00::g",
    "ｆd00::1",
]


@pytest.mark.parametrize(("address", "literal"), PRIVATE)
def test_a_private_literal_is_taken_in_its_canonical_spelling(address: str, literal: str) -> None:
    assert private_literal(address) == literal


@pytest.mark.parametrize("address", REFUSED)
def test_everything_else_is_no_place_to_send_a_token(address: str) -> None:
    assert private_literal(address) is None


NEVER_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
        *("fc00::/7", "fe80::/10", "::1/128"),
    )
]

ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
WIDE = str.maketrans("0123456789.", "０１２３４５６７８９．")


def spellings(quad: str) -> list[str]:
    """One address in the ways that some resolver, browser or library somewhere takes for it."""
    first, second, third, last = quad.split(".")
    number = int(ipaddress.IPv4Address(quad))
    return [
        quad,
        str(number),
        hex(number),
        f"0{number:o}",
        f"{first}.{int(second) * 65536 + int(third) * 256 + int(last)}",
        f"{first}.{second}.{int(third) * 256 + int(last)}",
        ".".join(f"{int(octet):03}" for octet in quad.split(".")),
        ".".join(f"0{int(octet):o}" for octet in quad.split(".")),
        ".".join(hex(int(octet)) for octet in quad.split(".")),
        f"{first}.{second}.{third}.0{int(last):o}",
        quad.translate(ARABIC),
        quad.translate(WIDE),
        quad.replace(".", "。"),
        f"::ffff:{quad}",
        f"::{quad}",
        f"64:ff9b::{quad}",
        f"fd00::{quad}",
        f"2002:{number >> 16:x}:{number & 65535:x}::1",
        f"{first}.{second}.{third}.{int(last) + 256}",
        f"{quad}.{quad}",
    ]


def hostile_addresses() -> Iterable[str]:
    quads = ("10.0.0.1", "192.168.1.66", "100.64.0.1", "169.254.169.254", "8.8.8.8", "172.32.0.1", "203.0.113.9")
    before = ("", "[", " ", "user@", "evil.example@", "evil.example#", "//", "http://", "\\", "\t")
    after = ("", "]", ".", " ", "\n", "\x00", "#", "/", "\\", ":80", "%eth0", "@evil.example", ".evil.example")
    for quad, front, back in product(quads, before, after):
        for spelt in spellings(quad):
            yield front + spelt + back


def assert_never_public(address: str) -> str | None:
    literal = private_literal(address)
    if literal is not None:
        parsed = ipaddress.ip_address(literal)
        assert str(parsed) == literal
        assert any(parsed in network for network in NEVER_PUBLIC if network.version == parsed.version)
        assert ipaddress.ip_address(address) == parsed
    return literal


def test_no_spelling_of_an_address_yields_anything_public() -> None:
    addresses = list(hostile_addresses())
    assert len(addresses) > 10_000
    taken = {address for address in addresses if assert_never_public(address)}
    private = {"10.0.0.1", "192.168.1.66", "100.64.0.1", "169.254.169.254"}
    # The plain spellings, and a private IPv6 address that ends in somebody's IPv4 one.
    assert taken == private | {address for address in addresses if re.fullmatch(r"fd00::[0-9.]+[0-9]", address)}


@settings(max_examples=300)
@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.lists(st.sampled_from(["fd00", "fe80", "ffff", "0", "", "10.0.0.1", "8.8.8.8"]), max_size=9).map(":".join),
        st.text(alphabet="0123456789abcdef.:%[]x", max_size=24),
        st.text(max_size=12),
    )
)
def test_no_text_at_all_yields_anything_public(address: str) -> None:
    assert_never_public(address)


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("10.0.0.1", 2060, "http://10.0.0.1:2060/wifidog/auth?token=T&gw_id=G"),
        ("10.0.0.1", 80, "http://10.0.0.1:80/wifidog/auth?token=T&gw_id=G"),
        ("fd00::1", 2060, "http://[fd00::1]:2060/wifidog/auth?token=T&gw_id=G"),
        ("FD00:0::1", 2060, "http://[fd00::1]:2060/wifidog/auth?token=T&gw_id=G"),
        ("router.lan", 2060, "http://router.lan:2060/wifidog/auth?token=T&gw_id=G"),
    ],
)
def test_the_browser_takes_its_token_to_the_gateway(address: str, port: int, expected: str) -> None:
    assert return_url(address, port, "T", "G") == expected


@given(st.text(), st.text())
def test_the_gateway_gets_back_its_own_name_and_the_token(token: str, gw_id: str) -> None:
    token, gw_id = (text.encode(errors="replace").decode() for text in (token, gw_id))
    url = return_url("10.0.0.1", 2060, token, gw_id)
    assert re.fullmatch(r"[!-~]+", url)
    values = parse_qs(urlsplit(url).query, keep_blank_values=True)
    assert values == {"token": [token], "gw_id": [gw_id]}


@pytest.mark.parametrize(
    "address",
    ["", "a b", "evil.example/x", "a@b", "a\r\nb", "[fd00::1]", "-x", "x-", "fe80::1%eth0", "a\\b", "é", "a" * 254],
)
def test_no_address_breaks_the_return_url(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        return_url(address, 2060, "T", "G")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_port_breaks_the_return_url(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        return_url("10.0.0.1", port, "T", "G")


# --- the way onward -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://example.org/",
        "https://example.org/a?b=c#d",
        "http://example.org?b=c",
        "HTTP://Example.ORG:8080/x",
        "http://10.0.0.1/",
        "http://[fd00::1]/",
        "http://xn--caf-dma.example/",
        "http://my_host.example./%20%",
        "http://example.org/@me",
        "http://www.apple.com/",
        "http://www.google.com/search?q=generate_204",
        "http://example.org/" + "a" * (2048 - len("http://example.org/")),
    ],
)
def test_an_ordinary_address_may_be_offered(url: str) -> None:
    assert onward(url) == url
    assert not wifidog.probe_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//example.org/",
        "example.org",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://example.org/",
        "http:///x",
        "http://",
        "http:/example.org/",
        "http:\\\\example.org",
        "http://example.org\\@evil.example/",
        "http://user@example.org/",
        "http://user:password@example.org/",
        "http://example.org /",
        " http://example.org/",
        "http://example.org/\n",
        "http://example.org/a b",
        "http://example.org/\x00",
        "http://example.org/\\x",
        "http://example.org:port/",
        "http://exa%6dple.org/",
        "http://exámple.org/",
        "http://example.org/é",
        "http://exampleſ.org/",
        "http://.example.org/",
        "http://example.org-/",
        "http://[fd00::1/",
        "http://[1]/",
        "http://[10.0.0.1]/",
        "http://[::1::]/",
        "http://example.org/" + "a" * (2049 - len("http://example.org/")),
    ],
)
def test_what_a_person_could_misread_is_not_offered(url: str) -> None:
    assert onward(url) is None
    assert not wifidog.probe_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://captive.apple.com/hotspot-detect.html",
        "http://captive.apple.com",
        "http://CAPTIVE.apple.com./",
        "http://www.apple.com/library/test/success.html",
        "http://www.appleiphonecell.com/",
        "http://www.itools.info/x",
        "http://www.ibook.info/",
        "http://www.airport.us/",
        "http://www.thinkdifferent.us/",
        "http://connectivitycheck.gstatic.com/generate_204",
        "http://www.gstatic.com/generate_204",
        "http://clients3.google.com/generate_204",
        "http://play.googleapis.com/generate_204",
        "http://www.google.com/gen_204",
        "https://www.google.com/generate_204",
        "http://connect.rom.miui.com/generate_204",
        "http://wifi.vivo.com.cn/generate_204",
        "http://conn1.oppomobile.com/generate_204",
        "http://connectivitycheck.platform.hicloud.com/generate_204?x=1",
        "http://connectivitycheck.cbg-app.huawei.com/other",
        "http://www.msftconnecttest.com/connecttest.txt",
        "http://ipv6.msftconnecttest.com/connecttest.txt",
        "http://www.msftconnecttest.com/redirect",
        "http://www.msftncsi.com/ncsi.txt",
        "http://edge-http.microsoft.com/captiveportal/generate_204",
        "http://detectportal.firefox.com/canonical.html",
        "http://detectportal.firefox.com/success.txt?ipv4",
        "http://nmcheck.gnome.org/check_network_status.txt",
        "http://network-test.debian.org/nm",
        "http://connectivity-check.ubuntu.com/",
        "http://connectivity-check.ubuntu.com:80/",
        "http://fedoraproject.org/static/hotspot.txt",
        "http://ping.archlinux.org",
        "http://spectrum.s3.amazonaws.com/kindle-wifi/wifistub.html",
    ],
)
def test_a_connectivity_probe_is_never_offered(url: str) -> None:
    assert wifidog.probe_url(url)
    assert onward(url) is None


@given(st.text(alphabet="htps:/\\@.?#[]%a1é \n\t;&='\"<>", max_size=40).map("http://".__add__))
def test_an_offered_address_has_the_host_it_seems_to_have(url: str) -> None:
    if onward(url) is not None:
        parts = urlsplit(url)
        assert parts.username is None
        assert re.fullmatch(r"[!-~]+", url)
        assert "\\" not in url
        assert url.startswith(f"http://{parts.netloc}")
        assert re.fullmatch(r"[^/?#@\\]+", parts.netloc)


# --- whatever the bytes ---------------------------------------------------------------------------------------------

PARSERS: tuple[Callable[[bytes], object], ...] = (
    parse_auth,
    parse_ping,
    parse_arrival,
    parse_message,
    parse_portal,
    lambda query: route(query, query),
    lambda query: parse_counters_v2(query, query),
    lambda body: parse_counters_v2(V2, body),
)


def attempt(parse: Callable[[bytes], object], data: bytes) -> Malformed | None:
    try:
        parse(data)
    except Malformed as malformed:
        return malformed
    return None


values = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"login", b"logout", b"counters_v2", MAC.encode(), b"10.0.0.1", b"fd00::1", b"N/A"]),
    st.sampled_from([b"%", b"%4", b"%00", b"7"]),
)
pieces = st.one_of(
    st.tuples(st.sampled_from(sorted(PARAMETERS)), values).map(b"=".join),
    st.binary(max_size=8),
)
queries = st.one_of(st.binary(), st.lists(pieces, max_size=14).map(b"&".join))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real call with some bytes overwritten, cut out or put in."""
    data = bytearray(draw(st.sampled_from([call for _, call in CALLS])).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=4))
    return bytes(data)


tokens = st.sampled_from([b"[", b'"', b"}", b"1e9", b"null"])


@st.composite
def damaged_body(draw: st.DrawFn) -> bytes:
    data = bytearray(listing(GOOD, GOOD))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 5))] = draw(st.one_of(st.binary(max_size=4), tokens))
    return bytes(data)


@settings(max_examples=500)
@given(st.one_of(queries, damaged(), damaged_body()))
def test_no_bytes_raise_anything_but_malformed(data: bytes) -> None:
    for parse in PARSERS:
        malformed = attempt(parse, data)
        if malformed is not None:
            assert malformed.field.encode() in PARAMETERS | {b"body"}
            assert str(malformed).isascii()


@settings(max_examples=400)
@given(st.one_of(queries, damaged()))
def test_what_is_read_is_fit_to_be_stored(query: bytes) -> None:
    """PostgreSQL takes no NUL, a name is at most 64 characters, a counter fits a bigint."""
    try:
        report = parse_auth(query)
    except Malformed:
        return
    assert 1 <= len(report.gw_id) <= 64
    assert "\0" not in report.gw_id + report.device_id + report.mac + report.ip
    assert report.mac == "" or wifidog.normal_mac(report.mac) == report.mac
    assert report.ip == "" or str(ipaddress.ip_address(report.ip)) == report.ip
    for counter in (report.incoming, report.outgoing):
        assert counter is None or 0 <= counter <= LARGEST_COUNTER
    (report.gw_id + report.token).encode()


@given(st.sampled_from([call for _, call in CALLS]), st.sampled_from(sorted(PARAMETERS)))
def test_a_refusal_repeats_nothing_that_was_sent(call: str, name: bytes) -> None:
    secret = "Auth: 1 zq7x"
    for query in (
        call.replace("=", f"={secret}"),
        call + f"&{name.decode()}={secret}&{name.decode()}={secret}",
        f"{name.decode()}={secret * 20}",
    ):
        for parse in PARSERS:
            malformed = attempt(parse, query.encode())
            if malformed is not None:
                assert "zq7x" not in f"{malformed} {malformed.__cause__} {malformed.field} {malformed.expected}"
                assert "Auth: " not in str(malformed)


# What libhttpd leaves bare where it escapes (libhttpd/protocol.c, _httpd_escape).
BARE = b"!\"$'()*+,-.@_"


def as_libhttpd_escapes(text: str) -> bytes:
    return b"".join(
        bytes([byte]) if chr(byte).isascii() and (chr(byte).isalnum() or byte in BARE) else b"%%%02X" % byte
        for byte in text.encode()
    )


words = st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="=%")


@given(
    stage=st.sampled_from(Stage),
    ip=st.ip_addresses(v=4).map(str),
    mac=st.binary(min_size=6, max_size=6).filter(any).map(lambda raw: raw.hex(":")),
    token=st.text(st.characters(codec="utf-8"), max_size=60),
    counters=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    delta=st.booleans(),
    key=st.sampled_from(["", "k3y"]),
    gw_id=st.text(words, min_size=1, max_size=64),
)
def test_a_classic_request_is_read_as_it_was_written(
    stage: Stage, ip: str, mac: str, token: str, counters: tuple[int, int], delta: bool, key: str, gw_id: str
) -> None:
    incoming, outgoing = counters
    query = b"".join(
        (
            f"k={key}&".encode() if key else b"",
            f"stage={stage}&ip={ip}&mac={mac}&token=".encode(),
            as_libhttpd_escapes(token),
            f"&incoming={incoming}&outgoing={outgoing}".encode(),
            b"&incomingdelta=1&outgoingdelta=2" if delta else b"",
            f"&gw_id={gw_id}".encode(),
        )
    )
    expected = "&".join(word for word in gw_id.split("&") if word)
    if not expected:
        assert refusal(parse_auth, query).field == "gw_id"
        return
    report = parse_auth(query)
    if not gw_id.startswith("&"):
        assert report.gw_id == expected
    assert (report.stage, report.token, report.mac, report.ip, report.key) == (stage, token, mac, ip, key)
    assert report.incoming == (incoming if incoming <= LARGEST_COUNTER else None)
    assert report.outgoing == (outgoing if outgoing <= LARGEST_COUNTER else None)
