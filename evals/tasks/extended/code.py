"""The scoring of generated code: its tests must pass, in the sandbox."""

from evals.code_eval import pass_at_1

__all__ = ["pass_at_1"]
