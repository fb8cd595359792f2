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
        models: the paper's model → the recipe's; a model that is left out is not run at this scale.
        suite: the suite that every checkpoint is scored on.
        columns: the paper's column → the suite's.
        sources: the paper's source → the recipe's.
        tasks: the paper's BBH subtask → the suite's task.
        bench: questions of the open-ended judging, one of the recipe's ``judging.benches``.
        judge_title: what the judging is, where it is not MT-Bench under GPT-4.
        notes: what a reader has to know before comparing.
    """

    name: str
    recipe: str
    models: Mapping[str, str]
    suite: str
    columns: Mapping[str, str]
    sources: Mapping[str, str]
    bench: str
    judge_title: str = ""
    tasks: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


_SOURCES = {"sharegpt": "chat", "openorca": "instructions", "math_instruct": "math", "code_instructions": "code"}
_KR = {key: key for key in ("mmlu", "bbh", "gsm8k", "mbpp", "qa", "kr_average")}

PRESETS = {
    "mini": Preset(
        name="mini",
        recipe="paper/mini",
        models={"llama_moe": "tiny"},
        suite="quickstart",
        columns={"qa": "facts", "bbh": "words", "gsm8k": "math", "mbpp": "code", "kr_average": "average"},
        sources=_SOURCES,
        bench="quickstart",
        judge_title="share of checkable turns that a fixed grader finds right, 0 to 1",
        notes=(
            "Preset mini: in the place of the paper's LLaMA-MoE stands a Mixtral-shaped model of some two million"
            " parameters, pretrained on the spot, in the quickstart's generated world. Facts stands for QA, Words for"
            " BBH, Math for GSM8K, Code for MBPP; nothing stands for MMLU, and no MoLM is run. Differences to the"
            " paper's figures are printed for completeness: models, data and questions are others.",
        ),
    ),
    "smol": Preset(
        name="smol",
        recipe="paper/smol",
        models={"llama_moe": "smollm2-4x135m"},
        suite="smol_kr",
        columns={"gsm8k": "gsm8k", "qa": "qa"},
        sources=_SOURCES,
        bench="mt_bench",
        judge_title="MT-Bench questions graded by fixed rules unless a judge is given",
        notes=("Preset smol: SmolLM2-135M-Instruct upcycled to four experts, real data, a part of the benchmarks.",),
    ),
    "full": Preset(
        name="full",
        recipe="paper/full",
        models={"llama_moe": "llama_moe", "molm": "molm"},
        suite="paper_kr",
        columns=_KR,
        sources={key: key for key in _SOURCES},
        bench="mt_bench",
        notes=("Preset full: the paper's models, data and settings; needs GPUs and the hub.",),
    ),
}


def preset(name: str) -> Preset:
    """A preset by its name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
