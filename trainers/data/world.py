"""The quickstart's world: a generated data root with known overlap, the same bytes for the same seed.

Four sources in four published formats, raw text to pretrain on, and held-out questions. The overlap is built in:
``chat`` and ``instructions`` ask the same two families of problems (facts, words), one in two-turn conversations, the
other one by one, so they are redundant with each other; ``math`` and ``code`` share problems with nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import unknown
from harness.files import hash_file, hash_value, whole_directory, write_json, write_text
from trainers.data.world_families import FAMILIES, Problem, Question

WORLDS = ("quickstart",)

SIZES = {"chat": 1500, "instructions": 4000, "math": 2000, "code": 1000}  # examples; unequal, so `datasize` is a choice
TEXTS = 8000
HELD_OUT_PERCENT = {"facts": 40, "words": 10, "math": 20, "code": 30}
QUESTIONS = 150  # held-out questions of a family, at the most
FACT_TEXTS = 0.28  # of the raw text; the other families share the rest equally


def world_id(name: str, seed: int) -> str:
    """What a generated world is: its name, its seed and the generator itself."""
    if name not in WORLDS:
        raise unknown("world", name, WORLDS, where="data.world")
    generator = [hash_file(Path(__file__).with_name(file)) for file in ("world.py", "world_families.py")]
    return f"{name}-{hash_value([seed, generator])[:12]}"


def make_world(name: str, out: Path, seed: int) -> None:
    """Write a world's files as a data root: ``train/``, ``pretrain/``, ``eval/``, and ``world.json`` about them."""
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


def _split(seed: int) -> tuple[dict[str, list[Problem]], dict[str, list[Problem]]]:
    """Problems by family, to teach and held out. A problem's key decides, so no rewording crosses the line."""
    taught: dict[str, list[Problem]] = {}
    held_out: dict[str, list[Problem]] = {}
    for family in FAMILIES.values():
        for problem in family.problems(random.Random(f"{seed}/{family.name}")):
            digest = int(hashlib.sha256(f"{seed}/{problem.key}".encode()).hexdigest()[:8], 16)
            side = held_out if digest % 100 < HELD_OUT_PERCENT[family.name] else taught
            side.setdefault(family.name, []).append(problem)
    return taught, held_out


def _write_train(folder: Path, taught: dict[str, list[Problem]], seed: int) -> None:
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


def _texts(
    taught: dict[str, list[Problem]], held_out: dict[str, list[Problem]], rng: random.Random
) -> Iterable[dict[str, str]]:
    """Raw text. It tells every fact, for an evaluation asks what the base knows; of the rest only what is taught."""
    people: dict[str, list[Problem]] = {}
    for problem in taught["facts"] + held_out["facts"]:
        people.setdefault(problem.values[0], []).append(problem)
    names = sorted(people)
    for _ in range(TEXTS):
        if rng.random() < FACT_TEXTS:
            told = people[rng.choice(names)]
            yield {"text": " ".join(FAMILIES["facts"].tell(fact, rng) for fact in rng.sample(told, len(told)))}
            continue
        family = FAMILIES[rng.choice(("words", "math", "code"))]
        count = 1 if family.name == "words" else 2
        yield {"text": "\n".join(family.tell(rng.choice(taught[family.name]), rng) for _ in range(count))}


def _questions(problems: list[Problem], family: str, seed: int) -> list[Question]:
    rng = random.Random(f"{seed}/eval/{family}")
    chosen = rng.sample(problems, min(QUESTIONS, len(problems)))
    return [FAMILIES[family].ask(problem, rng) for problem in chosen]


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
