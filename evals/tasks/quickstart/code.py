"""The executed-code task: a generated function must pass its asserts, in the sandbox."""

from __future__ import annotations

from typing import Any

from evals.code_eval import Program, judge


def passes(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the first generated program runs and the question's asserts hold."""
    return {"pass_at_1": float(judge.verdict(Program(results[0], tuple(doc["tests"]))).passed)}
