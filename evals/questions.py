"""Asking only some questions of a suite, with exactly the prompts that they have when all are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import MoemixError, unknown
from harness.files import read_json

if TYPE_CHECKING:
    from evals.loading import LoadedTasks

Questions = Mapping[str, tuple[int, ...]]  # task → numbers, ascending


def questions_in(path: Path) -> dict[str, tuple[int, ...]]:
    """A file of task → question numbers.

    Raises:
        MoemixError: anything else.
    """
    found = read_json(path)
    sound = isinstance(found, dict) and all(
        isinstance(numbers, list) and numbers and all(type(number) is int and number >= 0 for number in numbers)
        for numbers in found.values()
    )
    if not found or not sound:
        raise MoemixError("expected an object of task → list of question numbers", where=str(path))
    return {task: tuple(sorted(set(numbers))) for task, numbers in found.items()}


def keep_asked(loaded: LoadedTasks, questions: Questions) -> None:
    """Leave only the tasks of which questions are asked, and the columns that need no other.

    Raises:
        MoemixError: a task or a question that the suite does not have.
    """
    for name, numbers in questions.items():
        if name not in loaded.tasks:
            raise unknown("task", name, loaded.tasks, where="--questions")
        task = loaded.tasks[name]
        if max(numbers) >= len(task.eval_docs):
            raise MoemixError(f"there is no question {max(numbers)}: {name} has {len(task.eval_docs)}",
                              where="--questions")  # fmt: skip
        if getattr(task, "sampler", None) is not None:
            task.sampler = _AsIfAll(task.sampler, task.eval_docs, numbers)
    for name in loaded.tasks.keys() - questions.keys():
        del loaded.tasks[name]
    loaded.leaves = {name: leaves for name, leaves in loaded.leaves.items() if loaded.tasks.keys() >= set(leaves)}
    loaded.refused.clear()


class _AsIfAll:
    """A few-shot sampler that also draws for the questions that are not asked, and drops what it drew.

    lm-eval draws the examples of one question after the other from one generator, so those of question 17 depend on
    the 17 draws before.
    """

    def __init__(self, sampler: Any, docs: Sequence[Any], numbers: Sequence[int]) -> None:
        self._sampler, self._docs, self._numbers = sampler, docs, numbers
        self._next = self._asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def set_rnd(self, seed: int | None) -> Any:
        self._next = self._asked = 0
        return self._sampler.set_rnd(seed)

    def sample(self, n: int, eval_doc: Any = None, **options: Any) -> Any:
        while self._asked < len(self._numbers) and self._next < self._numbers[self._asked]:
            self._sampler.sample(n, eval_doc=None if eval_doc is None else self._docs[self._next], **options)
            self._next += 1
        self._next += 1
        self._asked += 1
        return self._sampler.sample(n, eval_doc=eval_doc, **options)
