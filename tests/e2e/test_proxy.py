"""The proxy door: ordinary programs reach services by name, and nothing else through it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pollen.testing import Cluster, Node
from tests.e2e.serving import LOOPBACK, dial, knows, serve, server

pytestmark = pytest.mark.timeout(120)


async def proxy(node: Node) -> str:
    """Where a node's proxy is."""
    body = {"service": "", "local": f"{LOOPBACK}:0"}
    return str((await node.post("/v1/listeners", body))["bound"])


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP server that says which request it got."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + head)
    writer.close()


@contextlib.asynccontextmanager
async def served(cluster: Cluster, name: str) -> AsyncIterator[str]:
    """A web server of a under a name; the proxy of b."""
    async with server(web) as port:
        await serve(cluster[0], port, name)
        await knows(cluster[1], name, "a")
        yield await proxy(cluster[1])


async def curl(*arguments: str) -> tuple[int, str]:
    """How curl ends, and what it prints."""
    line = ["curl", "-sS", "--max-time", "20", "--noproxy", "", *arguments]
    done = await asyncio.to_thread(subprocess.run, line, capture_output=True, check=False)
    return done.returncode, done.stdout.decode()


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize(
    "way", [["-x", "socks5h://AT"], ["-x", "http://AT"], ["-p", "-x", "http://AT"]]
)
async def test_a_program_reaches_a_service_by_its_name(two: Cluster, way: list[str]) -> None:
    """By SOCKS5, by a URL, by CONNECT; by the name alone, and with its node."""
    async with served(two, "site") as at:
        words = [word.replace("AT", at) for word in way]
        for host in ("site.pln", "SITE.pln.", "site--a.pln"):
            code, text = await curl(*words, f"http://{host}/page?x=1")
            assert (code, text.splitlines()[0]) == (0, "GET /page?x=1 HTTP/1.1"), host


@needs_curl
@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("http://nobody.pln/", 404, "[service-not-found]"),
        ("http://site--nobody.pln/", 404, "[peer-not-found]"),
        # A member that does not serve it.
        ("http://site--b.pln/", 404, "[peer-not-found]"),
        ("http://example.com/", 400, "reaches services of the mesh only"),
        ("http://127.0.0.1:80/", 400, "reaches services of the mesh only"),
        ("http://[::1]/", 400, "reaches services of the mesh only"),
    ],
)
async def test_nothing_else_is_reached_and_the_client_is_told(
    two: Cluster, url: str, status: int, says: str
) -> None:
    """Each way refuses in its own words."""
    async with served(two, "site") as at:
        code, text = await curl("-x", f"http://{at}", "-w", "%{http_code}", url)
        assert (code, says in text, text.endswith(str(status))) == (0, True, True), text
        code, _ = await curl("-p", "-x", f"http://{at}", url)
        assert code == 56
        code, _ = await curl("-x", f"socks5h://{at}", url)
        assert code == 97


async def said(at: str, *words: bytes) -> bytes:
    """What the proxy answers to bytes, to its end."""
    reader, writer = await dial(at)
    for word in words:
        writer.write(word)
        await writer.drain()
    return await asyncio.wait_for(reader.read(-1), 20)


