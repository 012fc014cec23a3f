"""Raw requests for a page of a site, at both doors, each with the answer that the RFCs want.

``@`` in a request stands for the folder of the site: ``/`` at the TCP door, where the Host names
the site, and ``/~site/shop/`` at ``call.sock``. ``TAG`` is the entity tag of its first page.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import msgspec
import pytest

from pollen.testing import until
from tests.e2e.doors import House, connected, heard, house, pln
from tests.e2e.talk import Answer
from tests.e2e.test_sites import FILES, PAGE, written

WHOLE = PAGE.encode()
SIZE = len(WHOLE)
NO_PAGE = FILES["404.html"].encode()
# What nobody may answer when it is the body of another request.
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

Check = Callable[[Answer], bool]


class Case(msgspec.Struct, frozen=True):
    """One request and what comes of it. ``at`` is the status at each door, TCP first."""

    line: str
    headers: tuple[str, ...]
    at: tuple[int, int]
    holds: Check
    body: bytes = b""

    def request(self, folder: str, tag: str) -> bytes:
        """The bytes that are sent."""
        headers = ("", *self.headers, "Connection: close")
        head = self.line.replace("@", folder) + "\r\n".join(headers).replace("TAG", tag)
        return head.encode("latin-1") + b"\r\n\r\n" + self.body


def is_page(answer: Answer) -> bool:
    """All of the first page, as it is."""
    return answer.body == WHOLE and "content-encoding" not in answer.headers


def is_packed(coding: str) -> Check:
    """All of the first page, by this coding; a cache is told why (RFC 9110, 12.5.5)."""
    unpack = {"gzip": gzip.decompress, "br": brotli.decompress}[coding]

    def holds(answer: Answer) -> bool:
        is_so = answer.headers["content-encoding"] == coding
        varies = answer.headers["vary"].lower() == "accept-encoding"
        return is_so and varies and bool(unpack(answer.body) == WHOLE)

    return holds


def is_empty(answer: Answer) -> bool:
    """A head alone, that says how long the page is."""
    return answer.body == b"" and answer.headers["content-length"] == str(SIZE)


def is_unchanged(answer: Answer) -> bool:
    """A 304 has what a cache renews by (RFC 9110, 15.4.5)."""
    has_all = {"etag", "cache-control", "vary", "date"} <= answer.headers.keys()
    return has_all and answer.body == b"" and "content-range" not in answer.headers


def is_no_page(answer: Answer) -> bool:
    """Nothing of a file that is there; no part and no range."""
    leaks = b"root:" in answer.body or b"<title>" in answer.body
    return not leaks and "content-range" not in answer.headers


def is_own_no_page(answer: Answer) -> bool:
    """The site's page for what is not there, whole."""
    return answer.body == NO_PAGE and "content-range" not in answer.headers


def is_refused(answer: Answer) -> bool:
    """A problem that says why."""
    return bool(answer.problem["title"] and answer.problem["remedy"])


def is_limited(answer: Answer) -> bool:
    """A 405 names what may be asked (RFC 9110, 15.5.6)."""
    return is_refused(answer) and answer.headers["allow"] == "GET, HEAD"


def is_out_of_range(answer: Answer) -> bool:
    """A 416 says how long the page is (RFC 9110, 15.5.17); no cache keeps it for the page."""
    is_kept = "cache-control" in answer.headers
    return answer.headers["content-range"] == f"bytes */{SIZE}" and not (is_kept or answer.body)


def is_not_met(answer: Answer) -> bool:
    """A 412 without a word, which no cache keeps for the page."""
    return answer.body == b"" and not {"cache-control", "content-encoding"} & answer.headers.keys()


def is_part(first: int, last: int) -> Check:
    """These bytes of the page, and their place (RFC 9110, 15.3.7)."""

    def holds(answer: Answer) -> bool:
        place = f"bytes {first}-{last}/{SIZE}"
        part = WHOLE[first : last + 1]
        return (answer.headers["content-range"], answer.body) == (place, part)

    return holds


def case(line: str, *headers: str, at: int | tuple[int, int], holds: Check) -> Case:
    """One of the table; a single status holds at both doors."""
    return Case(line, headers, (at, at) if isinstance(at, int) else at, holds)


def get(path: str, *headers: str, at: int | tuple[int, int], holds: Check) -> Case:
    """A GET with the Host of the site."""
    return case(f"GET {path} HTTP/1.1", "Host: shop", *headers, at=at, holds=holds)


def of_host(host: str, at: int | tuple[int, int], holds: Check) -> Case:
    """A GET of the first page with this Host."""
    return case("GET @ HTTP/1.1", f"Host: {host}", at=at, holds=holds)


