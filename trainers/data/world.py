"""The quickstart's world: a generated data root with known overlap; the same seed gives the same bytes.

It has four sources in four published formats, raw text for pretraining, and held-out questions. :data:`TEACHES` says
which source teaches which skill. ``chat`` and ``instructions`` share most of their skills, so they are redundant with
each other; ``code`` shares no skill with any other source. As in real chat, half of the requests in ``chat`` are open:
many answers are right, so that some of its loss cannot be learnt away.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import unknown
from harness.files import hash_file, hash_value, whole_directory, write_json, write_text
from trainers.data.world_families import ENTRIES, FAMILIES, Problem, Question, invented

WORLDS = ("quickstart",)

SIZES = {"chat": 1500, "instructions": 4000, "math": 2000, "code": 1000}  # examples; unequal, so `datasize` is a choice
TEACHES: dict[str, dict[str, range]] = {
    "chat": {"people": range(6), "places": range(6), "tongues": range(3), "bonds": range(3)},
    "instructions": {"people": range(6), "places": range(3), "tongues": range(6), "bonds": range(6), "sums": range(2)},
    "math": {"sums": range(6), "counts": range(6)},
    "code": {"formulas": range(6), "calls": range(6)},
}
"""By source and family: the skills that the source teaches, by their place in the family."""
OPEN_REQUESTS = ("Make up three names.", "Which three names would you give?", "Three new names, please.")
TEXTS = 8000  # lines of raw text
_VERSION = 4  # increase it when the same seed gives other files than before


def world_id(name: str, seed: int) -> str:
    """Return the identity of a generated world, which follows from its name, its seed and the generator's version.

    Raises:
        MoemixError: there is no such world.
    """
    if name not in WORLDS:
        raise unknown("world", name, WORLDS, where="data.world")
    return f"{name}-{hash_value([name, seed, _VERSION])[:12]}"


def make_world(name: str, out: Path, seed: int) -> None:
    """Write a world's files as a data root: ``train/``, ``pretrain/``, ``eval/`` and ``world.json``."""
    identity = world_id(name, seed)
    taught, held_out = split(seed)
    with whole_directory(out) as folder:
        _write_train(folder / "train", taught, seed)
        _write_jsonl(folder / "pretrain" / "text.jsonl", _texts(seed))
        for column in dict.fromkeys(family.column for family in FAMILIES.values()):
            _write_jsonl(folder / "eval" / f"{column}.jsonl", _questions(held_out, column, seed))
        files = {file.relative_to(folder).as_posix(): hash_file(file) for file in sorted(folder.rglob("*.json*"))}
        facts = {
            "world": identity,
            "seed": seed,
            "examples": SIZES,
            "skills": {name: dict(zip(family.skills, ENTRIES, strict=True)) for name, family in FAMILIES.items()},
            "teaches": {
                source: {name: [FAMILIES[name].skills[i] for i in skills] for name, skills in families.items()}
                for source, families in TEACHES.items()
            },
            "files": files,
        }
        write_json(folder / "world.json", facts)


def split(seed: int) -> tuple[list[Problem], list[Problem]]:
    """Return the problems to teach and the held-out ones: of each entry, one of its six wordings is held out."""
    taught: list[Problem] = []
    held_out: list[Problem] = []
    for family in FAMILIES.values():
        for problems in family.problems(random.Random(f"{seed}/{family.name}")).values():
            for problem in problems:
                entry = problem.key.rpartition("/")[0]
                digest = hashlib.sha256(f"{seed}/{entry}".encode()).digest()[0]
                (held_out if digest % len(family.wordings) == problem.wording else taught).append(problem)
    return taught, held_out


def _write_train(folder: Path, taught: list[Problem], seed: int) -> None:
    rng = random.Random(f"{seed}/train")
    lessons = {source: [problem for problem in taught if _teaches(source, problem)] for source in TEACHES}
    often = {source: [problem.frequency for problem in lessons[source]] for source in TEACHES}

    def ask(source: str) -> Question:
        (problem,) = rng.choices(lessons[source], often[source])
        return FAMILIES[problem.family].ask(problem, rng)

    conversations = []
    for number in range(SIZES["chat"]):
        turns = [ask("chat"), _open(rng)]
        rng.shuffle(turns)
        messages = [
            {"from": who, "value": text}
            for turn in turns
            for who, text in (("human", turn.prompt), ("gpt", turn.answer))
        ]
        conversations.append({"id": f"chat_{number}", "conversations": messages})
    write_text(folder / "chat.json", json.dumps(conversations, indent=1) + "\n")
    for source, (prompt, answer) in {
        "instructions": ("instruction", "output"),
        "math": ("question", "answer"),
        "code": ("prompt", "completion"),
    }.items():
        questions = (ask(source) for _ in range(SIZES[source]))
        extra = {"input": ""} if source == "instructions" else {}
        _write_jsonl(folder / f"{source}.jsonl", ({prompt: q.prompt, **extra, answer: q.answer} for q in questions))


def _open(rng: random.Random) -> Question:
    """Return a request with one of its many answers."""
    first, second, third = (name.capitalize() for name in invented(3, rng))
    return Question(rng.choice(OPEN_REQUESTS), f"{first}, {second} and {third}.", {})


def _teaches(source: str, problem: Problem) -> bool:
    skills = TEACHES[source].get(problem.family, range(0))
    return FAMILIES[problem.family].skills.index(problem.skill) in skills


def _texts(seed: int) -> Iterable[dict[str, str]]:
    """Yield raw text with the same words and sentences, but of another world: the entries themselves are not told."""
    taught, _ = split(seed + 1_000_000)
    rng = random.Random(f"{seed}/text")
    for _ in range(TEXTS):
        told = (FAMILIES[problem.family].ask(problem, rng) for problem in rng.sample(taught, 3))
        yield {"text": "\n".join(f"{question.prompt} {question.answer}" for question in told)}


def _questions(held_out: list[Problem], column: str, seed: int) -> list[dict[str, object]]:
    rng = random.Random(f"{seed}/eval/{column}")
    asked = []
    for problem in held_out:
        if FAMILIES[problem.family].column == column:
            question = FAMILIES[problem.family].ask(problem, rng)
            asked.append({"prompt": question.prompt, **question.check, "gold": question.answer})
    return asked


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
