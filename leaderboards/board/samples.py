"""The samples of one evaluation, read once: questions, prompts, answers, recorded and recomputed scores."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value
from harness.statistics.clusters import cluster_label
from harness.statistics.columns import Key
from harness.submissions import Scorer
from leaderboards.board.rescoring import Contradiction, rescore
from leaderboards.board.untrusted import read_lines

_NEEDED = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "doc_hash", "target_hash")


@dataclass
class TaskSamples:
    """One task's samples.

    Attributes:
        numbers: doc_id of each question, ascending.
        documents: question → (hash of the document, hash of the target), recomputed.
        groups: question → what it is asked about: a passage that others share, or its own document.
        scores: what is recorded, f64[n] in the order of ``numbers``.
        recomputed: what the responses give; only metrics that can be scored from them.
        differing: where the two differ or a sample contradicts itself, in words, at most a few.
        answers: hash over the responses of each question, in order.
        generated: the responses themselves, of tasks that generate text.
    """

    numbers: list[int]
    documents: dict[int, tuple[str, str]]
    prompt_hash: str
    question_hash: str
    groups: dict[int, str] = field(default_factory=dict)
    scores: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    recomputed: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    answers: str = ""
    generated: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_task(path: Path, task: str, keys: Iterable[Key], scorer: Scorer) -> TaskSamples:
    """Read ``samples_<task>.jsonl`` and score it again.

    Raises:
        MoemixError: with file and line, a sample that is none, or a question that comes twice after one filter.
    """
    wanted: dict[str, list[Key]] = {}
    for key in keys:
        wanted.setdefault(key.filter, []).append(key)
    first: str | None = None
    requests: list[Any] = []
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    found = TaskSamples([], {}, "", "")
    for where, sample in read_lines(path):
        missing = next((name for name in _NEEDED if name not in sample), None)
        if missing:
            raise MoemixError(f"`{missing}` is missing", where=where)
        number, filter_name = sample["doc_id"], sample["filter"]
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(filter_name, str):
            raise MoemixError("`doc_id` is a whole number and `filter` a text", where=where)
        held = lines.setdefault(filter_name, {})
        if number in held:
            raise MoemixError(f"question {number} comes twice", where=where)
        held[number] = sample
        first = filter_name if first is None else first
        if filter_name == first:
            requests.append(_requests(sample, where))
            found.documents[number] = _identity(sample, found.faults)
            found.groups[number] = cluster_label(sample["doc"], found.documents[number][0])
    found.numbers = sorted(found.documents)
    found.question_hash = hash_value([[number, *found.documents[number]] for number in found.numbers])
    found.prompt_hash = hash_value(requests)
    _answers(found, lines.get(first or "", {}))
    for filter_name, held_keys in wanted.items():
        samples = lines.get(filter_name, {})
        if sorted(samples) != found.numbers:
            raise MoemixError(f"the questions after filter {filter_name!r} are not those after {first!r}",
                              where=str(path))  # fmt: skip
        for key in held_keys:
            _score(found, key, [samples[number] for number in found.numbers], scorer, path.name)
    return found


def _score(found: TaskSamples, key: Key, samples: list[dict[str, Any]], scorer: Scorer, name: str) -> None:
    recorded, recomputed = np.full(len(samples), np.nan), np.full(len(samples), np.nan)
    known = True
    for i, sample in enumerate(samples):
        value = sample.get(key.metric)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise MoemixError(f"`{key.metric}` of question {sample['doc_id']} is not a number: {str(value)[:60]!r}",
                              where=name)  # fmt: skip
        recorded[i] = value
        if not known:
            continue
        try:
            again = rescore(sample, key.metric, scorer)
        except Contradiction as error:
            found.differing.append(f"question {sample['doc_id']} of {key.task}: {error}")
            continue
        except (KeyError, IndexError, TypeError, AttributeError):
            found.differing.append(f"question {sample['doc_id']} of {key.task}: not a sample of {scorer.output_type}")
            continue
        if again is None:
            known = False
        else:
            recomputed[i] = again
            if again != value:
                found.differing.append(
                    f"question {sample['doc_id']} of {key.task}: {key.metric} is {again:g} by its response, "
                    f"{value:g} as recorded"
                )
    found.scores[key] = recorded
    if known:
        found.recomputed[key] = recomputed


def _requests(sample: Mapping[str, Any], where: str) -> list[list[Any]]:
    """A sample's requests as lm-eval had them before its tracker named them."""
    try:
        named = sample["arguments"]
        return [
            [named[f"gen_args_{i}"][f"arg_{j}"] for j in range(len(named[f"gen_args_{i}"]))] for i in range(len(named))
        ]
    except (KeyError, TypeError):
        raise MoemixError("`arguments` are not lm-eval's", where=where) from None


def _identity(sample: Mapping[str, Any], faults: list[str]) -> tuple[str, str]:
    """Hashes of document and target, recomputed; recorded ones that differ are faults."""
    try:
        document = _document_hash(json.dumps(sample["doc"], ensure_ascii=False))
    except RecursionError:
        raise MoemixError(f"the document of question {sample['doc_id']} is nested too deeply") from None
    target = _text_hash(str(sample["target"]))
    if (document, target) != (sample["doc_hash"], sample["target_hash"]):
        which = "document" if document != sample["doc_hash"] else "target"
        faults.append(f"the {which} of question {sample['doc_id']} is not the one that was hashed")
    return document, target


@functools.lru_cache(maxsize=200_000)
def _document_hash(compact: str) -> str:
    """lm-eval hashes a document in an indented form, slow to make: the same question is in every submission."""
    return _text_hash(json.dumps(json.loads(compact), indent=2, ensure_ascii=False))


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _answers(found: TaskSamples, samples: Mapping[int, Mapping[str, Any]]) -> None:
    ordered = [samples[number]["resps"] for number in found.numbers]
    found.answers = _text_hash(json.dumps(ordered, ensure_ascii=False))
    if ordered and all(isinstance(r, list) and r and isinstance(r[0], list) and r[0] for r in ordered):
        found.generated = [r[0][0] for r in ordered if len(r) == 1 and isinstance(r[0][0], str)]
