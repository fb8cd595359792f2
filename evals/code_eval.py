"""Stock lm-eval tasks that run generated programs, with the sandbox in place of the hub's ``code_eval`` metric.

The metric keeps its interface, its time limit and its pass@k, so the tasks' own code stays as it is. The programs of a
task run before lm-eval's own loop over questions, many at a time, and every verdict is stored with those of its tests.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.sandbox import Limits, Tests, Verdict, run_program
from harness.files import append_jsonl
from harness.progress import progress

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

SECONDS = 3.0  # the metric's own limit for a program, in wall time
_KEPT_OUTPUT = 2000  # characters of what a program printed
# A verdict must depend on the program, not on how fast or busy the machine is: one of MBPP's own solutions computes
# for four seconds.
_CPU_FACTOR, _WALL_FACTOR = 4, 10
_PARSING = threading.Lock()  # Python 3.11's parser counts its depth for all threads together, and fails if two parse
Details = dict[int, list[tuple[int, dict[str, object]]]]
"""Question → number and verdict of each of its programs, in the form of the hub's metric."""


@dataclass(frozen=True)
class Program:
    """A program with its tests: what a verdict is about."""

    code: str
    tests: Tests = ()
    seconds: float = SECONDS


class ProgramRunner:
    """Runs each program once, however often its verdict is asked for, and records which verdicts a thread asked for."""

    def __init__(self) -> None:
        self._known: dict[Program, Future[Verdict]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def verdict(self, program: Program) -> Verdict:
        """Return a program's verdict; the errors are those of :func:`evals.sandbox.run_program`."""
        with self._lock:
            first = program not in self._known
            future = self._known.setdefault(program, Future())
        if first:
            try:
                limits = Limits(cpu_seconds=int(program.seconds * _CPU_FACTOR))
                verdict = run_program(program.code, program.seconds * _WALL_FACTOR, limits, program.tests)
                future.set_result(dataclasses.replace(verdict, output=verdict.output[-_KEPT_OUTPUT:]))
            except BaseException as error:
                future.set_exception(error)
        verdict = future.result()
        if (recorded := getattr(self._local, "recorded", None)) is not None:
            recorded.append(verdict)
        return verdict

    @contextmanager
    def recording(self) -> Iterator[list[Verdict]]:
        """Give the list of the verdicts that this thread asks for as long as this lasts."""
        self._local.recorded = []
        try:
            yield self._local.recorded
        finally:
            self._local.recorded = None


program_runner = ProgramRunner()


class SandboxedCodeEval:
    """``evaluate.load("code_eval")``, in the sandbox. While tasks are loaded it runs nothing: they only try it."""

    def __init__(self) -> None:
        self.loading = True

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        timeout: float = SECONDS,
        **_: object,
    ) -> tuple[dict[str, float], Details]:
        """Return pass@k over questions, and the verdicts of each.

        ``references`` has the tests of each question as a program, ``predictions`` its candidate programs, of which
        each may run for ``timeout`` seconds.
        """
        if self.loading:
            return {f"pass@{n}": 0.0 for n in k}, {}
        details: Details = {}
        counts = []
        for number, (reference, candidates) in enumerate(zip(references, predictions, strict=True)):
            programs = [Program(code, single_tests(reference), timeout) for code in candidates]
            verdicts = [program_runner.verdict(program) for program in programs]
            details[number] = [
                (i, {"task_id": number, "passed": v.passed, "result": v.reason, "completion_id": i})
                for i, v in enumerate(verdicts)
            ]
            counts.append((len(verdicts), sum(v.passed for v in verdicts)))
        known = [n for n in k if all(total >= n for total, _ in counts)]
        return {f"pass@{n}": float(np.mean([pass_at_k(*count, n) for count in counts])) for n in known}, details


def pass_at_1(doc: Mapping[str, Any], results: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """Return the share of a question's programs that pass its tests: the scoring of this project's own tasks.

    A row of HumanEval has one program of tests, which calls the function that ``entry_point`` names; the question's
    imports and functions are before the answer. Other rows have ``tests``, MBPP+'s ``test`` or MBPP's ``test_list``.
    """
    programs = [code.lstrip(" ") for code in _flat(results)]  # some decoders keep the space before an answer
    if "entry_point" in doc:
        return _share(
            [f"{doc['prompt']}\n\n{code}" for code in programs], [doc["test"], f"check({doc['entry_point']})"]
        )
    if "test" in doc:
        return _share(programs, [*doc["test_imports"], doc["test"]])
    return _share(programs, doc["tests"] if "tests" in doc else [doc["test_setup_code"] or "", *doc["test_list"]])


def completion_pass_at_1(doc: Mapping[str, Any], results: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """Return the same for answers that continue HumanEval's function; a space that a decoder dropped is put back."""
    dropped = (len(code) - len(code.lstrip(" ")) + 1 for code in _flat(results))
    programs = [f"{doc['prompt']}{'' if n % 4 else ' '}{code}" for n, code in zip(dropped, _flat(results), strict=True)]
    return _share(programs, [doc["test"], f"check({doc['entry_point']})"])


def _flat(results: Sequence[str | Sequence[str]]) -> list[str]:
    return [code for result in results for code in ([result] if isinstance(result, str) else result)]


def _share(programs: Sequence[str], tests: Sequence[str]) -> dict[str, float]:
    verdicts = [program_runner.verdict(Program(code, single_tests("\n".join(tests)))) for code in programs]
    return {"pass_at_1": float(np.mean([verdict.passed for verdict in verdicts]))}


def pass_at_k(total: int, passed: int, k: int) -> float:
    """Return the unbiased chance that one of k samples passes (Chen et al. 2021): 1 − C(n−c, k) / C(n, k)."""
    if total - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(total - passed + 1, total + 1)))


