"""The table of docs/models.md: what every MoE architecture of the installed transformers does here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trainers.making.support import CHECKS, check, served_by_vllm
from trainers.making.support_ranks import STRATEGIES, check_on_two_processes


def table(kinds: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a Markdown table, one for each architecture."""
    kinds = list(kinds)
    together, serving = check_on_two_processes(kinds), served_by_vllm(kinds)
    columns = (*CHECKS, *STRATEGIES, "vLLM")
    yield f"| architecture | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for kind in kinds:
        yield f"| `{kind}` | {' | '.join((check(kind) | together[kind]).values())} | {serving[kind]} |"
