"""Return the questions of a suite as texts, which training data must not contain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evals.contamination import Question, words_of
from evals.data_root import OWN
from evals.loading import load_tasks
from evals.suites import load_suite

# The column that holds the question. (lm-eval's own decontamination queries are prompts, template words included.)
_COLUMNS = ("question", "input", "text", "prompt", "query", "goal", "ctx", "sentence", "problem")
_SHORT = 8  # words; a shorter question is distinguished from others by its choices


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
