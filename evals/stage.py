"""What ``evals`` offers to the rest of the project (:class:`harness.stages.EvaluationStage`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from evals.suites import suite_hash

if TYPE_CHECKING:
    from evals.contamination_check import Checker
    from harness.stages import Finding


def bench_hash(name: str, root: Path | None) -> str | None:
    """Return the hash of a bench's question file; None for one that comes from the hub."""
    from evals.judge.questions import content_hash

    return content_hash(name, root)


def check_bench(name: str, root: Path | None) -> None:
    """Read a bench's questions, unless they come from the hub."""
    from evals.judge.questions import content_hash, load_bench

    if content_hash(name, root) is not None:
        load_bench(name, root)


def check_address(url: str) -> None:
    """Refuse what is not the URL of a server."""
    from evals.addresses import base_url

    base_url(url)


def check_suite(name: str) -> None:
    """Check that the tasks of a suite exist, and that they have its columns' metrics and filters."""
    from evals.suite_check import check_suite as check

    check(name)


def columns(suite: str) -> set[str]:
    """Return the names of a suite's columns and averages."""
    from evals.suites import load_suite

    found = load_suite(suite)
    return {column.name for column in found.columns} | {average.name for average in found.averages}


def suite_folders(suite: str) -> set[str]:
    """Return the folders of a data root that hold the benchmarks of a suite."""
    from evals.benchmarks import TASKS
    from evals.suites import load_suite

    return {TASKS[task] for task in load_suite(suite).tasks if task in TASKS}


def check_engine(spec: str, dtype: str) -> None:
    """Refuse an engine or dtype that does not exist."""
    from evals.engines.choose import check_engine as check

    check(spec, dtype)


def sandbox() -> tuple[bool, str]:
    """Return whether generated programs can run here, and in which sandbox, or what it lacks."""
    from evals.sandbox import available, memory_keeper, sandbox_name

    missing = available()
    return missing is None, missing or f"{sandbox_name()}; {memory_keeper()} keeps memory within the limit"


def examine_data_root(root: Path) -> list[Finding]:
    """Examine every benchmark, suite and bench that local files can serve."""
    from evals.doctor import examine_data_root as examine

    return examine(root)


def contamination_checker(suite: str, only: Sequence[str], root: Path | None) -> Checker:
    """Index the questions of a suite."""
    from evals.contamination_check import Checker

    return Checker(suite, only, root)


def warm_up() -> None:
    """Import what evaluating and judging need."""
    import lm_eval.evaluator
    import lm_eval.tasks  # noqa: F401

    import evals.code_eval
    import evals.continuous
    import evals.judge.run
    import evals.lm
    import evals.loading
    import evals.runner  # noqa: F401

    with suppress(ImportError):  # half a second, which transformers takes when it loads the first tokenizer
        import transformers.integrations.mistral.tokenizer  # noqa: F401


__all__ = [
    "bench_hash",
    "check_address",
    "check_bench",
    "check_engine",
    "check_suite",
    "columns",
    "contamination_checker",
    "examine_data_root",
    "sandbox",
    "suite_hash",
    "warm_up",
]
