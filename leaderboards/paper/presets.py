"""Presets: the recipe that stands for the paper's experiments at one scale, and what in it stands for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """One scale.

    Attributes:
        recipe: holds every row of every table and figure, under the labels of ``specs``.
        models: the paper's model → the recipe's models (several where published checkpoints are evaluated beside the
            trained one); a model that is left out is not run at this scale.
        suite: the suite on which every checkpoint is scored.
        columns: the paper's column → the suite's.
        sources: the paper's source → the recipe's.
        bench: the questions of the open-ended judging, one of the recipe's ``judging.benches``.
        judge_title: the name of the judging, where it is not MT-Bench under GPT-4.
        judge_highest: the best score that the judging gives.
        task_prefix: prefix of the suite's tasks for the paper's BBH subtasks; None where the suite has none.
        subtasks: kinds of questions of the column that stands for BBH, shown below the paper's subtasks: title →
            how the right answer to each of them begins.
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
        bench="quickstart_long",
        judge_title="share of checkable turns that a fixed grader finds right, 0 to 1",
        judge_highest=1.0,
        subtasks={"Words: in another tongue": "It is ", "Words: what belongs to a thing": "The "},
        notes=(
            "Preset mini: models of about one and a half million parameters, pretrained on the spot in the quickstart's"
            " generated world. A Mixtral-shaped model stands for the paper's LLaMA-MoE, a ModuleFormer for its MoLM."
            " Facts stands for QA, Words for BBH, Math for GSM8K, Code for MBPP; nothing stands for MMLU. Models, data"
            " and questions differ from the paper's, so differences to its figures are printed for completeness only."
            " The ModuleFormer learns more slowly than the Mixtral, so it is trained for twice as many steps. No claim"
            " rests on figure 3, the middle of figure 6 or `balanced` in table 8. They have four seeds, others eight.",
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
            "Preset smol: SmolLM2-135M-Instruct, upcycled to four experts, stands for the paper's LLaMA-MoE. It is"
            " trained on real data of the same four kinds and answers some questions of each benchmark. No model stands"
            " for MoLM.",
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
        notes=("Preset full: the paper's models, data and settings. It needs GPUs and the hub.",),
    ),
}
