"""The benchmarks a data root may hold: the published files, and how their rows become those of the hub.

What the hub serves is what lm-eval's stock tasks read, so a conversion is right when prompts come out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """A split's file under the data root, and which of its rows belong to it where several splits share one."""

    file: str
    keep: Callable[[Row], bool] = lambda row: True


@dataclass(frozen=True)
class Dataset:
    """One configuration of a hub data set.

    Attributes:
        splits: split → its file; None for a split without one, which is there and empty.
        schema: column → type, in words of :mod:`evals.data_root` (``text``, ``texts``, ``int``, ``ints``); nested
            columns as a dict, a list of them as a list of one dict.
        convert: a published row → a row as the hub has it.
    """

    splits: dict[str, Split | None]
    schema: dict[str, Any]
    convert: Callable[[Row], Row]


def _arc(row: Row) -> Row:
    choices = row["question"]["choices"]
    return {
        "id": row["id"],
        "question": row["question"]["stem"],
        "choices": {"text": [c["text"] for c in choices], "label": [c["label"] for c in choices]},
        "answerKey": row["answerKey"],
    }


def _boolq(row: Row) -> Row:
    label = {"true": 1, "false": 0}[str(row["label"]).lower()]  # the words, or JSON's own true and false
    return {"question": row["question"], "passage": row["passage"], "idx": row["idx"], "label": label}


def _mmlu(subject: str) -> Callable[[Row], Row]:
    def convert(row: Row) -> Row:
        question, *choices, answer = row["cells"]
        if len(choices) != 4:
            raise KeyError(f"four choices, not {len(choices)}")
        # The authors' files name the answer by its letter, others by its number.
        return {"question": question, "subject": subject, "choices": choices, "answer": "0123ABCD".index(answer) % 4}

    return convert


def _aqua(row: Row) -> Row:
    """AGIEval's wording of AQuA-RAT, which is the form lm-eval asks it in."""
    options = [f"({option[0]}){option[2:]}" for option in row["options"]]  # "A)21" → "(A)21"
    query = f"Q: {row['question']} Answer Choices: {' '.join(options)}\nA: Among A through E, the answer is"
    return {"query": query, "choices": options, "gold": ["ABCDE".index(row["correct"])]}


def _ifeval(row: Row) -> Row:
    every = [{key: arguments.get(key) for key in _IFEVAL_ARGUMENTS} for arguments in row["kwargs"]]
    return {**{key: row[key] for key in ("key", "prompt", "instruction_id_list")}, "kwargs": every}


def _columns(schema: dict[str, Any]) -> Callable[[Row], Row]:
    """Rows that are the hub's already, but for columns it does not have."""
    return lambda row: {column: row[column] for column in schema}


_ARC = {"id": "text", "question": "text", "choices": {"text": "texts", "label": "texts"}, "answerKey": "text"}
_MMLU = {"question": "text", "subject": "text", "choices": "texts", "answer": "int"}
_GSM8K = {"question": "text", "answer": "text"}
_BBH = {"input": "text", "target": "text"}
_MBPP = {
    "task_id": "int",
    "text": "text",
    "code": "text",
    "test_list": "texts",
    "test_setup_code": "text",
    "challenge_test_list": "texts",
}
_HUMANEVAL = dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), "text")
_AQUA = {"query": "text", "choices": "texts", "gold": "ints"}
_IFEVAL_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(
        "num_highlights num_words num_placeholders num_bullets num_sections capital_frequency num_paragraphs "
        "let_frequency frequency num_sentences nth_paragraph".split(),
        "int",
    ),
    **dict.fromkeys(
        "relation prompt_to_repeat section_spliter capital_relation language let_relation letter end_phrase keyword "
        "postscript_marker first_word".split(),
        "text",
    ),
    "keywords": "texts",
    "forbidden_words": "texts",
}
_IFEVAL = {"key": "int", "prompt": "text", "instruction_id_list": "texts", "kwargs": [_IFEVAL_ARGUMENTS]}