async def test_a_page_of_a_browser_reaches_nothing(two: Cluster) -> None:
    """Its requests are in origin form, whatever name it gave this machine."""
    async with served(two, "site") as at:
        for head in (
            b"GET / HTTP/1.1\r\nHost: site.pln\r\n\r\n",
            b"POST /x HTTP/1.1\r\nHost: evil.example:1080\r\nContent-Length: 0\r\n\r\n",
            b"GET http://site.pln/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        ):
            assert (await said(at, head)).startswith(b"HTTP/1.1 400 ")


async def test_socks_refuses_what_it_does_not_know(two: Cluster) -> None:
    """BIND, UDP ASSOCIATE, addresses, a client without the one method; version 4."""
    name = b"\x08site.pln\0\x50"
    async with served(two, "site") as at:
        for request, code in (
            (b"\5\2\0\3" + name, 7),
            (b"\5\3\0\3" + name, 7),
            (b"\5\1\0\1\x7f\0\0\1\0\x50", 2),
            (b"\5\1\0\4" + bytes(15) + b"\1\0\x50", 2),
            (b"\5\1\0\3\x0aunknown.pl\0\x50", 2),
            (b"\5\1\0\3\x0bunknown.pln\0\x50", 4),
        ):
            answer = await said(at, b"\5\1\0" + request)
            assert answer[:2] == b"\5\0"
            assert answer[2:4] == bytes((5, code)), request
        assert await said(at, b"\5\1\2") == b"\5\xff"
        with contextlib.suppress(ConnectionResetError):
            assert await said(at, b"\4\1\0\x50\x7f\0\0\1\0") == b""


async def test_bytes_that_come_early_reach_the_service(two: Cluster) -> None:
    """A client may send on before it was answered."""
    async with served(two, "site") as at:
        connect = b"CONNECT site.pln:80 HTTP/1.1\r\nHost: site.pln\r\n\r\n"
        answer = await said(at, connect + b"GET /early HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert b"GET /early HTTP/1.1" in answer
        socks = b"\5\1\0" + b"\5\1\0\3\x08site.pln\0\x50"
        answer = await said(at, socks + b"GET /early HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"\5\0\5\0\0\1" + bytes(6) + b"HTTP/1.1 200 OK\r\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user_does_not_come_through_the_proxy(two: Cluster) -> None:
    """Whoever comes reaches every service as this node."""
    script = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "s = socket.socket()\n"
        "s.settimeout(5)\n"
        "try:\n"
        "    s.connect(('127.0.0.1', int(sys.argv[1])))\n"
        "    s.sendall(b'GET http://site.pln/ HTTP/1.1\\r\\n\\r\\n')\n"
        "    print(s.recv(9).decode())\n"
        "except ConnectionError: print('reset')\n"
    )
    async with served(two, "site") as at:
        line = [sys.executable, "-c", script, at.rpartition(":")[2]]
        done = await asyncio.to_thread(subprocess.run, line, capture_output=True, check=True)
        assert done.stdout.strip() in (b"reset", b"")


@needs_curl
async def test_a_proxy_for_other_machines_lets_in_who_has_a_password(
    two: Cluster, tmp_path: Path
) -> None:
    """By SOCKS5, a URL and CONNECT; without a password, or with a wrong one, nothing passes."""
    users = tmp_path / "users"
    users.write_text("ann:se:cret\n")
    users.chmod(0o644)
    line = ("connect", "--proxy", "0.0.0.0:0", "--auth", str(users))
    open_to_all = await two[1].pln(*line)
    assert (open_to_all.returncode, b"chmod 600" in open_to_all.stderr) == (2, True)
    assert b"[config-invalid]" in open_to_all.stderr
    users.chmod(0o600)
    async with served(two, "gated"):
        done = await two[1].pln(*line)
        assert done.returncode == 0, done.stderr
        port = done.stdout.decode().split()[4].rpartition(":")[2]
        for scheme, more in (("socks5h", ()), ("http", ()), ("http", ("-p",))):

            def proxied(user: str, scheme: str = scheme) -> str:
                return f"{scheme}://{user}{LOOPBACK}:{port}"

            code, text = await curl(*more, "-x", proxied("ann:se%3Acret@"), "http://gated.pln/x")
            assert (code, text.splitlines()[0]) == (0, "GET /x HTTP/1.1"), scheme
            # What was for the proxy is not told to the service.
            assert "roxy-" not in text
            for user in ("ann:wrong@", ""):
                code, text = await curl(*more, "-x", proxied(user), "http://gated.pln/x")
                assert "GET /x" not in text, (scheme, user)
                assert code or "[denied]" in text
        shown = ("-o", "/dev/null", "-w", "%{http_code}", "-x", f"http://{LOOPBACK}:{port}")
        assert (await curl(*shown, "http://gated.pln/"))[1] == "407"
    # A listener of one service has no place for a password.
    done = await two[1].pln("connect", "gated", "0.0.0.0:0", "--auth", str(users))
    assert (done.returncode, b"[usage]" in done.stderr) == (2, True)


async def test_the_command_line_opens_a_proxy(two: Cluster) -> None:
    """It is shown, and closed by where it is."""
    done = await two[1].pln("connect", "--proxy", f"{LOOPBACK}:0")
    assert done.returncode == 0 and b"a proxy is at 127.0.0.1:" in done.stdout
    at = done.stdout.decode().split()[4]
    assert b"(proxy)" in (await two[1].pln("status", "services")).stdout
    done = await two[1].pln("disconnect", at)
    assert done.stdout.decode() == f"nothing listens at {at} any more\n"
    done = await two[1].pln("connect", "--proxy", "0.0.0.0:1080")
    assert (done.returncode, b"[denied]" in done.stderr) == (4, True)
    assert b"--auth FILE" in done.stderr
    done = await two[1].pln("connect")
    assert done.returncode == 2
