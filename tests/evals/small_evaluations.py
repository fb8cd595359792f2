"""Running the mini suite, and comparing what two engines answered."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from evals.runner import evaluate, request_for
from harness.records import EvalSummary
from harness.requests import EvalJobRequest

REQUESTS = 24 * 3 + 24 + 24  # of the mini suite: three choices to a question, one text, and its gold answer


def run(
    checkpoint: Path, suite: Path, engine: str, out: Path, *, keep_answers: bool = True, **changes: Any
) -> EvalSummary:
    settings = {"tasks": (), "limit": None, "dtype": "float32", "seed": 0, **changes}
    config = request_for(str(suite), engine=engine, **settings)
    return evaluate(EvalJobRequest(config=config, checkpoint=checkpoint, out=out, keep_answers=keep_answers))


def stored(responses: Path) -> dict[str, int]:
    """The keys of the answers in the one file of a response cache, with their rows."""
    (path,) = responses.glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as file:
        return dict(file.execute("SELECT key, rowid FROM answers"))


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"samples_{task}.jsonl").open()]


def assert_same_samples(folder: Path, other_folder: Path) -> None:
    """Choices, greedy flags and texts are equal, log-likelihoods to 1e-3."""
    for mine, other in zip(samples(folder, "mini_choice"), samples(other_folder, "mini_choice"), strict=True):
        assert mine["acc"] == other["acc"]
        for (reply,), (expected,) in zip(mine["resps"], other["resps"], strict=True):
            assert float(reply[0]) == pytest.approx(float(expected[0]), abs=1e-3)
            assert reply[1] == expected[1]
    for mine, other in zip(samples(folder, "mini_text"), samples(other_folder, "mini_text"), strict=True):
        assert mine["resps"] == other["resps"]
