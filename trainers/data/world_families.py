"""The task families of the quickstart world: problems, their statements in plain text, and their questions.

A family turns a seed into problems. A problem is one thing to know or to do, whatever its wording. It can be stated
(``tell``: a line of raw text, for pretraining) and asked (``ask``: a question with its answer, for tuning and
evaluation) in several wordings. Whether a problem is held out for evaluation is a property of the problem, so no
wording of a test question is in a training file.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "r", "t", "v", "z")
NUCLEI = ("a", "e", "i", "o", "u")
PEOPLE = 72

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "home": tuple(f"the {place}" for place in "mill tower harbor forest castle market valley island".split()),
    "food": tuple("bread honey cheese plums soup rice beans fish".split()),
    "pet": tuple(f"a {animal}" for animal in "fox goat cat horse duck mouse bear dog".split()),
}
TELLINGS: dict[str, tuple[str, ...]] = {
    "home": ("{who} lives in {what}.", "The home of {who} is {what}.", "The house of {who} is in {what}."),
    "food": ("{who} likes {what}.", "The food of {who} is {what}.", "The plate of {who} is full of {what}."),
    "pet": ("{who} keeps {what}.", "The pet of {who} is {what}.", "The friend of {who} is {what}."),
}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "home": ("Where does {who} live?", "What is the home of {who}?"),
    "food": ("What does {who} like?", "What is the food of {who}?"),
    "pet": ("What does {who} keep?", "What is the pet of {who}?"),
}

THINGS = tuple(
    "lamp rope book drum bell coat key map cup ring shoe chair door boat cart wheel stone leaf star cloud".split()
)

FUNCTIONS = ("grow", "scale", "shift", "change", "step", "turn", "move", "apply")
NUMBERS = range(2, 10)


@dataclass(frozen=True)
class Problem:
    """One thing to know or to do, identified by ``key`` whatever the wording."""

    family: str
    kind: str
    values: tuple[Any, ...]

    @property
    def key(self) -> str:
        """The problem's identity in text."""
        return "/".join(str(part) for part in (self.family, self.kind, *self.values))


@dataclass(frozen=True)
class Question:
    """A problem in words: the prompt, the whole answer, and what an evaluation checks."""

    problem: Problem
    prompt: str
    answer: str
    check: dict[str, object]


@dataclass(frozen=True)
class Family:
    """A kind of problem: ``problems`` lists them for a seeded generator, ``tell`` and ``ask`` put one into words."""

    name: str
    problems: Callable[[random.Random], list[Problem]]
    tell: Callable[[Problem, random.Random], str]
    ask: Callable[[Problem, random.Random], Question]


# --- facts: who lives where, likes what, keeps what --------------------------------------------------


def _people(rng: random.Random) -> list[str]:
    syllables = [onset + nucleus for onset in ONSETS for nucleus in NUCLEI]
    names = [first.capitalize() + second for first, second in itertools.permutations(syllables, 2)]
    return sorted(rng.sample(names, PEOPLE))


def _facts(rng: random.Random) -> list[Problem]:
    return [
        Problem("facts", attribute, (who, rng.choice(values)))
        for who in _people(rng)
        for attribute, values in ATTRIBUTES.items()
    ]


def _tell_fact(problem: Problem, rng: random.Random) -> str:
    who, what = problem.values
    return rng.choice(TELLINGS[problem.kind]).format(who=who, what=what)


def _ask_fact(problem: Problem, rng: random.Random) -> Question:
    who, what = problem.values
    others = [value for value in ATTRIBUTES[problem.kind] if value != what]
    choices = [what, *rng.sample(others, 3)]
    rng.shuffle(choices)
    prompt = rng.choice(QUESTIONS[problem.kind]).format(who=who)
    answers = [f"It is {choice}." for choice in choices]
    return Question(problem, prompt, f"It is {what}.", {"choices": answers, "label": choices.index(what)})


# --- words: small operations on a list ---------------------------------------------------------------

WORD_OPERATIONS: dict[str, Callable[[tuple[str, ...]], str]] = {
    "first": lambda words: words[0],
    "last": lambda words: words[-1],
    "reverse": lambda words: " ".join(reversed(words)),
    "repeat": lambda words: " ".join(words),
}
WORD_ANSWERS = {
    "first": "The first is {result}.",
    "last": "The last is {result}.",
    "reverse": "In reverse: {result}.",
    "repeat": "Again: {result}.",
}
WORD_QUESTIONS = {
    "first": ("Say the first word: {words}", "Which word is first? {words}"),
    "last": ("Say the last word: {words}", "Which word is last? {words}"),
    "reverse": ("Say in reverse: {words}", "Reverse these words: {words}"),
    "repeat": ("Repeat these words: {words}", "Say again: {words}"),
}


