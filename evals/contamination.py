"""Find evaluation questions in training texts: verbatim after normalisation, or reworded.

An inverted index maps word 3-grams to the questions that contain them; grams that many questions share are left out.
Each gram of a training row is looked up once, so the cost grows with the length of the training data and not with the
number of pairs. A row contains a question if one passage of it, at most twice as long as the question, covers at least
``SHARE`` of the question's grams.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError

Numbers = NDArray[np.int64]
Places = Sequence[tuple[int, int]]
"""Positions in a text in ascending order, each with its gram."""

GRAM = 3  # words; a reworded question keeps most of its short grams and few of its long ones
SHARE = 0.5
MIN_GRAMS = 6  # a question with fewer grams must occur word by word
MIN_WORDS = 6  # a question with fewer words must be a whole message or line
COMMON = 30  # a gram in more questions than this identifies none of them
METHOD = (
    f"normalised words; a row contains a question if a passage of at most twice its length covers {SHARE:.0%} of its "
    f"{GRAM}-grams and at least {MIN_GRAMS} (not of those in over {COMMON} questions, or of numbers); a "
    f"question with fewer grams must occur word by word, one of fewer than {MIN_WORDS} words, or "
    "of a generated world, as a whole message or line"
)
_WORD = re.compile(r"\w+")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"  # the default-ignorable characters of Unicode
)
# Lower-case Cyrillic, Greek, Armenian and rare Latin letters, and the Latin ones that they or their capitals look like
_LOOKALIKES = str.maketrans(
    "авекмнорстухіїјѕһԁԛԝӏԍգհոսօαβεζηικμνορτυχɑɡıɩȷʋᴀᴄᴇᴏᴛᴜᴠᴡᴢ",
    "abekmhopctyxiijshdqwlgqhnuoabezhikmvoptyxagiijvaceotuvwz",
)
_BETWEEN = ["", ""]  # separates rows, so that no gram reaches from one into the next
_MOST_WORDS = 1 << 21  # three numbers of words fit into 63 bits
_SLOTS = 8  # slots of the table for each gram of a question
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Question:
    """A question of an evaluation set; the text has no prompt, no examples and no answer.

    ``generated`` questions differ by a word or a number from those to train on, so only a whole message or line is one.
    """

    task: str
    doc_id: int
    text: str
    generated: bool = False


@dataclass(frozen=True)
class Match:
    """A question found in a row, with the share of its grams: 1.0 and ``exact`` if it occurs word by word."""

    question: Question
    kind: Literal["exact", "near"]
    share: float


def words_of(text: str) -> list[str]:
    """Return lower-case words and numbers, without punctuation, spacing and markup."""
    return _WORD.findall(plain(text))


def plain(text: str) -> str:
    """Return a text in lower case, without what a reader does not see and with one form of what looks the same.

    Zero-width characters and soft hyphens go; full-width and other compatibility forms, and the letters of other
    scripts that look like Latin ones, become the usual ones.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).lower().translate(_LOOKALIKES)


