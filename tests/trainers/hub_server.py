"""A hub on this machine with one data set of several files."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

COMMIT = "a1" * 20


def conversation(answer: str) -> bytes:
    return json.dumps([{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]}]).encode()


REPOSITORY = {"v1.json": conversation("old"), "v2.json": conversation("new"), "README.md": b"# path: nowhere\n"}
REPOSITORY["v4.jsonl"] = conversation("newest")[1:-1] + b'\n{"conversations":\n' + conversation("last")[1:-1]


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as `datasets` asks for one repository, ``org/chat``."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"content-length": str(len(body)), "x-repo-commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = urllib.parse.urlparse(self.path).path
        listed = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in REPOSITORY.items()
        ]
        if path.startswith("/api/datasets/org/chat/tree/"):
            self.answer(json.dumps(listed).encode(), content_type="application/json")
        elif path.startswith("/api/datasets/org/chat"):
            known = {"id": "org/chat", "sha": COMMIT, "siblings": [{"rfilename": name} for name in REPOSITORY]}
            self.answer(json.dumps(known).encode(), content_type="application/json")
        elif (name := path.rpartition("/")[2]) in REPOSITORY and f"/resolve/{COMMIT}/" in path:
            self.answer(REPOSITORY[name], etag=f'"{hashlib.sha1(REPOSITORY[name]).hexdigest()}"')
        else:
            self.answer(b"", 404, x_error_code="EntryNotFound")

    do_HEAD = do_GET


@contextmanager
def serve_hub() -> Iterator[str]:
    """Serve the hub, and yield its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
