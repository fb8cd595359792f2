"""The executed-code task: a generated function must pass its asserts, in the sandbox."""

from __future__ import annotations

from typing import Any

from evals.sandbox import run_program


def passes(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the first generated program, followed by the question's asserts, runs to its last line."""
    program = "\n".join([results[0], *doc["tests"]])
    return {"pass_at_1": float(run_program(program).passed)}
