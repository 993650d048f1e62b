"""A web server on this machine that can be told to fail, for the tests of downloads."""

from __future__ import annotations

import hashlib
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, or the files that it is given; what it does wrong is set from outside."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.ranges = True
        self.break_after: list[int] = []
        self.statuses: list[int] = []
        self.files: dict[str, bytes] | None = None
        """What the last part of a path stands for; None for CONTENT whatever is asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(f"{self.command} {self.path} {asked or ''}".strip())
        status = server.statuses.pop(0) if server.statuses and body else 200
        name = self.path.rpartition("/")[2]
        content = CONTENT if server.files is None else server.files.get(name)
        if status >= 400 or name == "missing" or content is None:
            self.refuse(status if status >= 400 else 404)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and server.ranges else 0
        if start >= len(content) > 0:
            self.refuse(416)
            return
        rest = content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(rest[: server.break_after.pop(0)] if server.break_after else rest)

    def refuse(self, status: int) -> None:
        """Answer with an error, as the hub does where a repository has no such file."""
        self.send_response(status)
        self.send_header("X-Error-Code", "EntryNotFound" if status == 404 else "")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", "0")
        self.end_headers()
