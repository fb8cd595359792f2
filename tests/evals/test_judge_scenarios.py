"""Of every server's judgments none is lost that could be had, none is asked twice, and the budget holds.

Each scenario is run twice: with a budget that covers about half, and again with enough. ``MOEMIX_ALL_TESTS=1`` asks for
160 judgments, and also runs each scenario of the server with faults in the shared cases.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, Say
from small_judgings import answer_file, bench_file, judged, lines, write_lines

from evals import pace
from evals.judge import judges
from evals.judge.questions import load_bench
from evals.judge.report import make_report
from harness.errors import StageError
from harness.launch import free_port

THOROUGH = "MOEMIX_ALL_TESTS" in os.environ
COUNT = 160 if THOROUGH else 32
VERDICT = '{"explanation": "fine", "rating": 7}'
GOOD = Say(VERDICT)
USAGE = (2000, 10)  # more than the estimate, so that a budget which passes it does not suffice


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.02)
    for name in judges.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def asked(payload) -> tuple[int, bool]:
    """Question and turn that are asked for."""
    text = payload["messages"][-1]["content"]
    return int(re.search(r"mine says (\d+) first", text)[1]), "then" in text


Script = Callable[[dict[str, Any], int], Say]


def first(fault: Callable[[], Say], every: int = 8) -> Script:
    """A fault for the first request about every eighth question."""
    seen: set[tuple[int, bool]] = set()

    def script(payload, _):
        which = asked(payload)
        if which[0] % every or which in seen:
            return GOOD
        seen.add(which)
        return fault()

    return script


def refuses(*names: str) -> Script:
    """A server that names what it does not know, slowly, so that several threads meet it."""

    def script(payload, _):
        time.sleep(0.02)
        for name in names:
            if name in payload or (name == "system" and payload["messages"][0]["role"] == "system"):
                instead = ", use max_completion_tokens instead" if name == "max_tokens" else ""
                return Say(status=400, body=json.dumps({"error": {"message": f"Unsupported role: 'system'{instead}"
                           if name == "system" else f"Unsupported parameter: '{name}'{instead}"}}))  # fmt: skip
        return GOOD

    return script


def with_limit() -> Script:
    """Twenty requests in a third of a second; headers say when the next are welcome."""
    lock, sent = threading.Lock(), []

    def script(*_):
        with lock:
            now = time.monotonic()
            sent[:] = [moment for moment in sent if now - moment < 0.33]
            left = 20 - len(sent)
            wait = 0.34 - (now - sent[0]) if sent else 0.34
            headers = {"x-ratelimit-remaining-requests": str(max(left - 1, 0)),
                       "x-ratelimit-reset-requests": f"{1000 * wait:.0f}ms"}  # fmt: skip
            if left <= 0:
                return Say(status=429, body="slow down", headers=headers)
            sent.append(now)
        return Say(VERDICT, headers=headers)

    return script


def stream_only(payload, _):
    if not payload.get("stream"):
        return Say(status=400, body='{"error": {"message": "This model only supports stream mode"}}')
    events = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in (VERDICT[:20], VERDICT[20:])]
    events.append({"choices": [], "usage": {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1]}})
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return Say(VERDICT, body=text, headers={"Content-Type": "text/event-stream"})


def short_context(payload, _):
    """512 tokens, in the words of vLLM until 0.19."""
    if payload["max_tokens"] <= 112:
        return GOOD
    said = (
        f"'max_tokens' or 'max_completion_tokens' is too large: {payload['max_tokens']}. This model's maximum context "
    )
    said += f"length is 512 tokens and your request has 400 input tokens ({payload['max_tokens']} > 512 - 400)."
    return Say(status=400, body=json.dumps({"error": {"message": said}}))


def shorter_context(payload, _):
    """256 tokens, in the words of vLLM 0.32, which does not count the prompt and gives what is left."""
    if payload["max_tokens"] <= 256:
        return GOOD
    said = f"max_tokens={payload['max_tokens']} cannot be greater than max_model_len=256. Please request fewer output "
    return Say(status=400, body=json.dumps({"error": {"message": said + "tokens. (parameter=max_tokens)"}}))


def whole(text: str = VERDICT) -> bytes:
    usage = {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1]}
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}).encode()


def only(which: int, fault: Say) -> Script:
    """A fault for one question, however often it is asked."""
    return lambda payload, _: fault if asked(payload)[0] == which else GOOD


def after(payments: list[int]) -> Script:
    """An account without credit until somebody pays."""
    left = [COUNT // 4]

    def script(*_):
        if payments:
            return GOOD
        left[0] -= 1
        return GOOD if left[0] >= 0 else Say(status=402, body="Insufficient Balance")

    return script


PAID: list[int] = []
SCENARIOS: dict[str, tuple[Callable[[], Script], dict[str, int]]] = {
    "drips without end": (lambda: first(lambda: Say(fault="drip")), {}),
    "503 until a date": (
        lambda: first(lambda: Say(status=503, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)}), 16),
        {},
    ),
    "429 for milliseconds": (lambda: first(lambda: Say(status=429, headers={"retry-after-ms": "150"})), {}),
    "429 for so long in words": (lambda: first(lambda: Say(status=429, body="Please try again in 0.2s.")), {}),
    "headers say when a limit is reset": (with_limit, {}),
    "an error in a good response": (
        lambda: first(lambda: Say(body='{"error": {"message": "Rate limit exceeded", "code": 429}}')), {}
    ),
    "streams only": (lambda: stream_only, {}),
    "one question is moderated": (
        lambda: only(3, Say(status=403, body="Your input was flagged by moderation.")), {"refused": 2}
    ),
    "no credit until it is paid": (lambda: after(PAID), {}),
    "empty at first": (lambda: first(lambda: Say("")), {}),
    "one reply is nested without end": (lambda: only(5, Say('{"rating": ' * 2000)), {"no_verdict": 2}),
    "knows no seed": (lambda: refuses("seed"), {}),
    "knows no temperature, seed, schema or system": (
        lambda: refuses("temperature", "seed", "response_format", "system"), {}
    ),
    "another name for the limit": (lambda: refuses("max_tokens"), {}),
    "zipped, with a mark of its encoding": (
        lambda: lambda *_: Say(VERDICT, body=gzip.compress(b"\xef\xbb\xbf" + whole()),
                               headers={"Content-Encoding": "gzip"}), {}
    ),
    "resets connections midway": (lambda: first(lambda: Say(VERDICT, fault="reset")), {}),
    "a page in place of a reply": (
        lambda: first(lambda: Say(body="<html>Sign in</html>", headers={"Content-Type": "text/html"})), {}
    ),
    "a context of 512": (lambda: short_context, {}),
    "a context of 256": (lambda: shorter_context, {}),
    "thoughts before the verdict": (
        lambda: lambda *_: Say(f"<think>\nMaybe [[3]]?\n</think>\n{VERDICT}"), {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SCENARIOS, "does not count tokens"])
def test_nothing_is_lost_or_asked_twice_and_the_budget_holds(name, tmp_path):
    make, failed = SCENARIOS.get(name, (lambda: lambda *_: GOOD, {}))
    usage = None if name == "does not count tokens" else USAGE
    script, useful = make(), Counter[tuple[int, bool]]()
    bench_file(tmp_path, COUNT // 2)
    answer_file(tmp_path, count=COUNT // 2)

    def watched(payload, before):
        said = script(payload, before)
        if said.status == 200 and said.text.endswith(VERDICT) and not said.fault:
            useful[asked(payload)] += 1
        return said

    timeout = 1.0 if name == "drips without end" else 60.0
    options = {"price": "1000,1000", "judge_max_tokens": 300, "timeout": timeout, "concurrency": 16}
    with FakeJudge(watched, usage) as judge:
        try:
            judged(tmp_path, judge.url, max_cost=1.2 * COUNT, **options)
        except StageError as error:
            assert re.search("budget|no credit", str(error))  # noqa: PT017
        replies = sum(useful.values())
        assert replies * sum(usage or (100, 10)) / 1000 <= 1.2 * COUNT
        assert replies >= COUNT // 8
        PAID.append(1)
        summary = judged(tmp_path, judge.url, max_cost=100 * COUNT, **options)
    PAID.clear()
    assert summary.failed == failed
    assert summary.judged == COUNT - sum(failed.values())
    if name != "drips without end":  # there, a machine that is too busy may be late itself
        assert set(useful.values()) == {1}
    assert summary.cost <= 100 * COUNT
    if usage:
        assert summary.cost >= replies * sum(usage) / 1000
    omitted = {"knows no seed": ("seed",), "knows no temperature, seed, schema or system":
               ("response_format", "seed", "system", "temperature")}  # fmt: skip
    assert summary.omitted.get("fake", ()) == omitted.get(name, ())


# --- the server with faults of the shared cases ---------------------------------------------------------

ALL = 160
# Scenario → why judgments fail, how many, and the argument of the server; all others give all judgments.
FAILS = {
    "403q": ("refused", 2, ""), "nestq": ("cut_off", 2, ""), "bigq": ("out_of_range", 2, ""),
    "nest1": ("cut_off", 1, ""), "nest": ("cut_off", ALL, "3000"), "thinkcut": ("cut_off", ALL, ""),
    "thinkcut2": ("cut_off", ALL, ""), "nullreason": ("cut_off", ALL, ""), "nan": ("out_of_range", ALL, ""),
    "bigint": ("out_of_range", ALL, ""), "bigint5": ("out_of_range", ALL, ""), "rating0": ("out_of_range", ALL, ""),
    "choicesnull": ("bad_reply", ALL, ""), "bodylist": ("bad_reply", ALL, ""), "msgnull": ("bad_reply", ALL, ""),
    "html200": ("bad_reply", ALL, ""), "html502": ("server_error", ALL, ""), "hang": ("timeout", ALL, ""),
    "drip": ("timeout", ALL, ""), "contentfilter": ("refused", ALL, ""),
    "sseonly400": ("server_error", ALL, ""),  # asked to stream, this server knows its own scenario no more
    "403one": ("refused", -1, ""),  # some
    "ctx400": ("rejected", 2, ""),  # the answer to question 81 is too long for its context
}  # fmt: skip
STOPS = {
    "401": "refuses requests", "401bad": "refuses requests", "model404": "refuses requests", "402": "no credit left",
    "err200": "no credit left", "quota": "no credit left", "rl600": "asks to wait longer",
}  # fmt: skip
PAIRS = ("pairrand", "thinkpair")
GIVES = dict.fromkeys(
    ("good temp400 temp400b seed422 maxtok maxtokslow rf400plain rf422 rf500 err200limit think thinksingle reasongood "
     "listcontent listcontent2 text sse rldate rlms 503ra unicode usagestr slow zerowidth fullwidth bold prose upgrade "
     "subscores subscores2 fence singlequote newline ratingstr ratingdeep ratinghalf sys400 redirect cut random huge "
     "pairrand thinkpair").split(), "",
) | {"ratelimit": "90", "dripslow": "2", "hugebrace": "20000", "manybrace": "2000"}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "cases" / "judge"
    if not folder.is_dir():
        pytest.skip("the cases are not on this machine")
    return folder


class Faulty:
    """``fake_openai.py`` with a scenario."""

    def __init__(self, script: Path, scenario: str, argument: str, log: Path) -> None:
        port = free_port()
        self.log, self.url = log, f"http://127.0.0.1:{port}/v1"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(port), scenario, str(log), *([argument] if argument else [])],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Faulty:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @property
    def requests(self) -> int:
        return sum("path" in line for line in lines(self.log)) if self.log.exists() else 0


def test_every_scenario_of_the_cases_is_expected(cases):
    """So that a new one is not overlooked."""
    named = set(re.findall(r'sc=="(\w+)"', (cases / "fake_openai.py").read_text()))
    named |= {"403q", "nestq", "bigq"}
    assert named == {*FAILS, *STOPS, *GIVES}


@pytest.mark.skipif(not THOROUGH, reason="takes minutes; MOEMIX_ALL_TESTS=1 runs it")
@pytest.mark.data
@pytest.mark.parametrize("name", sorted({*FAILS, *STOPS, *GIVES}))
def test_each_scenario_of_the_cases_gives_what_can_be_had(name, cases, real_data, tmp_path):
    questions = load_bench("mt_bench", real_data).questions
    for model in ("mine", "base"):
        write_lines(tmp_path / f"{model}.jsonl", [
            {"question_id": q.id, "model_id": model,
             "choices": [{"turns": [f"{model} {q.id}" + 5000 * " x" * (q.id == 81), f"two {q.id}"]}]}
            for q in questions
        ])  # fmt: skip
    reason, count, argument = FAILS.get(name, ("", 0, GIVES.get(name, "")))
    slow = name in ("hang", "drip")
    options: dict[str, Any] = {
        "bench": "mt_bench", "data_root": str(real_data), "price": "1000,1000", "max_cost": 5000.0,
        "timeout": 1.0 if slow else 60.0, "attempts": 1 if slow else 3,
        "concurrency": 4 if name == "huge" else ALL if slow or name in ("rldate", "rlms", "503ra") else 16,
    }  # fmt: skip
    if name in PAIRS:
        options |= {"mode": "pairwise", "baseline": tmp_path / "base.jsonl"}
    with Faulty(cases / "fake_openai.py", name, argument, tmp_path / "log") as server:
        if name in STOPS:
            with pytest.raises(StageError, match=STOPS[name]):
                judged(tmp_path, server.url, **options)
            assert server.requests <= 20
        else:
            summary = judged(tmp_path, server.url, **options)
            assert summary.judged + sum(summary.failed.values()) == ALL
            assert set(summary.failed) <= ({reason} if reason else set())
            assert summary.failed.get(reason, 0) == count or (count == -1 and 0 < summary.failed[reason] < ALL)
            assert summary.requests * (2 if name == "redirect" else 1) == server.requests
            again = {"err200limit", "cut", "rldate", "rlms", "503ra", "ratelimit", "redirect", "sseonly400",
                     "choicesnull", "bodylist", "msgnull", "html200", "html502"}  # fmt: skip
            assert server.requests <= (6 * ALL if name in again else 2 * ALL if name in PAIRS else ALL + 5)
            assert summary.cost <= 5000
    if name in STOPS:
        with Faulty(cases / "fake_openai.py", "good", "", tmp_path / "log2") as server:
            assert judged(tmp_path, server.url, **options).judged == ALL
            assert server.requests <= ALL


def test_the_report_tells_the_perfect_judge_of_the_cases_from_the_one_that_rolls_dice(cases, tmp_path):
    """A wrong answer is one with 987654 in it, by this judge as by the reference grader."""
    checks = [{"kind": "number", "value": 7}]
    rows = [{"question_id": n, "category": "math", "turns": [f"{n}: 3 + 4?"], "checks": checks} for n in range(40)]
    write_lines(tmp_path / "bench.jsonl", rows)
    write_lines(tmp_path / "mine.jsonl", [
        {"question_id": n, "model_id": "mine", "choices": [{"turns": ["7" if n % 3 else "987654"]}]} for n in range(40)
    ])  # fmt: skip
    port = free_port()
    process = subprocess.Popen([sys.executable, str(cases / "perfect_or_dice_judge.py"), str(port)])
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        judged(tmp_path, f"http://127.0.0.1:{port}/v1", judge_model=("perfect", "dice"), repeats=3)
    finally:
        process.kill()
        process.wait()
    judged(tmp_path, "", judge_url=(), judge_model=(), out=tmp_path / "checked")
    report = make_report([tmp_path / "out", tmp_path / "checked"], None)["judges"]
    assert report["perfect"]["against_checks"]["auc"]["value"] == 1
    assert report["dice"]["against_checks"]["auc"]["low"] < 0.5 < report["dice"]["against_checks"]["auc"]["high"]
    assert (report["perfect"]["unreliable"], len(report["dice"]["unreliable"])) == ([], 1)
