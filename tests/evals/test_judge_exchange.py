"""Judgments made elsewhere become a judging like any other, and ours can be read elsewhere."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner
from fake_judge import FakeJudge
from small_judgings import answer_file, bench_file, judged, lines, template_file, write_lines

from evals.judge.exchange import export_judging, import_judging
from evals.judge.report import make_report
from harness.cli import cli
from harness.errors import MoemixError
from harness.judging import JudgeSummary
from leaderboards.board.judgings import recompute

COUNT = 20


def alpaca_file(folder, models=("long", "short", "even"), count=COUNT):
    """AlpacaEval's annotations, the preference leaning to the longer answer; one question has none."""
    rng = random.Random(0)
    rows = []
    for model in models:
        for number in range(count):
            mine = "word " * {"long": 60, "short": 10, "even": 30}[model]
            base = "word " * rng.randint(20, 40)
            stated = 1.5 + (0.4 if len(mine) > len(base) else -0.4) + rng.uniform(-0.1, 0.1)
            rows.append({
                "instruction": f"ask {number}", "output_1": base, "generator_1": "base", "dataset": "helpful",
                "output_2": mine, "generator_2": model, "annotator": "weighted",
                "preference": stated if number else None,
            })  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(rows))
    return rows


def test_alpaca_evals_annotations_become_a_table_and_a_report(tmp_path):
    rows = alpaca_file(tmp_path)
    done = CliRunner().invoke(cli, ["judge", "import", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "win rate against base" in done.output
    summary = JudgeSummary.read(tmp_path / "out" / "summary.json")
    assert {summary.model, *summary.others} == {"long", "short", "even"}
    assert summary.failed == {"no_verdict": 1}
    report = make_report([tmp_path / "out"], None)
    rates = report["win_rates"]["weighted"]
    mean = sum(row["preference"] - 1 for row in rows if row["generator_2"] == "long" and row["preference"])
    assert rates["long"]["adjusted"]["value"] == pytest.approx(mean / (COUNT - 1))
    assert (summary if summary.model == "long" else summary.others["long"]).average.value == pytest.approx(
        mean / (COUNT - 1)
    )
    assert recompute(tmp_path / "out", summary).average == pytest.approx(summary.average.value)  # as a board would
    assert rates["long"]["bradley_terry"]["value"] > 0.8 > 0.2 > rates["short"]["bradley_terry"]["value"]
    assert report["judges"]["weighted"]["position"] is None  # only one order was shown


def test_a_fastchat_folder_gives_the_summary_that_made_it(tmp_path):
    bench_file(tmp_path)
    answer_file(tmp_path)
    prompts = template_file(tmp_path)
    with FakeJudge(lambda payload, _: f"[[{1 + len(str(payload)) % 9}]]") as judge:
        made = judged(tmp_path, judge.url, protocol="faithful", judge_prompts=prompts)
    folder = tmp_path / "elsewhere"
    (folder / "model_judgment").mkdir(parents=True)
    (folder / "model_answer").mkdir()
    ours = [json.loads(line) for line in (tmp_path / "out" / "judgments-fake.jsonl").open()]
    fields = ("question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp")
    write_lines(folder / "model_judgment" / "fake_single.jsonl", [{name: row[name] for name in fields} for row in ours])
    write_lines(folder / "question.jsonl", lines(tmp_path / "bench.jsonl"))
    write_lines(folder / "model_answer" / "mine.jsonl", lines(tmp_path / "mine.jsonl"))
    again = import_judging(folder, tmp_path / "again")
    for name in ("average", "first_turn", "second_turn", "by_category", "judged", "failed"):
        assert getattr(again, name) == getattr(made, name)
    one, other = (make_report([tmp_path / name], None)["judges"]["fake"] for name in ("out", "again"))
    assert one == other


@pytest.fixture
def pairwise(tmp_path):
    """A pairwise judging of two models against a baseline."""
    bench_file(tmp_path)
    for model in ("mine", "yours", "base"):
        answer_file(tmp_path, model)

    def script(payload, _):
        return json.dumps({"winner": random.Random(str(payload["messages"])).choice(["A", "B", "tie"])})

    with FakeJudge(script) as judge:
        judged(tmp_path, judge.url, answers=(tmp_path / "mine.jsonl", tmp_path / "yours.jsonl"), mode="pairwise",
               baseline=tmp_path / "base.jsonl")  # fmt: skip
    return tmp_path


def games(folder):
    found = {}
    for line in lines(folder / "games-fake.jsonl"):
        if line["turn"] == 1:
            found[line["question_id"], line["model_1"], line["game"]] = line["winner"]
    return found


def test_arena_hards_files_go_out_and_come_in_with_the_same_winners(pairwise):
    written = export_judging(pairwise / "out", "arena_hard", pairwise / "hard")
    assert {path.name for path in written} == {"mine.jsonl", "yours.jsonl", "base.jsonl"}
    first = lines(pairwise / "hard" / "model_judgment" / "fake" / "mine.jsonl")[0]
    ours = games(pairwise / "out")
    says = {"A>B": "model_2", "B>A": "model_1", "A=B": "tie"}  # in Arena-Hard's first game, A is the baseline
    assert says[first["games"][0]["score"]] == ours[first["question_id"], "mine", 2]
    import_judging(pairwise / "hard", pairwise / "again", baseline="base")
    assert games(pairwise / "again") == ours


def test_much_better_counts_three_times_in_arena_hard(tmp_path):
    folder = tmp_path / "model_judgment" / "gpt"
    folder.mkdir(parents=True)
    for model, label in (("strong", "B>>A"), ("weak", "B>A"), ("other", "A=B")):
        swapped = {"B>>A": "A>>B", "B>A": "A>B", "A=B": "A=B"}[label]
        lost = [{"score": "A>B"}, {"score": "B>A"}]
        write_lines(folder / f"{model}.jsonl", [
            {"uid": f"q{i}", "model": model, "judge": "gpt", "category": "hard_prompt",
             "games": [{"score": label}, {"score": swapped}] if i % 2 else lost} for i in range(20)
        ])  # fmt: skip
    summary = import_judging(tmp_path, tmp_path / "out", baseline="o3")
    assert summary.request.baseline == "o3"
    rates = make_report([tmp_path / "out"], None)["win_rates"]["gpt"]
    assert rates["weak"]["bradley_terry"]["value"] == pytest.approx(0.5, abs=0.01)
    assert rates["strong"]["bradley_terry"]["value"] == pytest.approx(0.75, abs=0.01)


def test_alpaca_evals_files_go_out_and_come_in_with_the_same_rates(pairwise):
    export_judging(pairwise / "out", "alpaca_eval", pairwise / "alpaca")
    rows = json.loads((pairwise / "alpaca" / "mine" / "fake" / "annotations.json").read_text())
    assert len(rows) == 6
    assert rows[0]["instruction"] == "ask 1 first"
    assert rows[0]["output_2"] == "mine says 1 first"
    summary = import_judging(pairwise / "alpaca", pairwise / "again", model="mine")
    ours = JudgeSummary.read(pairwise / "out" / "summary.json")
    assert summary.average.value == pytest.approx(ours.first_turn.value)


def test_what_is_no_judgment_is_told_with_its_line(tmp_path):
    with pytest.raises(MoemixError, match="no judgments of FastChat, AlpacaEval or Arena-Hard"):
        import_judging(tmp_path, tmp_path / "out")
    write_lines(tmp_path / "a_pair.jsonl", [{"question_id": 1, "turn": 1, "judge": ["j", "p"], "model_1": "a",
                                            "model_2": "b", "g1_winner": "a", "g2_winner": "tie"}])  # fmt: skip
    with pytest.raises(MoemixError, match=r"a_pair.jsonl:1: not a judgment of fastchat.*expected model_1"):
        import_judging(tmp_path, tmp_path / "out")
    rows = [{"question_id": 1, "turn": 1, "judge": ["j", "p"], "model": "a", "score": 5},
            {"question_id": 1, "turn": 1, "judge": ["j", "p"], "model_1": "a", "model_2": "b", "g1_winner": "tie",
             "g2_winner": "model_1"}]  # fmt: skip
    write_lines(tmp_path / "a_pair.jsonl", rows)
    with pytest.raises(MoemixError, match="single and pairwise"):
        import_judging(tmp_path, tmp_path / "out")
    assert import_judging(tmp_path, tmp_path / "out", mode="single").average.value == 5
    with pytest.raises(MoemixError, match="holds a judging already"):
        import_judging(tmp_path, tmp_path / "out", mode="single")
