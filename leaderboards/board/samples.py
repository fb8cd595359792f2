"""Read the samples of one task once: questions, prompts, answers, recorded and recomputed scores."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from harness.errors import MoemixError
from harness.files import hash_value
from harness.samples import FIELDS, Sample, parse_samples
from harness.statistics.clusters import cluster_label, number_clusters
from harness.statistics.columns import Key
from leaderboards.board.rescoring import ContradictionError, rescore
from leaderboards.board.submissions import Scorer
from leaderboards.board.untrusted import read_lines


@dataclass
class TaskSamples:
    """The samples of one task.

    Attributes:
        numbers: the number (``doc_id``) of each question, ascending.
        documents: question → (hash of the document, hash of the target), recomputed.
        question_hash: hash over number, document and target of every question.
        prompt_hash: hash over the requests of every question, in the order of the file.
        clusters: i64[n], the cluster of each question: those that share a passage are one.
        scores: result → recorded scores, f64[n] in the order of ``numbers``.
        recomputed: result → scores by the responses, of metrics that can be recomputed.
        answers: hash over the responses of each question, in order.
        generated: the responses themselves, of tasks that generate text.
        marks: u32[n], a hash of each answer by which a copy is found; 0 where it tells nothing.
        differing: sentences on scores that differ from the responses and samples that contradict themselves.
        faults: sentences on documents and targets that differ from their hashes.
    """

    numbers: list[int]
    documents: dict[int, tuple[str, str]]
    question_hash: str
    prompt_hash: str
    clusters: NDArray[np.int64]
    answers: str
    generated: list[str]
    faults: list[str]
    marks: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))
    scores: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    recomputed: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)


def read_task(path: Path, task: str, keys: Iterable[Key], scorer: Scorer) -> TaskSamples:
    """Read ``samples_<task>.jsonl`` and score it again.

    Raises:
        MoemixError: with file and line, a sample that is not valid or a question that is repeated after one filter.
    """
    by_filter: dict[str, dict[int, Sample]] = {}
    for sample in parse_samples(read_lines(path, own="resps"), required=FIELDS):
        by_filter.setdefault(sample.filter, {})[sample.doc_id] = sample
    first = next(iter(by_filter), "")
    samples = by_filter.get(first, {})
    numbers = sorted(samples)
    questions = _questions(samples)
    responses = [samples[number].responses for number in numbers]
    result = TaskSamples(
        numbers=numbers,
        documents=questions.documents,
        question_hash=questions.question_hash,
        prompt_hash=questions.prompt_hash,
        clusters=questions.clusters,
        answers=hashlib.sha256(_encoded(responses, str(path))).hexdigest(),
        generated=_generated(responses),
        faults=list(_wrong_hashes(samples, questions.documents)),
    )
    for key in keys:
        after = by_filter.get(key.filter, {})
        if sorted(after) != numbers:
            raise MoemixError(f"the questions after the filters {key.filter!r} and {first!r} differ", where=str(path))
        _score(result, key, [after[number] for number in numbers], scorer)
    right = np.any([values >= 1 for values in result.scores.values()], axis=0) if result.scores else []
    result.marks = np.array(
        [0 if result.generated and right[i] else _mark(answer) for i, answer in enumerate(responses)], dtype=np.uint32
    )
    return result


def _mark(answer: object) -> int:
    """Return a hash of an answer, of log-likelihoods to two decimals; 0 for an empty text."""
    texts: list[str] = []
    for reply in answer if isinstance(answer, list) else []:
        first = reply[0] if isinstance(reply, list) and reply else reply
        value = first[0] if isinstance(first, list) and first else first
        try:
            texts.append(f"{float(str(value)):.2f}" if isinstance(first, list) else str(value).strip())
        except ValueError:
            texts.append(str(value))
    return zlib.crc32("\n".join(texts).encode("utf-8", "surrogatepass")) if any(texts) else 0


def _score(result: TaskSamples, key: Key, samples: list[Sample], scorer: Scorer) -> None:
    """Add recorded and recomputed scores of one metric."""
    recomputed = np.full(len(samples), np.nan)
    known = True
    result.scores[key] = np.array([sample.score(key.metric, allow_booleans=False) for sample in samples])
    for i, (sample, recorded) in enumerate(zip(samples, result.scores[key].tolist(), strict=True)):
        if not known:
            break
        try:
            score = rescore(sample, key.metric, scorer)
        except (ContradictionError, MoemixError) as error:
            result.differing.append(f"question {sample.doc_id} of {key.task}: {error}")
            continue
        if score is None:
            known = False
            continue
        recomputed[i] = score
        if score != recorded:
            result.differing.append(f"question {sample.doc_id} of {key.task}: {key.metric} is {score:g} by its"
                                    f" response, {recorded:g} as recorded")  # fmt: skip
    if known:
        result.recomputed[key] = recomputed


@dataclass(frozen=True)
class _Questions:
    """What is computed of the questions alone, as in :class:`TaskSamples`."""

    documents: dict[int, tuple[str, str]]
    question_hash: str
    prompt_hash: str
    clusters: NDArray[np.int64]


_known: dict[bytes, _Questions] = {}  # every submission has the same questions, so they are hashed once in a process
_MOST_KNOWN = 100


def _questions(samples: dict[int, Sample]) -> _Questions:
    digest = hashlib.sha256()
    for number, sample in samples.items():
        digest.update(_encoded([number, sample.doc, str(sample.target), sample.field("arguments")], sample.where))
    found = _known.get(digest.digest())
    if found is None:
        documents = {
            number: (_document_hash(sample.doc), _text_hash(str(sample.target))) for number, sample in samples.items()
        }
        try:
            prompt_hash = hash_value([sample.requests for sample in samples.values()])
        except ValueError:
            where = next(iter(samples.values())).where.rpartition(":")[0]
            raise MoemixError("a number of a request is too large: it is read as infinity", where=where) from None
        found = _Questions(
            documents,
            hash_value([[number, *documents[number]] for number in sorted(documents)]),
            prompt_hash,
            number_clusters(cluster_label(samples[number].doc, documents[number][0]) for number in sorted(samples)),
        )
        if len(_known) == _MOST_KNOWN:
            _known.clear()
        _known[digest.digest()] = found
    return found


def _encoded(value: object, where: str) -> bytes:
    try:
        return to_json(value)
    except ValueError:  # half of a surrogate pair, which the slower writer takes; or nested deeply
        pass
    try:
        return json.dumps(value).encode()
    except RecursionError:
        raise MoemixError("the document is nested too deeply", where=where) from None


def _wrong_hashes(samples: dict[int, Sample], documents: dict[int, tuple[str, str]]) -> Iterator[str]:
    for number, sample in samples.items():
        document, target = documents[number]
        recorded = sample.record
        if document != recorded["doc_hash"] or target != recorded["target_hash"]:
            part = "document" if document != recorded["doc_hash"] else "target"
            yield f"the {part} of question {number} does not have the recorded hash"


def _document_hash(document: object) -> str:
    """Return lm-eval's hash of a document, over an indented form."""
    return _text_hash(json.dumps(document, indent=2, ensure_ascii=False))


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _generated(responses: list[object]) -> list[str]:
    """Return the texts of tasks that generate one text for each question."""
    texts = []
    for requests in responses:
        if not isinstance(requests, list) or not requests or not isinstance(requests[0], list) or not requests[0]:
            return []
        if len(requests) == 1 and isinstance(requests[0][0], str):
            texts.append(requests[0][0])
    return texts