def _words(rng: random.Random) -> list[Problem]:
    triples = rng.sample(list(itertools.permutations(THINGS, 3)), 1500)
    return [Problem("words", operation, words) for words in triples for operation in WORD_OPERATIONS]


def _tell_words(problem: Problem, rng: random.Random) -> str:
    kinds = rng.sample(list(WORD_OPERATIONS), len(WORD_OPERATIONS))
    answers = [WORD_ANSWERS[kind].format(result=WORD_OPERATIONS[kind](problem.values)) for kind in kinds]
    return f"The list is {' '.join(problem.values)}. {' '.join(answers)}"


def _ask_words(problem: Problem, rng: random.Random) -> Question:
    result = WORD_OPERATIONS[problem.kind](problem.values)
    prompt = rng.choice(WORD_QUESTIONS[problem.kind]).format(words=" ".join(problem.values))
    answer = WORD_ANSWERS[problem.kind].format(result=result)
    return Question(problem, prompt, answer, {"target": answer})


# --- math: one or two steps with small numbers ---------------------------------------------------------


def _math(rng: random.Random) -> list[Problem]:
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS]
    more = [Problem("math", "more", (a, b, c)) for a, b in pairs for c in range(2, 7)]
    fewer = [Problem("math", "fewer", (a, b, c)) for a, b in pairs for c in range(2, 7) if c < a + b]
    return more + fewer


def _steps(problem: Problem) -> tuple[list[str], int]:
    a, b, c = problem.values
    total = a + b
    sign, result = ("+", total + c) if problem.kind == "more" else ("-", total - c)
    return [f"{a} + {b} = {total}", f"{total} {sign} {c} = {result}"], result


def _tell_math(problem: Problem, rng: random.Random) -> str:
    return " ; ".join(_steps(problem)[0]) + "."


def _ask_math(problem: Problem, rng: random.Random) -> Question:
    a, b, c = problem.values
    thing = rng.choice(THINGS)
    ending = f"finds {c} more" if problem.kind == "more" else f"loses {c}"
    who = rng.choice(("He", "She"))
    prompt = f"{who} has {a} {thing}s, buys {b} and {ending}. How many {thing}s?"
    steps, result = _steps(problem)
    return Question(problem, prompt, "\n".join([*steps, f"#### {result}"]), {"target": str(result)})


# --- code: a function from its description -------------------------------------------------------------

CODE_OPERATIONS = {
    "add": ("adds {a} to x", "x + {a}"),
    "subtract": ("subtracts {a} from x", "x - {a}"),
    "multiply": ("multiplies x by {a}", "x * {a}"),
    "multiply_add": ("multiplies x by {a} and adds {b}", "x * {a} + {b}"),
    "multiply_subtract": ("multiplies x by {a} and subtracts {b}", "x * {a} - {b}"),
    "add_multiply": ("adds {a} to x and multiplies by {b}", "(x + {a}) * {b}"),
    "subtract_multiply": ("subtracts {a} from x and multiplies by {b}", "(x - {a}) * {b}"),
}


def _code(rng: random.Random) -> list[Problem]:
    return [
        Problem("code", kind, values)
        for kind, (description, _) in CODE_OPERATIONS.items()
        for values in (itertools.product(NUMBERS, NUMBERS) if "{b}" in description else ((a,) for a in NUMBERS))
    ]


def _program(problem: Problem, name: str) -> tuple[str, str, str]:
    """Return the description, the function, and the expression over ``x``."""
    description, expression = CODE_OPERATIONS[problem.kind]
    names = dict(zip("ab", problem.values, strict=False))
    expression = expression.format(**names)
    return description.format(**names), f"def {name}(x):\n    return {expression}", expression


def _tell_code(problem: Problem, rng: random.Random) -> str:
    description, function, _ = _program(problem, rng.choice(FUNCTIONS))
    return f"# {description}\n{function}"


def _ask_code(problem: Problem, rng: random.Random) -> Question:
    name = rng.choice(FUNCTIONS)
    description, function, expression = _program(problem, name)
    inputs = rng.sample(range(20), 3)
    # The expected values come from running the answer that the generator itself wrote.
    tests = [f"assert {name}({x}) == {eval(expression, {'__builtins__': {}}, {'x': x})}" for x in inputs]
    return Question(problem, f"Write {name}(x): it {description}.", function, {"tests": tests})


FAMILIES = {
    family.name: family
    for family in (
        Family("facts", _facts, _tell_fact, _ask_fact),
        Family("words", _words, _tell_words, _ask_words),
        Family("math", _math, _tell_math, _ask_math),
        Family("code", _code, _tell_code, _ask_code),
    )
}
