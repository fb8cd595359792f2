"""What a verdict on a generated program costs, and whether published solutions pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from evals import sandbox
from evals.code_eval import Program, single_tests
from evals.loading import load_tasks
from evals.suites import load_suite
from tests.bench.report import Report, options, real_data

LIMITS = sandbox.Limits(cpu_seconds=12)


def main() -> None:
    given = options()
    if missing := sandbox.available():
        sys.exit(f"no sandbox here: {missing}")
    report = Report(
        "sandbox",
        "Verdicts of the sandbox",
        "The published solutions of MBPP (tasks 11 to 510) and HumanEval with their tests, as programs are "
        "run: in a bubblewrap sandbox each, as many at a time as there are cores. Against it the same programs "
        "in a bare `python -I -S` process each, without sandbox, limits or verdicts per test.",
        quick=given.quick,
    )
    loaded = load_tasks(
        load_suite("paper_extended"), "paper_extended", only=("mbpp", "humaneval"), limit=None, root=real_data(given)
    )
    rows = []
    for name, code in (
        ("moemix_mbpp", lambda doc: doc["code"]),
        ("humaneval", lambda doc: doc["prompt"] + doc["canonical_solution"]),
    ):
        task = loaded.tasks[name]
        docs = list(task.eval_docs)[: 8 if given.quick else None]
        programs = [Program(code(doc), single_tests(task.doc_to_target(doc))) for doc in docs]
        boxed, verdicts = timed(in_sandbox, programs)
        bare, _ = timed(as_process, programs)
        tests = sum(len(_flat(program)) for program in programs)
        passed = sum(verdicts)
        rows.append(
            (
                name,
                f"{passed} of {len(programs)}",
                tests,
                f"{len(programs) / boxed:.1f}",
                f"{1000 * boxed / len(programs) * workers():.0f}",
                f"{1000 * bare / len(programs) * workers():.0f}",
            )
        )
    report.table(
        rows,
        ("solutions of", "pass", "tests", "verdicts a second", "ms a program, a worker", "ms bare, a worker"),
    )
    report.say(
        f"{workers()} workers. A program passes only if all its tests do; the slowest takes seconds of processor time, "
        "which is why a verdict allows more than the three seconds of the stock metric."
    )
    report.save()


def workers() -> int:
    return os.cpu_count() or 1


def timed(run: Callable[[Program], bool], programs: Sequence[Program]) -> tuple[float, list[bool]]:
    """Wall seconds for all, and each one's outcome."""
    run(Program("pass"))
    started = time.perf_counter()
    with ThreadPoolExecutor(workers()) as pool:
        outcomes = list(pool.map(run, programs))
    return time.perf_counter() - started, outcomes


def in_sandbox(program: Program) -> bool:
    return sandbox.run_program(program.code, 30.0, LIMITS, program.tests).passed


def as_process(program: Program) -> bool:
    source = "\n".join([program.code, *_flat(program)])
    command = (sys.executable, "-I", "-S", "-B", "-c", f"exec({json.dumps(source)})")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _flat(program: Program) -> list[str]:
    return [source for test in program.tests for source in ([test] if isinstance(test, str) else test)]


if __name__ == "__main__":
    main()
