"""A web server on loopback that can cut, lie and forget."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What a server was asked, and how much of the file it sent."""

    range: str | None
    sent: int
    condition: str | None = None
    """If-Range: the version that the range is of."""


class Server(ThreadingHTTPServer):
    """Serves one file to everybody who asks.

    Each entry of `cuts` breaks one answer off after so many bytes; each of `statuses` is given in place of one.
    """

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges, self.size_told = content, '"1"', True, True
        self.statuses: list[int] = []
        self.cuts: list[int] = []
        self.requests: list[Request] = []
        self.url = f"http://127.0.0.1:{self.server_port}/walker/rnd.zip"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        if server.statuses:
            server.requests.append(Request(asked, 0))
            return self.send_error(server.statuses.pop(0))
        same = self.headers.get("If-Range", server.etag) == server.etag
        begin = int(asked[len("bytes=") : -1]) if asked and server.ranges and same else 0
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.size_told:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        body = body[: server.cuts.pop(0)] if server.cuts else body
        server.requests.append(Request(asked, len(body), self.headers["If-Range"]))
        self.end_headers()  # sends them: whoever asks again on seeing them is written down behind this request
        self.wfile.write(body)


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """A server of this file, in a thread of its own."""
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
