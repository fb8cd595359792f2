"""FastChat's question and answer files, and the benches made of them: local, from the hub, or from this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NotRequired, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from evals.judge.records import Answer, Answers, Bench, Question, QuestionId
from harness.errors import MoemixError, nearest
from harness.files import hash_file, read_jsonl

BUNDLED = Path(__file__).parent / "benches"
PUBLISHED = ("mt_bench", "vicuna_bench")
TITLES = {"mt_bench": "MT-Bench", "vicuna_bench": "Vicuna-Bench"}
HUB = "lmsys/mt-bench"  # the hub space with FastChat's files
REFERENCES = "reference_answer/gpt-4.jsonl"  # FastChat's published scores use GPT-4's reference answers
PROMPTS = "judge_prompts.jsonl"


class _Choice(TypedDict):
    turns: Answer


class _AnswerRow(TypedDict):
    """A row of a FastChat answer file."""

    question_id: QuestionId
    choices: Annotated[list[_Choice], Field(min_length=1)]
    model_id: NotRequired[str]


T = TypeVar("T")
_QUESTION, _ANSWER = TypeAdapter(Question), TypeAdapter(_AnswerRow)


def bench_names() -> list[str]:
    """Return the name of every bench that has one."""
    return sorted([*PUBLISHED, *(path.stem for path in BUNDLED.glob("*.jsonl"))])


def load_bench(name: str, root: Path | None, references: Path | None = None) -> Bench:
    """Load a bench by a name of :func:`bench_names`, or from a JSONL file.

    A published bench comes from the data root, or from the hub without one. Reference answers come from ``references``,
    a FastChat answer file; else from ``reference_answer/gpt-4.jsonl`` beside the question file, as in FastChat; without
    that file from the questions themselves (``reference``).

    Raises:
        MoemixError: the bench does not exist, or a row is not a question (with file and line).
    """
    file, name = _locate(name, root)
    questions = read_questions(file)
    beside = file.parent / REFERENCES
    if references is not None or beside.is_file():
        answers = read_answers(references or beside).answers
        questions = [replace(q, reference=answers[q.id]) if q.id in answers else q for q in questions]
    near = (file.parent / PROMPTS, file.parent.parent / PROMPTS, *([root / "mt_bench" / PROMPTS] if root else []))
    prompts = next((path for path in near if path.is_file()), None)
    return Bench(name, TITLES.get(name, name), tuple(questions), prompts)


def content_hash(name: str, root: Path | None) -> str | None:
    """Return the hash of a bench's question file; None for a bench that comes from the hub."""
    if name in PUBLISHED and root is None:
        return None
    return hash_file(_locate(name, root)[0])


def _locate(name: str, root: Path | None) -> tuple[Path, str]:
    """Return the question file of a bench and the bench's name."""
    if name.endswith(".jsonl") or Path(name).is_file():
        file = Path(name)
        if not file.is_file():
            raise MoemixError("the file of questions does not exist", where=name, hint=nearest(name, bench_names()))
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
        raise MoemixError(f"the data root has no questions of {name}", where=str(file),
                          hint="add the file, or leave out --data-root to download the questions")  # fmt: skip
    return file, name


def _from_hub(name: str) -> Path:
    """Download a bench from the hub, with references and templates; return its question file in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [f"data/{name}/question.jsonl", f"data/{name}/reference_answer/*", f"data/{PROMPTS}"]
    where, hint = f"spaces/{HUB}", f"give --data-root DIR with DIR/{name}/question.jsonl"
    try:
        folder = snapshot_download(HUB, repo_type="space", allow_patterns=patterns)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        message = f"{name} cannot be downloaded from the hub ({type(error).__name__})"
        raise MoemixError(message, where=where, hint=hint) from None
    file = Path(folder) / "data" / name / "question.jsonl"
    if not file.is_file():
        raise MoemixError(f"the hub's space has no questions of {name}", where=where, hint=hint)
    return file


def read_questions(file: Path) -> list[Question]:
    """Read a file of questions in FastChat's format.

    Raises:
        MoemixError: the file is missing or empty, or a row is not a question (with file and line).
    """
    questions: dict[QuestionId, Question] = {}
    for where, row in _rows(file, "question"):
        question = _parse(_QUESTION, row, where)
        if question.id in questions:
            raise MoemixError(f"question {question.id} appears twice", where=where)
        if not all("kind" in check for check in question.checks):
            raise MoemixError("every entry of `checks` needs a `kind`", where=where)
        questions[question.id] = question
    return list(questions.values())


def read_answers(file: Path) -> Answers:
    """Read a FastChat answer file; the first choice of every question counts, as in FastChat.

    The model's name is the rows' ``model_id``; without it, the file's name.

    Raises:
        MoemixError: the file is missing or empty, or a row is not an answer (with file and line).
    """
    answers: dict[QuestionId, Answer] = {}
    models: dict[str, None] = {}
    for where, row in _rows(file, "answer"):
        answer = _parse(_ANSWER, row, where)
        if answer["question_id"] in answers:
            raise MoemixError(f"question {answer['question_id']} is answered twice", where=where)
        answers[answer["question_id"]] = answer["choices"][0]["turns"]
        models[answer.get("model_id") or file.stem] = None
    if len(models) > 1:
        message = f"the file has answers of several models: {', '.join(models)}"
        raise MoemixError(message, where=str(file), hint="write one file for each model")
    return Answers(next(iter(models)), answers)


def match_ids(answers: Answers, bench: Bench, file: Path) -> Answers:
    """Return answers with the ids of their bench, where one has numbers and the other the same numbers as texts.

    Raises:
        MoemixError: no answer is to a question of the bench.
    """
    by_text = {str(question.id): question.id for question in bench.questions}
    if answers.answers and not any(str(key) in by_text for key in answers.answers):
        some, asked = (", ".join(map(str, [*ids][:3])) for ids in (answers.answers, by_text))
        message = f"no answer is to a question of {bench.name}: they are to {some}, …, and its questions are {asked}, …"
        raise MoemixError(message, where=str(file), hint="give the --bench that these answers belong to")
    return Answers(answers.model, {by_text.get(str(key), key): turns for key, turns in answers.answers.items()})


def _parse(adapter: TypeAdapter[T], row: dict[str, object], where: str) -> T:
    try:
        return adapter.validate_python({"category": "general", **row})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part not in ("int", "str"))  # not the type in a union
        message, keys = f"`{key}` is invalid: {first['msg'].lower()}", ", ".join(sorted(row)) or "no key"
        raise MoemixError(message, where=where, hint=f"the row has {keys}") from None


def _rows(file: Path, kind: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the place (``file:line``) and the object of every line, without keys that are null."""
    if not file.is_file():
        raise MoemixError(f"the {kind} file does not exist", where=str(file))
    rows = 0
    for rows, row in enumerate(read_jsonl(file), 1):
        where = f"{file}:{rows}"
        if not isinstance(row, dict):
            raise MoemixError(f"not a JSON object; expected one {kind} in each line", where=where)
        yield where, {str(key): value for key, value in row.items() if value is not None}
    if not rows:
        raise MoemixError(f"the file has no {kind}", where=str(file))
