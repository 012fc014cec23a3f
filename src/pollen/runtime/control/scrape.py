"""The page for Prometheus on TCP, when it is configured: the metrics and nothing else.

Decides: how many connections the page has at once (16), and how long one lasts (30 s). Does not
know: what is on the page; the rest of the control API.
Invariants: no other path of the control API is reached from here, since whoever connects is
    unknown.
Source: Prometheus cannot scrape a unix socket. Refused: ``prometheus_client.start_http_server``,
    whose threads would read the brain's state in the midst of a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from pollen.errors import PollenError
from pollen.runtime.control.server import ControlServer
from pollen.runtime.watch.metrics import CONTENT_TYPE

PATH = "/metrics"
# Connections at once; a Prometheus has one. Guess.
CONNECTIONS = 16
# Seconds that one may last, whatever it does: longer than any scrape, and strangers who hold
# connections open do not lock out the next one. Guess.
CONNECTION_SECONDS = 30.0


class BriefProtocol(H11Protocol):
    """uvicorn's protocol on a connection that does not last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._end = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, transport.abort)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)


def make_page(text: Callable[[], str]) -> Starlette:
    """The application whose only path is ``/metrics``."""

    async def page(request: Request) -> Response:
        return Response(text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route(PATH, page, methods=["GET"])])


def bind_page(address: str) -> socket.socket:
    """A listening TCP socket; ``port-in-use`` when there is none to have."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise PollenError(
            "port-in-use",
            f"cannot bind {address} for metrics: {error.strerror}",
            "give another port: pln set metrics IP:PORT",
        ) from error
    listener.setblocking(False)
    return listener


@contextlib.asynccontextmanager
async def serving(
    address: str, text: Callable[[], str], warn: Callable[[str, str], None]
) -> AsyncIterator[None]:
    """The page at ``address`` while the context lasts; nothing when it is empty."""
    if not address:
        yield
        return
    listener = bind_page(address)
    server = ControlServer(make_page(text), listener, warn, BriefProtocol, CONNECTIONS)
    await server.start()
    try:
        yield
    finally:
        await server.stop()
