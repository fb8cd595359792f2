"""A published bench without a data root comes from the hub's space, over the hub's own protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SPACE = "lmsys/mt-bench"
COMMIT = "0" * 39 + "1"
FILES = {
    "data/mt_bench/question.jsonl": '{"question_id": 101, "category": "math", "turns": ["a", "b"]}\n',
    "data/mt_bench/reference_answer/gpt-4.jsonl": json.dumps(
        {"question_id": 101, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["1", "2"]}]}
    )
    + "\n",
    "data/mt_bench/model_answer/other.jsonl": "not asked for",
    "data/judge_prompts.jsonl": "{}\n",
}
CODE = """
import json, sys
from evals.judge.questions import load_bench
bench = load_bench(sys.argv[1], None)
print(json.dumps([[q.id, q.turns, q.reference] for q in bench.questions] + [bench.prompts.name, bench.title]))
"""


@pytest.fixture
def hub():
    """The part of the hub's HTTP interface that a download of some files needs; and the paths that were asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            return None

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            if self.path.startswith(f"/api/spaces/{SPACE}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(text), "oid": hashlib.sha1(text.encode()).hexdigest()}
                    for name, text in FILES.items()
                ]
                content = json.dumps(tree).encode()
            elif self.path.startswith(f"/api/spaces/{SPACE}"):
                siblings = [{"rfilename": name} for name in FILES]
                content = json.dumps({"id": SPACE, "sha": COMMIT, "siblings": siblings}).encode()
            else:
                name = self.path.split("?")[0].removeprefix(f"/spaces/{SPACE}/resolve/{COMMIT}/")
                if name not in FILES:
                    self.send_error(404)
                    return
                asked.append(name)
                content = FILES[name].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def load(bench, endpoint, home):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        (sys.executable, "-c", CODE, bench), env=environment, capture_output=True, text=True, check=False
    )


def test_questions_references_and_templates_are_downloaded_and_nothing_else(hub, tmp_path):
    endpoint, asked = hub
    ran = load("mt_bench", endpoint, tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout) == [[101, ["a", "b"], ["1", "2"]], "judge_prompts.jsonl", "MT-Bench"]
    assert set(asked) == set(FILES) - {"data/mt_bench/model_answer/other.jsonl"}


def test_a_bench_that_the_space_lacks_is_told(hub, tmp_path):
    ran = load("vicuna_bench", hub[0], tmp_path)
    assert "the hub's space has no questions of vicuna_bench" in ran.stderr
