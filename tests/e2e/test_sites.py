"""Sites: a folder under a name, served by every node and fetched from any."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import brotli
import pytest

from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import running
from tests.e2e.talk import Answer, over_http
from tests.e2e.test_blobs import PATIENCE, asked, blob, fails, held_by, knows, noise, succeeds

pytestmark = pytest.mark.timeout(240)

PAGE = "<!doctype html><title>first</title>" + "<p>text</p>" * 300
SCRIPT = "let greeting = 'hello';\n" * 100
FILES = {
    "index.html": PAGE,
    "404.html": "<p>no such page</p>",
    "app.3f2a9c1b.js": SCRIPT,
    "docs/index.html": "<p>docs</p>",
    "with space/ü.txt": "found",
}


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three linked nodes; each test publishes names of its own."""
    with running(Cluster(3)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def door(trio: Cluster) -> str:
    """The third node's door for strangers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        at = f"127.0.0.1:{probe.getsockname()[1]}"

    async def open_it() -> None:
        await trio[2].stop()
        await trio[2].start("--http", at)

    asyncio.run(open_it())
    return at


def written(folder: Path, files: dict[str, str] = FILES) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def page(node: Node, path: str, method: str = "GET", **headers: str) -> Answer:
    """An answer of a node to its owner."""
    return asked(node, f"/~site/{path}", method, **headers)


def visit(door: str, host: str, path: str, method: str = "GET", **headers: str) -> Answer:
    """An answer of the door for strangers."""
    return over_http(door, path, method=method, headers={"host": host, **headers})


async def test_each_node_serves_a_folder_of_one(trio: Cluster, tmp_path: Path) -> None:
    """Pages, what a folder's address comes to, and the page that says that there is none."""
    folder = written(tmp_path / "public")
    said = await succeeds(trio[0], "seed", folder, "garden")
    assert "seeded garden" in said and "fetch garden" in said
    await held_by(trio[0], "garden", 2)
    for node in trio:
        await knows(node, "garden")
        first = page(node, "garden/")
        assert (first.status, first.body.decode()) == (200, PAGE), node.name
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        assert first.headers["cache-control"] == "public, no-cache"
        script = page(node, "garden/app.3f2a9c1b.js")
        assert script.body.decode() == SCRIPT
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "immutable" in script.headers["cache-control"]
        assert page(node, "garden/with%20space/%C3%BC.txt").body == b"found"
        moved = page(node, "garden/docs?page=2")
        assert (moved.status, moved.headers["location"]) == (308, "/~site/garden/docs/?page=2")
        assert page(node, "garden").headers["location"] == "/~site/garden/"
        assert page(node, "garden/docs/").body == b"<p>docs</p>"
        gone = page(node, "garden/nothing")
        assert (gone.status, gone.body.decode()) == (404, FILES["404.html"])
    shown = await succeeds(trio[1], "status", "sites")
    assert "garden" in shown and "2/2" in shown
    assert "garden" not in await succeeds(trio[1], "status", "blobs")
    assert "site" in await succeeds(trio[1], "inspect", "garden")


async def test_what_a_browser_asks_with_is_obeyed(trio: Cluster, tmp_path: Path) -> None:
    """Entity tags, packed answers, ranges, HEAD."""
    await succeeds(trio[0], "seed", written(tmp_path / "public"), "asked")
    whole = page(trio[0], "asked/")
    assert whole.headers["vary"] == "accept-encoding"
    packed = page(trio[0], "asked/", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body).decode() == PAGE and len(packed.body) < len(PAGE) // 4
    best = page(trio[0], "asked/", Accept_Encoding="gzip, deflate, br")
    assert best.headers["content-encoding"] == "br"
    assert brotli.decompress(best.body).decode() == PAGE and len(best.body) < len(packed.body)
    assert len({answer.headers["etag"] for answer in (whole, packed, best)}) == 3
    for answer, how in ((whole, ""), (packed, "gzip"), (best, "br, gzip")):
        tag = answer.headers["etag"]
        again = page(trio[0], "asked/", If_None_Match=tag, Accept_Encoding=how)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    part = page(trio[0], "asked/", Range="bytes=2-8", Accept_Encoding="gzip")
    assert (part.status, part.body.decode()) == (206, PAGE[2:9])
    assert part.headers["content-range"] == f"bytes 2-8/{len(PAGE)}"
    assert "content-encoding" not in part.headers
    stale = page(trio[0], "asked/", Range="bytes=2-8", If_Range='"another"')
    assert (stale.status, stale.body.decode()) == (200, PAGE)
    assert page(trio[0], "asked/", Range="bytes=99999-").status == 416
    head = page(trio[0], "asked/", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(PAGE))


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fetc/passwd",
        "../../etc/passwd",
        "%2e%2e/index.html",
        "..%5cindex.html",
        "%252e%252e/index.html",
        ".pollen/site.json",
        "index.html%00",
        "index.html%00.js",
        "docs//index.html",
        "/index.html",
        "%zz",
        "%ff",
        "INDEX.HTML",
    ],
)
async def test_no_path_leads_out_of_a_site(trio: Cluster, tmp_path: Path, path: str) -> None:
    """A path is a key: what is not a file of the site is not there."""
    if not await blob(trio[0], "closed"):
        await succeeds(trio[0], "seed", written(tmp_path / "public"), "closed")
    answer = page(trio[0], f"closed/{path}")
    assert answer.status == 404
    assert b"root:" not in answer.body and PAGE.encode() not in answer.body