def either(tcp: Check, local: Check) -> Check:
    """The first where the answer is none of the site, as at the TCP door for another Host."""
    return lambda answer: tcp(answer) if answer.status == 404 else local(answer)


ELSEWHERE = either(is_refused, is_page)

# RFC 9112, 3.2: a request of HTTP/1.1 has one Host that is well-formed, or is answered 400.
HOSTS = {
    "no Host": case("GET @ HTTP/1.1", at=400, holds=is_refused),
    "two Hosts": case("GET @ HTTP/1.1", "Host: shop", "Host: shop", at=400, holds=is_refused),
    "an empty Host": of_host("", (404, 200), ELSEWHERE),
    "a port": of_host("shop:8080", 200, is_page),
    # RFC 3986, 3.2.3: the digits of a port may be missing.
    "a colon without a port": of_host("shop:", 200, is_page),
    "an IPv6 literal": of_host("[::1]:8080", (404, 200), ELSEWHERE),
    # RFC 9110, 4.2.3.
    "capitals": of_host("SHOP.LocalHost", 200, is_page),
    # RFC 3986, 3.2.2: a full name of the DNS may end with a dot.
    "a dot at the end": of_host("shop.localhost.", 200, is_page),
    "two dots at the end": of_host("shop.localhost..", (404, 200), ELSEWHERE),
    "a slash in the Host": of_host("shop/x", 400, is_refused),
    "a space in the Host": of_host("shop x", 400, is_refused),
    "a user in the Host": of_host("me@shop", 400, is_refused),
    "no number as port": of_host("shop:http", 400, is_refused),
    "a byte of no text": of_host("sh\xffp", 400, is_refused),
    # RFC 9112, 3.2.2: the target goes before the Host.
    "a whole address": case("GET http://shop@ HTTP/1.1", "Host: x", at=200, holds=is_page),
    "the address of another": case(
        "GET http://nobody@ HTTP/1.1", "Host: shop", at=(404, 200), holds=ELSEWHERE
    ),
    "a whole address alone": case("GET http://shop@ HTTP/1.1", at=400, holds=is_refused),
    "HTTP/1.0 without a Host": case("GET @ HTTP/1.0", at=(404, 200), holds=ELSEWHERE),
    "HTTP/1.0 with a Host": case("GET @ HTTP/1.0", "Host: shop", at=200, holds=is_page),
}

# RFC 9112, 3.2: a target is a path, a whole address, or * for OPTIONS.
PATHS = {
    "a star": get("*", at=400, holds=is_refused),
    "a star for OPTIONS": case("OPTIONS * HTTP/1.1", "Host: shop", at=404, holds=is_refused),
    "no slash": get("index.html", at=400, holds=is_refused),
    "a host and no path": get("shop:80", at=400, holds=is_refused),
    # RFC 9112, 3.2.1: a fragment is no part of a target.
    "a fragment": get("@index.html#top", at=400, holds=is_refused),
    "dots": get("@../index.html", at=404, holds=is_no_page),
    "dots in the middle": get("@docs/../index.html", at=404, holds=is_no_page),
    "encoded dots": get("@%2e%2e%2findex.html", at=404, holds=is_no_page),
    "an encoded slash": get("@..%2f..%2f..%2fetc%2fpasswd", at=404, holds=is_no_page),
    "encoded twice": get("@%252e%252e%252findex.html", at=404, holds=is_no_page),
    "a NUL": get("@index.html\0", at=400, holds=is_refused),
    "an encoded NUL": get("@index.html%00", at=404, holds=is_no_page),
    "an encoded backslash": get("@..%5cindex.html", at=404, holds=is_no_page),
    "two slashes": get("@/index.html", at=404, holds=is_no_page),
    "a byte of no text": get("@%ff", at=404, holds=is_no_page),
    "an overlong dot": get("@%c0%ae%c0%ae%c0%afindex.html", at=404, holds=is_no_page),
    "half an escape": get("@index.html%2", at=404, holds=is_no_page),
    # RFC 9110, 4.2.3: an escape of a letter is that letter.
    "an encoded letter": get("@%69ndex.html", at=200, holds=is_page),
    # RFC 9112, 3: a line of 8,000 octets is read.
    "8,000 octets": get("@" + "a" * 7900, at=404, holds=is_own_no_page),
    "over 8 KiB": get("@" + "a" * 8200, at=414, holds=is_refused),
}

