"""Packing changes how much padding is computed, and nothing else: losses, gradients and gate loads stay."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import VOCABULARY, small_model, small_sources

from harness.errors import MoemixError, StageError
from trainers.data import Example
from trainers.data.batches import GlobalBatch, Layout
from trainers.models import loss as loss_module
from trainers.models import packed
from trainers.models.loss import TargetLosses
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver

HOST = torch.device("cpu")
SOURCE_IDS = np.array([0, 2, 1, 1, 0, 2, 2, 1, 0], dtype=np.int32)
INDICES = np.arange(9, dtype=np.int64)
MODELS = {
    "sdpa": {},
    "gpt_oss": {"model_type": "gpt_oss", "head_dim": 8, "sliding_window": 6, "attn_implementation": "eager"},
    "eager": {"attn_implementation": "eager"},
    "sliding window": {"sliding_window": 6},
    "sliding window, eager": {"sliding_window": 6, "attn_implementation": "eager"},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    "scaled logits": {"model_type": "granitemoe", "logits_scaling": 3.0},
    "tied embeddings": {"tie_word_embeddings": True},
}


def layout(packed: bool = True, rows: int = 1) -> Layout:
    return Layout(max_length=64, packed=packed, rows_per_forward=rows, pad_id=0)


def measure(model, batch: GlobalBatch):
    """Losses f64[K] and gate loads i64[K, L, E] by source, gradients by parameter."""
    losses, observer, count = TargetLosses(model), RouterObserver(model), len(batch.tally.examples)
    model.zero_grad()
    losses_K = np.zeros(count)
    for forward in batch.forwards(0, 1, HOST):
        with observer.count(forward.source_RT, count):
            found = losses(forward)
        found.total.backward()
        losses_K += np.bincount(forward.target_source_N, found.each_N.double().numpy(), count)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return losses_K, gradients, observer.take()


def alone(model, example: Example) -> torch.Tensor:
    """The example's loss by the plain model, without padding, packing or anything of ours."""
    ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
    logits = model(input_ids=ids).logits[0, :-1]
    learnt = torch.tensor(example.is_target[1:])
    return F.cross_entropy(logits[learnt], ids[0, 1:][learnt], reduction="sum")


def attended(monkeypatch) -> list[tuple[int, bool]]:
    """Tokens and whether there was a mask, of every call of SDPA by the attention that training uses.

    Without those of the four tokens that :class:`TargetLosses` first tries a model on.
    """
    calls, real = [], packed.scaled_dot_product_attention

    def spied(query, key, value, mask, **kwargs):
        if query.shape[2] > 4:
            calls.append((query.shape[2], mask is not None))
        return real(query, key, value, mask, **kwargs)

    monkeypatch.setattr(packed, "scaled_dot_product_attention", spied)
    return calls


