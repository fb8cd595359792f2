"""What judging itself costs: 10,000 judgments through an endpoint that answers at once, in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.report import Report, options

TURNS, REPEATS = 2, 2
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
reply = json.dumps({"choices": [{"message": {"content": json.dumps({"explanation": "x" * 400, "rating": 6})},
                    "finish_reason": "stop"}], "usage": {"prompt_tokens": 500, "completion_tokens": 100}}).encode()
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def main() -> None:
    given = options()
    judgments = 400 if given.quick else 10_000
    report = Report(
        "judge_overhead",
        "What judging itself costs",
        f"{judgments:,} judgments ({TURNS} turns, {REPEATS} repeats, answers of 200 words, `strict`, 16 at once)"
        " through a local endpoint that answers at once and runs in another process. Time and processor time from the"
        " command's start to its summary, over the number of judgments; memory of the judging process as it goes.",
        quick=given.quick,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder, judgments // (TURNS * REPEATS))
        server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            _measure(folder, f"http://127.0.0.1:{server.stdout.readline().strip()}/v1", judgments, report)
        finally:
            server.kill()
            server.wait()
    report.save()


def _write(folder: Path, questions: int) -> None:
    bench, answers = [], []
    for number in range(questions):
        bench.append({"question_id": number, "category": "writing", "turns": [f"ask {number}", f"and {number}"]})
        turns = [" ".join(f"w{(number * 7919 + i * i) % 9973}" for i in range(200)) for _ in range(TURNS)]
        answers.append({"question_id": number, "model_id": "m", "choices": [{"index": 0, "turns": turns}]})
    for name, rows in (("bench", bench), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _measure(folder: Path, url: str, judgments: int, report: Report) -> None:
    from evals.judge.cli import run
    from evals.judge.run import judge_request, request_from

    context = run.make_context("judge", ["--out", str(folder / "out")])
    arguments = {
        **context.params,
        "answers": (folder / "answers.jsonl",),
        "bench": str(folder / "bench.jsonl"),
        "judge_url": (url,),
        "judge_model": ("fake",),
        "repeats": REPEATS,
    }
    del arguments["request"]
    journal, seen = folder / "out" / "judgments-fake.jsonl", []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            lines = sum(1 for _ in journal.open("rb")) if journal.exists() else 0
            seen.append((lines, _resident()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, processor = time.perf_counter(), time.process_time()
    summary = judge_request(request_from(**arguments))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    ended.set()
    watcher.join()
    assert summary.judged == judgments
    report.table(
        [(f"{judgments:,}", f"{wall:.1f}", f"{1000 * wall / judgments:.2f}", f"{1000 * processor / judgments:.2f}")],
        ("judgments", "seconds", "ms each", "processor ms each"),
    )
    rows = []
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        held = [memory for lines, memory in seen if lines >= share * judgments] or [seen[-1][1]]
        rows.append((f"{100 * share:.0f} %", f"{held[0] / 2**20:.1f}"))
    rows.append(("at the end, with summary and transcript", f"{_resident() / 2**20:.1f}"))
    report.table(rows, ("judged", "MiB resident"))


def _resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
