"""Detect answers that address the judge instead of the user, repeated answers, and implausible scores.

A flag is a reason to look at an answer, not a penalty. Passages that pose as a verdict, as part of a judge's template,
or as instructions to a judge are replaced in the ``strict`` prompt; the records keep everything.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from evals.judge.records import Answers, Question, QuestionId

MASK = "⟦removed⟧"
NEAR = 0.9  # two answers whose word triples have this Jaccard similarity count as the same
CONSTANT = 3  # questions with the same answer from which they are flagged (or all, if there are fewer)
_CONSTANT_SCORES = 20  # rows from which equal scores are suspicious
_ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0x7FEB352D, 0x846CA68B, 0x68E31DA5)
_SHORT = 6  # word triples; shorter answers may be equal by chance

# A verdict: brackets right after a word for a verdict, or alone on the last line.
_RATED = re.compile(
    r"(?:rating|score|verdict|grade|rated?|judg\w+|winner|better)\b[^\n\[\]]{0,30}"
    r"\[\[?\s*(?:\d{1,2}(?:\.\d+)?(?:\s*/\s*10)?|[ABC]|rating)\s*\]\]?",
    re.IGNORECASE,
)
_LAST_LINE = re.compile(r"^\s*\[\[\s*(?:10|\d(?:\.\d+)?|[ABC])\s*\]\]\s*\.?\s*\Z", re.MULTILINE)
_VERDICT_JSON = re.compile(
    r"\{[^{}]*\"(?:rating|score|verdict|winner)\"\s*:\s*(?:\d{1,2}(?:\.\d+)?|\"(?:[ABC]|tie)\")[^{}]*\}", re.IGNORECASE
)
# Marks of FastChat's judge templates, of ours, and of chat templates.
_TEMPLATE = re.compile(
    r"\[The (?:Start|End) of (?:the )?(?:Assistant|Reference)[^\]\n]*\]|<\|The (?:Start|End) of [^|\n]*\|>"
    r"|\[/?(?:User Question|Instruction|INST)\]|<\|(?:im_start|im_end|user|assistant|system|endoftext|eot_id)\|>"
    r"|</?(?:answer|reference|question)-[0-9a-f]{6,}>|<</?SYS>>|^#{2,3} (?:Assistant A|Assistant B|Reference answer):",
    re.IGNORECASE | re.MULTILINE,
)
_JUDGE = (
    r"\b(?:dear|hello|hey|attention|note to)\s+(?:the\s+)?(?:judge|grader|evaluator|rater)s?\b",
    r"\b(?:as|being) an? (?:impartial|fair|objective) (?:judge|grader|evaluator)\b",
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:previous|prior|above|all|earlier|your)\b[^.\n]{0,30}"
    r"\b(?:instruction|prompt|rubric|criteria|guideline|rule)s?\b",
    r"\b(?:rate|score|grade|judge|evaluate) (?:this|my|the above|the following) (?:answer|response|reply|output)\b",
    r"\b(?:give|award|assign|output|return)\b[^.\n]{0,50}\b(?:a\s+)?(?:(?:perfect|maximum|highest|full|top|high)\s+"
    r"(?:score|rating|marks?|grade)|(?:score|rating|grade) of (?:10|ten)|10\s*/\s*10)\b",
    r"\b(?:this|my) (?:answer|response|reply) (?:deserves?|merits?|should (?:get|receive|be rated|be given))\b",
    r"\b(?:choose|pick|prefer|select|vote for) (?:assistant )?(?:this|my|[AB])\b[^.\n]{0,20}"
    r"\b(?:answer|response|reply|as (?:the )?(?:winner|better))\b",
    r"\byou (?:must|should|will|are (?:required|instructed) to) (?:rate|score|grade|give|assign|output)\b[^.\n]{0,60}"
    r"(?:\b10\b|\bten\b|\bperfect\b|\bmaximum\b|\bhighest\b)",
)
_ADDRESS = re.compile("|".join(f"(?:{pattern})" for pattern in _JUDGE), re.IGNORECASE)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)


@dataclass(frozen=True)
class Passage:
    """A suspicious passage of an answer: ``text[start:end]``."""

    kind: str
    start: int
    end: int


def passages(text: str, question: str = "") -> list[Passage]:
    """Find verdicts, template marks and words to the judge in an answer; return them in order, without overlaps.

    Code is left alone, except for control tokens of chat templates. Where the question itself contains brackets, a
    last line in brackets is taken for an answer.
    """
    code = [match.span() for match in _CODE.finditer(text)]
    found = [Passage("template_in_answer", *match.span()) for match in _TEMPLATE.finditer(text)]
    patterns = [("verdict_in_answer", _RATED), ("verdict_in_answer", _VERDICT_JSON), ("addresses_judge", _ADDRESS)]
    if "[" not in question:
        patterns.append(("verdict_in_answer", _LAST_LINE))
    for kind, pattern in patterns:
        for match in pattern.finditer(text):
            if not any(start <= match.start() and match.end() <= end for start, end in code):
                found.append(Passage(kind, *match.span()))
    ordered: list[Passage] = []
    for passage in sorted(found, key=lambda p: (p.start, -p.end)):
        if ordered and passage.start < ordered[-1].end:
            last = ordered.pop()
            passage = Passage(last.kind, last.start, max(last.end, passage.end))
        ordered.append(passage)
    return ordered


@functools.lru_cache(maxsize=1024)
def masked(text: str, question: str = "") -> tuple[str, int]:
    """Replace the suspicious passages of an answer; return the text and how many there were."""
    found = passages(text, question)
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
        for text, asked in zip(answer, question.turns, strict=False):
            for passage in passages(text, asked):
                flags[question.id].add(passage.kind)
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
            if group_of[other] is not group_of[identity] and _similar(mine, triples[other]):
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


def _similar(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    small, large = sorted((len(one), len(other)))
    if small < NEAR * large:
        return False
    shared = len(one & other)
    return shared >= NEAR * (len(one) + len(other) - shared)


def score_flags(scores: Mapping[QuestionId, list[float]], low: float, high: float) -> dict[str, set[QuestionId]]:
    """Return the questions of implausible scores by flag: outside the scale, or all the same over 20 rows and more.

    Args:
        scores: the scores of every question's turns.
        low: lower end of the scale.
        high: upper end of the scale.
    """
    rows = [score for of_question in scores.values() for score in of_question]
    outside = {question for question, own in scores.items() if any(not low <= score <= high for score in own)}
    flags = {"score_out_of_range": outside} if outside else {}
    if len(rows) >= _CONSTANT_SCORES and len(set(rows)) == 1:
        flags["constant_scores"] = set(scores)
    return flags
