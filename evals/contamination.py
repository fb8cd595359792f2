"""Which evaluation questions stand in a training text: verbatim once normalised, or reworded.

The questions make an inverted index from word 3-grams to the questions that hold them, without the grams that many
questions share. A training row is looked up gram by gram in one pass, so the cost grows with the length of the
training data and not with the number of pairs. A row holds a question if the grams of one stretch of it, at most
twice as long as the question, cover at least ``SHARE`` of the question's.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

GRAM = 3  # words; a reworded question keeps most of its short grams and few of its long ones
SHARE = 0.5
MIN_GRAMS = 6  # so many at least: a question that has fewer must stand there word by word
MIN_WORDS = 6  # and one with fewer words than this as a whole message or line
COMMON = 30  # a gram in more questions than this tells none of them
METHOD = (
    f"normalised words; a question stands in a row if a stretch of at most twice its length holds {SHARE:.0%} of its "
    f"{GRAM}-grams, and {MIN_GRAMS} at least (of those in at most {COMMON} questions and not all numbers); a question "
    f"with fewer if it stands there word by word, and one of fewer than {MIN_WORDS} words as a whole message or line"
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Question:
    """A question of an evaluation set: its text without prompt, examples and answer."""

    task: str
    doc_id: int
    text: str


@dataclass(frozen=True)
class Match:
    """A question found in a row; ``share`` of its grams, 1.0 and ``exact`` where it stands there word by word."""

    question: Question
    kind: Literal["exact", "near"]
    share: float


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation, spacing and markup."""
    return _WORD.findall(text.lower())


class QuestionIndex:
    """Questions by what is looked up in a training row."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = list(questions)
        words = [words_of(question.text) for question in self.questions]
        counts: Counter[int] = Counter()
        for tokens in words:
            counts.update(set(_grams(tokens)))
        postings: defaultdict[int, list[int]] = defaultdict(list)
        self._whole: defaultdict[str, list[int]] = defaultdict(list)
        self._needed: list[int] = []
        self._rare: list[int] = []
        self._span = [2 * len(tokens) for tokens in words]
        self._joined = [f" {' '.join(tokens)} " for tokens in words]
        for number, tokens in enumerate(words):
            rare = {gram for gram in _grams(tokens) if counts[gram] <= COMMON} - _numbers(tokens)
            self._rare.append(len(rare))
            self._needed.append(max(MIN_GRAMS, math.ceil(SHARE * len(rare))))
            if len(rare) < MIN_GRAMS:
                self._needed[-1] = len(rare)
                if not rare or len(tokens) < MIN_WORDS:
                    self._whole[" ".join(tokens)].append(number)
                    continue
            for gram in rare:
                postings[gram].append(number)
        self._postings = dict(postings)

    def matches(self, texts: Sequence[str]) -> list[Match]:
        """The questions that stand in a row.

        Args:
            texts: the row's messages, or its one text.
        """
        tokens = [word for text in texts for word in words_of(text)]
        seen: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        postings = self._postings
        for position, gram in enumerate(_grams(tokens)):
            for number in postings.get(gram, ()):
                seen[number].append((position, gram))
        row = ""
        found = []
        for number, places in seen.items():
            if len(places) < self._needed[number]:
                continue
            covered = _most_in_a_stretch(places, self._span[number])
            if covered >= self._needed[number]:
                row = row or f" {' '.join(tokens)} "
                exact = self._joined[number] in row
                if not exact and self._rare[number] < MIN_GRAMS:
                    continue
                share = 1.0 if exact else covered / self._rare[number]
                found.append(Match(self.questions[number], "exact" if exact else "near", share))
        if self._whole:
            found += [
                Match(self.questions[number], "exact", 1.0)
                for whole in dict.fromkeys(filter(None, _wholes(texts)))
                for number in self._whole.get(whole, ())
            ]
        return found


def _grams(tokens: Sequence[str]) -> Iterator[int]:
    return map(hash, zip(tokens, tokens[1:], tokens[2:], strict=False))


def _numbers(tokens: Sequence[str]) -> set[int]:
    """The grams of numbers alone, which stand in every table."""
    numeric = [token.isdigit() for token in tokens]
    triples = zip(_grams(tokens), zip(numeric, numeric[1:], numeric[2:], strict=False), strict=False)
    return {gram for gram, parts in triples if all(parts)}


def _wholes(texts: Sequence[str]) -> Iterator[str]:
    """Each message and each of its lines, normalised."""
    for text in texts:
        yield " ".join(words_of(text))
        for line in text.splitlines():
            yield " ".join(words_of(line))


def _most_in_a_stretch(places: Sequence[tuple[int, int]], span: int) -> int:
    """The most distinct grams whose positions, which ascend, lie within ``span`` of each other."""
    inside: Counter[int] = Counter()
    best = start = 0
    for position, gram in places:
        inside[gram] += 1
        while position - places[start][0] > span:
            old = places[start][1]
            inside[old] -= 1
            if not inside[old]:
                del inside[old]
            start += 1
        best = max(best, len(inside))
    return best
