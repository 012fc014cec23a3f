"""A component that answers HTTP, in Python by componentize-py: an interpreter of its own."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    """Answers with the path that it sees, and with the body in upper case."""

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        said = body_of(request).upper()
        path = (request.path_with_query() or "").encode()
        fields = Fields.from_list([("content-type", b"text/plain"), ("x-path", path)])
        response = OutgoingResponse(fields)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            for at in range(0, len(said), 4096):
                stream.blocking_write_and_flush(said[at : at + 4096])
        OutgoingBody.finish(body, None)


def body_of(request: IncomingRequest) -> bytes:
    """All that was sent."""
    parts = []
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                parts.append(stream.blocking_read(65_536))
            except Err:  # closed
                return b"".join(parts)
