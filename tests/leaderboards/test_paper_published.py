"""The published figures are the paper's, to the digit, and what the paper averages is what it prints."""

from __future__ import annotations

import itertools
import os
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from harness.files import read_json
from leaderboards.paper.presets import PRESETS
from leaderboards.paper.rendering import render, title
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import printed, published, table_names, table_spec

NOWHERE = Experiments(PRESETS["mini"], None, "nothing was run")
KR = ("mmlu", "bbh", "gsm8k", "mbpp", "qa")


def leaves(tree) -> list[float]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() if key not in ("note", "columns") for leaf in leaves(value)]
    if isinstance(tree, list):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree] if isinstance(tree, float) else []


def test_the_package_holds_every_published_figure_as_it_was_collected():
    root = Path(os.environ.get("MOEMIX_DATA_ROOT") or Path(__file__).parents[3] / "shared" / "data")
    path = root.parent / "paper" / "tables.json"
    if not path.is_file():
        pytest.skip("the collected tables are not on this machine")
    ours, collected = dict(published()), read_json(path)
    losses, labelled = ours.pop("reference_losses_published"), collected.pop("reference_losses_published")
    assert ours == collected
    assert losses["molm"] == labelled["llama_moe"], "the collection has MoLM's losses under LLaMA-MoE's name"


@pytest.mark.parametrize("name", table_names())
def test_every_published_number_stands_in_the_printed_table_to_the_digit(name):
    figures = [value for value in table_spec(name).figures.values() if value is not None]
    expected = sorted(printed(value, 0 if name == "table6" else 2) for value in figures)
    assert len(figures) >= len(leaves(published()[name]))  # none was left out on the way
    for style, pattern in (("markdown", r"\((\d[\d.]*)\)"), ("latex", r"\((\d[\d.]*)\)")):
        assert sorted(re.findall(pattern, render(name, NOWHERE, style).partition("\n- In each")[0])) == expected, style
    lines = render(name, NOWHERE, "csv").splitlines()
    column = lines[0].split(",").index("published")
    assert sorted(float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]) == sorted(figures)


def test_the_tables_know_what_they_show():
    assert title("table1") == "Main results"
    assert [len(table_spec(name).lines) for name in ("table1", "table4", "table8", "table10")] == [14, 4, 3, 6]
    assert len(table_spec("table10").columns) == 28  # 27 subtasks and their average


def rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"), ROUND_HALF_UP)


def mean(values) -> Decimal:
    exact = [Decimal(str(value)) for value in values]
    return rounded(sum(exact, Decimal(0)) / len(exact))


def recomputed():
    """(where, what the parts give, what the paper prints) of every average in the paper."""
    data = published()
    for table in ("table1", "table2"):
        for model, rows in data[table].items():
            for strategy, row in rows.items():
                yield f"{table}/{model}/{strategy}", mean(row[key] for key in KR), row["kr_average"]
    for model, strategy in itertools.product(("molm", "llama_moe"), ("datasize", "uniform", "dynamic")):
        first, second, overall = data["table9"][model][strategy]
        yield f"table9/{model}/{strategy}", mean([first, second]), overall
    for key, average in data["table10"]["average"].items():
        yield f"table10/{key}", mean(row[key] for row in data["table10"]["rows"].values()), average


# Averages of which the paper prints another last digit than its rounded parts give: it averages before rounding.
EXCEPTIONS: dict[str, str] = {}


def test_averages_recomputed_from_their_parts_are_what_the_paper_prints():
    off = {
        where: f"{found} from the parts, {printed(told)} printed"
        for where, found, told in recomputed()
        if found != Decimal(printed(told))
    }
    assert off == EXCEPTIONS
    assert sum(1 for _ in recomputed()) == 34


def test_weights_sum_to_one_hundred_and_tables_that_repeat_a_run_agree():
    data = published()
    for key in ("molm", "llama_moe", "llama_moe_balanced"):
        assert sum(data["table8"][key]) == pytest.approx(100, abs=0.011)
    main = data["table1"]["llama_moe"]
    assert all(data["table2"]["llama_moe"][s] == main[s] for s in ("none", "datasize", "uniform", "dynamic"))
    assert data["table3"]["llama_moe"]["dynamic"] == [main["dynamic"]["kr_average"], main["dynamic"]["mt_bench"]]
    assert data["table4"]["llama_moe"]["100"] == [main["dynamic"]["bbh"], main["dynamic"]["gsm8k"]]
    for model, strategy in itertools.product(("molm", "llama_moe"), ("datasize", "uniform", "dynamic")):
        assert data["table9"][model][strategy][2] == data["table1"][model][strategy]["mt_bench"]
        assert data["table10"]["average"][f"{model}/{strategy}"] == data["table1"][model][strategy]["bbh"]


def test_what_is_missing_is_said_with_the_command_that_makes_it():
    text = render("table3", NOWHERE, "markdown")
    assert "Missing: " in text
    assert "nothing was run" in text
    assert "moemix paper run table3 --preset mini" in text
