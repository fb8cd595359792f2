"""A judge's endpoint that is a real HTTP server: it answers by a script, with every fault that servers have."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Payload = dict[str, Any]


@dataclass
class Say:
    """One response.

    Attributes:
        fault: ``hang`` (longer than a client waits), ``drop`` (close the connection), ``cut`` (half of the JSON with
            a full length), ``reset`` (the same, and the connection is reset), ``half`` (half of the JSON that claims to
            be all), ``drip`` (a byte now and then, without end), ``null`` (no choices).
    """

    text: str = ""
    status: int = 200
    fault: str = ""
    finish: str = "stop"
    refusal: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes | None = None
    seconds: float = 0.0


class FakeJudge:
    """Serves ``/v1/chat/completions`` on a free port.

    Args:
        script: (request, how often this prompt has been asked before) → what to say.
        usage: tokens of every prompt and every reply; None for a server that does not say.
    """

    def __init__(self, script: Callable[[Payload, int], Say | str], usage: tuple[int, int] | None = (100, 10)) -> None:
        self.script, self.usage = script, usage
        self.requests: list[Payload] = []
        self.keys: list[str | None] = []
        self.asked: dict[str, int] = {}
        self.answered: dict[str, int] = {}
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return None

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge._serve(self, payload)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                return None  # a client that went away

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> FakeJudge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler, payload: Payload) -> None:
        prompt = json.dumps(payload["messages"])
        with self._lock:
            before = self.asked.get(prompt, 0)
            self.asked[prompt] = before + 1
            self.requests.append(payload)
            self.keys.append(handler.headers.get("Authorization"))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            said = self.script(payload, before)
            self._send(handler, said if isinstance(said, Say) else Say(said))
            with self._lock:
                self.answered[prompt] = self.answered.get(prompt, 0) + 1
        finally:
            with self._lock:
                self._now -= 1

    def _send(self, handler: BaseHTTPRequestHandler, say: Say) -> None:
        time.sleep(say.seconds)
        if say.fault == "hang":
            time.sleep(3.0)
        if say.fault == "drop":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        message = {"role": "assistant", "content": say.text, **({"refusal": say.refusal} if say.refusal else {})}
        reply = {
            "choices": [{"index": 0, "message": message, "finish_reason": say.finish}] if say.fault != "null" else [],
        }
        if self.usage:
            reply["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), self.usage, strict=True))
        said = json.dumps(reply) if say.body is None else say.body
        body = said if isinstance(said, bytes) else said.encode()
        length = len(body)
        if say.fault in ("cut", "half", "reset"):
            body = body[: length // 2]
            length = len(body) if say.fault == "half" else length
        handler.send_response(say.status)
        for name, value in say.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        for byte in b" " * 300 if say.fault == "drip" else ():
            handler.wfile.write(bytes([byte]))
            time.sleep(0.1)
        handler.wfile.write(body)
        if say.fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        if say.fault in ("cut", "reset"):
            handler.close_connection = True
