"""The scoring of generated code: its tests must pass, in the sandbox."""

from evals.code_eval import completion_pass_at_1

__all__ = ["completion_pass_at_1"]
