"""A real HTTP server of one file, which supports Range and If-Range and can cut connections."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ServedFile:
    """Behaviour of the server, which tests change between requests."""

    content: bytes
    etag: str = '"v1"'
    last_modified: str = ""
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    """Numbers of bytes of the body after which the next connections are cut, one entry per request."""
    statuses: list[int] = field(default_factory=list)
    """Status codes of the next answers, before the server sends the file."""
    change_to: bytes | None = None
    """Content after the first answer."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of every request."""
    sent_bytes: int = 0
    url: str = ""


@contextmanager
def serve(served: ServedFile) -> Iterator[ServedFile]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.requests.append(dict(self.headers))
            self.close_connection = True
            if served.statuses:
                self.send_response(served.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            byte_range = self.headers.get("Range")
            validator = self.headers.get("If-Range")
            if byte_range and served.ranges and validator in {served.etag, served.last_modified}:
                start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
                if start >= len(served.content):
                    self.send_error(416)
                    return
            body = served.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
            if served.etag:
                self.send_header("ETag", served.etag)
            if served.last_modified:
                self.send_header("Last-Modified", served.last_modified)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body[: served.cut_after.pop(0)] if served.cut_after else body
            self.wfile.write(sent)
            served.sent_bytes += len(sent)
            if served.change_to is not None:
                served.content, served.etag, served.change_to = served.change_to, '"v2"', None

        def log_message(self, format: str, *args: object) -> None:
            """Writes nothing: pytest shows failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/data/reviews%20one.json.gz"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
