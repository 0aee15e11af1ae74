"""A small browser: pages, forms, redirects. Enough for a guest of an emulated gateway, no scripts, no cookies.

Promises: what it sends is what a plain browser would send for the form that it was shown, hidden fields included.
"""

import html
import http.client
import re
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import quote, urlencode, urljoin, urlsplit

PATIENCE = 30.0
_HOPS = 10
_SCRIPTED = re.compile(rb"window\.location\.href = '([^']*)'")

# (method, url, headers, body) → (status, headers in lower case, body); status 0 is an empty answer.
Fetch = Callable[[str, str, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]


@dataclass(slots=True)
class Form:
    """A form as the page has it: `fields` with their present values, `names` also of those that are not filled in."""

    action: str = ""
    method: str = "GET"
    fields: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser ended up with. `hops`: the URLs on the way, this page's own last."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes
    hops: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def title(self) -> str:
        """What a browser shows as the page's name; "" if it has none."""
        found = re.search("<title>([^<]*)</title>", self.text)
        return html.unescape(found[1]).strip() if found else ""

    def forms(self) -> list[Form]:
        reader = _Forms()
        reader.feed(self.text)
        return reader.forms

    def form(self, *names: str) -> Form:
        """The first form that has all these fields; without names, the first that is posted. LookupError if none."""
        for form in self.forms():
            if form.names.issuperset(names) and (names or form.method == "POST"):
                return form
        wanted = f"a form with {', '.join(names)}" if names else "a form to send"
        said = f"expected {wanted} on the page at {urlsplit(self.url).path} (status {self.status})"
        unknown = "; a server that does not know this gateway answers so: adopt it there first"
        raise LookupError(said + (unknown if self.status == 404 else ""))


class _Forms(HTMLParser):
    """Collects forms; a checkbox counts when it is checked, the first button of a form is the one that is pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open: Form | None = None
        self._pressed = False
        self._select = ""
        self._area = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(given.get("action", ""), given.get("method", "get").upper())
            self._pressed = False
            self.forms.append(self._open)
        elif self._open is not None and "disabled" not in given:
            self._control(self._open, tag, given)

    def _control(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name, kind = given.get("name", ""), given.get("type", "").lower()
        if tag == "button" or (tag == "input" and kind in ("submit", "image")):
            if name and not self._pressed and kind in ("", "submit"):
                form.fields[name] = given.get("value", "")
            self._pressed = self._pressed or kind in ("", "submit")
        elif tag == "option" and self._select:
            if "selected" in given or self._select not in form.fields:
                form.fields[self._select] = given.get("value", "")
        elif not name:
            return
        elif tag == "select":
            form.names.add(name)
            self._select = name
        elif tag == "textarea":
            form.names.add(name)
            form.fields[name] = ""
            self._area = name
        elif tag == "input":
            form.names.add(name)
            if kind not in ("checkbox", "radio", "file", "reset", "button"):
                form.fields[name] = given.get("value", "")
            elif kind in ("checkbox", "radio") and "checked" in given:
                form.fields[name] = given.get("value", "on")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        elif tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._open is not None and self._area:
            self._open.fields[self._area] += data


def visit(fetch: Fetch, method: str, url: str, headers: dict[str, str], body: bytes = b"") -> Page:
    """Asks for a page and follows its redirects, those of apfree's scripts too; a redirect is followed by GET."""
    hops: list[str] = []
    for _ in range(_HOPS):
        url = _written(url)
        hops.append(url)
        status, found, content = fetch(method, url, headers, body)
        target = found.get("location") if 300 <= status < 400 else None
        scripted = _SCRIPTED.search(content) if status == 200 else None
        if scripted is not None:
            target = scripted[1].decode("utf-8", "surrogateescape")
        if target is None:
            return Page(url, status, found, content, tuple(hops))
        if status not in (307, 308):
            method, body = "GET", b""
            headers = {name: value for name, value in headers.items() if not name.startswith("Content-")}
        url = urljoin(url, target)
    raise RecursionError(f"more than {_HOPS} redirects, the last to {urlsplit(url).path}")


def submit(fetch: Fetch, page: Page, fields: dict[str, str], headers: dict[str, str]) -> Page:
    """Fills in a form of the page and sends it. Raises LookupError when no form has the fields."""
    form = page.form(*fields)
    action = urljoin(page.url, form.action) if form.action else page.url
    encoded = urlencode({**form.fields, **fields})
    if form.method == "POST":
        sent = {**headers, "Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(encoded))}
        return visit(fetch, "POST", action, sent, encoded.encode("ascii"))
    return visit(fetch, "GET", urljoin(action, f"?{encoded}"), headers)


def ask(
    method: str, url: str, headers: dict[str, str], body: bytes, patience: float = PATIENCE
) -> tuple[int, dict[str, str], bytes]:
    """One request over the network. Raises OSError when the server cannot be reached or breaks off, or when a wait
    exceeds `patience` seconds."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.netloc, timeout=patience, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=patience)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    try:
        connection.request(method, target, body or None, {"Connection": "close", **headers})
        response = connection.getresponse()
        return response.status, _lowered(response.headers.items()), response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{parts.netloc}: the answer is not HTTP ({type(error).__name__})") from error
    finally:
        connection.close()


def split_answer(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of whole bytes whose lines may end in a bare LF; status 0 when there is no answer."""
    end = re.search(rb"\r?\n\r?\n", raw)
    head = raw[: end.start()] if end else raw
    first, *lines = head.decode("utf-8", "surrogateescape").splitlines() or [""]
    words = first.split(" ")
    if len(words) < 2 or not words[1].isdigit():
        return 0, {}, raw
    pairs = [line.partition(":") for line in lines]
    return int(words[1]), _lowered((name, value.strip()) for name, _, value in pairs), raw[end.end() :] if end else b""


def _written(url: str) -> str:
    """A URL as a browser sends it: line ends and tabs dropped, blanks and all that is not ASCII escaped."""
    bare = re.sub(r"[\r\n\t]", "", url.strip())
    return quote(bare.encode("utf-8", "surrogateescape"), safe="!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _lowered(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}
