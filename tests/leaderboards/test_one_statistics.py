"""The same data have the same interval, rank and verdict wherever they are shown: tables, the site, exports."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_records import digest, questions, reseal, write_evaluation, write_submission
from click.testing import CliRunner
from run_records import Bench

from harness.cli import cli
from leaderboards.board.folder import BoardFolder
from leaderboards.board.pins import pin
from leaderboards.board.submissions import Board
from leaderboards.exports import render
from leaderboards.selection import from_folders

STRATEGIES = ("uniform", *(f"s{number:02}" for number in range(12)))  # each trained with three seeds
SEEDS = (0, 1, 2)
COUNT = len(STRATEGIES) * len(SEEDS) + 1  # and `none`, the checkpoint that all of them began with
SIZES = {"pick": 120, "count": 60}
COLUMNS = ("pick", "count", "average")
BASE = "uniform-1"  # the submission that the table of checkpoints takes differences to


def about_passages(asked: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Let four questions of ``pick`` share a passage: they are one cluster."""
    for question in asked["pick"]:
        question["doc"]["passage"] = f"passage {question['doc_id'] // 4}"
        question["doc_hash"] = digest(json.dumps(question["doc"], indent=2, ensure_ascii=False))
    return asked


def model_of(strategy: str, seed: int | str = 0) -> str:
    return f"{strategy}-{seed}"


