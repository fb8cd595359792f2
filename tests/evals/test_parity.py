"""A served checkpoint gets the numbers of the ``lm_eval`` command line with its ``hf`` model, sample by sample.

``lm_eval`` runs its stock tasks on copies of the published files that this test lays out itself, so data, prompts,
examples, answers and metrics are all compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint
from tiny_server import TinyServer

from evals.runner import evaluate, request_for
from harness.requests import EvalJobRequest

LIMIT = 3
SUITE = """
name: parity
columns:
  - {name: choice, tasks: [arc_easy], shots: 0, metric: acc_norm}
  - {name: exact, tasks: [bbh_fewshot_boolean_expressions], shots: 3, metric: exact_match}
  - {name: text, tasks: [gsm8k_cot], shots: 8, metric: exact_match, filter: strict-match}
"""


def lay_out(folder: Path, name: str, config: str, **splits: list[dict]) -> None:
    """A data set as the hub names it: JSONL files and a README that lists them."""
    place = folder / name
    place.mkdir(parents=True)
    for split, rows in splits.items():
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - {{split: {split}, path: {split}.jsonl}}\n" for split in splits)
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


def arc(path: Path) -> list[dict]:
    rows = []
    for row in map(json.loads, path.open()):
        texts = [choice["text"] for choice in row["question"]["choices"]]
        labels = [choice["label"] for choice in row["question"]["choices"]]
        choices = {"text": texts, "label": labels}
        question = {"question": row["question"]["stem"], "choices": choices}
        rows.append({"id": row["id"], **question, "answerKey": row["answerKey"]})
    return rows


@pytest.fixture(scope="module")
def both(real_data, tmp_path_factory):
    """The folder of ours, and lm_eval's own files."""
    folder = tmp_path_factory.mktemp("parity")
    checkpoint = make_checkpoint(folder / "checkpoint", context=8192)
    hub = folder / "hub"
    dev, test = (arc(real_data / "arc" / f"ARC-Easy-{split}.jsonl") for split in ("Dev", "Test"))
    lay_out(hub, "allenai/ai2_arc", "ARC-Easy", train=dev, validation=dev, test=test)
    bbh = json.loads((real_data / "bbh" / "bbh" / "boolean_expressions.json").read_text())["examples"]
    lay_out(hub, "SaylorTwift/bbh", "boolean_expressions", test=bbh)
    train, test = ([*map(json.loads, (real_data / "gsm8k" / f"{s}.jsonl").open())] for s in ("train", "test"))
    lay_out(hub, "openai/gsm8k", "main", train=train, test=test)

    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "1"]
    command += ["--model_args", f"pretrained={checkpoint},dtype=float32", "--limit", str(LIMIT), "--log_samples"]
    command += ["--tasks", "arc_easy,bbh_fewshot_boolean_expressions,gsm8k_cot", "--output_path", str(folder / "stock")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    ran = subprocess.run(command, cwd=hub, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]

    (folder / "parity.yaml").write_text(SUITE)
    with TinyServer(checkpoint) as server:
        request = request_for(
            str(folder / "parity.yaml"), tasks=(), limit=LIMIT, engine=server.url, dtype="float32", seed=0
        )
        summary = evaluate(
            EvalJobRequest(
                config=request, checkpoint=checkpoint, out=folder / "ours", data_root=real_data, keep_answers=False
            )
        )
        server.shutdown()
    return summary, folder / "ours", folder / "stock"


def samples(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


@pytest.mark.data
@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("arc_easy", ("acc", "acc_norm")),
        ("bbh_fewshot_boolean_expressions", ("exact_match",)),
        ("gsm8k_cot", ("exact_match",)),
    ],
)
def test_every_sample_is_that_of_the_lm_eval_command(both, task, metrics):
    summary, ours, stock = both
    (theirs,) = stock.rglob(f"samples_{task}_2*.jsonl")
    compared = list(zip(samples(ours / f"samples_{task}.jsonl"), samples(theirs), strict=True))
    assert len({mine["doc_id"] for mine, _ in compared}) == LIMIT
    for mine, other in compared:
        same = ("doc_id", "doc_hash", "prompt_hash", "target_hash", "target", "filter", *metrics)
        assert {key: mine[key] for key in same} == {key: other[key] for key in same}
        if task == "arc_easy":
            likelihoods = [[float(reply[0][0]) for reply in sample["resps"]] for sample in (mine, other)]
            assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-3)
            assert [reply[0][1] for reply in mine["resps"]] == [reply[0][1] for reply in other["resps"]]
        else:
            assert mine["resps"] == other["resps"]
            assert mine["filtered_resps"] == other["filtered_resps"]
    (results,) = stock.rglob("results_*.json")
    raw = json.loads(results.read_text())["results"][task]
    for result in summary.results:
        if result.task == task:
            assert result.value == raw[f"{result.metric},{result.filter}"]
            assert result.stderr == pytest.approx(raw[f"{result.metric}_stderr,{result.filter}"])
