"""A small server of one file, which can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Shelf:
    """What the server does.

    Attributes:
        content: of every path that is not redirected.
        ranges: whether it answers Range.
        stop_after: bytes of an answer after which it hangs up.
        redirects: path → address.
        tag: ETag of the content, empty for none.
        say_length: whether it tells the length.
        status: of every answer.
        asked: path and Range of all requests.
        sent_headers: further ones.
    """

    content: bytes
    ranges: bool = True
    stop_after: int | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    tag: str = '"one"'
    say_length: bool = True
    status: int = 200
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent_headers: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def url(self, path: str = "/w.pth") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class _Handler(BaseHTTPRequestHandler):
    shelf: Shelf

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        shelf = self.shelf
        wanted = self.headers.get("Range")
        shelf.asked.append((self.path, wanted))
        if self.path in shelf.redirects:
            self._begin(302, {"Location": shelf.redirects[self.path], "Content-Length": "0"})
            return
        start = self._first_byte(wanted)
        if start is not None and start >= len(shelf.content):
            self._begin(416, {"Content-Length": "0"})
            return
        body = shelf.content[start or 0 :]
        headers = dict(shelf.sent_headers)
        if shelf.say_length:
            headers["Content-Length"] = str(len(body))
        if shelf.tag:
            headers["ETag"] = shelf.tag
        if start is not None:
            last = len(shelf.content)
            headers["Content-Range"] = f"bytes {start}-{last - 1}/{last}"
        self._begin(shelf.status if start is None else 206, headers)
        with suppress(ConnectionError):  # the other side may refuse the rest
            self.wfile.write(body[: shelf.stop_after])

    def _first_byte(self, wanted: str | None) -> int | None:
        """None where the whole content is due: no Range, or a condition that does not hold."""
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        condition = self.headers.get("If-Range")
        if not self.shelf.ranges or not found or condition not in (None, self.shelf.tag):
            return None
        return int(found[1])

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(shelf: Shelf) -> Iterator[Shelf]:
    """The shelf behind a real socket of this machine."""
    handler = type("Handler", (_Handler,), {"shelf": shelf})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    shelf.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield shelf
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
