"""``moemix gate-load``: a checkpoint's own routing, counted token by token, of sources and of benchmarks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_runs import create_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import MoemixError
from harness.records import GateLoads
from trainers.commands.gate_load import gate_load
from trainers.training.gate_load_stage import measure_gate_load
from trainers.training.run import train

PROMPTS = ("2+2 is", "the capital of France", "two words")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = create_run(tmp_path_factory.mktemp("store") / "store")
    train(made)
    folder = made.folder / "evals" / "kr"
    folder.mkdir(parents=True)
    lines = [
        {"doc_id": i, "arguments": {"gen_args_0": {"arg_0": text, "arg_1": " a"}}, "filter": name}
        for i, text in enumerate(PROMPTS)
        for name in ("strict", "flexible")  # a question stands there once for each filter
    ]
    (folder / "samples_arc.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def test_a_benchmarks_counts_are_the_routers_choices_for_its_prompts(run):
    found = measure_gate_load(run, run.folder / "gate_load" / "benchmarks", examples=50, benchmarks=True)
    assert found.names[-1] == "arc"
    assert found.kinds[-1] == "benchmark"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(run.checkpoint),
        AutoTokenizer.from_pretrained(run.checkpoint),
    )
    expected = np.zeros(np.array(found.counts[-1]).shape, dtype=int)
    for text in PROMPTS:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
        with torch.no_grad():
            logits = model(ids, output_router_logits=True).router_logits
        for layer, scores in enumerate(logits):
            chosen = scores.topk(model.config.num_experts_per_tok, dim=-1).indices.flatten()
            expected[layer] += np.bincount(chosen.numpy(), minlength=expected.shape[1])
    np.testing.assert_array_equal(np.array(found.counts[-1]), expected)


def test_sources_are_counted_apart_and_the_record_is_kept(run):
    out = run.folder / "gate_load" / "sources"
    found = measure_gate_load(run, out, examples=5, benchmarks=False)
    assert set(found.kinds) == {"source"}
    assert list(found.names) == sorted(source.name for source in run.manifest.config.sources)
    totals = np.array(found.counts).sum(axis=2)
    assert (totals == totals[:, :1]).all()  # every layer saw the same tokens
    assert found.checkpoint_hash == run.manifest.checkpoint_hash
    before = (out / "summary.json").stat().st_mtime_ns
    assert measure_gate_load(run, out, examples=5, benchmarks=False) == found == GateLoads.read(out / "summary.json")
    assert (out / "summary.json").stat().st_mtime_ns == before
    assert measure_gate_load(run, out, examples=6, benchmarks=False).examples == 6


def test_the_command_prints_shares_and_refuses_a_folder_without_a_run(run, tmp_path):
    shown = CliRunner().invoke(gate_load, [str(run.folder), "--examples", "4"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("last layer, % by expert:") == 3
    with pytest.raises(MoemixError, match=r"no run\.json"):
        CliRunner().invoke(gate_load, [str(tmp_path)], catch_exceptions=False)
    with pytest.raises(MoemixError, match="no checkpoint yet"):
        measure_gate_load(create_run(tmp_path / "other"), tmp_path / "out", examples=1, benchmarks=False)
