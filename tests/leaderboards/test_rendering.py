"""Every format says the same, as it always did (golden files), and takes no text for markup."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
from run_records import ENGINE, Bench  # type: ignore[import-not-found]

from harness.grid import ENDINGS, latex_text, markdown_text, plain
from harness.recipe import SearchCost
from harness.records import Column, Stage
from leaderboards.comparison import Comparison, compare
from leaderboards.exports import FIELDS, as_csv, as_json, render

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = (
    "=cmd|' /C c'!A0 <script>x</script> | a_b*c* `x` [l](javascript:x) \x1b[31mr\u202e $x^2$ \\input{/e} & % # ~ {"
)


@pytest.fixture
def mixed(bench, answers) -> Comparison:
    """A table of three seeds with one of everything: untrained, baseline, better, failed, evaluated elsewhere."""
    bench.run("none", {"arc": answers(1, 100, 0.25), "code": answers(3, 40, 0.0)}, trained=False)
    for seed in range(3):
        scores = {"arc": answers(4 + 10 * seed, 100, 0.45), "code": answers(6 + 10 * seed, 40, 0.4)}
        bench.run("uniform", scores, seed=seed, weights=(1 / 3, 1 / 3, 1 / 3))
        scores = {"arc": answers(7 + 10 * seed, 100, 0.5), "code": answers(8 + 10 * seed, 40, 0.8)}
        bench.run("dynamic", scores, seed=seed, note="no few-shot examples")
    bench.run("datasize", stages={"train": Stage(status="failed", error="the loss is NaN at step 7")})
    bench.run("elsewhere", {"arc": answers(7, 100, 0.5), "code": None}, engine={**ENGINE, "name": "vllm"})
    return compare(bench.runs, bench.folders, "uniform", "kr")


@pytest.mark.parametrize("style", ["terminal", "markdown", "latex", "html"])
def test_a_table_reads_as_it_always_did(mixed, style):
    """To renew the golden files after a change that is meant: MOEMIX_RENEW_GOLDEN=1, then look at the difference."""
    name, text = f"table{ENDINGS[style]}", render([mixed], style)
    if os.environ.get("MOEMIX_RENEW_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def test_the_json_holds_every_number_in_full(mixed):
    (comparison,) = json.loads(as_json([mixed]))["comparisons"]
    (table,) = comparison["tables"]
    assert [row["strategy"] for row in table["rows"]] == ["none", "uniform", "dynamic", "datasize", "elsewhere"]
    arc = table["rows"][2]["cells"]["arc"]
    assert arc["score"]["value"] == pytest.approx(0.5)
    assert arc["score"]["n"] == 100
    assert arc["difference"]["value"] == pytest.approx(0.05)
    assert arc["best"]
    run = table["rows"][2]["runs"][0]
    assert run["weights"] == {"chat": 0.2, "code": 0.3, "math": 0.5}
    assert run["tokens_share"] == {"chat": 0.5, "code": 0.25, "math": 0.25}
    assert (run["steps"], run["tokens"], run["seconds"], run["mixing_seconds"]) == (100, 40_000, 120.0, 1.5)
    assert run["mixing_share"] == pytest.approx(0.0125)
    assert table["rows"][3]["notes"] == ["training failed: the loss is NaN at step 7"]
    assert table["rows"][4]["compared"] is False


def test_the_json_and_the_csv_give_the_interval_and_the_verdict_of_every_cell(mixed):
    (table,) = json.loads(as_json([mixed]))["comparisons"][0]["tables"]
    none, uniform, dynamic = (row["cells"]["code"] for row in table["rows"][:3])
    assert none["score"]["lower"] == none["score"]["upper"] == 0.0  # every question scored 0
    assert uniform["score"]["lower"] < 0.4 < uniform["score"]["upper"]
    assert dynamic["score"]["upper"] <= 1.0
    assert dynamic["difference"]["lower"] < 0.4 < dynamic["difference"]["upper"]
    assert [none["difference"]["verdict"], dynamic["difference"]["verdict"]] == ["worse", "better"]
    assert [dynamic["difference"]["family"], none["difference"]["margin"]] == ["exploratory", 0.02]
    assert table["rows"][2]["cells"]["average"]["difference"]["family"] == "primary"
    assert table["rows"][2]["cells"]["arc"]["difference"]["verdict"] == "undecided"
    rows = [line for line in csv.DictReader(io.StringIO(as_csv([mixed]))) if line["quantity"] == "score"]
    lines = {(line["strategy"], line["name"]): line for line in rows}
    for strategy, cell in (("none", none), ("dynamic", dynamic)):
        line = lines[strategy, "code"]
        assert float(line["lower"]) == cell["score"]["lower"]
        assert float(line["difference_upper"]) == cell["difference"]["upper"]
        assert line["verdict"] == cell["difference"]["verdict"]


def test_the_csv_has_a_line_for_every_number_of_the_json(mixed):
    lines = list(csv.DictReader(io.StringIO(as_csv([mixed]))))
    assert tuple(lines[0]) == FIELDS
    (table,) = json.loads(as_json([mixed]))["comparisons"][0]["tables"]
    for row in table["rows"]:
        for name, cell in row["cells"].items():
            (line,) = [
                x for x in lines if (x["strategy"], x["quantity"], x["name"]) == (row["strategy"], "score", name)
            ]
            assert float(line["value"] or "nan") == pytest.approx(
                (cell["score"] or {"value": float("nan")})["value"], nan_ok=True
            )
            assert (line["p"] == "") == (cell["difference"] is None)
        for name, weight in row["runs"][0]["weights"].items():
            line, *_ = [  # one for each seed
                x for x in lines if (x["strategy"], x["quantity"], x["name"]) == (row["strategy"], "final_weight", name)
            ]
            assert float(line["value"]) == weight
    failed = next(x for x in lines if x["strategy"] == "datasize")
    assert failed["value"] == ""
    assert failed["note"] == "training failed: the loss is NaN at step 7"


def test_scores_that_are_no_fractions_are_not_printed_in_percent(bench):
    bench.run("uniform", {"judge": [6.0, 7.5, 9.0]})
    text = render([compare(bench.runs, bench.folders, "uniform")], "terminal")
    assert "7.50 ± 0.87" in text
    assert "Scores in %" not in text


def test_a_metric_that_is_better_low_says_so_and_its_lowest_is_best(bench):
    for label, values in (("uniform", [0.9, 0.8, 0.7]), ("dynamic", [0.2, 0.3, 0.1])):
        run = bench.run(label, {"loss": values})
        path = run.folder / "evals" / "kr" / "summary.json"
        tree = json.loads(path.read_text())
        tree["results"][0]["higher_is_better"] = False
        path.write_text(json.dumps(tree))
    comparison = compare(bench.runs, bench.folders, "uniform")
    assert "loss ↓" in render([comparison], "terminal")
    assert comparison.tables[0].rows[1].cells["loss"].best


def test_three_seeds_are_told(bench, answers):
    for label in ("uniform", "dynamic"):
        for seed in (0, 1, 2):
            bench.run(label, {"arc": answers(seed, 30, 0.5)}, seed=seed)
    text = render([compare(bench.runs, bench.folders, "uniform")], "terminal")
    assert "Seeds 0, 1, 2 of every trained strategy" in text
    assert "dynamic · seed 2" in text


def test_every_model_has_its_own_section(bench):
    for model in ("tiny-0123456789ab", "smol-0123456789ab"):
        bench.run("uniform", {"arc": [1.0, 0.0]}, model_id=model)
    text = render([compare(bench.runs, bench.folders, "uniform", "kr")], "markdown")
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### kr · tiny", "### kr · smol"]


@pytest.fixture
def hostile(bench: Bench) -> Comparison:
    """Hostile text wherever a record has text: labels, errors, titles, notes."""
    column = Column(value=0.5, stderr=None, n=2, tasks=("arc",), metric="acc", title=HOSTILE)
    bench.run("uniform", {"arc": [1.0, 0.0]}, columns={"arc": column}, note=HOSTILE)
    bench.run(HOSTILE, {"arc": [1.0, 1.0]})
    bench.run("später 数学", stages={"train": Stage(status="failed", error=HOSTILE + "\nnext line")})
    return compare(bench.runs, bench.folders, "uniform", HOSTILE)


def test_a_terminal_sees_no_control_sequence(hostile):
    text = render([hostile], "terminal")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert "später 数学" in text


def test_markdown_tables_keep_their_columns_and_hold_no_markup(hostile):
    text = render([hostile], "markdown")
    bare = re.sub(r"\\.", "", text).replace("<br>", "")
    assert "<" not in bare
    assert "`" not in bare
    assert "](" not in bare
    tables = re.split(r"\n[^|][^\n]*\n|\n\n", bare)
    for lines in ([line for line in table.splitlines() if line.startswith("|")] for table in tables):
        assert len({line.count("|") for line in lines}) <= 1


def test_latex_is_balanced_and_holds_no_command_of_others(hostile):
    text = render([hostile], "latex")
    assert "\\input" not in text
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    for table in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in table.splitlines() if line.rstrip().endswith("\\\\")]
        assert len({re.sub(r"\\&", "", row).count("&") for row in rows}) == 1
    body = re.sub(r"\$(\\pm|-|\\cdot|\\downarrow)\$", "", bare)
    assert not re.search(r"[$#^~]", body)


def test_a_spreadsheet_is_given_no_formula(hostile):
    for line in csv.reader(io.StringIO(as_csv([hostile]))):
        for cell in line:
            assert not cell.lstrip().startswith(("=", "+", "@"))
            assert not cell.startswith("-") or float(cell) <= 0


def test_hostile_text_survives_in_the_json_as_it_is(hostile):
    table = json.loads(as_json([hostile]))["comparisons"][0]["tables"][0]
    assert table["rows"][1]["strategy"] == HOSTILE
    assert table["columns"][0]["title"] == HOSTILE


def test_escapes_one_by_one():
    assert plain("a\tb\n c\x00") == "a b c�"
    assert markdown_text("a|b_c <x> & *") == "a\\|b\\_c &lt;x&gt; &amp; \\*"
    assert latex_text("50% of $a_1 & {b}\\") == r"50\% of \$a\_1 \& \{b\}\textbackslash{}"
    assert latex_text("[1] −2 ± 1") == r"{[}1{]} $-$2 $\pm$ 1"


def test_a_result_of_another_filter_is_told_in_the_column_note(bench):
    run = bench.run("uniform", {"gsm": [1.0, 0.0]})
    path = run.folder / "evals" / "kr"
    tree = json.loads((path / "summary.json").read_text())
    tree["results"][0] |= {"metric": "exact_match", "filter": "flexible-extract", "shots": 8}
    tree["columns"]["gsm"] |= {"metric": "exact_match", "filter": "flexible-extract", "title": "GSM8K"}
    (path / "summary.json").write_text(json.dumps(tree))
    samples = path / "samples_gsm.jsonl"
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for line in lines:
        line |= {"filter": "flexible-extract", "exact_match": line.pop("acc")}
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = render([compare(bench.runs, bench.folders, "uniform")], "terminal")
    assert "GSM8K: exact_match (flexible-extract) of gsm, 8-shot." in text


def test_what_a_run_needed_first_counts_in_its_total_cost(bench, answers):
    needed = bench.run("uniform", {"arc": answers(4, 100, 0.45)})
    run = bench.run("ref_loss", {"arc": answers(7, 100, 0.5)})
    run.update(reference_run=str(needed.folder.relative_to(bench.root)))
    comparison = compare(bench.runs, bench.folders, "uniform", "kr")
    (table,) = json.loads(as_json([comparison]))["comparisons"][0]["tables"]
    uniform, dependent = (row["runs"][0] for row in table["rows"])
    assert (uniform["needed"], uniform["total_tokens"], uniform["total_seconds"]) == ([], 40_000, 120.0)
    assert (dependent["needed"], dependent["tokens"]) == (["uniform"], 40_000)
    assert (dependent["total_steps"], dependent["total_tokens"], dependent["total_seconds"]) == (200, 80_000, 240.0)
    text = render([comparison], "markdown")
    assert re.search(r"\| ref\\_loss +\|.*\| uniform +\| 80,000 +\| 240\.0 +\|", text), text
    lines = list(csv.DictReader(io.StringIO(as_csv([comparison]))))
    totals = [line["value"] for line in lines if line["quantity"] == "total_tokens"]
    assert totals == ["40000", "80000"]


def test_proxy_runs_that_weights_were_fitted_on_count_in_the_total_cost(bench, answers):
    run = bench.run("regmix", {"arc": answers(7, 100, 0.5)})
    spent = SearchCost(runs=12, steps=300, tokens=7_000, seconds=30.5)
    config = run.manifest.config
    run.update(config=config.model_copy(update={"strategy": config.strategy.model_copy(update={"spent": spent})}))
    assert run.manifest.config.id == config.id, "what was spent is told, and makes no other run"
    (table,) = json.loads(as_json([compare(bench.runs, bench.folders, "uniform", "kr")]))["comparisons"][0]["tables"]
    (facts,) = table["rows"][0]["runs"]
    assert facts["needed"] == ["12 proxy runs"]
    assert (facts["total_steps"], facts["total_tokens"], facts["total_seconds"]) == (400, 47_000, 150.5)


def test_a_needed_run_that_is_gone_leaves_the_total_unknown_rather_than_too_low(bench, answers):
    run = bench.run("ref_loss", {"arc": answers(7, 100, 0.5)})
    run.update(reference_run="bench/gone")
    (table,) = json.loads(as_json([compare(bench.runs, bench.folders, "uniform", "kr")]))["comparisons"][0]["tables"]
    (facts,) = table["rows"][0]["runs"]
    assert facts["needed"] == ["gone (not here)"]
    assert facts["total_tokens"] is None


def test_weights_that_scale_the_loss_are_marked_as_such(bench, answers):
    run = bench.run("doremi", {"arc": answers(7, 100, 0.5)})
    result = run.manifest.result
    run.update(
        result=result.model_copy(update={"scales": "loss", "average_weights": dict.fromkeys(result.epochs, 1 / 3)})
    )
    comparison = compare(bench.runs, bench.folders, "uniform", "kr")
    text = render([comparison], "markdown")
    assert "doremi (loss)" in text
    assert "draws stay even" in text
    lines = csv.DictReader(io.StringIO(as_csv([comparison])))
    assert sum(line["quantity"] == "average_weight" for line in lines) == 3
