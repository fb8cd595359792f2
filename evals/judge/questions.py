"""Benches: questions in FastChat's format, from the data root, the hub, a user's file, or this package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import MoemixError, nearest
from harness.files import hash_file, hash_value, read_jsonl

BUNDLED = Path(__file__).parent / "benches"
PUBLISHED = ("mt_bench", "vicuna_bench")
TITLES = {"mt_bench": "MT-Bench", "vicuna_bench": "Vicuna-Bench"}
HUB = "lmsys/mt-bench"  # the hub space with FastChat's files
REFERENCES = "gpt-4"  # the model whose reference answers FastChat's published scores use
PROMPTS = "judge_prompts.jsonl"

# FastChat's temperatures by category; anything else is answered at UNKNOWN_TEMPERATURE.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
                "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0}  # fmt: skip
UNKNOWN_TEMPERATURE = 0.7
NEED_REFERENCE = ("math", "reasoning", "coding")

QuestionId = int | str


@dataclass(frozen=True)
class Question:
    """A question of one or two turns.

    Attributes:
        reference: a reference answer for each turn; empty where there is none.
        checks: for each turn, how the reference grader tells a right answer (:mod:`evals.judge.reference`).
        required_temperature: overrides the category's.
    """

    id: QuestionId
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    checks: tuple[dict[str, Any], ...] = ()
    required_temperature: float | None = None

    @property
    def temperature(self) -> float:
        if self.required_temperature is not None:
            return self.required_temperature
        return TEMPERATURES.get(self.category, UNKNOWN_TEMPERATURE)


@dataclass(frozen=True)
class Bench:
    """A list of questions.

    Attributes:
        title: what tables call it.
        fingerprint: hash of the questions with their references.
        prompts: FastChat's judge templates that lie beside it, if they do.
    """

    name: str
    title: str
    questions: tuple[Question, ...]
    fingerprint: str
    prompts: Path | None

    def limited(self, limit: int | None) -> Bench:
        """The first ``limit`` questions of every category."""
        if limit is None:
            return self
        taken: dict[str, int] = {}
        kept = []
        for question in self.questions:
            taken[question.category] = taken.get(question.category, 0) + 1
            if taken[question.category] <= limit:
                kept.append(question)
        return replace(self, questions=tuple(kept), fingerprint=_fingerprint(kept))


def bench_names() -> list[str]:
    """Every bench that goes by a name."""
    return sorted([*PUBLISHED, *(path.stem for path in BUNDLED.glob("*.jsonl"))])


def load_bench(name: str, root: Path | None, references: Path | None = None) -> Bench:
    """A bench by name, or from a JSONL file.

    Reference answers are those of ``reference_answer/gpt-4.jsonl`` beside the file, as FastChat's, else those in the
    questions themselves (``reference``).

    Args:
        root: the data root; published benches come from it, or from the hub without one.
        references: a FastChat answer file to take the references from instead.

    Raises:
        MoemixError: no such bench, or a row that is not a question, with file and line.
    """
    file, name = _file(name, root)
    questions = list(read_questions(file))
    beside = file.parent / "reference_answer" / f"{REFERENCES}.jsonl"
    if references is not None or beside.is_file():
        questions = list(_with_references(questions, references or beside))
    near = (file.parent / PROMPTS, file.parent.parent / PROMPTS, *([root / "mt_bench" / PROMPTS] if root else []))
    prompts = next((path for path in near if path.is_file()), None)
    return Bench(name, TITLES.get(name, name), tuple(questions), _fingerprint(questions), prompts)


def read_questions(file: Path) -> Iterable[Question]:
    """The questions of a file in FastChat's format."""
    if not file.is_file():
        raise MoemixError("the question file does not exist", where=str(file))
    seen: set[QuestionId] = set()
    for number, row in enumerate(read_jsonl(file), 1):
        where = f"{file}:{number}"
        question = _question(row, where)
        if question.id in seen:
            raise MoemixError(f"question {question.id} comes twice", where=where)
        seen.add(question.id)
        yield question
    if not seen:
        raise MoemixError("there is no question in it", where=str(file))


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, dict):
        raise MoemixError("a question is a JSON object", where=where)
    identity, turns = row.get("question_id"), row.get("turns")
    if not isinstance(identity, int | str) or isinstance(identity, bool):
        raise MoemixError("`question_id` is a number or a text", where=where, hint=_keys(row))
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise MoemixError("`turns` is a list of one or two texts", where=where, hint=_keys(row))
    if len(turns) > 2:
        raise MoemixError(f"{len(turns)} turns; judging is of the first and the second", where=where)
    reference = row.get("reference") or []
    if not isinstance(reference, list) or not all(isinstance(text, str) for text in reference):
        raise MoemixError("`reference` is a list of texts, one for each turn", where=where)
    checks = row.get("checks") or []
    if not isinstance(checks, list) or not all(isinstance(check, dict) and "kind" in check for check in checks):
        raise MoemixError("`checks` is a list of objects with a `kind`, one for each turn", where=where)
    temperature = row.get("required_temperature")
    if temperature is not None and not isinstance(temperature, int | float):
        raise MoemixError("`required_temperature` is a number", where=where)
    return Question(
        identity, str(row.get("category") or "general"), tuple(turns), tuple(reference), tuple(checks), temperature
    )


