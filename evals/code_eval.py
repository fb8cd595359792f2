"""Stock lm-eval tasks that run generated programs, with the hub's ``code_eval`` metric replaced by the sandbox.

The metric keeps its interface, its time limit and its pass@k, so the tasks' own code stays as it is. Programs run
ahead of lm-eval's own loop over questions, many at a time, and every verdict is kept with those of its tests.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.sandbox import Limits, Verdict, run_program
from harness.files import append_jsonl
from harness.progress import progress

SECONDS = 3.0  # the metric's own limit for a program, in wall time
_KEPT_OUTPUT = 2000  # characters of what a program printed
# A verdict is about the program, not about how fast or busy the machine is: one of MBPP's own solutions computes for
# four seconds.
_CPU_FACTOR, _WALL_FACTOR = 4, 10


@dataclass(frozen=True)
class Program:
    """A program with its tests: what a verdict is of."""

    code: str
    tests: tuple[str, ...] = ()
    seconds: float = SECONDS


class Judge:
    """Runs programs, each once however often it is asked about, and remembers what was asked in which thread."""

    def __init__(self) -> None:
        self._known: dict[Program, Future[Verdict]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def verdict(self, program: Program) -> Verdict:
        with self._lock:
            mine = program not in self._known
            future = self._known.setdefault(program, Future())
        if mine:
            try:
                limits = Limits(cpu_seconds=int(program.seconds * _CPU_FACTOR))
                found = run_program(program.code, program.seconds * _WALL_FACTOR, limits, program.tests)
                future.set_result(dataclasses.replace(found, output=found.output[-_KEPT_OUTPUT:]))
            except BaseException as error:
                future.set_exception(error)
        found = future.result()
        if (heard := getattr(self._local, "heard", None)) is not None:
            heard.append(found)
        return found

    @contextmanager
    def listening(self) -> Iterator[list[Verdict]]:
        """The verdicts given in this thread meanwhile."""
        self._local.heard = []
        try:
            yield self._local.heard
        finally:
            self._local.heard = None


judge = Judge()


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
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """pass@k over questions, and the verdicts of each.

        Args:
            references: a question's tests, as a program.
            predictions: its candidate programs.
        """
        if self.loading:
            return {f"pass@{n}": 0.0 for n in k}, {}
        details: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for number, (reference, candidates) in enumerate(zip(references, predictions, strict=True)):
            verdicts = [judge.verdict(Program(code, single_tests(reference), timeout)) for code in candidates]
            details[number] = [
                (i, {"task_id": number, "passed": v.passed, "result": v.reason, "completion_id": i})
                for i, v in enumerate(verdicts)
            ]
        counts = [(len(runs), sum(run["passed"] for _, run in runs)) for runs in details.values()]
        known = [n for n in k if all(total >= n for total, _ in counts)]
        return {f"pass@{n}": float(np.mean([pass_at_k(*count, n) for count in counts])) for n in known}, details


def pass_at_k(total: int, passed: int, k: int) -> float:
    """The chance that one of k of the samples passes, without bias (Chen et al. 2021): 1 − C(n−c, k) / C(n, k)."""
    if total - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(total - passed + 1, total + 1)))


@functools.lru_cache(maxsize=4096)
def single_tests(reference: str) -> tuple[str, ...]:
    """A question's tests one by one: MBPP's asserts, or what HumanEval's ``check`` does with the candidate.

    Running them in order in one namespace does what running ``reference`` does; where that is not plain to see, the
    reference stays in one piece.
    """
    try:
        statements = ast.parse(reference).body
    except SyntaxError:
        return (reference,)
    checks = {node.name: node for node in statements if isinstance(node, ast.FunctionDef) and node.name == "check"}
    parts: list[ast.stmt] = []
    called = not checks
    for node in statements:
        call = node.value if isinstance(node, ast.Expr) else None
        named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"
        if node in checks.values():
            continue
        if not named or not checks:
            parts.append(node)
            continue
        assert isinstance(call, ast.Call)
        called, body = True, checks["check"]
        arguments = body.args
        plain = len(arguments.args) == len(call.args) == 1 and not call.keywords
        if not plain or any(isinstance(inner, ast.Return | ast.Nonlocal | ast.Global) for inner in ast.walk(body)):
            return (reference,)
        parts.append(ast.Assign([ast.Name(arguments.args[0].arg, ast.Store())], call.args[0], lineno=1))
        parts.extend(body.body)
    return _joined(parts) if called else (reference,)


def _joined(statements: Sequence[ast.stmt]) -> tuple[str, ...]:
    """Each assert with what comes before it: a test is what ends in an assert."""
    tests, waiting = [], []
    for node in statements:
        waiting.append(ast.unparse(ast.fix_missing_locations(node)))
        if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
            tests.append("\n".join(waiting))
            waiting = []
    if waiting:
        tests.append("\n".join(waiting))
    return tuple(tests)


@contextmanager
def sandboxed_metrics() -> Iterator[None]:
    """While this lasts, tasks that load the metric ``code_eval`` get the sandboxed one."""
    import evaluate

    original, metric = evaluate.load, SandboxedCodeEval()

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        return metric if path == "code_eval" else original(path, *arguments, **options)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
        metric.loading = False


def is_sandboxed(task: Any) -> bool:
    """Whether the programs that a task runs go through this module."""
    if (task.config.metadata or {}).get("sandbox"):
        return True
    metrics = [entry["metric"] for entry in task.config.metric_list or []]
    return any(
        isinstance(value, SandboxedCodeEval)
        for metric in metrics
        if callable(metric)
        for value in getattr(metric, "__globals__", {}).values()
    )


def run_setup_code(task: Any) -> int:
    """Run ``test_setup_code`` before a question's tests where the data has it, which lm-eval's MBPP leaves out.

    Without it no solution can pass such a question. Prompts stay as they are.

    Returns:
        the number of questions that have it.
    """
    docs = task.eval_docs
    setup = docs["test_setup_code"] if "test_setup_code" in getattr(docs, "column_names", ()) else []
    if not any(setup):
        return 0
    doc_to_target = task.doc_to_target

    def with_setup(doc: dict[str, Any], *arguments: Any) -> Any:
        target, first = doc_to_target(doc, *arguments), doc.get("test_setup_code")
        return f"{first}\n{target}" if first and "is_fewshot" not in doc else target

    task.doc_to_target = with_setup
    return sum(map(bool, setup))


def judge_ahead(name: str, task: Any, out: Path, workers: int | None = None) -> None:
    """Make a task run its programs many at a time once its answers are there, before lm-eval asks one by one.

    Every verdict goes to ``<out>/verdicts_<task>.jsonl``: one line for each question and filter.
    """
    apply_filters = task.apply_filters

    def filter_and_judge() -> Any:
        done = apply_filters()
        questions: dict[int, list[Any]] = defaultdict(list)
        for instance in task.instances:
            questions[instance.doc_id].append(instance)
        orders = [(doc, filtered) for doc in questions for filtered in task.instances[0].filtered_resps]

        def run(order: tuple[int, str]) -> list[Verdict]:
            instances = sorted(questions[order[0]], key=lambda instance: instance.idx)
            with judge.listening() as heard:
                task.process_results(instances[0].doc, [i.filtered_resps[order[1]] for i in instances])
            return heard

        path = out / f"verdicts_{name}.jsonl"
        path.unlink(missing_ok=True)
        with (
            ThreadPoolExecutor(workers or os.cpu_count()) as pool,
            progress(f"{name}: programs", len(orders)) as bar,
        ):
            for (doc, filtered), verdicts in zip(orders, pool.map(run, orders), strict=True):
                programs = [
                    {"passed": v.passed, "reason": v.reason, "tests": list(v.tests), "seconds": round(v.seconds, 3)}
                    for v in verdicts
                ]
                append_jsonl(path, {"doc_id": doc, "filter": filtered, "programs": programs})
                bar.advance()
        return done

    task.apply_filters = filter_and_judge
