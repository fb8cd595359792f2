"""Check which benchmarks, suites and benches a data root is complete enough for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evals.benchmarks import TASKS
from evals.data_root import inventory
from evals.judge.questions import PROMPTS, PUBLISHED, load_bench
from evals.suites import load_suite, suite_names
from harness.errors import MoemixError

Finding = tuple[str, bool, str]
"""A name, whether everything is there and readable, and the detail."""


def examine_data_root(root: Path) -> list[Finding]:
    """Return a finding for every benchmark, suite and bench that local files can serve."""
    benchmarks = inventory(root)
    return [*benchmarks, *_benches(root), *_suites({folder for folder, complete, _ in benchmarks if complete})]


def _suites(folders: set[str]) -> Iterator[Finding]:
    for name in suite_names():
        columns = load_suite(name).columns
        if not any(task in TASKS for column in columns for task in column.tasks):
            continue  # its questions are generated
        lacking = [column.name for column in columns if not {TASKS.get(task) for task in column.tasks} <= folders]
        known = {column.name for column in columns if all(task in TASKS for task in column.tasks)}
        detail = f"{len(columns) - len(lacking)} of {len(columns)} columns"
        for reason, names in (
            ("their files are missing", [name for name in lacking if name in known]),
            ("available from the hub only", [name for name in lacking if name not in known]),
        ):
            if names:
                detail += f"; {reason}: {', '.join(names)}"
        yield f"suite {name}", not lacking, detail


def _benches(root: Path) -> Iterator[Finding]:
    for name in PUBLISHED:
        if not (root / name / "question.jsonl").is_file():
            yield name, False, f"missing: {name}/question.jsonl"
            continue
        try:
            bench = load_bench(name, root)
        except MoemixError as error:
            yield name, False, str(error)
            continue
        references = sum(bool(question.reference) for question in bench.questions)
        templates = "" if bench.prompts else f"; {PROMPTS} is missing, which `--protocol faithful` needs"
        yield name, bench.prompts is not None, f"{len(bench.questions)} questions, {references} references{templates}"
