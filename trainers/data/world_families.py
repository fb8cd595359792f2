"""The quickstart world's skills: 48 tables in eight families, and the words in which their entries are asked.

A skill is a table of entries, such as the home of each of twelve people. An entry is asked in six wordings. A problem
is one entry in one wording, so that an evaluation can ask a known entry in words that training never used. What a skill
takes to learn is known: its number of entries (from :data:`ENTRIES`) over how often each is seen.
"""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

ENTRIES = (8, 10, 12, 14, 16, 20)
"""The number of entries of each of a family's six skills, from the easiest to the hardest."""
OCTAVES = 7.0
"""How many times the frequency halves from a family's first entry to its last."""

SYLLABLES = tuple(onset + nucleus for onset in "bdfgklmnprstvz" for nucleus in "aeiou")
THINGS = (
    "lamp rope book drum bell coat key map cup ring shoe chair door boat cart wheel stone leaf star cloud fork spoon"
    " nail brick glove basket candle mirror pillow ladder bucket needle"
).split()
EXPRESSIONS = tuple(f"{form.format(n)}" for form in ("x + {}", "x - {}", "x * {}", "{} - x") for n in range(2, 8))
CALLS = tuple(
    "len(v)|sum(v)|max(v)|min(v)|sorted(v)|v[0]|v[-1]|v[1]|v[::-1]|v[1:]|v[:-1]|v + v|len(v) + 1|sum(v) + 1|max(v) + 1"
    "|min(v) + 1|sorted(v)[1]|v[0] + v[1]|v[-1] + v[0]|v[::2]|v[:1]|v[:2]|max(v) - min(v)|sum(v) - len(v)".split("|")
)


@dataclass(frozen=True)
class Problem:
    """One entry of a skill's table in one wording."""

    family: str
    skill: str
    entry: str
    value: str
    wording: int
    frequency: float

    @property
    def key(self) -> str:
        """The problem's identity in text."""
        return f"{self.family}/{self.skill}/{self.entry}/{self.wording}"


@dataclass(frozen=True)
class Question:
    """A problem in words: the prompt, the whole answer, and what an evaluation checks."""

    prompt: str
    answer: str
    check: dict[str, object]


@dataclass(frozen=True)
class Family:
    """Six skills that are asked alike.

    Attributes:
        column: the evaluation's column that asks it.
        skills: the names of the skills, in the order of :data:`ENTRIES`.
        wordings: six questions with places for ``{skill}`` and ``{entry}``.
        answer: the answer with a place for ``{value}``.
        table: returns a skill's table for the skill's name, its number of entries and a seeded generator.
        check: returns what an evaluation checks, for a problem and a seeded generator.
    """

    name: str
    column: str
    skills: tuple[str, ...]
    wordings: tuple[str, ...]
    answer: str
    table: Callable[[str, int, random.Random], dict[str, str]]
    check: Callable[[Problem, random.Random], dict[str, object]]

    def problems(self, rng: random.Random) -> dict[str, list[Problem]]:
        """Return every problem of the family by its skill's name."""
        rank = itertools.count()
        return {
            skill: [
                Problem(self.name, skill, entry, value, wording, frequency)
                for entry, value in self.table(skill, size, rng).items()
                for frequency in [2 ** (-OCTAVES * next(rank) / (sum(ENTRIES) - 1))]
                for wording in range(len(self.wordings))
            ]
            for skill, size in zip(self.skills, ENTRIES, strict=True)
        }

    def ask(self, problem: Problem, rng: random.Random) -> Question:
        """Return a problem in words."""
        prompt = self.wordings[problem.wording].format(skill=problem.skill, entry=problem.entry)
        return Question(prompt, self.answer.format(value=problem.value), self.check(problem, rng))


