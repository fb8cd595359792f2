"""Models that know the answers, and what they write: perfect, constant and guessing ones."""

from __future__ import annotations

import random
import re
from collections import defaultdict

from evals.data_root import sentence_model
from evals.engines.engine import Engine

# How to follow an instruction of IFEval, given its arguments.
FOLLOWED = {
    "keywords:existence": lambda a: f"Here: {' '.join(a['keywords'])}",
    "punctuation:no_comma": lambda a: "There is nothing to say",
    "change_case:english_lowercase": lambda a: "the sea is calm and the boats are at home today",
    "change_case:english_capital": lambda a: "THE SEA IS CALM AND THE BOATS ARE AT HOME TODAY",
    "detectable_format:number_bullet_lists": lambda a: "* one more\n" * a["num_bullets"],
    "detectable_format:title": lambda a: "<<a title>>\nA text.",
    "detectable_format:number_highlighted_sections": lambda a: "*one more* and " * a["num_highlights"],
    "detectable_format:json_format": lambda a: '{"answer": 1}',
    "detectable_content:number_placeholders": lambda a: "[name] and " * a["num_placeholders"],
    "detectable_content:postscript": lambda a: f"A text.\n\n{a['postscript_marker']} More text.",
    "startend:end_checker": lambda a: f"A text. {a['end_phrase']}",
    "startend:quotation": lambda a: '"A text."',
    "combination:two_responses": lambda a: "one text\n******\nanother text",
    "length_constraints:number_paragraphs": lambda a: "\n***\n".join(["A text."] * a["num_paragraphs"]),
}
# The beginnings of the names of tasks that are answered by writing.
WRITTEN = (
    "bbh_", "gsm8k", "moemix_mbpp", "moemix_humaneval", "gpqa", "moemix_math", "moemix_drop", "mmlu_pro_",
    "ifeval", *(f"moemix_quickstart_{name}" for name in ("words", "math", "code")),
)  # fmt: skip


def gold(request):
    """The numbers of the right choices."""
    doc, name = request.doc, request.task_name
    if name.startswith(("arc_", "moemix_arc_", "openbookqa")):
        return {doc["choices"]["label"].index(doc["answerKey"])}
    if name == "truthfulqa_mc2":
        return {i for i, label in enumerate(doc["mc2_targets"]["labels"]) if label}
    if name in ("sciq", "winogrande"):
        return {3} if name == "sciq" else {int(doc["answer"]) - 1}
    if "mmlu" in name or "quickstart" in name:
        return {doc["answer"] if "answer" in doc else doc["label"]}
    return {int(doc["label"]) if "label" in doc else doc["gold"][0]}


def fenced(code):
    return f"Here it is:\n\n```python\n{code}\n\nif __name__ == '__main__':\n    print(input())\n```\nIt works."


def written(request):
    """What a model that knows the answer writes, as the examples before the question do."""
    doc, name = request.doc, request.task_name
    if name.startswith("bbh_cot"):
        return f"We think. Is it (Q) or Quebec? So the answer is {doc['target']}."
    if name.startswith("bbh"):
        return f"{doc['target']}\n\nQ: Another question?\nA: No"
    if name.startswith("gsm8k"):
        return f"First we count. The answer is {doc['answer'].split('####')[1].strip()}.\n\nQ: And then?"
    if name == "moemix_mbpp":
        return doc["code"].replace("\r", "") + "\nassert True\nclass Next: pass"
    if name.startswith("moemix_mbpp"):
        return fenced(doc["code"].replace("\r", ""))
    if name == "moemix_humaneval":
        return doc["canonical_solution"] + "\n\ndef another(): pass"
    if name.startswith("moemix_humaneval"):
        helper = "def another():\n    pass\n\n\n"
        return fenced(helper + doc["prompt"] + doc["canonical_solution"])
    if name == "moemix_quickstart_code":
        called = re.match(r"assert (\w+)\(", doc["tests"][0])[1]
        cases = re.findall(r"^assert \w+\((.*)\) == (.*)$", "\n".join(doc["tests"]), re.MULTILINE)
        table = ", ".join(f"{given!r}: {result}" for given, result in cases)
        return f"def {called}(x):\n    return {{{table}}}[str(x)]"
    if name.startswith("gpqa"):
        return f"(A) and (B) look right. Therefore, the correct answer is **{doc['answer']}**, not another."
    if name.startswith("mmlu_pro_"):
        return f"Is the answer A? We count again. The answer is ({doc['answer']})."
    if name.startswith("moemix_math"):
        return f"We compute. The result is $\\boxed{{{doc['answer']}}}$."
    if name == "moemix_drop":
        return f"{', '.join(doc['answers'][0])}."
    if name == "ifeval":
        return FOLLOWED[doc["instruction_id_list"][0]](doc["kwargs"][0])
    return f"#### {doc['target']}" if name.endswith("math") else doc["target"]


