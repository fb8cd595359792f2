"""Search the training rows of one source after another for the questions of a suite, which they must not contain."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evals.contamination import METHOD, Match, Question, QuestionIndex, words_of
from evals.data_root import OWN
from evals.loading import load_tasks
from evals.suites import load_suite, suite_hash
from harness.errors import MoemixError
from harness.progress import progress
from harness.provenance import provenance
from harness.records import Contamination, FoundQuestions, FoundText

_EXAMPLES = 3
_EXCERPT = 300  # characters
_BATCH = 1 << 18  # characters of text that are searched at once
# The column that holds the question. (lm-eval's own decontamination queries are prompts, template words included.)
_COLUMNS = ("question", "input", "text", "prompt", "query", "goal", "ctx", "sentence", "problem")
_SHORT = 8  # words; a shorter question is distinguished from others by its choices

Row = tuple[str, Sequence[str]]
"""The place of a row, and its texts."""


class Checker:
    """The questions of a suite, indexed once.

    Args:
        suite: the suite's name or file.
        only: a selection of the suite's tasks or columns; empty for all.
        root: the data root of the evaluation sets; None for the hub.
    """

    def __init__(self, suite: str, only: Sequence[str], root: Path | None) -> None:
        self.suite, self.suite_hash = suite, suite_hash(suite)
        questions, self.unchecked = suite_questions(suite, only=only, root=root)
        if not questions:
            raise MoemixError("no question of the suite is available here", where=suite, hint="give --data-root DIR")
        self.index = QuestionIndex(questions)
        self.sizes = Counter(question.task for question in questions)

    def check(self, source: str, fingerprint: str, total: int, rows: Iterable[Row]) -> Contamination:
        """Search the rows (place and texts) of a source whose files have this hash.

        ``total``, about, is for the progress bar.
        """
        started, count = time.monotonic(), 0
        found = {task: _Found(size) for task, size in self.sizes.items()}
        with progress(f"{source} × {Path(self.suite).stem}", total) as bar:
            for some in _batches(rows):
                count += len(some)
                every = self.index.matches_of([texts for _, texts in some])
                for (where, texts), matches in zip(some, every, strict=True):
                    for match in matches:
                        found[match.question.task].add(match, where, texts)
                bar.advance(len(some))
        return Contamination(
            suite=self.suite,
            suite_hash=self.suite_hash,
            source=source,
            fingerprint=fingerprint,
            rows=count,
            method=METHOD,
            tasks={task: hits.summary() for task, hits in found.items()},
            unchecked=self.unchecked,
            seconds=time.monotonic() - started,
            provenance=provenance(),
        )


class _Found:
    """The best match of each question of one task; memory grows with the questions, not with the rows."""

    def __init__(self, questions: int) -> None:
        self._questions, self._rows, self._last = questions, 0, ""
        self._best: dict[int, FoundText] = {}

    def add(self, match: Match, where: str, texts: Sequence[str]) -> None:
        if where != self._last:
            self._rows, self._last = self._rows + 1, where
        question = match.question
        known = self._best.get(question.doc_id)
        if known is not None and (known.kind == "exact" or known.share >= match.share):
            return
        self._best[question.doc_id] = FoundText(
            where=where,
            doc_id=question.doc_id,
            kind=match.kind,
            share=match.share,
            question=question.text[:_EXCERPT],
            text="\n".join(texts)[:_EXCERPT],
        )

    def summary(self) -> FoundQuestions:
        kinds = {doc_id: found.kind for doc_id, found in self._best.items()}
        return FoundQuestions(
            questions=self._questions,
            exact=tuple(sorted(doc_id for doc_id, kind in kinds.items() if kind == "exact")),
            near=tuple(sorted(doc_id for doc_id, kind in kinds.items() if kind != "exact")),
            rows=self._rows,
            examples=tuple(sorted(self._best.values(), key=lambda found: -found.share)[:_EXAMPLES]),
        )


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield batches of rows that are large enough for array operations to pay off."""
    some: list[Row] = []
    length = 0
    for row in rows:
        some.append(row)
        length += sum(map(len, row[1]))
        if length >= _BATCH:
            yield some
            some, length = [], 0
    if some:
        yield some


# --- the questions ----------------------------------------------------------------------------------


def suite_questions(suite: str, *, only: Sequence[str], root: Path | None) -> tuple[list[Question], dict[str, str]]:
    """Return every question of a suite's tasks, and the reason for each task that cannot be loaded here."""
    loaded = load_tasks(load_suite(suite), suite, only=only, limit=None, root=root)
    # A task that is refused because it runs programs still has questions.
    found = [question for name, task in {**loaded.tasks, **loaded.unrunnable}.items() for question in _of(name, task)]
    reasons = {name: why for name, (_, why) in loaded.refused.items() if name not in loaded.unrunnable}
    return found, reasons


def _of(name: str, task: Any) -> Iterator[Question]:
    generated = str(task.config.dataset_path).startswith(OWN)
    for doc_id, doc in enumerate(task.eval_docs):
        yield Question(name, doc_id, doc["prompt"] if generated else _text(task, doc), generated)


def _text(task: Any, doc: dict[str, Any]) -> str:
    text = str(next((doc[c] for c in _COLUMNS if isinstance(doc.get(c), str)), None) or task.doc_to_text(doc))
    if len(words_of(text)) < _SHORT and task.config.doc_to_choice is not None:
        text = "\n".join([text, *map(str, _choices(task, doc))])
    return text


def _choices(task: Any, doc: dict[str, Any]) -> Sequence[Any]:
    """Return the answers to choose from, rather than their letters."""
    held = doc.get("choices")
    texts = held.get("text") if isinstance(held, dict) else held
    return texts if isinstance(texts, list) else task.doc_to_choice(doc)
