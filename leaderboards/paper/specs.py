"""Each table of the paper as data: its lines (a strategy on a model), its columns, and the figures printed there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import unknown
from leaderboards.paper.published import published

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


@dataclass(frozen=True)
class Line:
    """A strategy on a model; ``strategy`` is its label in the preset's recipe."""

    model: str
    strategy: str
    title: str

    @property
    def key(self) -> str:
        return f"{self.model}/{self.strategy}"


@dataclass(frozen=True)
class Column:
    """A quantity of a run.

    Attributes:
        quantity: ``score:gsm8k`` (a column of the suite), ``task:…`` (one task of it), ``kind:…`` (one of the preset's
            own subtasks), ``judge:average`` (or a turn), ``weight:sharegpt`` (final, of a source).
        percent: whether the figure is 100 times the recorded value.
    """

    key: str
    title: str
    quantity: str
    percent: bool = True


@dataclass(frozen=True)
class TableSpec:
    """A table: which quantity of which run stands where, and what the paper prints there.

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


def table_names() -> list[str]:
    """``table1`` … ``table10``."""
    return list(_TABLES)


def table_spec(name: str) -> TableSpec:
    """A table of the paper by its name."""
    if name not in _TABLES:
        raise unknown("table of the paper", name, _TABLES)
    return _TABLES[name](name, published()[name])


def with_own_subtasks(spec: TableSpec, titles: Iterable[str]) -> TableSpec:
    """Table 10 with a preset's own subtasks, of which the paper knows nothing, before the average."""
    own = tuple(Column(title, title, f"kind:{title}") for title in titles) if spec.name == "table10" else ()
    figures = spec.figures | {(line.key, column.key): None for line in spec.lines for column in own}
    return replace(spec, columns=(*spec.columns[:-1], *own, spec.columns[-1]), figures=figures)


def interval_label(interval: str) -> str:
    """The recipe's label of `dynamic` with another update interval; the paper's 100 steps are plain `dynamic`."""
    return "dynamic" if interval == "100" else f"interval_{interval}"


def _score(key: str) -> Column:
    if key == "mt_bench":
        return Column(key, COLUMNS[key], "judge:average", percent=False)
    return Column(key, COLUMNS[key], f"score:{key}")


def _lines(model: str, strategies: Iterable[str]) -> tuple[Line, ...]:
    return tuple(Line(model, strategy, STRATEGIES[strategy]) for strategy in strategies)


def _by_model(title: str) -> Callable[[str, Any], TableSpec]:
    """Tables 1 and 2: model → strategy → column."""

    def build(name: str, data: Any) -> TableSpec:
        lines = tuple(line for model, rows in data.items() for line in _lines(model, rows))
        columns = tuple(_score(key) for key in COLUMNS)
        figures = {
            (line.key, column.key): data[line.model][line.strategy][column.key] for line in lines for column in columns
        }
        return TableSpec(name, title, lines, columns, figures)

    return build


def _listed(title: str) -> Callable[[str, Any], TableSpec]:
    """Tables 3, 5 and 7: columns named once, then strategy → list."""

    def build(name: str, data: Any) -> TableSpec:
        lines = _lines("llama_moe", data["llama_moe"])
        columns = tuple(_score(key) for key in data["columns"])
        return TableSpec(name, title, lines, columns, _figures(lines, columns, data))

    return build


def _figures(lines: tuple[Line, ...], columns: tuple[Column, ...], data: Any) -> dict[tuple[str, str], float | None]:
    return {
        (line.key, column.key): figure
        for line in lines
        for column, figure in zip(columns, data[line.model][line.strategy], strict=True)
    }


def _intervals(name: str, data: Any) -> TableSpec:
    lines = tuple(Line("llama_moe", interval_label(m), f"every {m} steps") for m in data["llama_moe"])
    columns = tuple(_score(key) for key in data["columns"])
    figures = {
        (line.key, column.key): figure
        for line, row in zip(lines, data["llama_moe"].values(), strict=True)
        for column, figure in zip(columns, row, strict=True)
    }
    return TableSpec(name, "Dynamic by update interval", lines, columns, figures)


def _settings(name: str, data: Any) -> TableSpec:
    """Table 6: what is evaluated and how; its lines are benchmarks, read from any evaluation of the preset."""
    columns = (
        Column("tasks", "tasks", "suite:tasks", percent=False),
        Column("shots", "shots", "suite:shots", percent=False),
    )
    lines = tuple(Line("", key, COLUMNS.get(key, key)) for key in data if key != "mt_bench")
    figures = {(line.key, c.key): data[line.strategy].get(c.key) for line in lines for c in columns}
    return TableSpec(name, "Evaluation settings", lines, columns, figures)


def _weights(name: str, data: Any) -> TableSpec:
    rows = {
        ("molm", "dynamic"): "molm",
        ("llama_moe", "dynamic"): "llama_moe",
        ("llama_moe", "balanced"): "llama_moe_balanced",
    }
    lines = tuple(Line(model, strategy, STRATEGIES[strategy]) for model, strategy in rows)
    columns = tuple(Column(key, SOURCES[key], f"weight:{key}") for key in data["columns"])
    figures = {
        (line.key, column.key): figure
        for line in lines
        for column, figure in zip(columns, data[rows[line.model, line.strategy]], strict=True)
    }
    return TableSpec(name, "Final sampling weights", lines, columns, figures)


def _turns(name: str, data: Any) -> TableSpec:
    lines = tuple(line for model in MODELS for line in _lines(model, data[model]))
    quantities = {"first": "judge:first_turn", "second": "judge:second_turn", "overall": "judge:average"}
    columns = tuple(Column(key, f"{key} turn" if key != "overall" else key, quantities[key], percent=False)
                    for key in data["columns"])  # fmt: skip
    return TableSpec(name, "MT-Bench by turn", lines, columns, _figures(lines, columns, data))


def _subtasks(name: str, data: Any) -> TableSpec:
    keys = [key.split("/") for key in data["average"]]
    lines = tuple(Line(model, strategy, STRATEGIES[strategy]) for model, strategy in keys)
    columns = tuple(Column(title, title, f"task:{title}") for title in data["rows"])
    figures = {(line.key, title): row[line.key] for line in lines for title, row in data["rows"].items()}
    figures |= {(line.key, "average"): data["average"][line.key] for line in lines}
    average = Column("average", "Average", "score:bbh")
    return TableSpec(name, "BBH by subtask", lines, (*columns, average), figures, transposed=True)


_TABLES: dict[str, Callable[[str, Any], TableSpec]] = {
    "table1": _by_model("Main results"),
    "table2": _by_model("Other sampling weights"),
    "table3": _listed("Ablations of the gate"),
    "table4": _intervals,
    "table5": _listed("The inverse of Dynamic"),
    "table6": _settings,
    "table7": _listed("Against the public SFT model"),
    "table8": _weights,
    "table9": _turns,
    "table10": _subtasks,
}
