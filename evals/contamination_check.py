"""A suite's questions held against the rows of one source after another."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from evals.contamination import METHOD, Match, QuestionIndex
from evals.suite_questions import suite_questions
from evals.suites import suite_hash
from harness.errors import MoemixError
from harness.progress import progress
from harness.provenance import provenance
from harness.records import Contamination, FoundQuestions, FoundText

_EXAMPLES = 3
_EXCERPT = 300  # characters


class Checker:
    """The questions of a suite, indexed once.

    Args:
        only: a selection of the suite's tasks or columns; empty for all.
        root: the data root of the evaluation sets; None for the hub.
    """

    def __init__(self, suite: str, only: Sequence[str], root: Path | None) -> None:
        self.suite, self.suite_hash = suite, suite_hash(suite)
        questions, self.unchecked = suite_questions(suite, only=only, root=root)
        if not questions:
            raise MoemixError("none of the suite's questions is here", where=suite, hint="give --data-root DIR")
        self.index = QuestionIndex(questions)
        self.sizes = Counter(question.task for question in questions)

    def check(
        self, source: str, fingerprint: str, total: int, rows: Iterable[tuple[str, Sequence[str]]]
    ) -> Contamination:
        """Search a source.

        Args:
            total: about how many rows there are, for the progress bar.
            rows: where each is, and its texts.
        """
        started, count = time.monotonic(), 0
        hits: dict[str, list[tuple[Match, FoundText]]] = defaultdict(list)
        touched: Counter[str] = Counter()
        with progress(f"{source} × {Path(self.suite).stem}", total) as bar:
            for where, texts in rows:
                count += 1
                matches = self.index.matches(texts)
                for match in matches:
                    hits[match.question.task].append((match, _found(match, where, texts)))
                touched.update({match.question.task for match in matches})
                bar.advance()
        return Contamination(
            suite=self.suite,
            suite_hash=self.suite_hash,
            source=source,
            fingerprint=fingerprint,
            rows=count,
            method=METHOD,
            tasks={task: _summary(size, hits[task], touched[task]) for task, size in self.sizes.items()},
            unchecked=self.unchecked,
            seconds=time.monotonic() - started,
            provenance=provenance(),
        )


def _found(match: Match, where: str, texts: Sequence[str]) -> FoundText:
    return FoundText(
        where=where,
        doc_id=match.question.doc_id,
        kind=match.kind,
        share=match.share,
        question=match.question.text[:_EXCERPT],
        text="\n".join(texts)[:_EXCERPT],
    )


def _summary(size: int, hits: Sequence[tuple[Match, FoundText]], rows: int) -> FoundQuestions:
    exact = {match.question.doc_id for match, _ in hits if match.kind == "exact"}
    near = {match.question.doc_id for match, _ in hits} - exact
    surest = sorted((found for _, found in hits), key=lambda found: -found.share)
    distinct = {found.doc_id: found for found in reversed(surest)}
    examples = sorted(distinct.values(), key=lambda found: -found.share)[:_EXAMPLES]
    return FoundQuestions(
        questions=size,
        exact=tuple(sorted(exact)),
        near=tuple(sorted(near)),
        rows=rows,
        examples=tuple(examples),
    )
