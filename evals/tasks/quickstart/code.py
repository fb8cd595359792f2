"""The executed-code task: a generated function must pass its asserts, in the sandbox."""

from __future__ import annotations

from evals.code_eval import Program, program_runner


def passes(doc: dict[str, list[str]], results: list[str]) -> dict[str, float]:
    """Score 1 if the first generated program runs and the question's asserts hold."""
    return {"pass_at_1": float(program_runner.verdict(Program(results[0], tuple(doc["tests"]))).passed)}
