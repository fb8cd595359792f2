"""Exports, each read by the format's own reader: EvalEval's validator, the hub's parser, FastChat's tools."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from board_records import PROVENANCE, make_board, reseal, write_submission  # type: ignore[import-not-found]
from click.testing import CliRunner

from leaderboards.board.cli import board as board_command
from leaderboards.board.verify import verify

SIZES = {"pick": 20, "count": 16, "run": 8}


@pytest.fixture
def made(tmp_path):
    board, asked = make_board(tmp_path / "board", SIZES)
    return board, [write_submission(board, asked, name, seed=i) for i, name in enumerate(("first", "second"))]


def export(board, style: str, out: Path, *options: str) -> str:
    result = CliRunner().invoke(
        board_command,
        ["export", str(board.path), "--format", style, "--out", str(out), *options],
        standalone_mode=False,
    )
    assert result.exception is None, result.exception
    return result.output


def values(board) -> dict[str, dict[str, float]]:
    """Model → task → score, recomputed."""
    return {
        checked.submission.model: {v.task: float(v.values.mean()) for v in checked.vectors["made@1"]}
        for checked in verify(board)
        if checked.submission
    }


# --- Every Eval Ever ------------------------------------------------------------------------------------

needs_validator = pytest.mark.skipif(
    importlib.util.find_spec("every_eval_ever") is None, reason="every_eval_ever is not installed (make test does)"
)


def validate(folder: Path) -> subprocess.CompletedProcess[str]:
    files = [str(path.relative_to(folder)) for path in sorted((folder / "data").rglob("*.json*"))]
    environment = {**os.environ, "COLUMNS": "300"}
    command = (sys.executable, "-m", "every_eval_ever.validate", "--format", "json", *files)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@needs_validator
def test_every_eval_ever_accepts_every_record_without_a_warning(made, tmp_path):
    board, _ = made
    assert "2 records" in export(board, "every-eval-ever", tmp_path / "out", "--developer", "our-lab")
    done = validate(tmp_path / "out")
    reports = json.loads(done.stdout)
    assert len(reports) == 4
    assert all(report["valid"] and not report["errors"] and not report["warnings"] for report in reports), reports
    assert sorted(report["line_count"] for report in reports if report["file_type"] == "instance") == [44, 44]
    for path in (tmp_path / "out").glob("data/made/our-lab/*/*.json"):
        record = json.loads(path.read_text())
        found = {r["evaluation_name"]: r["score_details"]["score"] for r in record["evaluation_results"]}
        assert found == pytest.approx(values(board)[record["model_info"]["name"]])


@needs_validator
def test_the_validator_would_have_told(made, tmp_path):
    board, _ = made
    export(board, "every-eval-ever", tmp_path / "out")
    path = next((tmp_path / "out").glob("data/made/*/first/*.json"))
    record = json.loads(path.read_text())
    record["evaluation_results"][0]["score_details"]["score"] = 7.0
    path.write_text(json.dumps(record))
    reports = json.loads(validate(tmp_path / "out").stdout)
    assert [report for report in reports if report["errors"] or report["warnings"]]


# --- the hub ----------------------------------------------------------------------------------------------


def test_the_hub_reads_the_eval_results_of_hub_data_sets(made, tmp_path):
    from huggingface_hub import parse_eval_result_entries

    board, (where, _) = made
    assert "1 records" in export(board, "eval-results", tmp_path / "out", "--only", where.name)
    (file,) = (tmp_path / "out").rglob("*.yaml")
    assert file.parent.name == ".eval_results"
    assert file.parent.parent.name == where.label.replace("/", "-")
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (entry.dataset_id, entry.task_id) == ("allenai/ai2_arc", "pick")
    assert entry.value == pytest.approx(values(board)["first"]["pick"], abs=1e-6)
    assert "acc, 0-shot" in entry.notes


# --- FastChat ---------------------------------------------------------------------------------------------


def fastchat_reader(name: str) -> types.ModuleType:
    """A module of FastChat's; the clients of paid services that it imports at the top are not needed to read files."""
    for missing in ("openai", "anthropic", "fastchat.model", "fastchat.model.model_adapter"):
        if missing not in sys.modules and importlib.util.find_spec(missing.split(".")[0]) is None:
            sys.modules[missing] = types.ModuleType(missing)
    adapter = types.ModuleType("fastchat.model.model_adapter")
    for used in ("get_conversation_template", "ANTHROPIC_MODEL_LIST", "OPENAI_MODEL_LIST"):
        setattr(adapter, used, None)
    sys.modules["fastchat.model"] = types.ModuleType("fastchat.model")
    sys.modules["fastchat.model.model_adapter"] = adapter
    return importlib.import_module(f"fastchat.llm_judge.{name}")