# RFC 9110, 14.2: a server may send all of it; what it must not obey is marked.
RANGES = {
    "the first byte": get("@", "Range: bytes=0-0", at=206, holds=is_part(0, 0)),
    "the last seven": get("@", "Range: bytes=-7", at=206, holds=is_part(SIZE - 7, SIZE - 1)),
    "more than all": get("@", f"Range: bytes=-{SIZE * 9}", at=206, holds=is_part(0, SIZE - 1)),
    "the last none": get("@", "Range: bytes=-0", at=416, holds=is_out_of_range),
    "behind the end": get("@", f"Range: bytes={SIZE}-", at=416, holds=is_out_of_range),
    "a huge end": get("@", f"Range: bytes=9-{'9' * 40}", at=206, holds=is_part(9, SIZE - 1)),
    "a huge start": get("@", f"Range: bytes={'9' * 40}-", at=416, holds=is_out_of_range),
    "several": get("@", "Range: bytes=0-0,9-9", at=200, holds=is_page),
    # 14.1.1: invalid, and ignored.
    "the end first": get("@", "Range: bytes=9-8", at=200, holds=is_page),
    "no number": get("@", "Range: bytes=a-b", at=200, holds=is_page),
    "another unit": get("@", "Range: lines=0-0", at=200, holds=is_page),
    # 14.1: the name of a unit has no case.
    "a unit in capitals": get("@", "Range: Bytes=0-0", at=206, holds=is_part(0, 0)),
    "HEAD has no ranges": case(
        "HEAD @ HTTP/1.1", "Host: shop", "Range: bytes=0-0", at=200, holds=is_empty
    ),
    "a part of no page": get("@none", "Range: bytes=0-0", at=404, holds=is_own_no_page),
    # 13.1.5: the tags are compared strongly, and a date is none.
    "If-Range fresh": get("@", "Range: bytes=1-2", "If-Range: TAG", at=206, holds=is_part(1, 2)),
    "If-Range stale": get("@", "Range: bytes=1-2", 'If-Range: "x"', at=200, holds=is_page),
    "If-Range weak": get("@", "Range: bytes=1-2", "If-Range: W/TAG", at=200, holds=is_page),
    "If-Range of no text": get("@", "Range: bytes=1-2", 'If-Range: "\xff"', at=200, holds=is_page),
    "If-Range with a date": get(
        "@",
        "Range: bytes=1-2",
        "If-Range: Sat, 28 Nov 2026 10:00:00 GMT",
        at=200,
        holds=is_page,
    ),
}

# RFC 9110, 13.
CONDITIONS = {
    "any tag": get("@", "If-None-Match: *", at=304, holds=is_unchanged),
    "a list with it": get("@", 'If-None-Match: "x", TAG', at=304, holds=is_unchanged),
    "a list without it": get("@", 'If-None-Match: "x", W/"y"', at=200, holds=is_page),
    # 13.1.2: compared weakly.
    "a weak tag": get("@", "If-None-Match: W/TAG", at=304, holds=is_unchanged),
    # 5.3: lines of one name are one list.
    "two lines": get("@", 'If-None-Match: "x"', "If-None-Match: TAG", at=304, holds=is_unchanged),
    "before a range": get(
        "@", "If-None-Match: TAG", "Range: bytes=0-0", at=304, holds=is_unchanged
    ),
    "HEAD": case("HEAD @ HTTP/1.1", "Host: shop", "If-None-Match: TAG", at=304, holds=is_unchanged),
    # 13.2.1: what is not there is not unchanged.
    "no page": get("@none", "If-None-Match: *", at=404, holds=is_own_no_page),
    # 13.1.1.
    "If-Match another": get("@", 'If-Match: "x"', at=412, holds=is_not_met),
    "If-Match another, packed": get(
        "@", 'If-Match: "x"', "Accept-Encoding: gzip", at=412, holds=is_not_met
    ),
    "If-Match weak": get("@", "If-Match: W/TAG", at=412, holds=is_not_met),
    "If-Match": get("@", 'If-Match: "x", TAG', at=200, holds=is_page),
    "If-Match any": get("@", "If-Match: *", at=200, holds=is_page),
    # 13.1.3: ignored where nothing has a date.
    "If-Modified-Since": get(
        "@", "If-Modified-Since: Sat, 28 Nov 2099 10:00:00 GMT", at=200, holds=is_page
    ),
}

# RFC 9110, 12.5.3; 12.4.2 for weights.
CODINGS = {
    "none": get("@", "Accept-Encoding:", at=200, holds=is_page),
    "gzip": get("@", "Accept-Encoding: GZip ; q=0.5", at=200, holds=is_packed("gzip")),
    "brotli": get("@", "Accept-Encoding: gzip, deflate, br", at=200, holds=is_packed("br")),
    "gzip rather": get("@", "Accept-Encoding: br;q=0.5,gzip", at=200, holds=is_packed("gzip")),
    "brotli rather": get("@", "Accept-Encoding: br,gzip;q=0.999", at=200, holds=is_packed("br")),
    "as it is rather": get(
        "@", "Accept-Encoding: identity, br;q=0.5,gzip;q=0.9", at=200, holds=is_page
    ),
    "two lines": get(
        "@", "Accept-Encoding: zstd", "Accept-Encoding: gzip", at=200, holds=is_packed("gzip")
    ),
    "anything": get("@", "Accept-Encoding: *", at=200, holds=is_page),
    "over one": get("@", "Accept-Encoding: gzip;q=1.5", at=200, holds=is_page),
    "refused": get("@", "Accept-Encoding: gzip;q=0", at=200, holds=is_page),
    "refused in capitals": get("@", "Accept-Encoding: gzip;Q=0.000", at=200, holds=is_page),
    "refused, and any other": get("@", "Accept-Encoding: gzip;q=0, *", at=200, holds=is_page),
    "refused with all": get("@", "Accept-Encoding: *;q=0", at=200, holds=is_page),
    "of no sense": get("@", "Accept-Encoding: ;q=1,,gzip;q=x", at=200, holds=is_page),
}

