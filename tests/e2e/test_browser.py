"""Sites in a browser: Chromium at the doors of three nodes, by the names that browsers know."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pollen.testing import Cluster, until
from tests.e2e.conftest import running
from tests.e2e.talk import over_http
from tests.e2e.test_blobs import PATIENCE, held_by, knows, succeeds

# `.ci/programs` installs Chromium and ffmpeg, `make accept` playwright.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SITE = "park"
FILES = 1_000
# No name but those of this machine is looked up, so no other machine is asked for anything.
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>VERSION</title>
ICON<link rel="stylesheet" href="/style.css">
<script type="module" src="/app.SCRIPT.js"></script></head>
<body><p>Park</p><img src="/pictures/lake.png" alt="a lake">
<video src="/film.webm" muted playsinline preload="metadata"></video></body></html>
"""
# Without one a browser asks for /favicon.ico.
ICON = '<link rel="icon" href="/logo.svg">'
STYLE = """@font-face { font-family: Icons; src: url(/fonts/icons.ttf); }
p { font-family: Icons, sans-serif; }
"""
APP = """import { greeting } from './greeting.js';
document.body.dataset.says = greeting('VERSION');
document.body.dataset.path = location.pathname;
// What a page loads later: of its own version, also when there is a newer one.
window.later = async () => (await import('./later.SCRIPT.js')).says;
"""
# Of all files: how many were read, and a digest of each.
READ_ALL = """async names => {
  const found = {};
  const read = async name => {
    const answer = await fetch('/' + name.split('/').map(encodeURIComponent).join('/'));
    if (!answer.ok) throw new Error(`${answer.status} for ${name}`);
    const digest = await crypto.subtle.digest('SHA-256', await answer.arrayBuffer());
    found[name] = [...new Uint8Array(digest)].map(b => b.toString(16).padStart(2, '0')).join('');
  };
  const waiting = [...names];
  const reader = async () => { while (waiting.length) await read(waiting.pop()); };
  await Promise.all(Array.from({ length: 12 }, reader));
  return found;
}"""
SEEK = """async part => {
  const video = document.querySelector('video');
  if (video.readyState < 1) await new Promise(went => video.onloadedmetadata = went);
  const seeked = new Promise((went, failed) => {
    video.onseeked = went;
    video.onerror = () => failed(new Error(video.error.message));
  });
  video.currentTime = video.duration * part;
  await seeked;
  return [video.duration, video.videoWidth, video.currentTime];
}"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of noise: so many bytes that a browser does not take them in one request."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed: .ci/programs")
    made = tmp_path_factory.mktemp("film") / "film.webm"
    picture = "testsrc2=size=640x360:rate=25:duration=10,noise=alls=100:allf=t"
    how = {"c:v": "libvpx", "b:v": "24M", "qmin": "0", "qmax": "8", "g": "25", "cpu-used": "8"}
    options = [word for name, value in how.items() for word in (f"-{name}", value)]
    line = [ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", picture, *options]
    line += ["-deadline", "realtime", str(made)]
    subprocess.run(line, check=True)
    assert made.stat().st_size > 16 << 20
    return made


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[Cluster, list[str]]]:
    """Three nodes and the addresses of their doors for strangers."""
    with running(Cluster(3)) as cluster:
        found = []
        for node in cluster:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                found.append(f"127.0.0.1:{probe.getsockname()[1]}")
            asyncio.run(node.stop())
            asyncio.run(node.start("--http", found[-1]))
        yield cluster, found


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """Debian's browser, without a window."""
    place = shutil.which("chromium")
    if place is None:
        pytest.skip("chromium is not installed: .ci/programs")
    playwright = pytest.importorskip("playwright.async_api", reason="make accept installs it")
    async with playwright.async_playwright() as tool:
        browser = await tool.chromium.launch(
            executable_path=place, args=["--no-sandbox", NOWHERE], headless=True
        )
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """A page of a browser, and all that went over the network for it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []
        self.answers: list[tuple[str, int, dict[str, str]]] = []
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("console", self._note_line)
        page.on("requestfailed", self._note_failure)
        page.on("response", self._note_answer)

    def _note_line(self, line: Any) -> None:
        if line.type in ("error", "warning"):
            self.faults.append(f"console: {line.text}")

    def _note_failure(self, request: Any) -> None:
        # A browser breaks off what it has enough of, and what a page that is left asked for.
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"{request.url}: {request.failure}")

    def _note_answer(self, answer: Any) -> None:
        path = "/" + answer.url.split("/", 3)[3]
        self.answers.append((path, answer.status, answer.headers))

    def answer(self, path: str) -> tuple[int, dict[str, str]]:
        """The last one for a path."""
        return next((code, head) for held, code, head in reversed(self.answers) if held == path)


def written(folder: Path, film: Path, version: str, script: str) -> dict[str, str]:
    """A site of 1,000 files; the digest of each."""
    import playwright

    shutil.rmtree(folder, ignore_errors=True)
    page = PAGE.replace("ICON", ICON)
    texts = {
        "index.html": page.replace("VERSION", version).replace("SCRIPT", script),
        "404.html": f"<!doctype html><title>none</title>{ICON}<p>no such page</p>",
        "docs/index.html": f"<!doctype html><title>docs</title>{ICON}<p>docs</p>",
        "style.css": STYLE,
        f"app.{script}.js": APP.replace("VERSION", version).replace("SCRIPT", script),
        "greeting.js": "export const greeting = name => `hello, ${name}`;\n",
        f"later.{script}.js": f"export const says = 'later of {version}';\n",
        "logo.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "with space/ü %.txt": "found",
    }
    bodies = {name: text.encode() for name, text in texts.items()}
    fonts = Path(playwright.__file__).parent.rglob("codicon*.ttf")
    bodies["fonts/icons.ttf"] = next(fonts).read_bytes()
    bodies["film.webm"] = film.read_bytes()
    picture = "testsrc2=size=320x200:rate=1:duration=1"
    line = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", picture, "-frames:v", "1"]
    line += ["-f", "image2pipe", "-c:v", "png", "-"]
    bodies["pictures/lake.png"] = subprocess.check_output(line)
    chance = random.Random(version)
    for number in range(FILES - len(bodies)):
        ending = ("js", "css", "json", "png", "html")[number % 5]
        words = " ".join(f"word{chance.randrange(500)}" for _ in range(chance.randrange(1_000)))
        body = chance.randbytes(3_000) if ending == "png" else words.encode()
        bodies[f"many/{number % 10}/file {number}.{ending}"] = body
    for name, body in bodies.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
    assert len(bodies) == FILES
    return {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}


async def shows(door: str, version: str) -> None:
    """A door answers with this version of the site."""

    async def does() -> bool:
        answer = over_http(door, "/", method="GET", headers={"host": SITE})
        return f"<title>{version}</title>".encode() in answer.body

    await until(does, PATIENCE, f"{door} shows {version}")


async def check_page(visit: Visit, url: str, version: str) -> None:
    """The first page: its script and what that imports, font, picture and film, without a fault."""
    visit.answers.clear()
    await visit.page.goto(url, wait_until="load")
    assert await visit.page.title() == version
    body = visit.page.locator("body")
    assert await body.get_attribute("data-says") == f"hello, {version}"
    faces = "async () => { await document.fonts.ready; return [...document.fonts]"
    assert await visit.page.evaluate(f"{faces}.map(face => face.status); }}") == ["loaded"]
    assert await visit.page.evaluate("document.querySelector('img').naturalWidth") == 320
    code, headers = visit.answer("/style.css")
    assert (code, headers["content-type"]) == (200, "text/css; charset=utf-8")
    code, headers = visit.answer("/")
    assert (code, headers["cache-control"]) == (200, "public, no-cache")
    assert visit.faults == []


async def check_film(visit: Visit) -> None:
    """Seen from its end and from its middle, by ranges alone."""
    for part in (0.9, 0.5, 0.1):
        length, width, at = await visit.page.evaluate(SEEK, part)
        assert (round(length), width, round(at / length, 1)) == (10, 640, part)
    found = [(code, head) for path, code, head in visit.answers if path == "/film.webm"]
    assert [code for code, _ in found] == [206] * len(found)
    starts = [int(head["content-range"].split()[1].split("-")[0]) for _, head in found]
    assert len(set(starts)) >= 2 and max(starts) > 1 << 20, starts


async def check_ways(visit: Visit, url: str) -> None:
    """A route of the page's script, a folder, and what is not there."""
    await visit.page.goto(f"{url}users/7?tab=2")
    assert await visit.page.locator("body").get_attribute("data-path") == "/users/7"
    await visit.page.goto(f"{url}docs")
    assert visit.page.url == f"{url}docs/" and await visit.page.title() == "docs"
    assert visit.faults == []
    gone = await visit.page.goto(f"{url}nothing.html")
    assert gone.status == 404 and await visit.page.title() == "none"
    assert visit.faults == [
        "console: Failed to load resource: the server responded with a status of 404 (Not Found)"
    ]
    visit.faults.clear()


