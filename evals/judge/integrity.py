"""Detect answers that address the judge instead of the user, repeated answers, and implausible scores.

A flag is a reason to look at an answer, not a penalty. Passages that pose as a verdict, as part of a judge's template,
or as instructions to a judge are replaced in the ``strict`` prompt; the records keep everything.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evals.judge.records import Answers, Question, QuestionId
from harness.files import read_yaml

MASK = "⟦removed⟧"
KEPT = "passage_kept"  # the flag of a suspicious passage that may be an answer, and stays
PATTERNS = Path(__file__).with_name("passages.yaml")
NEAR = 0.9  # two answers whose word triples have this Jaccard similarity count as the same
CONSTANT = 3  # questions with the same answer from which they are flagged (or all, if there are fewer)
_CONSTANT_SCORES = 20  # rows from which equal scores are suspicious
_ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0x7FEB352D, 0x846CA68B, 0x68E31DA5)
_SHORT = 6  # word triples; shorter answers may be equal by chance

_FENCE = re.compile(r"```[ \t]*([\w+#.-]*)[^\n]*\n.*?(?:```|\Z)", re.DOTALL)
_PROSE = ("", "json", "markdown", "md", "plain", "text", "txt", "yaml")  # languages of a fence that holds no code


class Passage(NamedTuple):
    """A suspicious passage of an answer: ``text[start:end]``.

    Attributes:
        kept: whether it may be an answer, and stays: the question asks for such passages, or it is code.
    """

    start: int
    end: int
    kind: str
    kept: bool = False


class _Rule(NamedTuple):
    """What makes a passage suspicious: see ``passages.yaml``."""

    kind: str
    pattern: re.Pattern[str]
    unless: re.Pattern[str]
    in_code: bool


@functools.cache
def _rules() -> list[_Rule]:
    return [
        _Rule(
            kind,
            re.compile("|".join(f"(?:{part})" for part in rule["patterns"]), re.IGNORECASE | re.MULTILINE),
            re.compile(rule["unless"], re.IGNORECASE | re.DOTALL),
            rule.get("code", False),
        )
        for kind, rules in read_yaml(PATTERNS).items()
        for rule in rules
    ]


@functools.lru_cache(maxsize=1024)
def _rules_for(question: str) -> list[tuple[_Rule, bool]]:
    """Return all rules, and whether the question asks for what each of them finds."""
    return [(rule, rule.unless.search(question) is not None) for rule in _rules()]


def passages(text: str, question: str = "") -> list[Passage]:
    """Find verdicts, template marks and words to the judge in an answer; return them in order, without overlaps.

    A passage is kept where the question asks for it (``unless`` in ``passages.yaml``) or has it word by word, and, for
    some rules, inside code. ``question`` is everything that was asked so far: a later turn may rely on the form that an
    earlier one asks for. Letters are compared by what they look like, whatever their width, and without invisible ones
    between.
    """
    plain, places = _visible(text)
    asked = question.lower()
    code = [match.span() for match in _FENCE.finditer(plain) if match[1].lower() not in _PROSE]
    found = []
    for rule, wanted in _rules_for(question):
        for match in rule.pattern.finditer(plain):
            inside = any(start <= match.start() and match.end() <= end for start, end in code)
            kept = wanted or (inside and not rule.in_code) or match[0].strip().lower() in asked
            found.append(Passage(places[match.start()], places[match.end()], rule.kind, kept))
    ordered: list[Passage] = []
    for passage in sorted(found, key=lambda p: (p.kept, p.start, -p.end)):
        if (last := ordered[-1] if ordered else None) and passage.kept == last.kept and passage.start < last.end:
            ordered[-1] = last._replace(end=max(last.end, passage.end))
        elif not any(passage.start < other.end and other.start < passage.end for other in ordered):
            ordered.append(passage)
    return sorted(ordered)


def _visible(text: str) -> tuple[str, Sequence[int]]:
    """Return a text in its usual letters, and where each of them, and the end, stands in the original."""
    if text.isascii():
        return text, range(len(text) + 1)
    letters, places = [], []
    for place, letter in enumerate(text):
        if unicodedata.category(letter) != "Cf":
            usual = unicodedata.normalize("NFKC", letter)
            letters.append(usual)
            places += [place] * len(usual)
    return "".join(letters), [*places, len(text)]


@functools.lru_cache(maxsize=1024)
def masked(text: str, question: str = "") -> tuple[str, int]:
    """Replace the suspicious passages of an answer that are not kept; return the text and how many there were."""
    found = [passage for passage in passages(text, question) if not passage.kept]
    for passage in reversed(found):
        text = f"{text[: passage.start]}{MASK}{text[passage.end :]}"
    return text, len(found)


def answer_flags(answers: Answers, questions: Iterable[Question]) -> dict[QuestionId, set[str]]:
    """Return the flags of every flagged answer, by question."""
    flags: dict[QuestionId, set[str]] = defaultdict(set)
    first_turns: dict[QuestionId, str] = {}
    for question in questions:
        answer = answers.answers.get(question.id)
        if answer is None:
            continue
        if answer:
            first_turns[question.id] = answer[0]
        for turn, text in enumerate(answer[: len(question.turns)]):
            for passage in passages(text, "\n".join(question.turns[: turn + 1])):
                flags[question.id].add(KEPT if passage.kept else passage.kind)
        if not any(text.strip() for text in answer):
            flags[question.id].add("empty_answer")
    for group in _repeated(first_turns, max(2, min(CONSTANT, len(first_turns)))):
        for identity in group:
            flags[identity].add("constant_answer")
    return dict(flags)


def _repeated(texts: dict[QuestionId, str], at_least: int) -> list[set[QuestionId]]:
    """Return groups of questions whose answers are the same or nearly so.

    Two answers are compared only if one of their eight min-hashes is equal, which is all but certain for near copies.
    """
    first: dict[tuple[int, int], QuestionId] = {}
    group_of: dict[QuestionId, set[QuestionId]] = {}
    triples = {identity: _triples(text) for identity, text in texts.items()}
    for identity, mine in triples.items():
        if len(mine) < _SHORT:
            continue
        group_of[identity] = {identity}
        for bucket in enumerate(_min_hashes(mine)):
            other = first.setdefault(bucket, identity)
            both, either = mine & triples[other], mine | triples[other]
            if group_of[other] is not group_of[identity] and len(both) / len(either) >= NEAR:
                joined = group_of[other] | group_of[identity]
                group_of.update(dict.fromkeys(joined, joined))
    groups = {id(group): group for group in group_of.values()}
    return [group for group in groups.values() if len(group) >= at_least]


def _min_hashes(triples: frozenset[tuple[str, ...]]) -> list[int]:
    hashes = np.array([zlib.crc32(" ".join(triple).encode()) for triple in triples], dtype=np.uint64)
    return [int(((hashes * np.uint64(odd)) & np.uint64(0xFFFFFFFF)).min()) for odd in _ODD]


def _triples(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def score_flags(scores: Mapping[QuestionId, list[float]], low: float, high: float) -> dict[str, set[QuestionId]]:
    """Return the questions of implausible scores by flag: outside low to high, or the same in 20 rows or more."""
    rows = [score for of_question in scores.values() for score in of_question]
    outside = {question for question, own in scores.items() if any(not low <= score <= high for score in own)}
    flags = {"score_out_of_range": outside} if outside else {}
    if len(rows) >= _CONSTANT_SCORES and len(set(rows)) == 1:
        flags["constant_scores"] = set(scores)
    return flags