async def test_a_page_of_an_app_answers_for_its_routes(trio: Cluster, tmp_path: Path) -> None:
    """With --spa only, and never for a script that is not there."""
    folder = written(tmp_path / "public")
    await succeeds(trio[0], "seed", folder, "app", "--spa")
    assert page(trio[0], "app/users/7").body.decode() == PAGE
    assert page(trio[0], "app/users/7.js").status == 404
    await succeeds(trio[0], "seed", folder, "no-app")
    assert page(trio[0], "no-app/users/7").status == 404


async def test_strangers_see_public_sites_by_their_host(
    trio: Cluster, door: str, tmp_path: Path
) -> None:
    """Any other name answers as one that nobody has; the paths of the door stay its own."""
    folder = written(tmp_path / "public")
    await succeeds(trio[0], "seed", folder, "shop", "--public")
    await succeeds(trio[0], "seed", folder, "cellar")
    await knows(trio[2], "shop")
    await knows(trio[2], "cellar")
    for host in ("shop", "shop:8080", "SHOP", "shop.localhost", "shop.localhost:8080"):
        answer = await asyncio.to_thread(visit, door, host, "/")
        assert (answer.status, answer.body.decode()) == (200, PAGE), host
    moved = await asyncio.to_thread(visit, door, "shop", "/docs")
    assert (moved.status, moved.headers["location"]) == (308, "/docs/")
    others = [
        await asyncio.to_thread(visit, door, host, "/")
        for host in ("cellar", "nobody", "localhost", "shop.example.org", "[::1]:80", "")
    ]
    assert {(answer.status, answer.body) for answer in others} == {(404, others[0].body)}
    assert (await asyncio.to_thread(visit, door, "shop", "/healthz")).body == b"ok\n"
    assert (await asyncio.to_thread(visit, door, "x", "/~site/shop/")).status == 404
    assert (await asyncio.to_thread(visit, door, "shop", "/", "PUT")).status == 405
    hidden = await asyncio.to_thread(visit, door, "x", "/blob/cellar")
    nobody = await asyncio.to_thread(visit, door, "x", "/blob/nobody")
    assert (hidden.status, hidden.body) == (nobody.status, nobody.body)