# RFC 9110, 9 and 10.1.1.
METHODS = {
    "HEAD": case("HEAD @ HTTP/1.1", "Host: shop", at=200, holds=is_empty),
    "OPTIONS": case("OPTIONS @ HTTP/1.1", "Host: shop", at=405, holds=is_limited),
    "TRACE": case("TRACE @ HTTP/1.1", "Host: shop", at=405, holds=is_limited),
    "POST": msgspec.structs.replace(
        case("POST @ HTTP/1.1", "Host: shop", "Content-Length: 2", at=405, holds=is_limited),
        body=b"hi",
    ),
    "POST that waits": case(
        "POST @ HTTP/1.1",
        "Host: shop",
        "Content-Length: 2",
        "Expect: 100-continue",
        at=405,
        holds=is_limited,
    ),
    # 9.3.1: a body of GET means nothing, and ends where it says.
    "GET with a body": msgspec.structs.replace(
        get("@", f"Content-Length: {len(SMUGGLED)}", at=200, holds=is_page), body=SMUGGLED
    ),
    # Nothing is waited for, so no 100 is sent.
    "GET that expects": get("@", "Expect: 100-continue", at=200, holds=is_page),
    # A method is a name with case.
    "get": case("get @ HTTP/1.1", "Host: shop", at=405, holds=is_limited),
}

CASES = {
    f"{group}: {name}": held
    for group, cases in (
        ("host", HOSTS),
        ("path", PATHS),
        ("range", RANGES),
        ("condition", CONDITIONS),
        ("coding", CODINGS),
        ("method", METHODS),
    )
    for name, held in cases.items()
}


class Doors(msgspec.Struct):
    """A node with a public site, and the tag of its first page."""

    house: House
    tag: str


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One node; no request leaves a trace."""
    with house() as found:
        folder = written(tmp_path_factory.mktemp("public"))
        pln(found.paths.home, "seed", str(folder), "shop", "--public")

        async def is_there() -> bool:
            return read(found, HOSTS["a port"].request("/", "")).status == 200

        asyncio.run(until(is_there, 20, "the site is served"))
        first = read(found, HOSTS["a port"].request("/", ""))
        yield Doors(found, first.headers["etag"])


def read(door: House | Path, request: bytes) -> Answer:
    """The only answer of a connection; `House`: the TCP door."""
    with connected(door) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(request)
        came = heard(link)
    head, _, body = came.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), came
    assert len(re.findall(rb"HTTP/1\.[01] \d{3} ", came)) == 1, came
    lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines[1:]]
    named = {name.lower(): value for name, value in pairs}
    assert len(named) == len(pairs), f"a header stands twice: {lines}"
    length = named.get("content-length")
    is_bodiless = request.startswith(b"HEAD ") or lines[0].split()[1] == "304"
    assert is_bodiless or int(length or 0) == len(body), came
    return Answer(int(lines[0].split()[1]), named, body)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", ["tcp", "call.sock"])
def test_a_request_for_a_page_is_answered_as_the_rfcs_say(
    doors: Doors, name: str, case: Case
) -> None:
    """Status, headers and body; the connection ends behind one answer."""
    is_tcp = name == "tcp"
    where = doors.house if is_tcp else doors.house.paths.call_socket
    request = case.request("/" if is_tcp else "/~site/shop/", doors.tag)
    answer = read(where, request)
    assert answer.status == case.at[0 if is_tcp else 1], (request, answer)
    assert case.holds(answer), (request, answer)


def test_both_doors_are_well_after_all_of_them(doors: Doors) -> None:
    """Nothing of the brain or the muscles went wrong, and honest requests are answered."""
    for where, folder in ((doors.house, "/"), (doors.house.paths.call_socket, "/~site/shop/")):
        assert is_page(read(where, HOSTS["a port"].request(folder, "")))
    log = doors.house.paths.log_file.read_text()
    assert "panicked" not in log and "Traceback" not in log