def options(request):
    """The letters in the question, for a task that is answered by writing."""
    if request.task_name.startswith("mmlu_pro_"):
        return [f"({letter})" for letter, _ in zip("ABCDEFGHIJ", request.doc["options"], strict=False)]
    if request.task_name.startswith("gpqa"):
        return ["(A)", "(B)", "(C)", "(D)"]
    return re.findall(r"^(\([A-Z]\))", request.doc.get("input", ""), re.MULTILINE)


def right_letter(request):
    """The letter of the right option in parentheses; empty where there is none."""
    answer = str(request.doc.get("target") or request.doc.get("answer", ""))
    answer = f"({answer})" if request.task_name.startswith("mmlu_pro_") else answer
    return answer if re.fullmatch(r"\([A-Z]\)", answer) else ""


def follows(doc, text):
    """Whether IFEval's own checker accepts a text."""
    with sentence_model():
        from lm_eval.tasks.ifeval.utils import InputExample, test_instruction_following_strict

    example = InputExample(doc["key"], doc["instruction_id_list"], doc["prompt"], doc["kwargs"])
    return float(test_instruction_following_strict(example, text).follow_all_instructions)


class OracleModel:
    """Answers as ``kind`` says: perfect, constant (the first choice, or ``(A)``), or guessing.

    Every other text has a space before it, or lacks the one that it begins with: some engines' decoders keep the space
    before an answer, and others drop it.

    Attributes:
        expected: task → question → its share of right answers.
    """

    tokenizer_name = "none"

    def __init__(self, kind):
        self.kind = kind
        self.expected = defaultdict(dict)

    def loglikelihood(self, requests, disable_tqdm=False):
        siblings = defaultdict(list)
        for request in requests:
            siblings[request.task_name, request.doc_id].append(request.idx)
        return [self._compare(request, len(siblings[request.task_name, request.doc_id])) for request in requests]

    def _compare(self, request, count):
        if request.task_name.startswith(WRITTEN):
            return -1.0, True  # the gold answer of a task that is answered by writing
        if request.task_name.startswith("lambada"):
            self.expected[request.task_name][request.doc_id] = float(self.kind == "perfect")
            return -1.0, self.kind == "perfect"
        right = gold(request)
        chosen = {"perfect": right, "constant": {0}, "guess": {random.Random(request.args[0]).randrange(count)}}[
            self.kind
        ]
        if request.task_name == "winogrande" and self.kind == "guess":
            chosen = {random.Random(request.doc["sentence"]).randrange(2)}  # its choices are in the contexts
        chance = {"perfect": 1.0, "constant": float(0 in right), "guess": len(right) / count}[self.kind]
        self.expected[request.task_name][request.doc_id] = chance
        return (0.0 if request.idx in chosen else -1000.0), False

    def generate_until(self, requests, disable_tqdm=False):
        return [self._write(request) for request in requests]

    def _write(self, request):
        prompt, settings = request.args
        right, letters, letter = written(request), options(request), right_letter(request)
        text, chance = right, 1.0
        if self.kind == "constant":
            text, chance = "(A)", float(letter == "(A)")
        elif self.kind == "guess":
            text = random.Random(prompt).choice(letters) if letters else "nothing"
            chance = 1 / len(letters) if letters else 0.0
        for stop in settings["until"]:
            text = text.split(stop)[0]
        if request.doc_id % 2:
            text = text[1:] if text.startswith(" ") else f" {text}"
        if request.task_name == "ifeval" and self.kind != "perfect":
            chance = follows(request.doc, text)
        self.expected[request.task_name][request.doc_id] = chance
        return text

    def apply_chat_template(self, history, add_generation_prompt=True):
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in history)

    def chat_template(self, name=False):
        return "turns"


class OracleEngine(Engine):
    max_length = 1 << 40

    def __init__(self, model):
        self.model = model

    def start(self):
        pass

    def describe(self):
        return {"name": "made up", "version": "1", "dtype": "none", "args": {}}

    def lm(self):
        return self.model