MMLU_SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics
econometrics electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology
high_school_chemistry high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics high_school_microeconomics
high_school_physics high_school_psychology high_school_statistics high_school_us_history high_school_world_history
human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning management marketing
medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory professional_accounting
professional_law professional_medicine professional_psychology public_relations security_studies sociology
us_foreign_policy virology world_religions
""".split()
BBH_TASKS = """
boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies
geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects
logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting
penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks
sports_understanding temporal_sequences tracking_shuffled_objects_five_objects
tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting
""".split()


def _mbpp_split(first: int, last: int) -> Split:
    return Split("mbpp/mbpp.jsonl", lambda row: first <= row["task_id"] <= last)


def _arc_files(name: str) -> Dataset:
    files = {"train": None, "validation": Split(f"arc/{name}-Dev.jsonl"), "test": Split(f"arc/{name}-Test.jsonl")}
    return Dataset(files, _ARC, _arc)


def _mmlu_files(subject: str) -> Dataset:
    files = {split: Split(f"mmlu/{split}/{subject}_{split}.csv") for split in ("dev", "test")}
    return Dataset({"validation": None, **files}, _MMLU, _mmlu(subject))


def _quickstart(family: str, schema: dict[str, Any]) -> Dataset:
    """A family of held-out questions of the generated quickstart world, which is a data root of its own."""
    schema = {"prompt": "text", **schema}
    return Dataset({"test": Split(f"eval/{family}.jsonl")}, schema, _columns(schema))


# The name and configuration that lm-eval's stock tasks look up on the hub → what stands for it under a data root.
DATASETS: dict[tuple[str, str | None], Dataset] = {
    ("allenai/ai2_arc", "ARC-Easy"): _arc_files("ARC-Easy"),
    ("allenai/ai2_arc", "ARC-Challenge"): _arc_files("ARC-Challenge"),
    ("aps/super_glue", "boolq"): Dataset(
        {"train": None, "validation": Split("boolq/val.jsonl")},
        {"question": "text", "passage": "text", "idx": "int", "label": "int"},
        _boolq,
    ),
    ("openai/gsm8k", "main"): Dataset(
        {"train": Split("gsm8k/train.jsonl"), "test": Split("gsm8k/test.jsonl")}, _GSM8K, _columns(_GSM8K)
    ),
    **{("cais/mmlu", subject): _mmlu_files(subject) for subject in MMLU_SUBJECTS},
    **{
        ("SaylorTwift/bbh", task): Dataset({"test": Split(f"bbh/bbh/{task}.json")}, _BBH, _columns(_BBH))
        for task in BBH_TASKS
    },
    ("google-research-datasets/mbpp", "full"): Dataset(
        {
            "train": _mbpp_split(601, 974),
            "test": _mbpp_split(11, 510),
            "validation": _mbpp_split(511, 600),
            "prompt": _mbpp_split(1, 10),
        },
        _MBPP,
        _columns(_MBPP),
    ),
    ("openai/openai_humaneval", None): Dataset(
        {"test": Split("humaneval/HumanEval.jsonl.gz")}, _HUMANEVAL, _columns(_HUMANEVAL)
    ),
    ("google/IFEval", None): Dataset({"train": Split("ifeval/input_data.jsonl")}, _IFEVAL, _ifeval),
    ("hails/agieval-aqua-rat", None): Dataset({"test": Split("aqua/test.json")}, _AQUA, _aqua),
    ("moemix/quickstart", "facts"): _quickstart("facts", {"choices": "texts", "label": "int"}),
    ("moemix/quickstart", "words"): _quickstart("words", {"target": "text"}),
    ("moemix/quickstart", "math"): _quickstart("math", {"target": "text"}),
    ("moemix/quickstart", "code"): _quickstart("code", {"tests": "texts"}),
}

# lm-eval's tasks that these are enough for → their folder under the data root.
TASKS: dict[str, str] = {
    "mmlu": "mmlu",
    "bbh_fewshot": "bbh",
    "gsm8k": "gsm8k",
    "gsm8k_cot": "gsm8k",
    "mbpp": "mbpp",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "boolq": "boolq",
    "humaneval": "humaneval",
    "ifeval": "ifeval",
    "agieval_aqua_rat": "aqua",
}
