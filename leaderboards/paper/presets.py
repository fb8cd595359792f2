"""Presets: which recipe stands for the paper's experiments at which scale, and what there plays which part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import unknown


@dataclass(frozen=True)
class Preset:
    """One scale.

    Attributes:
        recipe: holds every row of every table and figure, under the labels of ``specs``.
        models: the paper's model → the recipe's, several where published ones stand beside the one that is trained; a
            model that is left out is not run at this scale.
        suite: the suite that every checkpoint is scored on.
        columns: the paper's column → the suite's.
        sources: the paper's source → the recipe's.
        task_prefix: of the suite's tasks for the paper's BBH subtasks; None where it has none.
        subtasks: kinds of questions of the column that stands for BBH, shown below the paper's subtasks: their title
            and how the right answer to each of them begins.
        bench: questions of the open-ended judging, one of the recipe's ``judging.benches``.
        judge_title: what the judging is, where it is not MT-Bench under GPT-4.
        judge_highest: the best score it gives.
        notes: what a reader has to know before comparing.
    """

    name: str
    recipe: str
    models: Mapping[str, tuple[str, ...]]
    suite: str
    columns: Mapping[str, str]
    sources: Mapping[str, str]
    bench: str
    judge_title: str = ""
    judge_highest: float = 10.0
    task_prefix: str | None = None
    subtasks: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_SOURCES = {"sharegpt": "chat", "openorca": "instructions", "math_instruct": "math", "code_instructions": "code"}
_KR = {key: key for key in ("mmlu", "bbh", "gsm8k", "mbpp", "qa")} | {"kr_average": "kr"}
_BBH = "bbh_fewshot_"

PRESETS = {
    "mini": Preset(
        name="mini",
        recipe="paper/mini",
        models={"llama_moe": ("tiny",), "molm": ("tiny-molm",)},
        suite="quickstart",
        columns={"qa": "facts", "bbh": "words", "gsm8k": "math", "mbpp": "code", "kr_average": "average"},
        sources=_SOURCES,
        bench="quickstart",
        judge_title="share of checkable turns that a fixed grader finds right, 0 to 1",
        judge_highest=1.0,
        subtasks={
            "Words: the first": "The first is ",
            "Words: the last": "The last is ",
            "Words: repeated": "Again: ",
            "Words: reversed": "In reverse: ",
        },
        notes=(
            "Preset mini: models of some one and a half million parameters, pretrained on the spot in the quickstart's"
            " generated world; a Mixtral-shaped one stands in the place of the paper's LLaMA-MoE, a ModuleFormer in"
            " that of MoLM. Facts stands for QA, Words for BBH, Math for GSM8K, Code for MBPP; nothing stands for MMLU."
            " Differences to the paper's figures are printed for completeness: models, data and questions are others."
            " The ModuleFormer learns slowly: after the same few steps it still answers hardly anything right, so its"
            " rows tell little.",
        ),
    ),
    "smol": Preset(
        name="smol",
        recipe="paper/smol",
        models={"llama_moe": ("smollm2-4x135m",)},
        suite="paper_kr",
        columns=_KR,
        task_prefix=_BBH,
        sources=_SOURCES,
        bench="mt_bench",
        judge_title="MT-Bench questions, two of each category, judged by SmolLM2 itself",
        notes=(
            "Preset smol: in the place of the paper's LLaMA-MoE stands SmolLM2-135M-Instruct, upcycled to four experts,"
            " on real data of the same four kinds, with some questions of each benchmark; no MoLM is run.",
        ),
    ),
    "full": Preset(
        name="full",
        recipe="paper/full",
        models={"llama_moe": ("llama-moe-3.5b-2of8", "llama-moe-3.5b-2of8-sft"), "molm": ("molm-700m-4b",)},
        suite="paper_kr",
        columns=_KR,
        task_prefix=_BBH,
        sources={key: key for key in _SOURCES},
        bench="mt_bench",
        notes=("Preset full: the paper's models, data and settings; needs GPUs and the hub.",),
    ),
}


def subtask(held: Preset, title: str) -> str | None:
    """The suite's task for a BBH subtask of the paper; None where the preset has none."""
    return None if held.task_prefix is None else held.task_prefix + title.lower().replace(" ", "_")


def preset(name: str) -> Preset:
    """A preset by its name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
