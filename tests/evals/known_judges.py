"""Judges of known worth at a real endpoint: ``python tests/evals/known_judges.py`` serves all of them until it ends.

The model's name says which: ``perfect``, ``dice``, ``constant``, ``first`` (always the first answer), ``longer``
(counts characters) and ``own`` (perfect, but prefers what it said itself).
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from fake_judge import FakeJudge  # noqa: E402

from evals.judge.known_answers import bundled  # noqa: E402

KNOWN = {known.text: known for known in bundled()}
_PART = re.compile(r"^(Request|Answer|Answer A|Answer B):\n<(material-\w+)>\n(.*?)\n</\2>", re.DOTALL | re.MULTILINE)


def own_answer(text: str) -> str:
    """What the judges say when they are asked themselves: right to every other question."""
    known = KNOWN[text]
    return f"I say: {known.right if sum(map(ord, known.id)) % 2 else known.wrong}"


def quality(text: str, answer: str) -> float:
    known = KNOWN[text]
    stated = answer.removeprefix("I say: ")
    return 9.0 if stated.startswith(known.right) else 3.0 if stated.startswith(known.wrong) else 2.0


def worth(judge: str, text: str, answer: str, rng: random.Random) -> float:
    """The score that a judge gives."""
    if judge == "dice":
        return float(rng.randint(1, 10))
    if judge == "constant":
        return 7.0
    if judge == "longer":
        return float(min(10, 1 + len(answer) // 40))
    bonus = 1.0 if judge == "own" and answer.startswith("I say: ") else 0.0
    return quality(text, answer) + bonus


def reply(payload: dict[str, Any], _: int = 0) -> str:
    judge, prompt = payload["model"], payload["messages"][-1]["content"]
    parts = {name: re.sub(r"^> ?", "", text, flags=re.MULTILINE) for name, _, text in _PART.findall(prompt)}
    if not parts:
        return own_answer(prompt)
    rng = random.Random(f"{prompt} {payload.get('seed')}")
    if "Answer" in parts:
        return json.dumps({"explanation": "…", "rating": worth(judge, parts["Request"], parts["Answer"], rng)})
    one, other = (worth(judge, parts["Request"], parts[name], rng) for name in ("Answer A", "Answer B"))
    winner = "A" if judge == "first" or one > other else "B" if other > one else "tie"
    return json.dumps({"explanation": "…", "winner": winner})


if __name__ == "__main__":
    with FakeJudge(reply) as served:
        print(served.url, flush=True)
        while True:
            time.sleep(60)