def _keys(row: dict[str, Any]) -> str:
    return f"the row has {', '.join(sorted(map(str, row))) or 'no key'}"


def _with_references(questions: Iterable[Question], file: Path) -> Iterable[Question]:
    from evals.judge.answers import read_answers

    held = read_answers(file)
    for question in questions:
        answer = held.answers.get(question.id)
        yield replace(question, reference=answer.turns) if answer else question


def _file(name: str, root: Path | None) -> tuple[Path, str]:
    if name.endswith(".jsonl") or Path(name).is_file():
        file = Path(name)
        known = file.parent.name in PUBLISHED and file.stem == "question"
        return file, file.parent.name if known else file.stem
    if (BUNDLED / f"{name}.jsonl").is_file():
        return BUNDLED / f"{name}.jsonl", name
    if name not in PUBLISHED:
        raise MoemixError(f"unknown bench {name!r}", hint=f"{nearest(name, bench_names())}, or a .jsonl file")
    if root is None:
        return _from_hub(name), name
    file = root / name / "question.jsonl"
    if not file.is_file():
        raise MoemixError(
            f"the data root lacks the questions of {name}", where=str(file), hint="or leave --data-root out for the hub"
        )
    return file, name


def _from_hub(name: str) -> Path:
    """The question file in the hub's cache, with references and templates beside it where the space has them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [f"data/{name}/question.jsonl", f"data/{name}/reference_answer/*", f"data/{PROMPTS}"]
    try:
        folder = snapshot_download(HUB, repo_type="space", allow_patterns=patterns)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise MoemixError(
            f"{name} cannot be fetched from the hub ({type(error).__name__})",
            where=f"spaces/{HUB}",
            hint=f"give --data-root DIR with DIR/{name}/question.jsonl",
        ) from None
    file = Path(folder) / "data" / name / "question.jsonl"
    if not file.is_file():
        raise MoemixError(
            f"the hub's space has no questions of {name}",
            where=f"spaces/{HUB}",
            hint=f"give --data-root DIR with DIR/{name}/question.jsonl",
        )
    return file


def _fingerprint(questions: Iterable[Question]) -> str:
    return hash_value([[q.id, q.category, q.turns, q.reference, q.checks, q.required_temperature] for q in questions])


def content_hash(name: str, root: Path | None) -> str | None:
    """What a bench's question file is; None for one that comes from the hub."""
    if name in PUBLISHED and root is None:
        return None
    return hash_file(_file(name, root)[0])