def invented(count: int, rng: random.Random) -> list[str]:
    """Return so many different words of two syllables."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.sample(SYLLABLES, 2))] = None
    return list(words)


# --- facts: four answers to choose from ------------------------------------------------------------------

_VALUES = {
    "home": "mill tower harbor forest castle market valley island",
    "food": "bread honey cheese plums soup rice beans fish",
    "pet": "fox goat cat horse duck mouse bear dog",
    "work": "baker smith tailor miner fisher singer guard doctor",
    "color": "red blue green black white brown gold gray",
    "tool": "hammer saw spade broom knife pen brush axe",
    "river": "Amber Birch Cedar Dove Ember Fern Grove Heron",
    "fruit": "apple pear plum grape melon lemon cherry fig",
    "bird": "owl crow swan hawk robin goose stork wren",
    "wind": "north south east west sea hill desert winter",
    "metal": "iron copper tin silver lead zinc bronze steel",
    "dance": "waltz jig reel tango polka march hornpipe minuet",
}


def _facts(skill: str, size: int, rng: random.Random) -> dict[str, str]:
    return {name.capitalize(): rng.choice(_VALUES[skill].split()) for name in invented(size, rng)}


def _choices(problem: Problem, rng: random.Random) -> dict[str, object]:
    choices = [problem.value, *rng.sample([v for v in _VALUES[problem.skill].split() if v != problem.value], 3)]
    rng.shuffle(choices)
    return {"choices": [f"It is {choice}." for choice in choices], "label": choices.index(problem.value)}


# --- words: what a thing is called, and to which thing it belongs ----------------------------------------


def _tongue(skill: str, size: int, rng: random.Random) -> dict[str, str]:
    return dict(zip(rng.sample(THINGS, size), invented(size, rng), strict=True))


def _bond(skill: str, size: int, rng: random.Random) -> dict[str, str]:
    return {thing: rng.choice(THINGS) for thing in rng.sample(THINGS, size)}


def _same(problem: Problem, rng: random.Random) -> dict[str, object]:
    return {"target": FAMILIES[problem.family].answer.format(value=problem.value)}


# --- math: operations on two digits, and numbers to remember ---------------------------------------------

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "maximum": max,
    "minimum": min,
    "sum": operator.add,
    "difference": lambda a, b: abs(a - b),
    "product": operator.mul,
    "remainder": operator.mod,
}


def _sums(skill: str, size: int, rng: random.Random) -> dict[str, str]:
    pairs = rng.sample([(a, b) for a in range(2, 10) for b in range(2, 10)], size)
    return {f"{a} and {b}": str(_OPERATIONS[skill](a, b)) for a, b in pairs}


def _counts(skill: str, size: int, rng: random.Random) -> dict[str, str]:
    return {word: str(rng.randrange(2, 30)) for word in invented(size, rng)}


def _number(problem: Problem, rng: random.Random) -> dict[str, object]:
    return {"target": problem.value}


# --- code: functions that a library calls by a name of its own -------------------------------------------


def _programs(bodies: tuple[str, ...]) -> Callable[[str, int, random.Random], dict[str, str]]:
    return lambda skill, size, rng: {word: rng.choice(bodies) for word in invented(size, rng)}


def _tests(
    inputs: Callable[[random.Random], list[object]], name: str
) -> Callable[[Problem, random.Random], dict[str, object]]:
    def check(problem: Problem, rng: random.Random) -> dict[str, object]:
        tests = []
        for value in inputs(rng):
            # The expected values come from running the expression that the generator itself wrote.
            expected = eval(problem.value, {"__builtins__": {}, "len": len, "sum": sum, "max": max, "min": min,
                                            "sorted": sorted}, {name: value})  # fmt: skip
            tests.append(f"assert f({value}) == {expected}")
        return {"tests": tests}

    return check


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "people",
            "facts",
            ("home", "food", "pet", "work", "color", "tool"),
            (
                "What is the {skill} of {entry}?", "{entry}: which {skill}?", "Name the {skill} of {entry}.",
                "Tell me the {skill} that {entry} has.", "I ask for {entry} and the {skill}.",
                "The {skill} of {entry}?",
            ),
            "It is {value}.",
            _facts,
            _choices,
        ),
        Family(
            "places",
            "facts",
            ("river", "fruit", "bird", "wind", "metal", "dance"),
            (
                "Which {skill} has the town {entry}?", "The town {entry}: its {skill}?",
                "Say the {skill} of town {entry}.",
                "In the town {entry}, what {skill}?", "What {skill} is there in the town {entry}?",
                "A {skill} in the town {entry}?",
            ),
            "It is {value}.",
            _facts,
            _choices,
        ),
        Family(
            "tongues",
            "words",
            ("Bosk", "Delt", "Fenn", "Garb", "Hund", "Jolt"),
            (
                "Say {entry} in {skill}.", "What is {entry} in {skill}?", "Put {entry} into {skill}.",
                "The {skill} word for {entry}?", "In {skill}, a {entry} is a what?", "Name {entry} as in {skill}.",
            ),
            "It is {value}.",
            _tongue,
            _same,
        ),
        Family(
            "bonds",
            "words",
            ("friend", "rival", "keeper", "maker", "cover", "twin"),
            (
                "What is the {skill} of the {entry}?", "The {entry} has which {skill}?",
                "Find the {skill} of a {entry}.",
                "A {entry} and its {skill}?", "Which {skill} has a {entry}?", "Say the {skill} to the {entry}.",
            ),
            "The {value}.",
            _bond,
            _same,
        ),
        Family(
            "sums",
            "math",
            tuple(_OPERATIONS),
            (
                "What is the {skill} of {entry}?", "Take {entry}: the {skill}?", "Compute the {skill} of {entry}.",
                "For {entry} give the {skill}.", "Say the {skill} for {entry}.", "The {skill}, from {entry}?",
            ),
            "#### {value}",
            _sums,
            _number,
        ),
        Family(
            "counts",
            "math",
            ("legs", "wings", "wheels", "doors", "rooms", "coins"),
            (
                "How many {skill} has a {entry}?", "Count the {skill} of a {entry}.", "A {entry} has how many {skill}?",
                "The number of {skill} in a {entry}?", "Say how many {skill} a {entry} has.",
                "For a {entry}, the {skill}?",
            ),
            "#### {value}",
            _counts,
            _number,
        ),
        Family(
            "formulas",
            "code",
            ("grow", "scale", "shift", "turn", "step", "blend"),
            (
                "With {skill}, write f(x): {entry} x.", "Write {entry} of {skill} as f(x).",
                "{skill}: code f(x) for {entry}.", "Give f(x) that does {entry} as in {skill}.",
                "In {skill}, what is {entry}(x)? Call it f.", "Code f(x), the {entry} of {skill}.",
            ),
            "def f(x):\n    return {value}",
            _programs(EXPRESSIONS),
            _tests(lambda rng: list(rng.sample(range(20), 3)), "x"),
        ),
        Family(
            "calls",
            "code",
            ("pack", "sort", "find", "join", "cut", "read"),
            (
                "With {skill}, write f(v): {entry} v.", "Write {entry} of {skill} as f(v).",
                "{skill}: code f(v) for {entry}.", "Give f(v) that does {entry} as in {skill}.",
                "In {skill}, what is {entry}(v)? Call it f.", "Code f(v), the {entry} of {skill}.",
            ),
            "def f(v):\n    return {value}",
            _programs(CALLS),
            _tests(lambda rng: [rng.sample(range(20), 4) for _ in range(3)], "v"),
        ),
    )
}  # fmt: skip
