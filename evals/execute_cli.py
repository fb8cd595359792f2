"""``moemix execute``: run programs with their tests in the sandbox. A board verifies submitted programs with it."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("programs", type=FILE)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the verdicts go.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="[default: one per core]")
def execute(programs: Path, out: Path, workers: int | None) -> None:
    """Run PROGRAMS in the sandbox, as evaluations do.

    PROGRAMS has one JSON line for each program: {"code": …, "tests": …}. The tests are a program, too. The verdicts are
    lines in the same order: {"passed": …, "reason": …}. Without a sandbox nothing runs, and the error says what is
    missing.
    """
    import json
    import os
    from concurrent.futures import ThreadPoolExecutor

    from evals.code_eval import Program, program_runner, single_tests
    from evals.sandbox import Verdict, available
    from evals.sandbox_kinds import install_hint
    from harness.errors import MoemixError
    from harness.files import read_jsonl, write_text
    from harness.progress import progress

    if missing := available():
        raise MoemixError(f"programs cannot run here: {missing}", hint=install_hint())
    orders = []
    for number, line in enumerate(read_jsonl(programs), 1):
        if not isinstance(line, dict) or not all(isinstance(line.get(key), str) for key in ("code", "tests")):
            raise MoemixError("expected an object with the texts `code` and `tests`", where=f"{programs}:{number}")
        orders.append(Program(line["code"], single_tests(line["tests"])))
    found: list[Verdict] = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, progress("programs", len(orders)) as bar:
        for verdict in pool.map(program_runner.verdict, orders):
            found.append(verdict)
            bar.advance()
    write_text(out, "".join(json.dumps({"passed": v.passed, "reason": v.reason}) + "\n" for v in found))