async def test_a_path_names_a_site_to_strangers_only_where_the_operator_says_so(
    trio: Cluster, door: str, tmp_path: Path
) -> None:
    """Public ones; any other name is answered as one that there is not, by path too."""
    folder = written(tmp_path / "open", {"index.html": "open", "sub/page.html": "page"})
    await succeeds(trio[0], "seed", folder, "open", "--public")
    await succeeds(trio[0], "seed", written(tmp_path / "shut", {"index.html": "shut"}), "shut")
    for name in ("open", "shut"):
        await knows(trio[2], name)

    async def asked(path: str) -> Answer:
        return await asyncio.to_thread(visit, door, "192.0.2.7", path)

    assert (await asked("/~site/open/")).status == 404
    await trio[2].stop()
    await trio[2].start("--http", door, "--http-paths")

    async def is_open() -> bool:
        answer = await asked("/~site/open/")
        return (answer.status, answer.body) == (200, b"open")

    await until(is_open, PATIENCE, "the site by its path")
    assert (await asked("/~site/open/sub/page.html")).body == b"page"
    assert (await asked("/~site/open")).status == 308
    shut, nothing = await asked("/~site/shut/"), await asked("/~site/nothing/")
    assert (shut.status, nothing.status) == (404, 404) and shut.body == nothing.body
    assert (await asked("/~site/")).status == 404
    await trio[2].stop()
    await trio[2].start("--http", door)
    assert (await asked("/~site/open/")).status == 404


async def test_an_operator_says_which_site_a_host_means(
    trio: Cluster, door: str, tmp_path: Path
) -> None:
    """A host, all below a suffix, and any other one; a site that is not public is none of them."""
    for name in ("blog", "docs", "home", "front"):
        folder = written(tmp_path / name, {"index.html": name})
        await succeeds(trio[0], "seed", folder, name, "--public")
    await succeeds(trio[0], "seed", written(tmp_path / "x", {"index.html": "x"}), "mine")
    for name in ("blog", "docs", "home", "front", "mine"):
        await knows(trio[2], name)
    rules = "www.example.org=front,*.example.org,*.docs.example.org=docs,*=home,my.test=mine"
    said = await succeeds(trio[2], "set", "http_hosts", rules)
    assert f"http_hosts = {rules}" in said
    await trio[2].stop()
    await trio[2].start("--http", door)
    for host, expected in {
        "www.example.org": "front",
        "WWW.Example.org.:8080": "front",
        "blog.example.org": "blog",
        "v2.docs.example.org": "docs",
        "docs": "docs",
        "docs.localhost": "docs",
        "nobody.example.org": "home",
        "192.0.2.7": "home",
        "my.test": "home",
        "mine.example.org": "home",
    }.items():

        async def says(host: str = host, expected: str = expected) -> bool:
            answer = await asyncio.to_thread(visit, door, host, "/")
            return (answer.status, answer.body.decode()) == (200, expected)

        await until(says, PATIENCE, f"{host} is {expected}")
    assert (await asyncio.to_thread(visit, door, "192.0.2.7", "/healthz")).body == b"ok\n"
    assert (await asyncio.to_thread(visit, door, "192.0.2.7", "/blob/mine")).status == 404
    await succeeds(trio[2], "unset", "http_hosts")
    await trio[2].stop()
    await trio[2].start("--http", door)
    assert (await asyncio.to_thread(visit, door, "nobody", "/")).status == 404


async def test_headers_of_a_site_go_with_every_file(
    trio: Cluster, door: str, tmp_path: Path
) -> None:
    """Also with the page that says that there is none; what the node says of that name goes."""
    folder = written(tmp_path / "public")
    headers = ("--header", "X-Frame-Options: DENY", "--header", "Cache-Control: no-store")
    await succeeds(trio[0], "seed", folder, "framed", "--public", *headers)
    await knows(trio[2], "framed")
    for path, status in (("/", 200), ("/app.3f2a9c1b.js", 200), ("/nothing", 404)):
        answer = await asyncio.to_thread(visit, door, "framed", path)
        assert answer.status == status
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
    refused = await fails(
        trio[0], "usage", "seed", folder, "framed", "--public", "--header", "Date: a"
    )
    assert "not for a site" in refused
    await fails(trio[0], "usage", "seed", noise(tmp_path / "f", 9), "f", "--header", "a: b")


async def test_an_update_replaces_all_pages_at_once(trio: Cluster, tmp_path: Path) -> None:
    """And a folder that did not change is no update."""
    folder = written(tmp_path / "public")
    await succeeds(trio[0], "seed", folder, "news")
    assert "unchanged news" in await succeeds(trio[0], "seed", folder, "news")
    (folder / "index.html").write_text("<p>second</p>")
    assert "updated news" in await succeeds(trio[0], "seed", folder, "news")
    for node in trio:

        async def is_new(node: Node = node) -> bool:
            return page(node, "news/").body == b"<p>second</p>"

        await until(is_new, PATIENCE, f"{node.name} serves the update")


