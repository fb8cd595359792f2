"""How much faster a served checkpoint is evaluated than by lm-eval's own transformers model, and with what answers."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.loading import LoadedTasks, load_tasks
from evals.runner import _quiet
from evals.suites import Suite
from tests.bench.report import Report, options, real_data

# title → task, shots, metric, filter, questions
COLUMNS = {
    "ARC-easy, 0-shot": ("arc_easy", 0, "acc_norm", "none", 50),
    "MMLU anatomy, 5-shot": ("mmlu_anatomy", 5, "acc", "none", 40),
    "GSM8K, 8-shot": ("gsm8k_cot", 8, "exact_match", "flexible-extract", 20),
}
METHODS = ("loglikelihood", "generate_until")
BATCH = 8


@dataclass
class Run:
    """One engine's evaluation: seconds of its requests and samples, by task, and what it took to start."""

    start: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def main() -> None:
    given = options(
        checkpoint={"type": Path, "help": "folder; the smol recipe's model"},
        store={"type": Path, "default": Path("runs"), "help": "where to find that model otherwise"},
    )
    checkpoint = (given.checkpoint or found_in(given.store)).resolve()
    report = Report(
        "eval_speed",
        "Evaluation on a served engine",
        f"The model of the `smol` recipe (SmolLM2-135M-Instruct upcycled to four experts) on three columns of real "
        f"questions, by a vLLM server and by lm-eval's own `hf` model (batches of {BATCH}), same machine, one run, the "
        "response cache off. Seconds are those of the requests; starting is listed apart. Answers are compared sample "
        "by sample.",
        quick=given.quick,
    )
    _quiet()
    suite = Suite.model_validate(
        {
            "name": "speed",
            "columns": [
                {
                    "name": task,
                    "tasks": [task],
                    "shots": shots,
                    "metric": metric,
                    "filter": filtered,
                    "limit": 2 if given.quick else limit,
                }
                for task, shots, metric, filtered, limit in COLUMNS.values()
            ],
        }
    )
    root = real_data(given)

    def load() -> LoadedTasks:
        return load_tasks(suite, "paper_kr", only=(), limit=None, root=root)

    stock = run_stock(checkpoint, load())
    served = run_served(checkpoint, load(), "float32")
    half = run_served(checkpoint, load(), "bfloat16")
    rows = []
    for title, (task, *_) in COLUMNS.items():
        ratio = stock.seconds[task] / served.seconds[task]
        rows.append(
            (
                title,
                len(served.samples[task]),
                f"{stock.seconds[task]:.1f}",
                f"{served.seconds[task]:.1f}",
                f"{ratio:.1f}×",
                f"{stock.tokens[task] / stock.seconds[task]:.0f}",
                f"{served.tokens[task] / served.seconds[task]:.0f}",
                f"{half.seconds[task]:.1f}",
            )
        )
    report.table(rows, ("column", "questions", "hf s", "vLLM s", "faster", "hf tok/s", "vLLM tok/s", "vLLM bf16 s"))
    report.say(
        "Tokens a second are of answers for GSM8K and of scored questions with their choices otherwise. "
        f"Starting took {stock.start:.0f} s (hf), {served.start:.0f} s (vLLM) and {half.start:.0f} s (vLLM, bf16)."
    )
    report.table(
        [
            (
                title,
                *(
                    f"{same(stock.samples[task], other.samples[task])} of {len(stock.samples[task])}"
                    for other in (served, half)
                ),
            )
            for title, (task, *_) in COLUMNS.items()
        ],
        ("column", "answers equal to hf fp32: vLLM fp32", "vLLM bf16"),
    )
    report.save()


def found_in(store: Path) -> Path:
    found = sorted(store.glob("_models/smollm2-*/checkpoint"))
    if not found:
        sys.exit(f"no smol model in {store}: give --checkpoint DIR, or run `moemix bench smol` first")
    return found[0]


def run_stock(checkpoint: Path, loaded: LoadedTasks) -> Run:
    from lm_eval.models.huggingface import HFLM

    started = time.perf_counter()
    lm = HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=BATCH)
    return evaluated(lm, lm.tok_encode, loaded, time.perf_counter() - started)


def run_served(checkpoint: Path, loaded: LoadedTasks, dtype: str) -> Run:
    from evals.engines.choose import open_engine

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine("vllm", checkpoint, dtype=dtype, seed=0, folder=Path(folder))
        with engine:
            lm = engine.lm()
            return evaluated(lm, lm.tok_encode, loaded, time.perf_counter() - started)


def evaluated(lm: Any, encode: Any, loaded: LoadedTasks, start: float) -> Run:
    """Each task by itself, so that its requests can be timed."""
    from lm_eval.evaluator import simple_evaluate

    run = Run(start)
    for name, task in loaded.tasks.items():
        with timing(lm) as seconds:
            raw = simple_evaluate(model=lm, tasks=[task], task_manager=loaded.manager, limit=loaded.limits[name])
        assert raw is not None
        run.seconds[name] = sum(seconds)
        kept = {sample["doc_id"]: sample for sample in raw["samples"][name]}
        run.samples[name] = list(kept.values())
        run.tokens[name] = sum(tokens(encode, sample) for sample in kept.values())
    return run


@contextmanager
def timing(lm: Any) -> Iterator[list[float]]:
    """The seconds that requests take meanwhile."""
    seconds: list[float] = []
    originals = {name: getattr(lm, name) for name in METHODS}

    def timed(original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                seconds.append(time.perf_counter() - started)

        return call

    for name, original in originals.items():
        setattr(lm, name, timed(original))
    try:
        yield seconds
    finally:
        for name in originals:
            delattr(lm, name)


def tokens(encode: Any, sample: dict[str, Any]) -> int:
    """Of the answer; for choices, of the question with each choice, as they are scored."""
    if isinstance(sample["resps"][0][0], str):
        return len(encode(sample["resps"][0][0]))
    return sum(len(encode("".join(arguments))) for arguments in sample["arguments"])


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> int:
    """Questions with the same generated text, or the same likeliest choice."""
    return sum(answer(a) == answer(b) for a, b in zip(one, other, strict=True))


def answer(sample: dict[str, Any]) -> Any:
    first = sample["resps"][0][0]
    if isinstance(first, str):
        return first
    values = [float(reply[0][0]) for reply in sample["resps"]]
    return values.index(max(values))


if __name__ == "__main__":
    main()
