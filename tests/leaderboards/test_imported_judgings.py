"""Judgments of FastChat, AlpacaEval and Arena-Hard become a column, a report, a page to read, and a board entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from board_records import detail, outcomes, questions, write_evaluation  # type: ignore[import-not-found]
from click.testing import CliRunner

from evals.judge.report import make_report
from harness.cli import cli
from harness.store import checkpoint_hash
from leaderboards.board.folder import BoardFolder
from leaderboards.board.verify import verify

COUNT = 12
EVIL = "<script>alert(1)</script>"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(folder: Path, models: tuple[str, ...], turns: int) -> None:
    """Questions and answers, as FastChat and Arena-Hard keep them."""
    write_lines(folder / "question.jsonl", [
        {"question_id": n, "category": "writing", "turns": [f"ask {n}", f"more {n}"][:turns]} for n in range(COUNT)
    ])  # fmt: skip
    for model in models:
        write_lines(folder / "model_answer" / f"{model}.jsonl", [
            {"question_id": n, "model_id": model,
             "choices": [{"index": 0, "turns": [f"{model} says {n} {EVIL}", f"{model} adds {n}"][:turns]}]}
            for n in range(COUNT)
        ])  # fmt: skip


def fastchat(folder: Path) -> tuple[float, str]:
    """Scores of two models in two turns, by GPT-4; one of theirs has no verdict."""
    texts(folder, ("ours", "theirs"), 2)
    score = {"ours": lambda n, turn: 5 + n % 4, "theirs": lambda n, turn: -1 if n == turn == 1 else 3}
    rows = [
        {"question_id": n, "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": "p", "turn": turn,
         "judgment": f"{EVIL} Rating: [[{of(n, turn)}]]", "score": of(n, turn), "tstamp": 1.0}
        for model, of in score.items() for n in range(COUNT) for turn in (1, 2)
    ]  # fmt: skip
    write_lines(folder / "model_judgment" / "gpt-4_single.jsonl", rows)
    return 6.5, "gpt-4"


def alpaca_eval(folder: Path) -> tuple[float, str]:
    folder.mkdir()
    rows = [
        {"instruction": f"ask {n}", "output_1": "base", "generator_1": "gpt4_turbo", "dataset": "helpful_base",
         "output_2": f"{model} says {n} {EVIL}", "generator_2": model, "annotator": "weighted-gpt-4",
         "preference": 1.25 if n % 4 else 1.95, "raw_completion": EVIL}
        for model in ("theirs", "ours") for n in range(COUNT)
    ]  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(rows))
    return (9 * 0.25 + 3 * 0.95) / COUNT, "weighted-gpt-4"


def arena_hard(folder: Path) -> tuple[float, str]:
    texts(folder, ("ours", "o3-mini"), 1)
    rows = [
        {"question_id": n, "model": "ours", "judge": "gpt-4.1",
         "games": [{"score": "B>>A" if n % 2 else "A=B", "judgment": EVIL}, {"score": "A>B", "judgment": "x"}]}
        for n in range(COUNT)
    ]  # fmt: skip
    write_lines(folder / "model_judgment" / "gpt-4.1" / "ours.jsonl", rows)
    return 0.75, "gpt-4.1"


def moemix(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
    return done.output


@pytest.mark.parametrize("write", [fastchat, alpaca_eval, arena_hard])
def test_judgments_made_elsewhere_become_a_column_a_report_a_page_and_a_board_entry(bench, tmp_path, write):
    run = bench.run("dynamic")
    run.checkpoint.mkdir()
    (run.checkpoint / "config.json").write_text(json.dumps({"architectures": ["MixtralForCausalLM"]}))
    run.update(checkpoint_hash=checkpoint_hash(run.checkpoint))
    write_evaluation(run.folder / "evals" / "made", questions({"pick": 24, "count": 16}),
                     checkpoint_hash=checkpoint_hash(run.checkpoint))  # fmt: skip
    average, judge = write(tmp_path / "elsewhere")
    judging = run.folder / "judge" / "mt_bench"
    said = moemix("judge", "import", tmp_path / "elsewhere", "--out", judging, "--model-name", "ours", "--bench",
                  "mt_bench", "--baseline-name", "o3-mini")  # fmt: skip
    assert f"ours: {average:.2f}" in said
    assert judge in make_report([judging], None)["judges"]

    table = moemix("table", run.folder, "--baseline", "dynamic", "--format", "markdown")
    assert f"({judge})" in table
    assert f"{100 * average:.1f}" in table or f"{average:.2f}" in table
    assert "was not tested on known answers" in table
    moemix("view", run.folder, "--out", tmp_path / "view")
    page = (tmp_path / "view" / "judged-1.html").read_text()
    assert "ask 3" in page
    assert "ours says 3 &lt;script&gt;" in page
    assert EVIL not in page
    assert judge in page

    board = tmp_path / "board"
    moemix("submit", run.folder, "--board", board, "--name", "ours")
    moemix("board", "pin", board, judging)
    (checked,) = verify(BoardFolder(board))
    assert outcomes(checked)["judge"] == "pass", detail(checked, "judge")
    name, value, _, rows = checked.judged["mt_bench"].scores[0]
    assert (name, rows) == ("average", 2 * COUNT if write is fastchat else COUNT)
    assert value == pytest.approx(average)
    assert checked.judged["mt_bench"].judges == (f"{judge} (not tested on known answers)",)
    moemix("board", "build", board, "--out", tmp_path / "site")
    assert any(judge.encode() in path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file())
    moemix("board", "export", board, "--format", "fastchat", "--out", tmp_path / "exported")
    kept = list((tmp_path / "exported" / "data" / "mt_bench" / "model_judgment").glob("*.jsonl"))
    models = {row.get("model") for path in kept for row in map(json.loads, path.read_text().splitlines())}
    assert "theirs" not in models