async def test_a_folder_that_is_watched_is_published_at_each_change(
    trio: Cluster, tmp_path: Path
) -> None:
    """Of a file below it, and of a new one."""
    folder = written(tmp_path / "public")
    watching = asyncio.ensure_future(trio[0].pln("seed", str(folder), "draft", "--watch"))

    async def shows(path: str, text: str) -> None:
        async def is_there() -> bool:
            return page(trio[0], f"draft/{path}").body == text.encode()

        await until(is_there, PATIENCE, f"draft/{path} is {text[:20]!r}")

    try:
        await shows("docs/", "<p>docs</p>")
        (folder / "docs/index.html").write_text("<p>more docs</p>")
        await shows("docs/", "<p>more docs</p>")
        (folder / "news.txt").write_text("news")
        await shows("news.txt", "news")
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def test_a_site_is_fetched_as_a_folder(trio: Cluster, tmp_path: Path) -> None:
    """Whole or not at all; what is there is not replaced unasked."""
    folder = written(tmp_path / "public")
    (folder / "large.bin").write_bytes(noise(tmp_path / "noise", 20 << 20).read_bytes())
    await succeeds(trio[0], "seed", folder, "taken")
    await knows(trio[2], "taken")
    place = tmp_path / "copy"
    said = await succeeds(trio[2], "fetch", "taken", place)
    assert f"fetched taken into {place} ({len(FILES) + 1} files)" in said
    for path in folder.rglob("*"):
        if path.is_file():
            assert (place / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert "--force" in await fails(trio[2], "file-exists", "fetch", "taken", place)
    (place / "mine.txt").write_text("mine")
    await succeeds(trio[2], "fetch", "taken", place, "--force")
    assert not (place / "mine.txt").exists()
    assert not list(tmp_path.glob(".*")), "a part of a folder was left"
    await fails(trio[2], "bad-request", "fetch", "taken", tmp_path / "no/such/place")
    link = tmp_path / "link"
    link.symlink_to(place)
    await succeeds(trio[2], "fetch", "taken", link, "--force")
    assert link.is_symlink() and (place / "index.html").exists()
    for here in (".", ".."):
        assert "a folder of its own" in await fails(
            trio[2], "bad-request", "fetch", "taken", here, "--force"
        )
    assert not list(tmp_path.glob(".*")), "a part of a folder was left"


async def test_what_is_no_site_is_refused(trio: Cluster, tmp_path: Path) -> None:
    """With a word on what to do."""
    folder = written(tmp_path / "public")
    (folder / ".env").write_text("SECRET=1")
    assert "--dot-files" in await fails(trio[0], "bad-request", "seed", folder, "hidden")
    await succeeds(trio[0], "seed", folder, "hidden", "--dot-files")
    assert page(trio[0], "hidden/.env").body == b"SECRET=1"
    await fails(trio[0], "usage", "seed", folder / "index.html", "x", "--kind", "site")
    await fails(trio[0], "usage", "seed", folder / "index.html", "x", "--spa")
    said = await fails(trio[0], "config-invalid", "seed", folder, "x", "--dot-files", "--program")
    assert "a site does not run" in said
    await succeeds(trio[0], "seed", "-", "plain", stdin=b"no archive")
    assert page(trio[0], "plain/").problem["slug"] == "bad-request"
    assert page(trio[0], "nobody-has-it/").problem["slug"] == "seed-not-found"


async def test_an_archive_that_is_none_is_told(trio: Cluster) -> None:
    """Whoever publishes other bytes as a site gets no page of it, and hears why."""
    control = Control(trio[0].paths)
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 600)
        file.flush()
        with control.sending(file, 600) as sending:
            while sending.send(600):
                pass
            content = sending.answer()
    wish = {"name": "made-by-hand", "content": content, "kind": "site"}
    await asyncio.to_thread(control.request, "POST", "/v1/seeds", wish)
    answer = page(trio[0], "made-by-hand/")
    assert answer.problem["slug"] == "bundle-invalid"
    assert "it has no table" in answer.problem["title"]
