"""Whether a mathematical answer equals the right one, by the package math-verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lm_eval.tasks.minerva_math.utils import doc_to_text, list_fewshot_samples, process_docs
from math_verify import parse, verify

__all__ = ["doc_to_text", "list_fewshot_samples", "math_verify", "process_docs"]
SECONDS = 60  # a limit for answers that never simplify


def math_verify(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Compare the last boxed or final answer of a text with that of the solution."""
    gold, answer = (parse(text, parsing_timeout=SECONDS) for text in (doc["solution"], results[0]))
    return {"math_verify": float(verify(gold=gold, target=answer, timeout_seconds=SECONDS))}