@pytest.mark.parametrize("trained", [False, True], ids=["as it is", "as in training"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_packed_rows_of_mixed_sources_give_each_example_the_losses_gradients_and_gate_loads_it_has_alone(
    tmp_path, changes, trained
):
    model, three = small_model(**changes), small_sources(tmp_path)
    if trained:
        prepare_packing(model, 64)
    elif changes.get("model_type") == "gpt_oss":
        pytest.skip("without help it lets packed examples see each other")
    apart = [three[k] for k in SOURCE_IDS]  # a source for each example, so that sums by source are sums by example
    batch = GlobalBatch.of(apart, np.arange(9), INDICES, layout(rows=2))
    assert any(len({int(SOURCE_IDS[i]) for i in row}) > 1 for rows in batch.all_forwards for row in rows)
    losses_K, gradients, load_KLE = measure(model, batch)

    model.zero_grad()
    observer, expected_K = RouterObserver(model), np.zeros(9)
    for i, example in enumerate(batch.examples):
        with observer.count(torch.full((1, len(example.input_ids)), i), 9):
            loss = alone(model, example)
        loss.backward()
        expected_K[i] = loss.item()
    np.testing.assert_allclose(losses_K, expected_K, rtol=2e-6)
    np.testing.assert_array_equal(load_KLE, observer.take())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_are_attended_example_by_example_and_padding_apart(tmp_path, monkeypatch, checkpointing):
    batch = GlobalBatch.of(small_sources(tmp_path), SOURCE_IDS, INDICES, layout(rows=2))
    model = small_model().train()
    expected = measure(model, batch)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    prepare_packing(model, 64)
    calls = attended(monkeypatch)
    found = measure(model, batch)
    layers = model.config.num_hidden_layers * (2 if checkpointing else 1)
    lengths = [len(example.input_ids) for example in batch.examples]
    padding = [row[-1] for forward in batch.forwards(0, 1, HOST) for row in forward.rows]
    padding = [tokens for tokens in padding if tokens not in lengths]
    assert padding, "no row had padding: this test would prove nothing of it"
    assert sorted(calls) == sorted((length, False) for length in (lengths + padding) * layers if length > 4)
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6)
    for name in expected[1]:
        torch.testing.assert_close(found[1][name], expected[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_windows_are_bands_within_an_example_and_dropout_is_left_to_sdpa(tmp_path, monkeypatch):
    batch = GlobalBatch.of(small_sources(tmp_path), SOURCE_IDS, INDICES, layout(rows=2))
    for changes, name in (({"sliding_window": 6}, "packed"), ({"attention_dropout": 0.5}, "sdpa"), ({}, "packed")):
        model = small_model(**changes).train()
        prepare_packing(model, 64)
        assert model.config._attn_implementation == name, changes
        calls = attended(monkeypatch)
        TargetLosses(model)(next(iter(batch.forwards(0, 1, HOST))))
        assert {masked for tokens, masked in calls if tokens > 6} == ({"sliding_window" in changes} if calls else set())
        monkeypatch.undo()


def test_a_forward_pass_that_training_does_not_announce_is_packed_by_its_positions(tmp_path):
    batch = GlobalBatch.of(small_sources(tmp_path), SOURCE_IDS, INDICES, layout(rows=2))
    model, forward = small_model(), next(iter(batch.forwards(0, 1, HOST)))
    prepare_packing(model, 64)
    arguments = {"input_ids": forward.input_RT, "use_cache": False}
    announced = TargetLosses(model)._decode(forward).last_hidden_state
    found = model.base_model(**arguments, position_ids=forward.position_RT.clone()).last_hidden_state
    real = forward.source_RT >= 0
    torch.testing.assert_close(found[real], announced[real])
    whole = model.base_model(**arguments, position_ids=torch.arange(found.shape[1])[None]).last_hidden_state
    expected = small_model().base_model(**arguments).last_hidden_state
    torch.testing.assert_close(whole, expected)


def test_our_variable_length_attention_has_the_signature_of_torchs():
    ours, torchs = (inspect.signature(f).parameters for f in (packed.varlen_by_example, packed.varlen_attn))
    assert [p.kind for p in ours.values()][:7] == [p.kind for p in torchs.values()][:7]
    assert list(ours)[3:] == [name for name in torchs if name in ours]


@pytest.mark.parametrize("rows", [1, 3])
def test_padded_rows_give_the_same_as_packed_ones(tmp_path, rows):
    model, sources = small_model(), small_sources(tmp_path)
    packed = measure(model, GlobalBatch.of(sources, SOURCE_IDS, INDICES, layout()))
    batch = GlobalBatch.of(sources, SOURCE_IDS, INDICES, layout(packed=False, rows=rows))
    padded = measure(model, batch)
    assert batch.computed_tokens == 9 * 64
    np.testing.assert_allclose(padded[0], packed[0], rtol=2e-6)
    np.testing.assert_array_equal(padded[2], packed[2])
    for name in packed[1]:
        torch.testing.assert_close(padded[1][name], packed[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_every_rank_gets_as_many_forwards_and_together_they_do_the_whole_batch(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    batch = GlobalBatch.of(sources, SOURCE_IDS, INDICES, layout())
    ranks = len(batch.all_forwards) + 1
    shares = [list(batch.forwards(rank, ranks, HOST)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {1}
    assert sum(len(f.target_N) for share in shares for f in share) == batch.tally.targets.sum()
    idle = TargetLosses(model, balance="model")(shares[-1][0])
    (idle.total + idle.balance).backward()
    assert idle.total.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_the_output_layer_in_small_chunks_gives_the_same_losses_and_gradients(tmp_path, monkeypatch):
    sources, model = small_sources(tmp_path), small_model()
    batch = GlobalBatch.of(sources, SOURCE_IDS, INDICES, layout())
    whole = measure(model, batch)
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 7 * VOCABULARY)
    chunked = measure(model, batch)
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-6)
    for name in whole[1]:
        # Sums in another order: float32 rounding grows with the numbers that are summed, whatever their total.
        rounding = 1e-6 * float(whole[1][name].abs().max())
        torch.testing.assert_close(chunked[1][name], whole[1][name], rtol=1e-4, atol=rounding, msg=name)


def test_bfloat16_autocast_gives_the_float32_losses_and_gradients_roughly_and_keeps_float32_weights(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    batch = GlobalBatch.of(sources, SOURCE_IDS, INDICES, layout())
    forward = next(iter(batch.forwards(0, 1, HOST)))
    exact, rough = TargetLosses(model)(forward), TargetLosses(model, bfloat16=True)(forward)
    assert rough.each_N.dtype == torch.float32
    assert 0 < (exact.each_N - rough.each_N).abs().mean() < 0.1
    head = model.get_output_embeddings().weight
    expected, found = (torch.autograd.grad(losses.total, head)[0] for losses in (exact, rough))
    assert found.dtype == torch.float32
    assert F.cosine_similarity(expected.flatten(), found.flatten(), dim=0) > 0.99


def test_the_models_own_balance_loss_leaves_padding_out(tmp_path):
    model, sources = small_model(router_aux_loss_coef=0.5), small_sources(tmp_path)
    losses = TargetLosses(model, balance="model")
    picks = SOURCE_IDS[:3], INDICES[:3]
    packed = losses(next(iter(GlobalBatch.of(sources, *picks, layout(rows=9)).forwards(0, 1, HOST)))).balance
    padded = losses(
        next(iter(GlobalBatch.of(sources, *picks, layout(packed=False, rows=9)).forwards(0, 1, HOST)))
    ).balance
    assert packed.item() == pytest.approx(padded.item(), rel=1e-6)
    example = GlobalBatch.of(sources, *(pick[:1] for pick in picks), layout())
    ids = torch.from_numpy(example.examples[0].input_ids.astype(np.int64))[None]
    plain = model(input_ids=ids, output_router_logits=True).aux_loss
    found = losses(next(iter(example.forwards(0, 1, HOST)))).balance
    assert found.item() == pytest.approx(0.5 * plain.item(), rel=1e-6)


def test_a_balance_loss_that_the_architecture_does_not_have_is_refused():
    with pytest.raises(MoemixError, match="no auxiliary loss of its own"):
        TargetLosses(small_model("llama"), balance="model")


def test_an_example_without_a_target_is_named(tmp_path):
    sources = small_sources(tmp_path)
    sources[1].train._table.targets = np.zeros_like(sources[1].train._table.targets)
    with pytest.raises(StageError, match=r"source b: training example 3 has no token"):
        GlobalBatch.of(sources, np.array([0, 1]), np.array([1, 3]), layout())
