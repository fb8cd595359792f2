"""The quickstart's world: a generated data root with known overlap; the same seed gives the same bytes.

It has four sources in four published formats, raw text for pretraining, and held-out questions. The overlap is
intentional: ``chat`` and ``instructions`` ask the same two families of problems (facts, words), the one in two-turn
conversations and the other in single turns, so they are redundant with each other. ``math`` and ``code`` share their
problems with no other source.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from harness.errors import unknown
from harness.files import hash_file, hash_value, whole_directory, write_json, write_text
from trainers.data.world_families import FAMILIES, Problem, Question

WORLDS = ("quickstart",)

SIZES = {"chat": 1500, "instructions": 4000, "math": 2000, "code": 1000}  # examples; unequal, so `datasize` is a choice
TEXTS = 8000  # lines of raw text
HELD_OUT_PERCENT = {"facts": 40, "words": 10, "math": 20, "code": 30}
QUESTIONS = 150  # at most so many held-out questions of each family
FACT_TEXTS = 0.28  # share of the raw text; the other families share the rest equally
_VERSION = 1  # increase it when the same seed gives other files than before

Problems: TypeAlias = dict[str, list[Problem]]
"""Problems by family."""


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
    taught, held_out = _split(seed)
    with whole_directory(out) as folder:
        _write_train(folder / "train", taught, seed)
        _write_jsonl(folder / "pretrain" / "text.jsonl", _texts(taught, held_out, random.Random(f"{seed}/text")))
        for family, problems in held_out.items():
            questions = _questions(problems, family, seed)
            _write_jsonl(folder / "eval" / f"{family}.jsonl", ({"prompt": q.prompt, **q.check} for q in questions))
        files = {file.relative_to(folder).as_posix(): hash_file(file) for file in sorted(folder.rglob("*.json*"))}
        facts = {
            "world": identity,
            "seed": seed,
            "examples": SIZES,
            "held_out_problems": {family: len(problems) for family, problems in held_out.items()},
            "families": {
                "chat": ["facts", "words"],
                "instructions": ["facts", "words"],
                "math": ["math"],
                "code": ["code"],
            },
            "files": files,
        }
        write_json(folder / "world.json", facts)


def _split(seed: int) -> tuple[Problems, Problems]:
    """Return the problems to teach and the held-out ones. Wordings of one problem are on one side."""
    taught: Problems = {}
    held_out: Problems = {}
    for family in FAMILIES.values():
        for problem in family.problems(random.Random(f"{seed}/{family.name}")):
            digest = int(hashlib.sha256(f"{seed}/{problem.key}".encode()).hexdigest()[:8], 16)
            side = held_out if digest % 100 < HELD_OUT_PERCENT[family.name] else taught
            side.setdefault(family.name, []).append(problem)
    return taught, held_out


def _write_train(folder: Path, taught: Problems, seed: int) -> None:
    rng = random.Random(f"{seed}/train")

    def ask(*families: str) -> Question:
        family = rng.choice(families)
        return FAMILIES[family].ask(rng.choice(taught[family]), rng)

    conversations = []
    for number in range(SIZES["chat"]):
        turns = [ask("facts", "words") for _ in range(2)]
        messages = [
            {"from": who, "value": text}
            for turn in turns
            for who, text in (("human", turn.prompt), ("gpt", turn.answer))
        ]
        conversations.append({"id": f"chat_{number}", "conversations": messages})
    write_text(folder / "chat.json", json.dumps(conversations, indent=1) + "\n")
    general = (ask("facts", "words") for _ in range(SIZES["instructions"]))
    _write_jsonl(
        folder / "instructions.jsonl", ({"instruction": q.prompt, "input": "", "output": q.answer} for q in general)
    )
    math = (ask("math") for _ in range(SIZES["math"]))
    _write_jsonl(folder / "math.jsonl", ({"question": q.prompt, "answer": q.answer} for q in math))
    code = (ask("code") for _ in range(SIZES["code"]))
    _write_jsonl(folder / "code.jsonl", ({"prompt": q.prompt, "completion": q.answer} for q in code))


def _texts(taught: Problems, held_out: Problems, rng: random.Random) -> Iterable[dict[str, str]]:
    """Yield raw text: every fact, because the evaluation asks what the base model knows, and other taught problems."""
    people: Problems = {}
    for problem in taught["facts"] + held_out["facts"]:
        people.setdefault(problem.values[0], []).append(problem)
    names = sorted(people)
    for _ in range(TEXTS):
        if rng.random() < FACT_TEXTS:
            facts = people[rng.choice(names)]
            yield {"text": " ".join(FAMILIES["facts"].tell(fact, rng) for fact in rng.sample(facts, len(facts)))}
            continue
        family = FAMILIES[rng.choice(("words", "math", "code"))]
        count = 1 if family.name == "words" else 2
        yield {"text": "\n".join(family.tell(rng.choice(taught[family.name]), rng) for _ in range(count))}


def _questions(problems: list[Problem], family: str, seed: int) -> list[Question]:
    rng = random.Random(f"{seed}/eval/{family}")
    chosen = rng.sample(problems, min(QUESTIONS, len(problems)))
    return [FAMILIES[family].ask(problem, rng) for problem in chosen]


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