@functools.lru_cache(maxsize=4096)
def single_tests(reference: str) -> Tests:
    """Split a question's tests: MBPP's asserts, or what HumanEval's ``check`` does with the candidate.

    Running them in order does what running ``reference`` after the program does: statements share the program's names,
    and those of ``check`` are a group with a copy of them. Where that is not certain, the reference stays in one piece.
    """
    try:
        with _PARSING:
            statements = ast.parse(reference).body
    except SyntaxError:
        return (reference,)
    checks = [node for node in statements if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if not checks:
        return _joined(statements)
    last, body = statements[-1], checks[-1]
    call = last.value if isinstance(last, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"):
        return (reference,)
    simple = len(body.args.args) == len(call.args) == 1 and not call.keywords
    if not simple or any(isinstance(inner, ast.Return | ast.Nonlocal | ast.Global) for inner in ast.walk(body)):
        return (reference,)
    candidate = ast.Assign([ast.Name(body.args.args[0].arg, ast.Store())], call.args[0], lineno=1)
    before = [node for node in statements[:-1] if node not in checks]
    return (*_joined(before), _joined([candidate, *body.body]))


def _joined(statements: Sequence[ast.stmt]) -> tuple[str, ...]:
    """Join each assert with what comes before it: a test is what ends in an assert."""
    tests, waiting = [], []
    for node in statements:
        waiting.append(ast.unparse(ast.fix_missing_locations(node)))
        if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
            tests.append("\n".join(waiting))
            waiting = []
    return (*tests, "\n".join(waiting)) if waiting else tuple(tests)


@contextmanager
def sandboxed_metrics() -> Iterator[None]:
    """Give tasks that load the metric ``code_eval`` the sandboxed one, as long as this lasts."""
    import evaluate

    original, metric = evaluate.load, SandboxedCodeEval()

    def load(path: str, *arguments: object, **options: object) -> object:
        return metric if path == "code_eval" else original(path, *arguments, **options)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
        metric.loading = False


def is_sandboxed(task: Task) -> bool:
    """Return whether the programs that a task runs go through this module."""
    if (task.config.metadata or {}).get("sandbox"):
        return True
    metrics = [entry["metric"] for entry in task.config.metric_list or []]
    return any(
        isinstance(value, SandboxedCodeEval)
        for metric in metrics
        if callable(metric)
        for value in getattr(metric, "__globals__", {}).values()
    )


def run_setup_code(task: Task) -> int:
    """Run ``test_setup_code`` before a question's tests where the data has it, and return how many questions have it.

    lm-eval's MBPP leaves it out, and without it no solution passes such a question. Prompts stay as they are.
    """
    if (task.config.metadata or {}).get("sandbox"):
        return 0  # this project's own tasks do it themselves
    docs = task.eval_docs
    setup = docs["test_setup_code"] if "test_setup_code" in getattr(docs, "column_names", ()) else []
    if not any(setup):
        return 0
    doc_to_target = task.doc_to_target

    def with_setup(doc: dict[str, object], *arguments: object) -> object:
        target, first = doc_to_target(doc, *arguments), doc.get("test_setup_code")
        return f"{first}\n{target}" if first and "is_fewshot" not in doc else target

    task.doc_to_target = with_setup
    return sum(map(bool, setup))


def run_programs_ahead(name: str, task: Task, out: Path, workers: int | None = None) -> None:
    """Make a task run its programs many at a time once its answers are there, before lm-eval asks one by one.

    Every verdict is written to ``<out>/verdicts_<task>.jsonl``: one line for each question and filter.
    """
    apply_filters = task.apply_filters

    def filter_and_run() -> object:
        filtered = apply_filters()
        questions: dict[int, list[Instance]] = defaultdict(list)
        for instance in sorted(task.instances, key=lambda instance: (instance.doc_id, instance.idx)):
            questions[instance.doc_id].append(instance)
        jobs = [(doc, filter_name) for doc in questions for filter_name in task.instances[0].filtered_resps]

        def run(job: tuple[int, str]) -> list[Verdict]:
            instances = questions[job[0]]
            with program_runner.recording() as verdicts:
                task.process_results(instances[0].doc, [i.filtered_resps[job[1]] for i in instances])
            return verdicts

        path = out / f"verdicts_{name}.jsonl"
        path.unlink(missing_ok=True)
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool, progress(f"{name}: programs", len(jobs)) as bar:
            for (doc, filter_name), verdicts in zip(jobs, pool.map(run, jobs), strict=True):
                programs = [
                    {"passed": v.passed, "reason": v.reason, "tests": list(v.tests), "seconds": round(v.seconds, 3)}
                    for v in verdicts
                ]
                append_jsonl(path, {"doc_id": doc, "filter": filter_name, "programs": programs})
                bar.advance()
        return filtered

    task.apply_filters = filter_and_run