async def test_a_browser_reads_a_site_of_a_thousand_files_on_each_node(
    doors: tuple[Cluster, list[str]], film: Path, tmp_path: Path
) -> None:
    """Every kind of file, an update and a rollback while pages are open."""
    cluster, addresses = doors
    folder = tmp_path / "public"
    first = written(folder, film, "first", "1a2b3c4d")
    line = ("seed", folder, SITE, "--public", "--spa")
    await succeeds(cluster[0], *line)
    await held_by(cluster[0], SITE, 2)
    async with chromium() as browser:
        visits: list[tuple[Visit, str, str]] = []
        for node, door in zip(cluster, addresses, strict=True):
            await knows(node, SITE)
            await shows(door, "first")
            # Each node with a profile of its own: no cache stands in for another node.
            context = await browser.new_context()
            url = f"http://{SITE}.localhost:{door.rpartition(':')[2]}/"
            visit = Visit(await context.new_page())
            await check_page(visit, url, "first")
            await check_film(visit)
            await check_ways(visit, url)
            await check_page(visit, url, "first")
            names = sorted(first)
            assert await visit.page.evaluate(READ_ALL, names) == first
            assert visit.faults == []
            visits.append((visit, url, door))

        second = written(folder, film, "second", "5e6f7a8b")
        await succeeds(cluster[0], *line)
        for visit, url, door in visits:
            await shows(door, "second")
            # The page that is open: its own script still loads, and it is not reloaded.
            assert await visit.page.title() == "first"
            assert await visit.page.evaluate("window.later()") == "later of first"
            code, headers = visit.answer("/later.1a2b3c4d.js")
            assert code == 200 and "immutable" in headers["cache-control"]
            await check_page(visit, url, "second")
            assert await visit.page.evaluate("window.later()") == "later of second"
            assert await visit.page.evaluate(READ_ALL, sorted(second)) == second

        await succeeds(cluster[0], "rollback", SITE)
        for visit, url, door in visits:
            await shows(door, "first")
            assert await visit.page.evaluate("window.later()") == "later of second"
            await check_page(visit, url, "first")
            assert await visit.page.evaluate("window.later()") == "later of first"
            await check_film(visit)


async def test_sites_share_nothing_in_a_browser(
    doors: tuple[Cluster, list[str]], tmp_path: Path
) -> None:
    """Each has an origin of its own: what one stores, another one does not see."""
    cluster, addresses = doors
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(f"<!doctype html><title>{name}</title>")
        await succeeds(cluster[0], "seed", tmp_path / name, name, "--public")
    port = addresses[0].rpartition(":")[2]
    async with chromium() as browser:
        page = await browser.new_page()

        async def goes(name: str) -> bool:
            answer = await page.goto(f"http://{name}.localhost:{port}/")
            return bool(answer.status == 200)

        for name in ("one", "two"):
            await until(lambda name=name: goes(name), PATIENCE, f"{name} is served")
        await goes("one")
        await page.evaluate("localStorage.setItem('mine', 'secret'); document.cookie = 'a=b'")
        await goes("two")
        seen = "JSON.stringify([localStorage.length, document.cookie])"
        assert json.loads(await page.evaluate(seen)) == [0, ""]
        await goes("one")
        assert await page.evaluate("localStorage.getItem('mine')") == "secret"
