"""The routes as a Starlette application over what the daemon can do.

Every error leaves as ``application/problem+json`` with its slug; what is no ``PollenError`` is
``internal``, logged with its traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from pollen.core import commands as cmd
from pollen.core.commands import Command
from pollen.core.servicewords import ServeCommand, UnserveCommand
from pollen.errors import BadRequest, PollenError
from pollen.runtime.control import loads, routes
from pollen.runtime.control.openapi import openapi_view
from pollen.runtime.control.route import Route
from pollen.runtime.control.routes import ROUTES
from pollen.runtime.elsewhere import LogsWish
from pollen.runtime.figures import FiguresList
from pollen.runtime.upgrades import UpgradeRequest, UpgradeState
from pollen.runtime.watch import logs
from pollen.runtime.watch.metrics import CONTENT_TYPE

BODY_MAX = 256 * 1024
FOLLOW_SECONDS = 0.25

Handler = Callable[[Request, Any], Awaitable[Any]]


# Seconds until a service whose program is gone is withdrawn again. Guess.
_UNSERVE_AGAIN = 5.0


class Daemon(Protocol):
    """What the routes need of the daemon."""

    @property
    def log_path(self) -> Path: ...
    @property
    def log(self) -> Any: ...
    def health(self) -> routes.Health: ...
    def version(self) -> routes.Version: ...
    def metrics_text(self) -> str: ...
    def stop(self, grace_ms: int, *, drain: bool) -> routes.Stopping: ...
    async def command(self, command: Command) -> msgspec.Struct: ...
    async def publish(self, command: cmd.SeedCommand) -> msgspec.Struct: ...
    async def load(self, plan: loads.LoadRequest) -> loads.LoadReport: ...
    async def end_load(self, name: str) -> loads.LoadEnded: ...
    async def status_of(self, node: str) -> cmd.Status: ...
    async def figures(self) -> FiguresList: ...
    async def logs_of(self, node: str, wish: LogsWish) -> list[str]: ...
    async def upgrade_state(self, node: str, tags: str) -> UpgradeState: ...
    async def upgrade(self, node: str, request: UpgradeRequest) -> UpgradeState: ...
    async def hold_root(self) -> msgspec.Struct: ...


def make_app(daemon: Daemon) -> Starlette:
    """The application; one endpoint a line of ``ROUTES``."""
    end = asyncio.Event()
    handlers = _Handlers(daemon, end)
    table = [
        StarletteRoute(
            r.path, _endpoint(r, _handler(r, handlers, daemon), daemon), methods=[r.method]
        )
        for r in ROUTES
    ]
    app = Starlette(routes=table, exception_handlers={HTTPException: _on_http_exception})
    # Set when the server stops: what goes on until its client leaves ends then.
    app.state.end = end
    return app


def problem(
    error: PollenError, status: int = 0, headers: Mapping[str, str] | None = None
) -> Response:
    """An error as the response that carries it (RFC 9457), with the status of its slug or this."""
    body: dict[str, Any] = error.to_dict()
    status = body["status"] = status or error.http_status
    if error.retry_after is not None:
        body["retry_after"] = error.retry_after
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def _endpoint(
    route: Route, handler: Handler, daemon: Daemon
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await _read_body(request, route)
            result = await handler(request, body)
        except PollenError as error:
            return problem(error)
        except Exception as error:
            daemon.log.error("control-fault", route=route.name, exc_info=error)
            reason = f"this is a bug in pollen: {type(error).__name__}: {error}"
            return problem(PollenError("internal", reason, f"see the log: {daemon.log_path}"))
        if isinstance(result, Response):
            return result
        return Response(msgspec.json.encode(result), media_type="application/json")

    return endpoint


def _handler(route: Route, handlers: _Handlers, daemon: Daemon) -> Handler:
    """What answers a route: its command, with the fields that were given, or its method."""
    command = route.command
    if command is None:
        method: Handler = getattr(handlers, route.name)
        return method

    async def carry(request: Request, body: msgspec.Struct | None) -> msgspec.Struct:
        given: dict[str, Any] = {**request.path_params, **_queries(request, route.name)}
        if body is not None:
            given |= {name: getattr(body, name) for name in body.__struct_fields__}
        return await daemon.command(command(**given))

    return carry


async def _read_body(request: Request, route: Route) -> msgspec.Struct | None:
    if route.request is None:
        return None
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_MAX:
            raise BadRequest("bad-request", f"the body is over {BODY_MAX} bytes")
    try:
        return msgspec.json.decode(bytes(raw) or b"{}", type=route.request)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest("bad-request", f"the body does not fit: {error}") from error


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """No such route, or another method: still a problem with a slug."""
    what = f"{request.method} {request.url.path}"
    fault = BadRequest("bad-request", f"there is no {what}", "see GET /v1/openapi.json")
    status, headers = 500, None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
    return problem(fault, status, headers)


class _Handlers:
    """One method a route, by its name; each returns a struct or a response."""

    def __init__(self, daemon: Daemon, end: asyncio.Event) -> None:
        self._daemon = daemon
        self._end = end
        self._watches: set[asyncio.Future[None]] = set()

    async def health(self, request: Request, body: None) -> routes.Health:
        return self._daemon.health()

    async def version(self, request: Request, body: None) -> routes.Version:
        return self._daemon.version()

    async def seeds(self, request: Request, body: None) -> routes.Seeds:
        status = await self._daemon.command(cmd.StatusCommand())
        return routes.Seeds(seeds=status.seeds if isinstance(status, cmd.Status) else [])

    async def publish(self, request: Request, body: Any) -> msgspec.Struct:
        given = {name: getattr(body, name) for name in body.__struct_fields__}
        return await self._daemon.publish(cmd.SeedCommand(**given))

    async def seed_state(self, request: Request, body: None) -> msgspec.Struct:
        query = _queries(request, "seed_state")
        if (wait := query.get("wait", "")) not in ("", "ready"):
            raise BadRequest("bad-request", f"{wait!r} is no value for wait", "give: ready")
        command = cmd.WaitSeedCommand(
            name=request.path_params["name"],
            seed=str(query.get("seed", "")),
            wait_ms=int(query.get("timeout_ms", 10_000)) if wait else 0,
            rest_ms=int(query.get("rest_ms", 0)),
        )
        return await self._daemon.command(command)

    async def shutdown(self, request: Request, body: routes.ShutdownRequest) -> routes.Stopping:
        return self._daemon.stop(body.grace_ms, drain=body.drain)

    async def load(self, request: Request, body: loads.LoadRequest) -> loads.LoadReport:
        """A load whose client went away also ends: nobody is left to read its report."""
        loading = asyncio.ensure_future(self._daemon.load(body))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((loading, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise BadRequest("bad-request", "the client went away during its load")
            return await loading
        finally:
            leaving.cancel()
            loading.cancel()

    async def end_load(self, request: Request, body: None) -> loads.LoadEnded:
        return await self._daemon.end_load(request.path_params["name"])

    async def metrics(self, request: Request, body: None) -> Response:
        return Response(self._daemon.metrics_text(), media_type=CONTENT_TYPE)

    async def logs(self, request: Request, body: None) -> Response:
        query = _queries(request, "logs")
        lines, follow = int(query.get("lines", 50)), bool(query.get("follow", False))
        stream = _log_lines(self._daemon.log_path, lines, str(query.get("seed", "")), follow)
        return StreamingResponse(stream, media_type="application/x-ndjson")

    async def serve_tied(self, request: Request, body: msgspec.Struct) -> Response:
        given = {name: getattr(body, name) for name in body.__struct_fields__}
        served = await self._daemon.command(ServeCommand(**given, tied=True))
        watch = asyncio.ensure_future(self._watch(request, served))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

        async def line() -> AsyncIterator[bytes]:
            yield msgspec.json.encode(served) + b"\n"
            await asyncio.shield(watch)

        return StreamingResponse(line(), media_type="application/x-ndjson")

    async def _watch(self, request: Request, served: Any) -> None:
        """Serve it no more when the client has left or the node ends."""
        waits = [asyncio.ensure_future(_left(request)), asyncio.ensure_future(self._end.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        # A node that ends withdraws it when it starts. One whose disk is full is asked again.
        while not self._end.is_set():
            try:
                await self._daemon.command(UnserveCommand(name=served.name, tied=served.target))
            except PollenError as error:
                if error.slug == "service-not-found":
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._end.wait(), _UNSERVE_AGAIN)
            else:
                return

    async def hold_root(self, request: Request, body: None) -> msgspec.Struct:
        return await self._daemon.hold_root()

    async def node_status(self, request: Request, body: None) -> cmd.Status:
        return await self._daemon.status_of(request.path_params["node"])

    async def upgrade_state(self, request: Request, body: None) -> UpgradeState:
        tags = str(_queries(request, "upgrade_state").get("tags", ""))
        return await self._daemon.upgrade_state(request.path_params["node"], tags)

    async def upgrade_node(self, request: Request, body: UpgradeRequest) -> UpgradeState:
        return await self._daemon.upgrade(request.path_params["node"], body)

    async def figures(self, request: Request, body: None) -> FiguresList:
        return await self._daemon.figures()

    async def node_logs(self, request: Request, body: None) -> Response:
        query = _queries(request, "node_logs")
        wish = LogsWish(
            lines=int(query.get("lines", 50)),
            seed=str(query.get("seed", "")),
            after=str(query.get("after", "")),
            skip=int(query.get("skip", 0)),
        )
        lines = await self._daemon.logs_of(request.path_params["node"], wish)
        return Response("".join(f"{line}\n" for line in lines), media_type="application/x-ndjson")

    async def openapi(self, request: Request, body: None) -> Any:
        return openapi_view(self._daemon.version().pollen)


async def _left(request: Request) -> None:
    """When the client has gone. The body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _queries(request: Request, name: str) -> dict[str, str | int | bool]:
    """The parameters that a route has, read; others are nobody's."""
    route = next(route for route in ROUTES if route.name == name)
    given = request.query_params
    return {q.name: q.read(given[q.name]) for q in route.query if q.name in given}


async def _log_lines(path: Path, lines: int, seed: str, follow: bool) -> AsyncIterator[str]:
    """The tail, then what is appended."""
    followers = logs.Followers(path)
    for line in logs.tail(path, lines, seed):
        yield line + "\n"
    while follow:
        await asyncio.sleep(FOLLOW_SECONDS)
        for line in followers.read(seed):
            yield line + "\n"
