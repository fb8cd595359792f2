"""``moemix table`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from harness.errors import MoemixError
from leaderboards.cli import table


def run(*arguments: str):
    result = CliRunner().invoke(table, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def three(bench, answers):
    for number, label in enumerate(("none", "uniform", "dynamic")):
        bench.run(label, {"arc": answers(number, 40, 0.3 + 0.2 * number)}, trained=label != "none")
    return bench


def test_run_folders_are_compared(three):
    result = run(*(str(held.folder) for held in three.runs))
    assert result.exit_code == 0
    assert "dynamic" in result.output
    assert "difference to uniform" in result.output


def test_a_folder_of_runs_stands_for_all_of_them_and_the_baseline_can_be_chosen(three):
    result = run(str(three.root / "bench"), "--baseline", "none", "--format", "json")
    (found,) = json.loads(result.output)["comparisons"][0]["tables"]
    assert found["baseline"] == "none"
    assert [row["strategy"] for row in found["rows"]] == ["none", "uniform", "dynamic"]


def test_the_format_follows_the_ending_of_the_file(three, tmp_path):
    out = tmp_path / "deep" / "table.md"
    result = run(str(three.root / "bench"), "--out", str(out), "--figure", str(tmp_path / "w.svg"))
    assert out.read_text().startswith("### kr · tiny")
    assert (tmp_path / "w.svg").is_file()
    assert f"written: {out}" in result.stderr
    assert result.stdout == ""


def test_a_report_holds_every_format_and_the_figure(three, tmp_path):
    report = tmp_path / "report"
    result = run(str(three.root / "bench"), "--report", str(report))
    written = {path.name for path in report.iterdir()}
    assert written == {"table.txt", "table.md", "table.tex", "table.html", "table.csv", "table.json"} | {
        "weights.png",
        "weights.svg",
    }
    assert (report / "table.txt").read_text() == result.stdout


def test_several_suites_come_one_after_another_and_one_can_be_chosen(three):
    for held in three.runs:
        second = held.folder / "evals" / "second"
        second.mkdir()
        for path in (held.folder / "evals" / "kr").iterdir():
            (second / path.name).write_bytes(path.read_bytes())
    both = run(str(three.root / "bench"), "--format", "markdown").output
    assert both.index("### kr · tiny") < both.index("### second · tiny")
    assert "### kr" not in run(str(three.root / "bench"), "--format", "markdown", "--suite", "second").output
    with pytest.raises(MoemixError, match="unknown suite 'secnd'") as error:
        run(str(three.root / "bench"), "--suite", "secnd")
    assert "did you mean 'second'" in str(error.value)


def test_what_is_neither_a_run_nor_a_recipe_is_told(tmp_path):
    with pytest.raises(MoemixError, match="unknown recipe 'quickstrat'"):
        run("quickstrat")


def test_set_without_a_recipe_is_told(three):
    with pytest.raises(MoemixError, match="`--set` changes a recipe"):
        run(str(three.root / "bench"), "--set", "training.steps=3")


def test_a_damaged_manifest_is_told_without_a_traceback(three):
    (three.runs[0].folder / "run.json").write_text("{")
    command = [sys.executable, "-m", "harness.cli", "table", str(three.root / "bench")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert "run.json:1: not valid JSON" in process.stderr
    assert "Traceback" not in process.stderr


def test_comparing_loads_no_torch_and_help_no_numpy(three):
    code = (
        "import sys\nfrom harness.cli import cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print(*(name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules), file=sys.stderr)\n"
    )

    def loaded(*arguments: str) -> str:
        command = [sys.executable, "-c", code, "table", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr.strip()

    assert loaded("--help") == ""
    assert loaded(str(three.root / "bench")) == "numpy"
