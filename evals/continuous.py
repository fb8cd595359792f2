"""Continuous forms of the benchmarks: how probable the right answer is, where a score says only right or wrong.

A task with choices gives the probability of the right choice among them, from the log-likelihoods that were asked
for anyway. A task with a gold answer gives the bits per byte of that answer after the same prompt. They stand in
``continuous.jsonl`` beside the accuracies, never in their place. (Heineman et al. 2025, arXiv 2508.13144, section 5,
find that such measures tell models apart with fewer questions.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from evals.code_eval import is_sandboxed
from harness.records import ContinuousScores

FILE = "continuous.jsonl"
GOLD_FIELDS = ("gold", "canonical_solution", "code")
"""Fields of a question that hold a program's reference solution; the target of such a task is its tests."""


def continuous_scores(
    lm: LM, tasks: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]], *, chat_template: bool
) -> list[ContinuousScores]:
    """Return the continuous form of each task that has one; ``lm`` answers the requests for gold answers.

    Prompts with a chat template end with its own beginning of an answer.
    """
    found = []
    for name, task in tasks.items():
        once = list({sample["doc_id"]: sample for sample in samples.get(name, ())}.values())
        if not once:
            continue
        if task.OUTPUT_TYPE == "multiple_choice":
            measure, values = "choice_probability", [_choice_probability(sample) for sample in once]
        elif task.OUTPUT_TYPE == "generate_until":
            delimiter = "" if chat_template else task.config.target_delimiter or ""
            measure, values = "bits_per_byte", list(_bits_per_byte(lm, name, task, once, delimiter))
        else:
            continue
        kept = [(sample, value) for sample, value in zip(once, values, strict=True) if value is not None]
        if kept:
            found.append(
                ContinuousScores(
                    task=name,
                    measure=measure,
                    doc_ids=tuple(sample["doc_id"] for sample, _ in kept),
                    doc_hashes=tuple(sample["doc_hash"] for sample, _ in kept),
                    values=tuple(value for _, value in kept),
                )
            )
    return found


def _choice_probability(sample: Mapping[str, Any]) -> float | None:
    """Return the probability of the right choice among all; None where there is not one right choice."""
    values = np.array([float(response[0][0]) for response in sample["resps"]])
    target = sample["target"]
    if not isinstance(target, int | str) or not str(target).isdigit() or int(target) >= len(values):
        return None
    shares = np.exp(values - values.max())
    return float(shares[int(target)] / shares.sum())


def _bits_per_byte(
    lm: LM, name: str, task: object, samples: Sequence[Mapping[str, Any]], delimiter: str
) -> Iterable[float | None]:
    golds = [_gold(sample, program=is_sandboxed(task)) for sample in samples]
    requests = [
        Instance("loglikelihood", sample["doc"], (sample["arguments"][0][0], delimiter + gold), 0, (name, 0, 1))
        for sample, gold in zip(samples, golds, strict=True)
        if gold
    ]
    answers = iter(lm.loglikelihood(requests) if requests else ())
    for gold in golds:
        yield -next(answers)[0] / math.log(2) / len((delimiter + gold).encode()) if gold else None


def _gold(sample: Mapping[str, Any], *, program: bool) -> str | None:
    """Return the gold answer as a text; None where there is none, or several."""
    doc = sample["doc"]
    gold = next((doc[field] for field in GOLD_FIELDS if isinstance(doc.get(field), str)), None)
    if gold is None and not program:
        target = sample["target"]
        gold = target if isinstance(target, str) else None
    return gold
