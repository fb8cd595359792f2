"""Signals are exact: gate loads are the routers' selections of real tokens, losses are means over targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import mixing, small_model, small_source, small_sources

from harness.errors import MoemixError
from trainers.data import TokenSplit
from trainers.data.batches import GlobalBatch, Layout, Tally
from trainers.models.loss import TargetLosses
from trainers.parallel.ranks import Ranks
from trainers.signals import SignalContext, make_signals

HOST = torch.device("cpu")
ALONE = Ranks(1, 0, HOST)
LAYOUT = Layout(max_length=64, packed=True, rows_per_forward=2, pad_id=0)


def context(model, sources, **changes):
    return SignalContext(TargetLosses(model), sources, mixing(**changes), LAYOUT, 0, ALONE)


def gate_load(model, sources, **changes):
    return make_signals(["gate_load"], context(model, sources, **changes))["gate_load"]


def train_on(signal, model, sources, source_ids, indices, layout=LAYOUT, *, backward=True):
    """The forward and backward passes of one step, without an optimizer: the weights stay."""
    batch = GlobalBatch.of(sources, np.array(source_ids), np.array(indices), layout)
    losses = TargetLosses(model)
    for forward in batch.forwards(0, 1, HOST):
        with signal.watch(forward.source_RT):
            found = losses(forward)
        if backward:
            found.total.backward()
    signal.add(batch.tally)
    return batch


def brute_force(model, examples, source_ids, count):
    """Top-k of the routers' own logits, example by example, nothing padded."""
    load_KLE = np.zeros((count, 2, 4), dtype=np.int64)
    for source, example in zip(source_ids, examples, strict=True):
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids, output_router_logits=True).router_logits
        for layer, logits_TE in enumerate(logits):
            np.add.at(load_KLE[source, layer], logits_TE.topk(2, dim=-1).indices.flatten().numpy(), 1)
    return load_KLE


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_online_gate_load_is_a_brute_force_count_of_the_routers_selections_without_padding(tmp_path, packed):
    model, sources = small_model(), small_sources(tmp_path)
    signal = gate_load(model, sources)
    ids, indices = [0, 1, 2, 2, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]
    batch = train_on(signal, model, sources, ids, indices, Layout(64, packed, 2, 0))
    load_KLE = signal.observe(1)
    np.testing.assert_array_equal(load_KLE, brute_force(model, batch.examples, ids, 3))
    np.testing.assert_array_equal(load_KLE.sum(axis=2), 2 * batch.tally.tokens[:, None].repeat(2, axis=1))


def test_online_counts_over_a_set_equal_probe_counts_over_the_same_set(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    probe = gate_load(model, sources, gate_load="probe", probe_batches=2, probe_batch_size=4).observe(1)
    held_out = tuple(type(s)(s.name, s.size, train=s.probe, probe=s.probe, report=s.report) for s in sources)
    online = gate_load(model, held_out)
    train_on(online, model, held_out, np.repeat([0, 1, 2], 8), np.tile(np.arange(8), 3))
    np.testing.assert_array_equal(online.observe(1), probe)
    assert probe.sum() > 0


def test_gradient_checkpointing_does_not_count_twice(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    signal = gate_load(model, sources)
    train_on(signal, model, sources, [0, 1, 2], [0, 0, 0])
    once = signal.observe(1)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    train_on(signal, model, sources, [0, 1, 2], [0, 0, 0])
    np.testing.assert_array_equal(signal.observe(2), once)


def test_a_source_with_too_few_tokens_keeps_its_last_known_load(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    signal = gate_load(model, sources, min_tokens=45)
    train_on(signal, model, sources, [0] * 8 + [2], range(9))
    first = signal.observe(1)
    assert first[0].sum() > 0
    assert not first[2].any(), "a handful of tokens is no load"
    train_on(signal, model, sources, [0] + [1] * 8, range(9))
    second = signal.observe(2)
    np.testing.assert_array_equal(second[0], first[0])
    assert second[1].sum() > 0


def test_a_signal_restored_in_the_middle_of_an_interval_goes_on_with_what_it_had_counted(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    whole, before, after = (gate_load(model, sources) for _ in range(3))
    for signal in (whole, before):
        train_on(signal, model, sources, [0, 1, 2], [0, 0, 0])
    after.restore({name: array.copy() for name, array in before.arrays().items()})
    for signal in (whole, before, after):
        train_on(signal, model, sources, [2, 0, 1], [1, 1, 1])
    expected = whole.observe(2)
    np.testing.assert_array_equal(after.observe(2), expected)
    np.testing.assert_array_equal(before.observe(2), expected)


def test_the_probe_draws_other_examples_for_every_update_and_the_same_ones_again_for_the_same(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    signal = gate_load(model, sources, gate_load="probe", probe_batches=1, probe_batch_size=2)
    first, again, later = signal.observe(10), signal.observe(10), signal.observe(20)
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()


def test_the_probe_leaves_the_model_in_training_mode_without_gradients(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    signal = gate_load(model, sources, gate_load="probe")
    signal._context.losses.train()
    signal.observe(1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_train_loss_is_the_mean_over_targets_since_the_last_update_and_nan_where_unseen(tmp_path):
    sources = small_sources(tmp_path)
    signal = make_signals(["train_loss"], context(small_model(), sources))["train_loss"]
    for targets, losses in (([2, 0, 3], [4.0, 0.0, 1.5]), ([1, 0, 0], [5.0, 0.0, 0.0])):
        signal.add(Tally(np.ones(3, int), np.array(targets) * 2, np.array(targets), np.array(losses)))
    np.testing.assert_array_equal(signal.observe(2), [3.0, np.nan, 0.5])
    assert np.isnan(signal.observe(4)).all()


def test_what_cannot_be_measured_is_refused_before_training(tmp_path):
    sources, dense = small_sources(tmp_path), small_model("llama")
    with pytest.raises(MoemixError, match="no MoE layers"):
        gate_load(dense, sources)
    bare = (small_source(tmp_path / "bare", "a", range(1, 30), probe=0), *sources[1:])
    with pytest.raises(MoemixError, match=r"source a: the source holds out no examples[\s\S]*gate_load=online"):
        gate_load(small_model(), bare, gate_load="probe")
    assert isinstance(bare[0].probe, TokenSplit)
    with pytest.raises(MoemixError, match=r"'astrology'[\s\S]*gate_load[\s\S]*train_loss"):
        make_signals(["astrology"], context(dense, sources))
