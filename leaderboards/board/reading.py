"""Give a board's samples to people who read them: each question once, and each submission's answer, in small pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.samples import Sample, parse_samples
from leaderboards.board.standings import Standing, Standings
from leaderboards.board.untrusted import read_lines

PAGE = 25  # questions
LONGEST = 2000  # characters of a text; the rest is in the submission's files
MOST = 200_000  # answers of a suite version; a larger board has no pages of samples
Data = dict[str, object]


def has_sample_pages(standing: Standing) -> bool:
    """Return whether the site holds the answers of these submissions."""
    return len(standing.rows) * sum(task.questions for task in standing.suite.tasks.values()) <= MOST


def sample_data(standings: Standings, standing: Standing) -> Iterator[tuple[str, Data]]:
    """Yield the pages of a suite version: ``q-<task>-<page>`` questions, ``<submission>-<task>-<page>`` answers."""
    keys = {key.task: key for key in standing.keys}
    for row in standing.rows:
        folder = standings.folder(row) / "evals" / standing.suite.key
        for task, key in keys.items():
            lines = parse_samples(read_lines(folder / f"samples_{task}.jsonl"))
            samples = sorted((one for one in lines if one.filter == key.filter), key=lambda one: one.doc_id)
            for page, start in enumerate(range(0, len(samples), PAGE)):
                held = samples[start : start + PAGE]
                if row == standing.rows[0]:
                    yield f"q-{task}-{page}", _questions(held)
                scores = [one.score(key.metric) for one in held]
                name = standings.submission(row).submission_id
                yield f"{name}-{task}-{page}", {"answers": [_answer(one) for one in held], "scores": scores}


def _questions(samples: Sequence[Sample]) -> Data:
    prompts = [one.requests[0][0] for one in samples]
    return {"numbers": [one.doc_id for one in samples], "prompts": [_text(prompt, end=True) for prompt in prompts],
            "choices": [[_text(choice) for choice in one.choices] for one in samples],
            "gold": [_text(one.right) for one in samples]}  # fmt: skip


def _answer(sample: Sample) -> str:
    """Return the choice with the highest log-likelihood, or the first generated text."""
    first = sample.responses
    while isinstance(first, list):
        first = first[0] if first else ""
    return _text(first if sample.chosen is None else sample.chosen)


def _text(value: object, *, end: bool = False) -> str:
    """Return a text that is short enough for a page; of a prompt the end, where the question is."""
    text = str(value)
    if len(text) <= LONGEST:
        return text
    return f"… {text[-LONGEST:]}" if end else f"{text[:LONGEST]} …"
