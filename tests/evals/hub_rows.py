"""Benchmarks whose data no test has: a few made-up questions each, in the columns of the hub's data sets."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SUBJECTS = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law",
    "math", "other", "philosophy", "physics", "psychology",
)  # fmt: skip
# EvalPlus's rows are programs: an assertion that compares with a tolerance, inputs, results, and a loop over them.
ASSERTION = """import numpy as np

def assertion(out, exp, atol):
    assert out == exp or np.allclose(out, exp, atol=atol)

"""
LOOP = "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion({call}(*inp), exp, 0)\n"


def write_hub_rows(root: Path, count: int) -> None:
    """Write ``hub/ORG/NAME/[CONFIGURATION/]SPLIT.jsonl`` under a data root, ``count`` rows of each."""
    rows: dict[str, list[dict[str, Any]]] = {
        "Idavidrein/gpqa/gpqa_diamond/train": [_gpqa(i) for i in range(count)],
        "HuggingFaceH4/MATH-500/default/test": [_math(i) for i in range(count)],
        "truthfulqa/truthful_qa/multiple_choice/validation": [_truthful(i) for i in range(count)],
        "EleutherAI/drop/validation": [_drop(i) for i in range(count)],
        "TIGER-Lab/MMLU-Pro/test": [_mmlu_pro(i, subject) for subject in SUBJECTS for i in range(count)],
        "TIGER-Lab/MMLU-Pro/validation": [_mmlu_pro(i, subject) for subject in SUBJECTS for i in range(5)],
        "Rowan/hellaswag/validation": [_hellaswag(i) for i in range(count)],
        "allenai/winogrande/winogrande_xl/validation": [_winogrande(i) for i in range(count)],
        "evalplus/humanevalplus/test": [_humaneval_plus(i) for i in range(count)],
        "evalplus/mbppplus/test": [_mbpp_plus(i) for i in range(count)],
        "allenai/sciq/test": [_sciq(i) for i in range(count)],
        "baber/piqa/validation": [_piqa(i) for i in range(count)],
        "EleutherAI/lambada_openai/default/test": [
            {"text": f"It was cold {i}, so we stayed home"} for i in range(count)
        ],
        "allenai/openbookqa/main/test": [_openbookqa(i) for i in range(count)],
    }
    for name, members in rows.items():
        file = root / "hub" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in members))


def _gpqa(i: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {k}": f"{i + k} metres (of {k})" for k in (1, 2, 3)}
    return {"Question": f"How high is tower {i}?", "Correct Answer": f"{i} metres", **wrong}


def _math(i: int) -> dict[str, Any]:
    answer = [f"\\frac{{{i + 1}}}{{7}}", f"{i}", f"x^2+{i + 2}", f"({i},{i + 1})"][i % 4]
    solution = f"We compute it. Therefore the result is $\\boxed{{{answer}}}$."
    return {"problem": f"What is number {i}?", "solution": solution, "answer": answer, "subject": "Algebra", "level": 1}


def _truthful(i: int) -> dict[str, Any]:
    true = 1 + i % 3
    choices = {"choices": [f"Answer {k} of {i}" for k in range(5)], "labels": [int(k < true) for k in range(5)]}
    one = {"choices": choices["choices"], "labels": [1, 0, 0, 0, 0]}
    return {"question": f"What happens in case {i}?", "mc1_targets": one, "mc2_targets": choices}


def _drop(i: int) -> dict[str, Any]:
    none = {"day": "", "month": "", "year": ""}
    answer: dict[str, Any] = [
        {"number": f"{i}.5", "date": none, "spans": []},
        {"number": "", "date": none, "spans": ["the U.S. Army"]},
        {"number": "", "date": none, "spans": ["Anna", "Bert", "Carl Otto"]},
        {"number": "", "date": {"day": "3", "month": "May", "year": "1814"}, "spans": []},
    ][i % 4]
    validated = {"number": [""], "date": [none], "spans": [["somebody else"]]}
    return {
        "query_id": str(i), "section_id": "s", "passage": f"In year {i} something happened.",
        "question": "Which?", "answer": answer, "validated_answers": validated,
    }  # fmt: skip


def _mmlu_pro(i: int, subject: str) -> dict[str, Any]:
    options = [f"{i * 10 + k} things" for k in range(10 - i % 4)]
    index = (i * 3) % len(options)
    letter = "ABCDEFGHIJ"[index]
    return {
        "question": f"How many things are in {subject} {i}?", "options": options, "answer": letter,
        "answer_index": index, "category": subject, "src": "made up",
        "cot_content": f"A: Let's think step by step. We count. The answer is ({letter}).",
    }  # fmt: skip


def _hellaswag(i: int) -> dict[str, Any]:
    endings = [f"goes away [substeps] with {k} of {i}." for k in range(4)]
    return {"activity_label": "Sailing", "ctx_a": "A man", "ctx_b": "he", "endings": endings, "label": str(i % 4)}


def _winogrande(i: int) -> dict[str, Any]:
    sentence = f"Ann {i} called Eve {i} because _ was ill."
    return {"sentence": sentence, "option1": f"Ann {i}", "option2": f"Eve {i}", "answer": str(1 + i % 2)}


def _humaneval_plus(i: int) -> dict[str, Any]:
    prompt = f'from typing import List\n\n\ndef add_{i}(xs: List[int]) -> int:\n    """Add {i} to the sum."""\n'
    loop = "\n".join("    " + line for line in LOOP.format(call="candidate").splitlines())
    test = f"{ASSERTION}def check(candidate):\n    inputs = [[[1, 2]], [[]]]\n    results = [{3 + i}, {i}]\n{loop}\n"
    return {
        "task_id": f"HumanEval/{i}", "prompt": prompt, "canonical_solution": f"    return sum(xs) + {i}\n",
        "test": test, "entry_point": f"add_{i}",
    }  # fmt: skip


def _mbpp_plus(i: int) -> dict[str, Any]:
    task, code = f"Write a function plus_{i} to add {i}.", f"def plus_{i}(x):\n    return x + {i}"
    test = f"{ASSERTION}inputs = [[1], [5]]\nresults = [{1 + i}, {5 + i}]\n{LOOP.format(call=f'plus_{i}')}"
    return {
        "task_id": i, "prompt": task, "code": code, "test": test,
        "test_list": [f"assert plus_{i}(1) == {1 + i}"], "test_imports": ["import math"],
    }  # fmt: skip


def _sciq(i: int) -> dict[str, Any]:
    wrong = {f"distractor{k}": f"wrong {k} {i}" for k in (1, 2, 3)}
    return {"question": f"What is {i}?", "support": "A text.", "correct_answer": f"right {i}", **wrong}


def _piqa(i: int) -> dict[str, Any]:
    return {"goal": f"To do {i}", "sol1": "do it so", "sol2": "do it otherwise", "label": i % 2}


def _openbookqa(i: int) -> dict[str, Any]:
    texts = [f"thing {k}" for k in random.Random(i).sample(range(9), 4)]
    choices = {"text": texts, "label": list("ABCD")}
    return {"id": str(i), "question_stem": f"Which is {i}?", "choices": choices, "answerKey": "ABCD"[i % 4]}
