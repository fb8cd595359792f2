"""Small benches, answers and templates, and the judge command over them in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.judge.cli import run as command
from evals.judge.faithful import MULTI_TURN, NAMES
from evals.judge.run import judge_request, request_from
from harness.judging import JudgeSummary

CATEGORIES = ("writing", "math")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bench_file(folder: Path, count: int = 6) -> Path:
    """Two-turn questions, every other one of a category with references."""
    rows = []
    for number in range(1, count + 1):
        category = CATEGORIES[number % 2]
        row = {"question_id": number, "category": category, "turns": [f"ask {number} first", f"ask {number} then"]}
        rows.append(row | ({"reference": [f"ref {number} one", f"ref {number} two"]} if category == "math" else {}))
    return write_lines(folder / "bench.jsonl", rows)


def answer_file(folder: Path, model: str = "mine", count: int = 6, turns: Any = None) -> Path:
    """A FastChat answer file; ``turns(number)`` gives the texts of a question."""
    texts = turns or (lambda number: [f"{model} says {number} first", f"{model} says {number} then"])
    rows = [
        {"question_id": n, "model_id": model, "choices": [{"index": 0, "turns": texts(n)}]} for n in range(1, count + 1)
    ]
    return write_lines(folder / f"{model}.jsonl", rows)


def template_file(folder: Path) -> Path:
    """Templates in FastChat's format with words of our own, each with the fields that its kind has."""
    rows = []
    for (pairwise, guided), name in NAMES.items():
        for ending in ("", MULTI_TURN):
            sides = ("_a", "_b") if pairwise else ("",)
            if ending:
                fields = [f"question_{i}" for i in (1, 2)] + [f"answer{side}_{i}" for side in sides for i in (1, 2)]
                fields += ["ref_answer_1", "ref_answer_2"] if guided else []
            else:
                fields = ["question", *(f"answer{side}" for side in sides), *(["ref_answer_1"] if guided else [])]
            rows.append(
                {
                    "name": name + ending,
                    "type": "pairwise" if pairwise else "single",
                    "system_prompt": f"system of {name}{ending}",
                    "prompt_template": " | ".join(f"{field}={{{field}}}" for field in fields),
                    "output_format": "[[A]]" if pairwise else "[[rating]]",
                }
            )
    return write_lines(folder / "judge_prompts.jsonl", rows)


def arguments(**options: Any) -> dict[str, Any]:
    """The command's arguments, at their defaults but for ``options``."""
    context = command.make_context("judge", ["--out", "out"])
    return {**{name: value for name, value in context.params.items() if name != "request"}, **options}


def judged(folder: Path, url: str, **options: Any) -> JudgeSummary:
    """Judge ``folder/mine.jsonl`` on ``folder/bench.jsonl`` into ``folder/out``."""
    given = {
        "answers": (folder / "mine.jsonl",),
        "bench": str(folder / "bench.jsonl"),
        "judge_url": (url,),
        "judge_model": ("fake",),
        "out": folder / "out",
        **options,
    }
    return judge_request(request_from(**arguments(**given)))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
