"""A component that answers HTTP, in Python by componentize-py: its own interpreter, beside the runner."""

import wit_world
from componentize_py_types import Ok
from wit_world.imports.wasi_http_types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)
from wit_world.imports.wasi_io_streams import StreamError


class IncomingHandler(wit_world.exports.IncomingHandler):
    """Answers with the path that it sees, and with the body in upper case."""

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        said = self.read(request).upper()
        fields = [("content-type", b"text/plain"), ("x-path", (request.path_with_query() or "").encode())]
        response = OutgoingResponse(Fields.from_list(fields))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            for at in range(0, len(said), 4096):
                stream.blocking_write_and_flush(said[at : at + 4096])
        OutgoingBody.finish(body, None)

    def read(self, request: IncomingRequest) -> bytes:
        """The whole body of a request."""
        parts = []
        with request.consume() as body, body.stream() as stream:
            while True:
                try:
                    parts.append(stream.blocking_read(65_536))
                except Exception:
                    return b"".join(parts)
