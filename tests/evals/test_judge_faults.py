"""Every fault of an endpoint is retried or recorded as what it is, the counts add up, and nothing is asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import click
import pytest
from click.testing import CliRunner
from fake_judge import FakeJudge, Say
from small_judgings import answer_file, arguments, bench_file, judged, lines, template_file, write_lines

from evals import client, pace
from evals.judge import judges
from evals.judge.cli import run as run_command
from evals.judge.run import judge_request, request_from
from evals.replies import Usage
from harness.errors import MoemixError, StageError

KEY = "sk-very-secret-0123456789"
TRANSIENT = {
    "rate_limited": lambda: Say(status=429, headers={"Retry-After": "0"}, body="slow down"),
    "server_error": lambda: Say(status=500, body="oops"),
    "timeout": lambda: Say(fault="hang"),
    "connection": lambda: Say(fault="drop"),
    "bad_reply": lambda: Say("[[5]]", fault="half"),
    "empty": lambda: Say(""),
}
FINAL = {
    "refused": lambda: Say("", refusal="I will not"),
    "no_verdict": lambda: Say("It is a fine answer."),
    "out_of_range": lambda: Say("[[11]]"),
    "cut_off": lambda: Say("It is a fine ans", finish="length"),
    "rejected": lambda: Say(status=400, body="the prompt is too long"),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(client, "PATIENCE", 2.0)
    for name in judges.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small(tmp_path):
    bench_file(tmp_path)
    answer_file(tmp_path)
    return tmp_path


def number_of(payload) -> int:
    """Which of the twelve judgments is asked for: question (1–6) and turn."""
    text = payload["messages"][-1]["content"]
    question = next(n for n in range(1, 7) if f"mine says {n} first" in text)
    return 2 * (question - 1) + ("then" in text)


def test_what_passes_is_retried_and_nothing_is_missing(small):
    faults = [*TRANSIENT.values(), lambda: Say("[[5]]", fault="cut"), lambda: Say(fault="null")]

    def script(payload, before):
        number = number_of(payload)
        return faults[number % len(faults)]() if before == 0 else "[[6]]"

    with FakeJudge(script) as judge:
        summary = judged(small, judge.url, timeout=1.0)
    assert summary.judged == 12
    assert summary.failed == {}
    assert summary.average.value == 6
    assert summary.requests == 24 == len(judge.requests)


def test_what_does_not_pass_is_recorded_as_what_it_is_and_the_counts_add_up(small):
    faults = {**TRANSIENT, **FINAL}
    names = list(faults)

    def script(payload, _):
        number = number_of(payload)
        return faults[names[number]]() if number < len(names) else "[[8]]"

    with FakeJudge(script) as judge:
        summary = judged(small, judge.url, timeout=0.5, attempts=2)
        again = judged(small, judge.url, timeout=0.5, attempts=2)
    assert summary.failed == dict.fromkeys(sorted(names), 1)
    assert summary.judged == 1
    assert summary.average.value == 8
    assert summary.bounds == pytest.approx(((8 + 11 * 1) / 12, (8 + 11 * 10) / 12))
    assert any("11 of 12 judgments failed" in note for note in summary.notes)
    assert summary.requests == len(judge.requests) >= 2 * len(TRANSIENT) + len(FINAL) + 1  # being asked to wait: more
    assert again == summary
    held = lines(small / "out" / "judgments-fake.jsonl")
    assert {line["reason"] for line in held} == {*names, None}
    assert all(line["score"] == -1 for line in held if line["reason"])


def test_what_the_endpoint_failed_to_give_can_be_asked_again_alone(small):
    broken = {"now": True}

    def script(payload, _):
        number = number_of(payload)
        if number == 0:
            return "nothing to say"
        return Say(status=503) if number < 4 and broken["now"] else "[[5]]"

    with FakeJudge(script) as judge:
        first = judged(small, judge.url, attempts=1)
        broken["now"], sent = False, len(judge.requests)
        second = judged(small, judge.url, attempts=1, retry_failed=True)
        assert len(judge.requests) == sent + 3
    assert first.failed == {"server_error": 3, "no_verdict": 1}
    assert second.failed == {"no_verdict": 1}
    assert second.judged == 11
    assert second.requests == sent + 3


def test_a_server_with_another_name_for_the_limit_gets_it(small):
    def script(payload, _):
        if "max_tokens" in payload:
            return Say(status=400, body="Unsupported parameter: use 'max_completion_tokens' instead of 'max_tokens'.")
        return "[[5]]"

    with FakeJudge(script) as judge:
        assert judged(small, judge.url, concurrency=1).judged == 12
    assert judge.requests[-1]["max_completion_tokens"] == 2048


def test_answers_that_are_missing_are_counted(small):
    answer_file(small, count=4, turns=lambda number: ["only one"] if number == 1 else ["one", "two"])
    with FakeJudge(lambda *_: "[[5]]") as judge:
        summary = judged(small, judge.url)
    assert summary.judged == 7
    assert summary.failed == {"no_answer": 5}


def test_an_endpoint_that_is_gone_stops_the_work_and_writes_no_failures(small):
    with FakeJudge(lambda *_: "[[5]]") as judge:
        pass
    with pytest.raises(StageError, match="cannot be reached"):
        judged(small, judge.url, attempts=2)
    assert lines(small / "out" / "judgments-fake.jsonl") == []
    assert not (small / "out" / "summary.json").exists()


@pytest.mark.parametrize(("status", "most"), [(401, 2), (402, 2), (404, 2), (403, judges.UNREACHABLE + 2)])
def test_an_endpoint_that_refuses_us_stops_soon_and_can_be_asked_again(small, status, most):
    """A status of 403 may be about one question, so several are asked first."""
    with FakeJudge(lambda *_: Say(status=status, body="no")) as judge, pytest.raises(StageError, match=str(status)):
        judged(small, judge.url, concurrency=1)
    assert len(judge.requests) <= most
    assert lines(small / "out" / "judgments-fake.jsonl") == []
    with FakeJudge(lambda *_: "[[5]]") as judge:  # on another port
        assert judged(small, judge.url).judged == 12


def test_a_rate_limit_pauses_everybody_for_as_long_as_it_says(small):
    def script(payload, before):
        return Say(status=429, headers={"Retry-After": "1"}) if number_of(payload) == 0 and not before else "[[5]]"

    with FakeJudge(script) as judge:
        started = time.monotonic()
        judged(small, judge.url, concurrency=1)
        assert time.monotonic() - started >= 1.0


def test_a_rate_of_our_own_is_kept(small):
    with FakeJudge(lambda *_: "[[5]]") as judge:
        started = time.monotonic()
        judged(small, judge.url, rate=600)
        assert time.monotonic() - started >= 1.1  # twelve requests, a tenth of a second apart


def test_as_many_as_asked_for_are_under_way_at_once(small):
    with FakeJudge(lambda *_: Say("[[5]]", seconds=0.1)) as judge:
        judged(small, judge.url, concurrency=4)
    assert judge.most_at_once == 4


# --- budget -----------------------------------------------------------------------------------------


def test_a_budget_that_is_too_small_is_refused_before_any_request(small, caplog):
    caplog.set_level("INFO")
    with FakeJudge(lambda *_: "[[5]]") as judge, pytest.raises(MoemixError, match="12 requests, about"):
        judged(small, judge.url, max_cost=0.0001, price="1,1")
    assert judge.requests == []
    assert "12 requests" in caplog.text


def test_a_budget_needs_prices(small):
    with pytest.raises(MoemixError, match="--price IN,OUT"):
        judged(small, "http://127.0.0.1:1", max_cost=1.0)


def test_spending_stops_at_the_budget_and_a_larger_one_goes_on(small):
    # each judgment uses 100 + 10 tokens by the endpoint's count: 11 at these prices; the estimate is below
    options = {"price": "100000,100000", "judge_max_tokens": 16}
    with FakeJudge(lambda *_: Say("[[5]]")) as judge:
        with pytest.raises(MoemixError, match="would cost about"):
            judged(small, judge.url, max_cost=30.0, **options)
        # the estimate is above the real use, so a budget that passes it is enough
        summary = judged(small, judge.url, max_cost=1000.0, **options)
    assert summary.cost == pytest.approx(12 * 11)
    assert summary.tokens == {"prompt": 1200, "reply": 120}


# --- interruptions ------------------------------------------------------------------------------------


def test_killed_and_run_again_it_loses_nothing_and_asks_nothing_twice(tmp_path):
    bench_file(tmp_path, 60)
    answer_file(tmp_path, count=60)
    command = [sys.executable, "-m", "harness.cli", "judge", "--answers", str(tmp_path / "mine.jsonl")]
    command += ["--bench", str(tmp_path / "bench.jsonl"), "--judge-model", "fake", "--out", str(tmp_path / "out")]
    journal = tmp_path / "out" / "judgments-fake.jsonl"
    with FakeJudge(lambda *_: Say("[[5]]", seconds=0.02)) as judge:
        command += ["--judge-url", judge.url, "--concurrency", "4"]
        for aim in (10, 50, 90):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 300
            while not (journal.exists() and journal.read_bytes().count(b"\n") >= aim):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with journal.open("ab") as file:
                file.write(b'{"key": "torn')  # as a writer in the middle of a line leaves it
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    held = lines(journal)
    assert len(held) == len({line["key"] for line in held}) == 120
    # only what was under way at a kill may have been asked again, and none of it had been kept
    asked = Counter(judge.asked)
    assert len(asked) == 120
    assert sum(asked.values()) <= 120 + 3 * 4
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["judged"] == 120
    assert summary["failed"] == {}


def test_another_request_does_not_overwrite_a_folder(small):
    with FakeJudge(lambda *_: "[[5]]") as judge:
        judged(small, judge.url)
        with pytest.raises(MoemixError, match="another repeats"):
            judged(small, judge.url, repeats=2)


# --- keys -----------------------------------------------------------------------------------------------


def test_no_key_reaches_a_record_a_log_or_an_error(small, monkeypatch, capsys, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("MOEMIX_JUDGE_API_KEY", KEY)

    def script(payload, _):
        number = number_of(payload)
        if number == 0:
            return Say(status=500, body=f"bad header Bearer {KEY}")
        if number == 1:
            return Say(status=400, body=f"key {KEY} is over its limit")
        return f"You sent {KEY}. [[5]]"

    with FakeJudge(script) as judge:
        summary = judged(small, judge.url, attempts=2)
        assert set(judge.keys) == {f"Bearer {KEY}"}
    assert summary.judged == 10
    with FakeJudge(lambda *_: Say(status=401, body=f"wrong key {KEY}")) as judge, pytest.raises(StageError) as refused:
        judged(small, judge.url, out=small / "refused")
    assert KEY not in str(refused.value)
    assert KEY not in repr(refused.value.__cause__) + repr(refused.value.__context__)
    for path in small.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in "".join(capsys.readouterr()) + caplog.text


def test_a_key_in_an_address_is_refused_without_repeating_it(small):
    with pytest.raises(MoemixError) as refused:
        judged(small, f"http://user:{KEY}@127.0.0.1:1/v1")
    assert KEY not in str(refused.value)


# --- what judges say ------------------------------------------------------------------------------------

VERDICT = '{"explanation": "fine", "rating": 7}'
PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "rating 3"}]}, {"type": "text", "text": VERDICT}]


def choice(content, **more):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, **more}]})


@pytest.mark.parametrize(
    ("body", "score", "reason"),
    [
        (choice(f'<think>\nMaybe {{"rating": 3}}? Or [[5]].\n</think>\n\n{VERDICT}'), 7, None),
        (choice('<think>\nA draft: {"explanation": "x", "rating": 3}, but', finish_reason="length"), -1, "cut_off"),
        (choice("Thoughts of [[5]] without a beginning.</think>Rating: [[9]]"), 9, None),
        (choice(None, finish_reason="length"), -1, "cut_off"),
        (choice(PARTS), 7, None),
        (json.dumps({"choices": [{"text": VERDICT, "finish_reason": "stop"}]}), 7, None),
        (choice("x " * 300_000 + VERDICT), 7, None),
        (choice('{"explanation":' * 3000, finish_reason="length"), -1, "cut_off"),
        (choice('{"rating": ' + "[" * 2048, finish_reason="length"), -1, "cut_off"),
        (choice('{"explanation": "x", "rating": 1' + "0" * 400 + "}"), -1, "out_of_range"),
        (choice('{"explanation": "x", "rating": 1' + "0" * 5000 + "}"), -1, "out_of_range"),
        (choice('{"explanation": "x", "rating": Infinity}'), -1, "out_of_range"),
    ],
)
def test_a_verdict_is_read_behind_thoughts_and_one_reply_stops_no_judging(small, body, score, reason):
    with FakeJudge(lambda payload, _: Say(body=body) if number_of(payload) == 0 else "[[5]]") as judge:
        summary = judged(small, judge.url)
    assert len(judge.requests) == 12
    assert summary.judged == (11 if reason else 12)
    assert summary.failed == ({reason: 1} if reason else {})
    held = lines(small / "out" / "judgments-fake.jsonl")
    assert sorted(line["score"] for line in held) == sorted([5] * 11 + [score])
    assert max(len(line["judgment"]) for line in held) < 100_100


def test_a_response_without_end_does_not_fill_the_memory(small, monkeypatch):
    monkeypatch.setattr(client, "_LARGEST", 5000)
    with FakeJudge(lambda payload, _: "x" * 6000 if number_of(payload) == 0 else "[[5]]") as judge:
        summary = judged(small, judge.url, attempts=2)
    assert (summary.judged, summary.failed) == (11, {"bad_reply": 1})


def test_a_question_that_the_provider_moderates_is_counted_and_the_others_are_judged(small):
    flagged = Say(status=403, body='{"error": {"message": "Your input was flagged by moderation."}}')
    with FakeJudge(lambda payload, _: flagged if number_of(payload) == 4 else "[[5]]") as judge:
        summary = judged(small, judge.url)
    assert (summary.judged, summary.failed) == (11, {"refused": 1})


def test_a_judge_with_a_short_context_is_asked_for_what_fits(small):
    def script(payload, _):
        if payload["max_tokens"] > 112:
            words = f"However, you requested {400 + payload['max_tokens']} tokens (400 in the messages"
            return Say(status=400, body=f"This model's maximum context length is 512 tokens. {words})")
        return "[[5]]"

    with FakeJudge(script) as judge:
        summary = judged(small, judge.url)
    assert summary.judged == 12
    assert {request["max_tokens"] for request in judge.requests} == {2048, 111}


def test_what_a_server_does_not_accept_is_recorded(small):
    with FakeJudge(
        lambda payload, _: Say(status=400, body="temperature is not supported") if "temperature" in payload else "[[5]]"
    ) as judge:
        summary = judged(small, judge.url)
    assert (summary.judged, summary.omitted, len(judge.requests)) == (12, {"fake": ("temperature",)}, 13)
    assert any("does not accept temperature" in note for note in summary.notes)


# --- the rest of the command --------------------------------------------------------------------------


def test_every_judge_gets_its_own_key_and_one_key_goes_to_one_server(small, monkeypatch):
    monkeypatch.setenv("ONE", "key-one")
    monkeypatch.setenv("TWO", "key-two")
    with FakeJudge(lambda *_: "[[5]]") as one, FakeJudge(lambda *_: "[[5]]") as two:
        panel = {"judge_url": (one.url, two.url), "judge_model": ("a", "b")}
        with pytest.raises(MoemixError, match="one key would be sent to 2 servers"):
            judged(small, "", **panel, judge_key_env=("ONE",))
        with pytest.raises(MoemixError, match="ABSENT is not set"):
            judged(small, "", **panel, judge_key_env=("ONE", "ABSENT"))
        assert not one.requests
        judged(small, "", **panel, judge_key_env=("ONE", "TWO"))
        judged(small, "", **panel, judge_key_env=("ONE", "-"), out=small / "other")
    assert set(one.keys) == {"Bearer key-one"}
    assert set(two.keys) == {"Bearer key-two", None}


@pytest.mark.parametrize("text", ["", "[[5]]"])
def test_a_budget_holds_whatever_the_replies_are(small, text):
    """Every reply costs 110 at these prices, an empty one too."""
    with FakeJudge(lambda *_: text) as judge, pytest.raises(StageError, match="budget of 800 does not cover"):
        judged(small, judge.url, max_cost=800.0, price="1000000,1000000", judge_max_tokens=16, protocol="faithful",
               judge_prompts=template_file(small))  # fmt: skip
    assert len(judge.requests) * 110 <= 800
    assert len(judge.requests) >= 4


def test_both_games_of_a_pair_are_paid_for(small):
    answer_file(small, "base")
    options = {"mode": "pairwise", "baseline": small / "base.jsonl", "price": "1000000,1000000", "judge_max_tokens": 16}
    with FakeJudge(lambda *_: '{"winner": "A"}') as judge:
        with pytest.raises(MoemixError, match="would cost about"):
            judged(small, judge.url, max_cost=1000.0, **options)
        summary = judged(small, judge.url, max_cost=100_000.0, **options)
    assert len(judge.requests) == 24
    assert summary.cost == 24 * 110


def test_ids_of_answers_may_be_texts_and_foreign_ones_are_refused(small):
    rows = lines(small / "mine.jsonl")
    write_lines(small / "mine.jsonl", [{**row, "question_id": str(row["question_id"])} for row in rows])
    with FakeJudge(lambda *_: "[[5]]") as judge:
        assert judged(small, judge.url, model_name="renamed").judged == 12
        assert {line["model"] for line in lines(small / "out" / "judgments-fake.jsonl")} == {"renamed"}
        write_lines(small / "mine.jsonl", [{**row, "question_id": f"q-{row['question_id']}"} for row in rows])
        with pytest.raises(MoemixError, match="no answer is to a question of"):
            judged(small, judge.url, out=small / "foreign")


def test_a_mark_in_place_of_an_answer_is_not_graded_and_half_a_letter_is(small):
    answer_file(small, turns=lambda number: ["$ERROR$", "two"] if number == 1 else ["one \ud83d", "two"])
    with FakeJudge(lambda *_: "[[5]]") as judge:
        summary = judged(small, judge.url)
    assert (summary.judged, summary.failed) == (10, {"no_answer": 2})


def test_the_command_fails_where_less_than_the_stated_share_was_judged(small):
    command = ["--answers", str(small / "mine.jsonl"), "--bench", str(small / "bench.jsonl"), "--judge-model", "fake"]
    with FakeJudge(lambda payload, _: "[[5]]" if number_of(payload) < 6 else "no number") as judge:
        command += ["--judge-url", judge.url, "--out", str(small / "out")]
        assert CliRunner().invoke(run_command, command).exit_code == 0
        result = CliRunner().invoke(run_command, [*command, "--min-judged", "0.6"])
    assert isinstance(result.exception, StageError)
    assert "50% of the judgments have a verdict, less than 60%" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "typed", "status", "sent"),
    [(("--price", "1,2"), "n", 1, 0), (("--price", "1,2"), "y", 0, 12), (("--price", "1,2", "--yes"), "", 0, 12),
     ((), "", 0, 12)],
)  # fmt: skip
def test_on_a_terminal_the_estimate_is_confirmed_where_it_has_a_price(small, monkeypatch, options, typed, status, sent):
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    command = ["--answers", str(small / "mine.jsonl"), "--bench", str(small / "bench.jsonl"), "--judge-model", "fake"]
    with FakeJudge(lambda *_: "[[5]]") as judge:
        command += ["--judge-url", judge.url, "--out", str(small / "out"), *options]
        done = CliRunner().invoke(run_command, command, input=f"{typed}\n")
    assert (done.exit_code, len(judge.requests)) == (status, sent)
    assert ("12 requests, about" in done.output and "Go on?" in done.output) == bool(typed)


def test_a_judge_on_another_machine_is_asked_only_when_that_is_confirmed(small):
    """It may cost money, whether its price was given or not."""

    def no(estimate):
        raise click.Abort(estimate)

    job = request_from(**arguments(answers=(small / "mine.jsonl",), bench=str(small / "bench.jsonl"), out=small / "out",
                                   judge_url=("https://judge.invalid/v1",), judge_model=("fake",)))  # fmt: skip
    with pytest.raises(click.Abort, match="12 requests, about"):
        judge_request(job, no)


def test_requests_in_progress_together_do_not_multiply_what_a_server_counts_too_much():
    budget = judges.Budget(100.0, judges.Price(1e6, 0.0))
    with ExitStack() as together:
        settles = [together.enter_context(budget.reserve(Usage(2, 0), threading.Event())) for _ in range(5)]
        for settle in settles:
            settle(Usage(6, 0))  # three times what was expected
    assert budget.spent == 30.0
    with budget.reserve(Usage(20, 0), threading.Event()):  # three times as much is 60; 3**5 times would not fit
        pass
    with (
        pytest.raises(StageError, match=r"about 72.*30 spent"),
        budget.reserve(Usage(24, 0), threading.Event()),
    ):
        pass