class Shown:
    """One data set of 40 submissions, as ``moemix table`` and ``moemix board build`` show it."""

    def __init__(self, root: Path) -> None:
        asked = about_passages(questions(SIZES))
        suite = pin(write_evaluation(root / "pinned", asked, seed=10**6))
        board = BoardFolder.create(root / "board", Board(name="board", title="A board", suites=(suite,)))
        bench = Bench(root)
        trained = [(strategy, seed) for strategy in STRATEGIES for seed in SEEDS]
        steady = np.linspace(0.2, 0.9, len(STRATEGIES)).tolist()
        abilities = {"uniform": 0.55, "none": 0.4, **dict(zip(STRATEGIES[1:], steady, strict=False))}
        for number, (strategy, seed) in enumerate([*trained, ("none", 0)]):
            run = bench.run(strategy, None, seed=seed, trained=strategy != "none")
            submission = write_submission(
                board, asked, model_of(strategy, seed), ability=abilities[strategy], seed=100 + number,
                strategy=strategy, base_model=run.manifest.config.model_id, recipe="bench", run_id=run.manifest.run_id,
            )  # fmt: skip
            stated = json.loads((submission.path / "submission.json").read_text())
            shutil.copytree(submission.path / "evals" / "made@1", run.folder / "evals" / "made")
            run.update(checkpoint_hash=stated["checkpoint_hash"])
            shutil.copy(run.manifest_path, submission.path / "run.json")
            (submission.path / "mixture.jsonl").unlink()
            reseal(board, submission, seed=seed)
        chosen = from_folders([run.folder for run in bench.runs], "uniform")
        checkpoints = replace(chosen, checkpoints=True, baseline="uniform · seed 1").compare()
        self.tables = {style: render(checkpoints, style) for style in ("json", "csv", "markdown", "terminal")}
        strategies = chosen.compare()
        self.strategies = {style: render(strategies, style) for style in ("json", "csv", "markdown")}
        self.command("board", "build", str(root / "board"), "--out", str(root / "site"))
        self.site = root / "site"
        [table] = json.loads(self.tables["json"])["comparisons"][0]["tables"]
        self.cells: dict[str, dict[str, Any]] = {
            model_of(*row["strategy"].split(" · seed ")): row["cells"] for row in table["rows"]
        }
        self.comparisons: dict[str, int] = table["comparisons"]
        self.board = self.data("board")
        [self.suite] = self.board["suites"]
        self.models = [self.board["rows"]["model"][row] for row in self.suite["rows"]]
        self.entries = {
            entry["submission"]["model"]: entry
            for entry in json.loads((self.site / "board.json").read_text())["entries"]
        }

    @staticmethod
    def command(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    def data(self, name: str) -> dict[str, Any]:
        """Read a data file of the site, a call with a name and one object."""
        text = (self.site / "data" / f"{name}.js").read_text()
        return json.loads(re.fullmatch(r"moemix\.take\(\"[^\"]+\",(.*)\)\n", text, flags=re.DOTALL)[1])

    def score(self, model: str, column: str) -> dict[str, Any]:
        return self.cells[model][column]["score"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Shown:
    return Shown(tmp_path_factory.mktemp("shown"))


def same(here: float, there: float) -> bool:
    return math.isclose(here, there, rel_tol=1e-9, abs_tol=1e-12)


def every(shown: Shown, check: Callable[[str, str], bool]) -> bool:
    return all(check(model, column) for model in shown.models for column in COLUMNS)


def test_there_are_forty_rows_everywhere(shown):
    assert sorted(shown.models) == sorted(shown.cells) == sorted(shown.entries)
    assert len(shown.models) == COUNT


def test_the_board_json_has_the_intervals_and_ranks_of_the_table(shown):
    def agrees(model: str, column: str) -> bool:
        cell, score = shown.cells[model][column], shown.entries[model]["scores"]["made@1"][column]
        pairs = [(cell["score"][key], score[key]) for key in ("value", "stderr", "lower", "upper")]
        return all(same(*pair) for pair in pairs) and cell["ranks"] == [score["rank"], score["rank_worst"]]

    assert every(shown, agrees)


def test_clusters_widen_the_intervals(shown):
    """Otherwise this data set could not tell a clustered error from one that takes questions for independent."""
    plain = [
        entry["scores"]["made@1"]["pick"]["stderr"]
        / math.sqrt((p := entry["scores"]["made@1"]["pick"]["value"]) * (1 - p) / (SIZES["pick"] - 1))
        for entry in shown.entries.values()
    ]
    assert np.ptp(plain) > 0.2
    assert all(shown.score(model, "pick")["clusters"] == SIZES["pick"] // 4 for model in shown.models)


def test_the_csv_files_have_the_numbers_of_the_json_files(shown):
    table = {
        (model_of(*line["strategy"].split(" · seed ")), line["name"]): line
        for line in csv.DictReader(io.StringIO(shown.tables["csv"]))
        if line["quantity"] == "score"
    }
    board = {
        (line["model"], line["column"]): line for line in csv.DictReader((shown.site / "board.csv").open(newline=""))
    }

    def agrees(model: str, column: str) -> bool:
        cell, of_table, of_board = shown.cells[model][column], table[model, column], board[model, column]
        ends = all(
            same(float(line[key]), cell["score"][key]) for line in (of_table, of_board) for key in ("lower", "upper")
        )
        verdict = cell["difference"]["verdict"] if cell["difference"] else ""
        return (
            ends
            and of_table["verdict"] == verdict
            and [int(of_board["rank"]), int(of_board["rank_worst"])] == cell["ranks"]
        )

    assert every(shown, agrees)


def test_the_pages_show_the_half_widths_and_ranks_of_the_table(shown):
    def agrees(model: str, column: str) -> bool:
        cell, data, at = shown.cells[model][column], shown.suite["scores"][column], shown.models.index(model)
        half = (cell["score"]["upper"] - cell["score"]["lower"]) / 2
        uncut = cell["score"]["lower"] > 0 and cell["score"]["upper"] < 1
        return (
            math.isclose(data["v"][at], cell["score"]["value"], abs_tol=6e-6)
            and (not uncut or math.isclose(data["h"][at], half, abs_tol=6e-6))
            and [data["b"][at], data["w"][at]] == cell["ranks"]
        )

    assert every(shown, agrees)


def test_the_page_of_a_task_has_the_interval_of_the_column_that_is_the_task(shown):
    tasks = shown.data("t/0-average")["tasks"]
    for (task, _, _), scores in zip(shown.suite["results"], tasks, strict=True):
        assert scores == {key: shown.suite["scores"][task][key] for key in ("v", "h")} | {"r": []}


def test_the_compare_page_has_the_differences_and_verdicts_of_the_table(shown):
    base, stars = BASE, 0
    here = shown.models.index(base)
    for model in set(shown.models) - {base}:
        there = shown.models.index(model)
        page = shown.data(f"p/0-{min(here, there)}")
        sign = 1 if there < here else -1  # a page has its own submission minus a later one
        for column in COLUMNS:
            difference, pair, at = shown.cells[model][column]["difference"], page[column], abs(there - here) - 1
            assert math.isclose(sign * pair["d"][at], difference["value"], abs_tol=6e-6)
            ends = sorted((sign * pair["l"][at], sign * pair["u"][at]))
            assert ends == pytest.approx([difference["lower"], difference["upper"]], abs=6e-6)
            assert pair["p"][at] == pytest.approx(difference["p"], abs=6e-6)
            assert pair["q"][at] == pytest.approx(difference["p_adjusted"], abs=6e-6)
            stars += difference["significant"]
    assert 0 < stars < 3 * (COUNT - 1)


def test_a_submission_page_marks_as_beaten_what_the_table_calls_worse(shown):
    base = BASE
    beats = shown.data(f"s/{shown.entries[base]['submission']['submission_id']}")["beats"]["made@1"]
    for column in COLUMNS:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(beats[column]), np.uint8))[:COUNT]
        beaten = {model for model, bit in zip(shown.models, bits.tolist(), strict=True) if bit}
        worse = {
            model
            for model, cells in shown.cells.items()
            if model != base and cells[column]["difference"]["verdict"] == "worse"
        }
        assert beaten == worse


def test_the_text_and_markdown_tables_show_the_stars_of_the_json_table(shown):
    def stars(line: str) -> int:
        return line.count("*") - line.count("**") * 2

    for style in ("markdown", "terminal"):
        for model, cells in shown.cells.items():
            if model == BASE:
                continue
            expected = sum(cell["difference"]["significant"] for cell in cells.values())
            text = shown.tables[style].replace("\\*", "*")
            lines = text.splitlines()
            label = "none" if model == "none-0" else model.replace("-", " · seed ")
            first = next(number for number, line in enumerate(lines) if re.match(rf"\|?\s*{label}\b", line))
            following = lines[first + 1] if style == "terminal" else ""
            assert stars(lines[first] + following) == expected, (style, model)


def test_board_compare_prints_the_verdict_of_the_table(shown):
    labels = [f"{model}/{shown.entries[model]['submission']['submission_id']}" for model in ("s11-2", BASE)]
    printed = Shown.command("board", "compare", str(shown.site.parent / "board"), *labels)
    for column, title in (("pick", "Pick"), ("count", "Count"), ("average", "Avg")):
        line = next(line for line in printed.splitlines() if line.split()[:1] == [title])
        assert shown.cells["s11-2"][column]["difference"]["verdict"] in line


def test_a_family_is_every_pair_in_every_column(shown):
    assert shown.comparisons == {"pairs": 3 * COUNT * (COUNT - 1) // 2}


# --- strategies over their seeds -------------------------------------------------------------------


def test_the_strategies_view_shows_what_the_table_of_strategies_shows(shown):
    """``none`` does not vary over seeds: it pairs with each of uniform's, and gets its verdict like the others."""
    [table] = json.loads(shown.strategies["json"])["comparisons"][0]["tables"]
    [view] = shown.suite["models"]
    assert sorted(view["strategies"]) == sorted([*STRATEGIES, "none"])
    lines = {
        (line["strategy"], line["name"]): line
        for line in csv.DictReader(io.StringIO(shown.strategies["csv"]))
        if line["quantity"] == "score"
    }
    printed: dict[str, str] = {}  # the table of scores is the first of several
    for line in shown.strategies["markdown"].splitlines():
        if "|" in line:
            printed.setdefault(line.split("|")[1].strip(), line)
    seen = set()
    for row in table["rows"]:
        at, signs = view["strategies"].index(row["strategy"]), ""
        for column in COLUMNS:
            cell, page = row["cells"][column], {key: values[at] for key, values in view["columns"][column].items()}
            assert page["v"] == pytest.approx(cell["score"]["value"], abs=6e-6)
            if row["strategy"] == "uniform":
                assert (page["d"], page["s"], page["n"]) == (None, None, "baseline")
                continue
            difference, line = cell["difference"], lines[row["strategy"], column]
            numbers = [difference[key] for key in ("value", "lower", "upper")]
            assert [page[key] for key in ("d", "l", "u")] == pytest.approx(numbers, abs=6e-6)
            assert (page["s"], page["n"]) == (difference["verdict"], "")
            assert [line["verdict"], line["family"]] == [difference["verdict"], difference["family"]]
            assert difference["family"] == ("primary" if column == "average" else "exploratory")
            starred = {"primary": "*", "exploratory": "°"}[difference["family"]]
            assert page["m"] == {"equal": "=", "undecided": ""}.get(difference["verdict"], starred)
            signs += page["m"]
            seen.add((difference["family"], difference["verdict"]))
        text = printed[row["strategy"]].replace("**", "").replace("\\*", "*")
        assert "".join(sign for sign in text if sign in "*°=") == ("" if row["strategy"] == "uniform" else signs)
    assert seen >= {(f, v) for f in ("primary", "exploratory") for v in ("better", "worse", "undecided")}
    assert {note.partition(" significant")[0] for note in view["notes"] if " significant" in note} == {"*", "°"}
    assert all(note.replace("*", "\\*") in shown.strategies["markdown"] for note in view["notes"])
