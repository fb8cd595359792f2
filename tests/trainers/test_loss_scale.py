"""A strategy that scales the loss: exactly the weighted mean over targets, while draws stay even."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import fit_request, lines, small_model, small_sources, training

from trainers.data.batches import GlobalBatch, Layout
from trainers.mixing import MixingStrategy, MixtureState, load_strategy
from trainers.models.loss import TargetLosses
from trainers.training.loop import _Found, _Loop, fit

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Scaled(MixingStrategy):
    """The same shares of the loss at every step."""

    name = "scaled"
    scales = "loss"
    updates = False
    weights: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)

    def init(self, sources):
        return MixtureState(np.array(self.weights))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("head", ["linear", "whole"])
@pytest.mark.parametrize("chunk", [1 << 23, 200], ids=["at once", "chunk by chunk"])
def test_scaled_losses_have_the_gradients_of_a_weighted_cross_entropy(tmp_path, monkeypatch, head, chunk):
    monkeypatch.setattr("trainers.models.loss.CHUNK_LOGITS", chunk)
    model, sources = small_model(), small_sources(tmp_path)
    scale_K = np.array([0.5, 2.0, 0.0])
    batch = GlobalBatch.of(sources, np.array([0, 1, 2, 2, 1]), np.arange(5), Layout(64, True, 8, 0))
    losses = TargetLosses(model)
    if head == "whole":
        losses._linear_head = False
    (forward,) = batch.forwards(0, 1, HOST)
    found = losses(forward, scale_K)
    found.total.backward()
    scaled = gradients(model)
    model.zero_grad()
    expected = torch.zeros(())
    for source, example in zip([0, 1, 2, 2, 1], batch.examples, strict=True):
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        each = F.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        expected = expected + scale_K[source] * each[torch.from_numpy(example.is_target[1:].copy())].sum()
    torch.testing.assert_close(found.total, expected, rtol=1e-4, atol=1e-3)
    assert len(found.each_N) == batch.tally.targets.sum()
    expected.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(scaled[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def run(folder, sources, strategy, **changes):
    folder.mkdir()
    model = small_model()
    result = fit(fit_request(model, sources, strategy, folder, training=training(**changes)))
    return model, result


def test_even_weights_of_the_loss_are_uniform_training_bit_for_bit(tmp_path):
    sources = small_sources(tmp_path / "sources")
    scaled, result = run(tmp_path / "scaled", sources, Scaled())
    plain, _ = run(tmp_path / "plain", sources, load_strategy("uniform"))
    for one, other in zip(scaled.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert result.scales == "loss"


def test_uneven_weights_of_the_loss_change_what_is_learnt_and_not_what_is_drawn(tmp_path):
    sources = small_sources(tmp_path / "sources")
    strategy = Scaled(weights=(0.9, 0.05, 0.05))
    _, one = run(tmp_path / "scaled", sources, strategy, steps=30)
    _, other = run(tmp_path / "plain", sources, load_strategy("uniform"), steps=30)
    assert one.realised_examples == other.realised_examples
    assert one.source_losses["a"] < other.source_losses["a"]
    assert one.source_losses["b"] > other.source_losses["b"]
    (line,) = lines(tmp_path / "scaled" / "mixture.jsonl", without="cost")
    assert (line["scales"], line["after"], line["requested"]) == ("loss", [0.9, 0.05, 0.05], [1 / 3] * 3)


def test_the_global_batch_is_normalised_by_the_weight_of_its_targets(tmp_path, monkeypatch):
    sources, given = small_sources(tmp_path / "sources"), []
    monkeypatch.setattr(_Loop, "_learn", lambda self: (given.append(gradients(self.model)), torch.ones(()))[1])
    run(tmp_path / "scaled", sources, Scaled(weights=(0.5, 0.3, 0.2)), steps=1, pack=False, rows_per_forward=3)
    found, model = given[0], small_model()
    draws, nothing = [], _Found(torch.zeros(1), torch.zeros(()), np.zeros(1, dtype=np.int64))
    monkeypatch.setattr(_Loop, "_forward_backward", lambda self, batch: (draws.append(batch), nothing)[1])
    run(tmp_path / "again", sources, Scaled(weights=(0.5, 0.3, 0.2)), steps=1, pack=False, rows_per_forward=3)
    scale = torch.tensor([1.5, 0.9, 0.6], dtype=torch.float64)
    targets = draws[0].tally.targets
    weight = float((torch.from_numpy(targets) * scale).sum())
    assert weight != targets.sum()
    total = torch.zeros((), dtype=torch.float64)
    for source, example in zip(draws[0].source_ids, draws[0].examples, strict=True):
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        each = F.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        total = total + scale[source] * each[torch.from_numpy(example.is_target[1:].copy())].sum()
    (total / weight).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-5, msg=name)
