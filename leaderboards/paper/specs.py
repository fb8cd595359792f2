"""The tables of the paper as data: lines (a strategy on a model), columns, and the figures that the paper prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from harness.errors import unknown
from harness.files import read_json

MODELS = {"molm": "MoLM 700M-4E", "llama_moe": "LLaMA-MoE 3.5B-2E"}
STRATEGIES = {
    "none": "w/o IT",
    "datasize": "DataSize",
    "uniform": "Uniform",
    "random": "Random",
    "sequential": "Sequential",
    "ref_loss": "RefLoss",
    "dynamic": "Dynamic",
    "final_static": "FinalStatic",
    "sentence_embedding": "SentEmb",
    "gate_load_static": "GateLoad",
    "dynamic_from_sentence_embedding": "Dynamic from SentEmb",
    "without_frozen_gate": "w/o frozen gate",
    "without_balance_loss": "w/o balance loss",
    "without_gate_noise": "w/o gate noise",
    "inverse": "Dynamic inverse",
    "public_sft": "public SFT",
    "balanced": "balanced",
}
COLUMNS = {
    "mmlu": "MMLU",
    "bbh": "BBH",
    "gsm8k": "GSM8K",
    "mbpp": "MBPP",
    "qa": "QA",
    "kr_average": "K&R Avg",
    "mt_bench": "MT-Bench",
}
SOURCES = {
    "sharegpt": "ShareGPT",
    "openorca": "OpenOrca",
    "math_instruct": "Math-Instruct",
    "code_instructions": "Code Instructions",
}
INTERVALS = ("200", "100", "50", "20")
MODEL = "llama_moe"  # the model of all tables and figures that have one
TITLES = {
    "table1": "Main results",
    "table2": "Other sampling weights",
    "table3": "Ablations of the gate",
    "table4": "Dynamic by update interval",
    "table5": "The inverse of Dynamic",
    "table6": "Evaluation settings",
    "table7": "Against the public SFT model",
    "table8": "Final sampling weights",
    "table9": "MT-Bench by turn",
    "table10": "BBH by subtask",
}


@dataclass(frozen=True)
class Line:
    """A strategy on a model; ``strategy`` is its label in the preset's recipe."""

    model: str
    strategy: str
    title: str

    @property
    def key(self) -> str:
        """Return ``model/strategy``."""
        return f"{self.model}/{self.strategy}"


@dataclass(frozen=True)
class Column:
    """A quantity of a run.

    Attributes:
        quantity: ``score:gsm8k`` (a column of the suite), ``task:…`` (one subtask of BBH), ``kind:…`` (one of the
            preset's own subtasks), ``judge:average`` (or a turn), ``weight:sharegpt`` (final weight of a source),
            ``suite:shots`` (a setting of the evaluation).
        percent: whether the figure is 100 times the recorded value.
    """

    key: str
    title: str
    quantity: str
    percent: bool = True

    @property
    def kind(self) -> str:
        """Return the part of ``quantity`` before the colon."""
        return self.quantity.partition(":")[0]


