"""A web server on this machine that can be told to misbehave."""

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Web:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        files: path -> bytes.
        statuses: answers before the first good one.
        cuts: bytes after which a connection breaks, one an answer.
        ranges: whether parts are sent.
        wrong_part: say another place once.
        sized: send the length.
        length: the length that is sent instead.
        redirect: where the client is sent instead.
        tag: the ETag that is sent, and what If-Range is compared with.
        before: called before each answer.
        requests, validators: what was asked: path and Range, If-Range.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    wrong_part: bool = False
    sized: bool = True
    length: str | None = None
    redirect: str | None = None
    tag: str = '"one"'
    before: Callable[[], Any] = lambda: None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    validators: list[str | None] = field(default_factory=list)


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that goes away is part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, web: Web, *args: Any) -> None:
        self.web = web
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        web = self.web
        wanted = self.headers.get("Range")
        web.requests.append((self.path, wanted))
        web.validators.append(self.headers.get("If-Range"))
        web.before()
        if web.redirect:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", web.redirect)
            self.end_headers()
            return
        if web.statuses:
            self.send_error(web.statuses.pop(0))
            return
        if self.path not in web.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data = web.files[self.path]
        start = 0
        if wanted and web.ranges and self.headers.get("If-Range", web.tag) == web.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            shown = start - 1 if web.wrong_part else start
            web.wrong_part = False
            self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(HTTPStatus.OK)
        if web.tag:
            self.send_header("ETag", web.tag)
        if web.sized:
            self.send_header("Content-Length", web.length or str(len(data) - start))
        self.end_headers()
        most = web.cuts.pop(0) if web.cuts else len(data)
        self.wfile.write(data[start : start + most])


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    found = Web()
    with Server(("127.0.0.1", 0), partial(Handler, found)) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(folder))
    return folder