@pytest.mark.skipif(importlib.util.find_spec("fastchat") is None, reason="fschat is not installed (make test does)")
def test_fastchat_reads_answers_and_judgments(made, tmp_path, monkeypatch, capsys):
    board, submissions = made
    names = []
    for k, where in enumerate(submissions):
        folder = where.path / "judge" / "mt_bench"
        folder.mkdir(parents=True)
        answers, judgments = [], []
        for question in (81, 82):
            choices = [{"index": 0, "turns": ["one", "two"]}]
            answers.append({"question_id": question, "answer_id": "x", "model_id": "checkpoint", "choices": choices,
                            "tstamp": 1.0})  # fmt: skip
            for turn in (1, 2):
                rating = 4 + k + turn
                judgments.append({"question_id": question, "model": "checkpoint", "judge": ["j", "single-v1"],
                                  "user_prompt": "?", "judgment": f"[[{rating}]]", "score": rating, "turn": turn,
                                  "tstamp": 1.0})  # fmt: skip
        (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
        judgments.append({**judgments[0], "model": "another"})  # judged beside it, and not what is submitted
        (folder / "judgments-j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in judgments))
        score = {"value": 5.5 + k, "stderr": 1.0, "n": 4}
        request = {"bench": "mt_bench", "bench_hash": "0", "answers": {"checkpoint": "0"}, "protocol": "faithful",
                   "protocol_hash": "0", "judges": [{"name": "j"}]}  # fmt: skip
        (folder / "summary.json").write_text(json.dumps({
            **dict.fromkeys(("average", "first_turn", "second_turn"), score), "by_category": {}, "judged": 4,
            "failed": {}, "requests": 4, "request": request, "title": "MT-Bench", "scale": [1, 10], "seconds": 1.0,
            "model": "checkpoint", "provenance": PROVENANCE.model_dump(),
        }))  # fmt: skip
        names.append(reseal(board, where).label.replace("/", "-"))
    assert "2 records" in export(board, "fastchat", tmp_path / "out")
    bench = tmp_path / "out" / "data" / "mt_bench"

    for name in [n for n in sys.modules if n.partition(".")[0] in ("fastchat", "openai", "anthropic")]:
        monkeypatch.delitem(sys.modules, name)
    common = fastchat_reader("common")
    answers_read = common.load_model_answers(str(bench / "model_answer"))
    assert set(answers_read) == set(names)
    assert answers_read[names[0]][81]["choices"][0]["turns"] == ["one", "two"]
    judged = common.load_single_model_judgments(str(bench / "model_judgment" / "j_single.jsonl"))
    assert set(judged["j", "single-v1"]) == {(question, name) for question in (81, 82) for name in names}

    show = fastchat_reader("show_result")
    arguments = types.SimpleNamespace(input_file=str(bench / "model_judgment" / "j_single.jsonl"), model_list=None,
                                      bench_name="mt_bench", judge_model="j")  # fmt: skip
    show.display_result_single(arguments)
    printed = capsys.readouterr().out
    assert f"{names[1]} " in printed
    assert "6.5" in printed.split("Average")[1]


def test_what_was_not_judged_or_is_on_no_hub_is_said(made, tmp_path, caplog):
    board, _ = made
    assert "0 records" in export(board, "fastchat", tmp_path / "fastchat")
    assert "no submission was judged" in caplog.text