@dataclass(frozen=True)
class TableSpec:
    """A table: which quantity of which run belongs in each cell, and what the paper prints there.

    Attributes:
        figures: (line, column) → the published figure; None where the paper prints a dash.
        transposed: the paper prints the columns as rows.
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    figures: dict[tuple[str, str], float | None]
    transposed: bool = False


@cache
def published() -> dict[str, Any]:
    """Read every published table and figure of Zhu et al. 2025 (``leaderboards/data/paper.json``), by its name."""
    with resources.as_file(resources.files("leaderboards") / "data" / "paper.json") as path:
        return dict(read_json(path))


def source() -> str:
    """Return the citation of the paper."""
    return str(published()["source"])


def printed(value: float | None, decimals: int = 2) -> str:
    """Write a published figure to the digit: two decimals, except where the paper itself prints fewer."""
    return "—" if value is None else f"{value:.{decimals}f}"


def table_names() -> list[str]:
    """Return ``table1`` … ``table10``."""
    return list(TITLES)


def table_spec(name: str) -> TableSpec:
    """Return a table of the paper.

    Raises:
        MoemixError: there is no table of this name.
    """
    if name not in TITLES:
        raise unknown("table of the paper", name, TITLES)
    data = published()[name]
    rows: dict[Line, list[float | None]]
    columns: list[Column]
    match name:
        case "table1" | "table2":  # model → strategy → column
            columns = [_score(key) for key in COLUMNS]
            rows = {_line(m, s): [row[key] for key in COLUMNS] for m, held in data.items() for s, row in held.items()}
        case "table6":  # benchmark → setting; its lines are benchmarks, read from any evaluation of the preset
            columns = [Column(key, key, f"suite:{key}", percent=False) for key in ("tasks", "shots")]
            rows = {
                Line("", benchmark, COLUMNS.get(benchmark, benchmark)): [held.get(column.key) for column in columns]
                for benchmark, held in data.items()
                if benchmark != "mt_bench"
            }
        case "table8":
            columns = [Column(key, SOURCES[key], f"weight:{key}") for key in data["columns"]]
            keys = {("molm", "dynamic"): "molm", ("llama_moe", "dynamic"): "llama_moe",
                    ("llama_moe", "balanced"): "llama_moe_balanced"}  # fmt: skip
            rows = {_line(*line): data[key] for line, key in keys.items()}
        case "table9":
            quantities = {"first turn": "judge:first_turn", "second turn": "judge:second_turn",
                          "overall": "judge:average"}  # fmt: skip
            columns = [Column(key, title, quantity, percent=False)
                       for key, (title, quantity) in zip(data["columns"], quantities.items(), strict=True)]  # fmt: skip
            rows = {_line(model, strategy): row for model in MODELS for strategy, row in data[model].items()}
        case "table10":
            columns = [Column(title, title, f"task:{title}") for title in data["rows"]]
            columns.append(Column("average", "Average", "score:bbh"))
            rows = {
                _line(*key.split("/")): [*(row[key] for row in data["rows"].values()), average]
                for key, average in data["average"].items()
            }
        case _:  # the columns are named once, then strategy → list; table 4 has an interval in the strategy's place
            columns = [_score(key) for key in data["columns"]]
            found = data["llama_moe"].items()
            if name == "table4":
                rows = {Line(MODEL, interval_label(m), f"every {m} steps"): row for m, row in found}
            else:
                rows = {_line(MODEL, strategy): row for strategy, row in found}
    figures = {(line.key, column.key): figure for line, row in rows.items()
               for column, figure in zip(columns, row, strict=True)}  # fmt: skip
    return TableSpec(name, TITLES[name], tuple(rows), tuple(columns), figures, transposed=name == "table10")


def _line(model: str, strategy: str) -> Line:
    return Line(model, strategy, STRATEGIES[strategy])


def _score(key: str) -> Column:
    if key == "mt_bench":
        return Column(key, COLUMNS[key], "judge:average", percent=False)
    return Column(key, COLUMNS[key], f"score:{key}")


def baseline_of(lines: Sequence[Line]) -> Line:
    """Return the line that others are compared with: Uniform; without one, plain Dynamic; without that, the first."""
    by_strategy = {line.strategy: line for line in lines}
    return by_strategy.get("uniform") or by_strategy.get("dynamic") or lines[0]


def with_own_subtasks(spec: TableSpec, titles: Iterable[str]) -> TableSpec:
    """Add a preset's own subtasks, for which the paper has no figures, to table 10 before its average."""
    own = tuple(Column(title, title, f"kind:{title}") for title in titles) if spec.name == "table10" else ()
    figures = spec.figures | {(line.key, column.key): None for line in spec.lines for column in own}
    return replace(spec, columns=(*spec.columns[:-1], *own, spec.columns[-1]), figures=figures)


def interval_label(interval: str) -> str:
    """Return the recipe's label of `dynamic` with another update interval; the paper's 100 steps are `dynamic`."""
    return "dynamic" if interval == "100" else f"interval_{interval}"
