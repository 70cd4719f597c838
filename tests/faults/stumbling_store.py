"""A proxy before an object store that stumbles on purpose: slow answers, errors, resets, uploads cut in the middle."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("slow", "error", "reset", "cut", "unanswered")


class _Handler(BaseHTTPRequestHandler):
    store: StumblingStore  # set by the server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self) -> None:
        store = self.store
        with store.lock:
            store.requests += 1
            store.asked.append((self.command, self.path))
            fault = store.choose.choice(FAULTS) if store.choose.random() < store.share else None
        if fault == "cut" and self.command != "PUT":
            fault = "reset"
        if fault is not None:
            store.faults[fault] += 1
        if fault == "reset":
            return self.hang_up()
        if fault == "cut":
            self.rfile.read(10)  # of a body of some hundred bytes at least
            return self.hang_up()
        body = self.body()
        if fault == "error":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "slow":
            time.sleep(0.5)
        connection = http.client.HTTPConnection(store.upstream, timeout=30)
        passed = {n: v for n, v in self.headers.items() if n.lower() not in ("transfer-encoding", "expect")}
        connection.request(self.command, self.path, body, {**passed, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        if fault == "unanswered":
            return self.hang_up()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (
                "content-length",
                "connection",
                "transfer-encoding",
                "server",
                "date",
            ):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def body(self) -> bytes:
        """The request's body, sent in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self) -> None:
        """Resets the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class StumblingStore:
    """Passes requests on to the store at `upstream` (host:port); a share of them goes wrong, by a seeded draw.

    Faults: `slow` half a second late; `error` 503 without passing on; `reset` the connection dies before the request
    is read; `cut` it dies in the middle of the body, of which the store sees nothing; `unanswered` the store has done
    it, and the connection dies before the answer.
    """

    def __init__(self, upstream: str, *, share: float, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.asked: list[tuple[str, str]] = []  # verb and path of every request
        self.upstream, self.share = upstream, share
        self.choose, self.lock = random.Random(seed), threading.Lock()

        handler = type("Handler", (_Handler,), {"store": self})
        for verb in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(handler, f"do_{verb}", _Handler.answer)

        self._server = _Server(("127.0.0.1", 0), handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> StumblingStore:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
