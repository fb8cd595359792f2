"""Every run measures the loss of each held-out example, as a plain forward pass of that example alone does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import create_run

from harness.files import read_jsonl
from harness.records import HeldOutLosses
from trainers.data.sources import run_sources
from trainers.models.checkpoints import load_checkpoint
from trainers.training.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = create_run(tmp_path_factory.mktemp("held_out") / "store", changes={"steps": 6})
    config = run.manifest.config.model_copy(update={"held_out_every": 3})
    run.update(config=config)
    train(run)
    return run


def measured(run) -> list[HeldOutLosses]:
    return [HeldOutLosses.model_validate(line) for line in read_jsonl(run.held_out)]


def test_each_set_is_measured_as_often_as_asked_and_at_the_end(run):
    names = sorted(source.name for source in run.manifest.config.sources if source.probe_examples)
    assert names
    assert [(losses.step, losses.set) for losses in measured(run)] == [(s, n) for s in (3, 6) for n in names]


def test_a_strategy_aims_at_a_target_set_that_is_never_trained_on(tmp_path):
    aimed = create_run(tmp_path / "store", "doge_target", changes={"steps": 6})
    config = aimed.manifest.config
    *sources, target = config.sources
    aimed.update(config=config.model_copy(update={"sources": tuple(sources), "held_out": (target,)}))
    train(aimed)
    updates = list(read_jsonl(aimed.mixture))
    assert updates[-1]["names"] == [source.name for source in sources]
    assert np.shape(updates[1]["observation"]["target_gradient"]) == (1, 1), "the trace holds inner products"
    assert target.name not in aimed.manifest.result.realised_examples
    assert {losses.set for losses in measured(aimed)} == {source.name for source in config.sources}


def test_the_losses_are_those_of_each_example_alone(run):
    model, tokenizer = load_checkpoint(str(run.checkpoint))
    model.eval()
    final = {losses.set: losses for losses in measured(run) if losses.step == 6}
    for source in run_sources(run, tokenizer):
        for i in range(len(source.probe)):
            example = source.probe[i]
            ids = torch.from_numpy(np.asarray(example.input_ids, dtype=np.int64))[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
            targets = np.asarray(example.is_target)[1:]
            losses = final[source.name]
            assert losses.targets[i] == targets.sum()
            assert losses.nats[i] == pytest.approx(float(each[targets].sum()), rel=1e-4)
            text = tokenizer.decode(example.input_ids[example.is_target], skip_special_tokens=True)
            assert losses.bytes[i] == len(text.encode())