class QuestionIndex:
    """An index of questions by their word 3-grams.

    A gram is a number: its words are the digits, and the vocabulary size is the base. Array operations compute the
    grams of many rows at once and filter them with a small hash table of the questions' grams. Only the grams that
    pass are looked up one by one.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = list(questions)
        words = [words_of(question.text) for question in self.questions]
        self._number: dict[str, int] = {}
        for token in itertools.chain.from_iterable(words):
            self._number.setdefault(token, len(self._number) + 1)
        self._base = len(self._number) + 1
        if self._base >= _MOST_WORDS:
            raise MoemixError(f"the questions have {self._base:,} different words; the limit is {_MOST_WORDS:,}")
        grams = [self._grams(self._numbered(tokens)).tolist() for tokens in words]
        counts: Counter[int] = Counter()
        for mine in grams:
            counts.update(set(mine))
        self._whole: defaultdict[str, list[int]] = defaultdict(list)
        posted: list[tuple[int, int]] = []
        needed: list[int] = []
        self._rare: list[int] = []
        self._span = [2 * len(tokens) for tokens in words]
        self._joined = [f" {' '.join(tokens)} " for tokens in words]
        for number, (tokens, mine) in enumerate(zip(words, grams, strict=True)):
            rare = {gram for gram in mine if counts[gram] <= COMMON} - _numeric_grams(tokens, mine)
            self._rare.append(len(rare))
            needed.append(max(MIN_GRAMS, math.ceil(SHARE * len(rare))))
            if self.questions[number].generated:
                self._whole[" ".join(tokens)].append(number)
                continue
            if len(rare) < MIN_GRAMS:
                needed[-1] = len(rare)
                if not rare or len(tokens) < MIN_WORDS:
                    self._whole[" ".join(tokens)].append(number)
                    continue
            posted += [(gram, number) for gram in rare]
        posted.sort()
        self._needed = np.array(needed, dtype=np.int64)
        self._lengths = {whole.count(" ") + 1 for whole in self._whole}
        every = np.array(posted, dtype=np.int64).reshape(-1, 2)
        self._posted = every[:, 1].copy()
        self._keys, first = np.unique(every[:, 0], return_index=True)
        self._first = np.append(first, len(posted))
        self._bits = max(10, (_SLOTS * len(self._keys)).bit_length())
        self._table = np.zeros(1 << self._bits, dtype=bool)
        self._table[self._slots(self._keys)] = True

    def matches(self, texts: Sequence[str]) -> list[Match]:
        """Return the questions that occur in a row, given the row's messages or its one text."""
        return self.matches_of([texts])[0]

    def matches_of(self, rows: Sequence[Sequence[str]]) -> list[list[Match]]:
        """Return the questions that occur in each of many rows; this is much faster than row by row."""
        tokens: list[str] = []
        starts, wholes = [], []
        for texts in rows:
            starts.append(len(tokens))
            wholes.append(self._add(texts, tokens))
            tokens += _BETWEEN
        starts.append(len(tokens))
        found: list[list[Match]] = [[] for _ in rows]
        for row, number, places in self._candidates(tokens, starts):
            match = self._match(number, places, tokens[starts[row] : starts[row + 1] - len(_BETWEEN)])
            if match is not None:
                found[row].append(match)
        for row, whole in enumerate(wholes):
            found[row] += [Match(self.questions[number], "exact", 1.0) for number in whole]
        return found

    def _add(self, texts: Sequence[str], tokens: list[str]) -> list[int]:
        """Append the words of a row to ``tokens``, and return the short questions that are a message or line of it."""
        whole: dict[int, None] = {}
        for text in texts:
            first, count = len(tokens), 0
            for line in plain(text).splitlines():
                words = _WORD.findall(line)
                tokens += words
                count += bool(words)
                if len(words) in self._lengths:
                    whole.update(dict.fromkeys(self._whole.get(" ".join(words), ())))
            if count > 1 and len(tokens) - first in self._lengths:
                whole.update(dict.fromkeys(self._whole.get(" ".join(tokens[first:]), ())))
        return list(whole)

    def _candidates(self, tokens: Sequence[str], starts: Sequence[int]) -> Iterator[tuple[int, int, Places]]:
        """Yield row, question and gram positions where a row has enough grams of a question anywhere."""
        grams = self._grams(self._numbered(tokens))
        at = np.flatnonzero(self._table[self._slots(grams)])
        keys = np.minimum(np.searchsorted(self._keys, grams[at]), len(self._keys) - 1)
        sure = self._keys[keys] == grams[at] if len(at) else np.zeros(0, dtype=bool)
        at, keys = at[sure], keys[sure]
        counts = self._first[keys + 1] - self._first[keys]
        hits = np.repeat(np.arange(len(at)), counts)  # a hit for each of a gram's questions
        nth = np.arange(len(hits)) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = self._posted[self._first[keys][hits] + nth]
        rows = np.searchsorted(starts, at[hits], side="right") - 1
        order = np.lexsort((numbers, rows))  # stable: positions go on ascending
        hits, numbers, rows = hits[order], numbers[order], rows[order]
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1) | np.diff(rows, prepend=-1))
        ends = np.append(firsts[1:], len(hits))
        for some in np.flatnonzero(ends - firsts >= self._needed[numbers[firsts]]):
            first, places = firsts[some], at[hits[firsts[some] : ends[some]]]
            yield int(rows[first]), int(numbers[first]), list(zip(places.tolist(), grams[places].tolist(), strict=True))

    def _match(self, number: int, places: Places, tokens: Sequence[str]) -> Match | None:
        """Return the match of a question if enough of its grams are close together in a row."""
        covered = _most_within_span(places, self._span[number])
        if covered < self._needed[number]:
            return None
        exact = self._joined[number] in f" {' '.join(tokens)} "
        if not exact and self._rare[number] < MIN_GRAMS:
            return None
        return Match(
            self.questions[number], "exact" if exact else "near", 1.0 if exact else covered / self._rare[number]
        )

    def _numbered(self, tokens: Sequence[str]) -> Numbers:
        """Return the number of each word; 0 for a word that no question has."""
        return np.fromiter(map(self._number.get, tokens, itertools.repeat(0)), dtype=np.int64, count=len(tokens))

    def _grams(self, numbers: Numbers) -> Numbers:
        """Return the gram at each position; −1 if it contains a word that no question has."""
        first, second, third = numbers[:-2], numbers[1:-1], numbers[2:]
        grams = (first * self._base + second) * self._base + third
        return np.where((first == 0) | (second == 0) | (third == 0), -1, grams)

    def _slots(self, grams: Numbers) -> Numbers:
        """Return the slot of each gram in the table (multiplicative hashing)."""
        return ((grams.view(np.uint64) * _MIX) >> np.uint64(64 - self._bits)).view(np.int64)


def _numeric_grams(tokens: Sequence[str], grams: Sequence[int]) -> set[int]:
    """Return the grams of numbers alone, which occur in every table."""
    numeric = [token.isdigit() for token in tokens]
    triples = zip(grams, zip(numeric, numeric[1:], numeric[2:], strict=False), strict=False)
    return {gram for gram, parts in triples if all(parts)}


def _most_within_span(places: Places, span: int) -> int:
    """Return the largest number of distinct grams whose positions are within ``span`` of each other."""
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
