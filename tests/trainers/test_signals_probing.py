"""Signals that run the model on held-out examples or read the texts: what they say is what a plain computation says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import byte_tokenizer, mixing, small_model, small_source, small_sources

from harness.errors import MoemixError
from trainers.data.batches import Layout
from trainers.models.loss import TargetLosses
from trainers.parallel.ranks import Ranks
from trainers.signals import Resources, SignalContext, make_signals
from trainers.signals.embedding import Encoder
from trainers.signals.gradient import GradientSketch, add_to_sketch
from trainers.signals.representation import decoder_layers
from trainers.signals.zscore import z_scores

ALONE = Ranks(1, 0, torch.device("cpu"))
ARCHITECTURES = {
    "moduleformer": {
        "n_embd": 32, "n_layer": 2, "n_head": 1, "att_hidden": 16, "ffd_hidden": 24, "n_att_experts": 2, "k_att": 1,
        "n_mlp_experts": 4, "k_mlp": 2, "gating_size": 8, "block_size": 64, "history_length": 64,
        "attn_implementation": "eager",
    },
    "llama_moe": {"num_experts": 4, "num_selects": 2, "size_experts": [[12] * 4] * 2},
    "olmoe": {"num_experts": 4},
}  # fmt: skip
LAYOUT = Layout(max_length=64, packed=True, rows_per_forward=2, pad_id=0)


def context(model, sources, resources=None, targets=None, **changes):
    mix = mixing(**{"probe_batches": 2, "probe_batch_size": 4} | changes)
    return SignalContext(TargetLosses(model), sources, mix, LAYOUT, 0, ALONE, resources or Resources(), targets or {})


def signal(field, model, sources, resources=None, **changes):
    return make_signals([field], context(model, sources, resources, **changes))[field]


def losses_of(model, source):
    """Each held-out target's loss, example by example, nothing packed."""
    found = []
    with torch.no_grad():
        for i in range(len(source.probe)):
            example = source.probe[i]
            ids = torch.from_numpy(example.input_ids.astype(np.int64))
            logits = model.eval()(input_ids=ids[None]).logits[0]
            each = F.cross_entropy(logits[:-1], ids[1:], reduction="none")
            found.append(each[torch.from_numpy(example.is_target[1:].copy())])
    return torch.cat(found).double().numpy()


def gradient_of(model, source):
    """The flat gradient of the source's mean held-out loss."""
    model.zero_grad()
    total, targets = torch.zeros(()), 0
    for i in range(len(source.probe)):
        example = source.probe[i]
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        logits = model.eval()(input_ids=ids[None]).logits[0]
        mask = torch.from_numpy(example.is_target[1:].copy())
        total = total + F.cross_entropy(logits[:-1], ids[1:], reduction="none")[mask].sum()
        targets += int(mask.sum())
    (total / targets).backward()
    flat = [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in model.parameters()]
    model.zero_grad()
    return torch.cat(flat).double().numpy()


def test_probe_and_reference_losses_are_means_over_held_out_targets(tmp_path):
    model, other, sources = small_model(), small_model(seed=1), small_sources(tmp_path)
    probed = signal("probe_loss", model, sources).observe(5)
    np.testing.assert_allclose(probed, [losses_of(model, s).mean() for s in sources], rtol=1e-5)
    reference = signal("reference_loss", model, sources, Resources(reference=lambda: other)).observe(5)
    np.testing.assert_allclose(reference, [losses_of(other, s).mean() for s in sources], rtol=1e-5)


def test_excess_loss_is_clipped_token_by_token(tmp_path):
    model, other, sources = small_model(), small_model(seed=1), small_sources(tmp_path)
    found = signal("excess_loss", model, sources, Resources(reference=lambda: other)).observe(5)
    pairs = [(losses_of(model, s), losses_of(other, s)) for s in sources]
    np.testing.assert_allclose(found, [np.maximum(a - b, 0).mean() for a, b in pairs], rtol=1e-4)
    assert (found > [np.maximum(a.mean() - b.mean(), 0) for a, b in pairs]).all(), "not the excess of the means"


def test_a_signal_leaves_mode_and_gradients_of_the_model_in_training_alone(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    resources = Resources(reference=lambda: small_model(seed=1))
    for field in ("probe_loss", "excess_loss", "reference_loss", "gradient"):
        measured = signal(field, model, sources, resources)
        model.train()
        measured.observe(1)
        assert model.training, field
        assert all(parameter.grad is None for parameter in model.parameters()), field


def test_without_a_reference_model_or_held_out_examples_the_reason_is_told(tmp_path):
    sources = small_sources(tmp_path)
    with pytest.raises(MoemixError, match="reference model, and there is none"):
        signal("excess_loss", small_model(), sources)
    bare = (small_source(tmp_path / "bare", "a", range(1, 30), probe=0), *sources[1:])
    with pytest.raises(
        MoemixError, match=r"source a: the source holds out no examples, which the signal `probe_loss` is"
    ):
        signal("probe_loss", small_model(), bare)
    with pytest.raises(MoemixError, match="no tokenizer"):
        signal("embedding", small_model(), sources)


def test_sketches_keep_the_inner_products_of_the_gradients(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    sketch = GradientSketch(context(model, sources), width=1 << 14).observe(3)
    assert sketch.dtype == np.float32
    again = GradientSketch(context(model, sources), width=1 << 14).observe(3)
    assert sketch.tobytes() == again.tobytes()
    gradients = np.stack([gradient_of(model, source) for source in sources])
    true, found = gradients @ gradients.T, sketch.astype(np.float64) @ sketch.T
    norms = np.linalg.norm(gradients, axis=1)
    assert np.abs(found - true).max() < 5 * np.outer(norms, norms).max() / np.sqrt(1 << 14)
    np.testing.assert_allclose(np.diag(found), norms**2, rtol=0.1)


def example_gradients(model, source):
    """The flat gradient of each held-out example's mean loss, f64[n, P]."""
    rows = []
    for i in range(len(source.probe)):
        alone = SimpleNamespace(probe=[source.probe[i]])
        rows.append(gradient_of(model, alone))
    return np.stack(rows)


def test_gradient_norms_of_examples_and_their_noise_are_those_of_plain_gradients(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    norms = signal("example_gradient_norm", model, sources).observe(0)
    noise = signal("gradient_noise", model, sources).observe(0)
    for k, source in enumerate(sources):
        each = example_gradients(model, source)
        np.testing.assert_allclose(np.sort(norms[k]), np.sort(np.linalg.norm(each, axis=1)), rtol=1e-4)
        variance = ((each - each.mean(axis=0)) ** 2).sum() / (len(each) - 1)
        square = (each.mean(axis=0) ** 2).sum() - variance / len(each)
        # the mean gradient is known by its sketch
        np.testing.assert_allclose(noise[k], [max(square, 0), variance], rtol=0.1, atol=0.05 * variance)


def test_alignments_are_cosines_of_gradients(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    found = signal("gradient_alignment", model, sources).observe(0)
    unit = np.stack([g / np.linalg.norm(g) for g in (gradient_of(model, source) for source in sources)])
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-6)
    assert np.abs(found - unit @ unit.T).max() < 5 / np.sqrt(4096)


def test_target_sets_are_measured_without_being_sources(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    other = small_source(tmp_path / "other", "gold", range(5, 60))
    targets = {"gold": other.probe, "b": sources[1].probe}
    made = make_signals(["target_loss", "target_gradient"], context(model, sources, targets=targets))
    expected = [losses_of(model, source).mean() for source in (other, sources[1])]
    np.testing.assert_allclose(made["target_loss"].observe(0), expected, rtol=1e-5)
    np.testing.assert_allclose(
        made["target_gradient"].observe(3)[1], signal("gradient", model, sources[1:2]).observe(3)[0], atol=1e-6
    )
    with pytest.raises(MoemixError, match=r"there is no target set, which the signal `target_loss`[\s\S]*held_out"):
        signal("target_loss", model, sources)


def test_losses_of_examples_are_those_of_each_alone(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    found = signal("example_loss", model, sources, probe_batches=3).observe(0)
    assert found.shape == (3, 12), "three batches of four, and a source holds out eight"
    for k, source in enumerate(sources):
        alone = [losses_of(model, SimpleNamespace(probe=[source.probe[i]])).mean() for i in range(len(source.probe))]
        np.testing.assert_allclose(np.sort(found[k][:8]), np.sort(alone), rtol=1e-5)
        assert np.isnan(found[k][8:]).all()


@pytest.mark.parametrize("architecture", ["mixtral", "moduleformer", "llama_moe"])
def test_representations_are_mean_hidden_states_after_each_layer(tmp_path, architecture):
    model, sources = small_model(architecture, **ARCHITECTURES.get(architecture, {})), small_sources(tmp_path)
    found = signal("representation", model, sources).observe(0)
    assert found.shape == (3, 2, 32)
    assert found.dtype == np.float32
    states, hidden = [], {}
    layers = decoder_layers(model)
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out, i=i: hidden.__setitem__(i, out[0] if type(out) is tuple else out)
        )
        for i, layer in enumerate(layers)
    ]
    for i in range(len(sources[2].probe)):
        ids = torch.from_numpy(sources[2].probe[i].input_ids.astype(np.int64))
        with torch.no_grad():
            model.eval()(input_ids=ids[None])
        states.append(np.stack([hidden[layer].reshape(-1, 32).double().numpy() for layer in (0, 1)]))
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(found[2], np.concatenate(states, axis=1).mean(axis=1), rtol=1e-3, atol=1e-4)


def test_router_scores_count_standard_errors_from_the_balanced_load():
    load = np.array([[[30, 10]], [[20, 20]], [[0, 0]]])
    share = np.array([[0.75, 0.25], [0.5, 0.5]])
    mean = share.mean(axis=0)
    expected = (share - mean) / np.sqrt(mean * (1 - mean) / 40)
    found = z_scores(load)
    np.testing.assert_allclose(found[:2, 0], expected)
    assert np.isnan(found[2]).all()
    drawn = np.random.default_rng(0).multinomial(1000, [0.2, 0.3, 0.5], (50, 1))
    assert 0.9 < z_scores(drawn).std() < 1.1, "sources that are routed alike are one standard error apart"


def test_a_sketch_is_unbiased_linear_and_independent_of_how_the_gradient_comes_in_pieces():
    torch.manual_seed(0)
    size, width = 200_000, 1024
    one, other = torch.randn(size), torch.randn(size)
    other += 0.5 * one

    def sketch(vector, pieces=1, start=0):
        out = torch.zeros(width)
        for piece in vector.chunk(pieces):
            add_to_sketch(out, piece, start)
            start += len(piece)
        return out

    torch.testing.assert_close(sketch(one), sketch(one, pieces=7), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sketch(one) + sketch(other), sketch(one + other), rtol=1e-3, atol=1e-2)
    estimates = [float(sketch(one, start=s) @ sketch(other, start=s)) for s in range(0, 40 * size, size)]
    deviation = float(one.norm() * other.norm()) / np.sqrt(width)
    assert abs(np.mean(estimates) - float(one @ other)) < 4 * deviation / np.sqrt(40), "unbiased over 40 hashings"
    assert 0.6 * deviation < np.std(estimates) < 1.6 * deviation, "with the spread that theory gives"


def test_embeddings_are_means_of_unit_sentence_vectors_and_are_computed_once(tmp_path, monkeypatch):
    sources, tokenizer = small_sources(tmp_path), byte_tokenizer()
    resources = Resources(tokenizer, cache=tmp_path / "cache")
    found = signal("embedding", None or small_model(), sources, resources, embedding_examples=5).observe(0)
    assert found.shape == (3, 384)
    texts = [tokenizer.decode(sources[1].train[i].input_ids.tolist(), skip_special_tokens=True) for i in range(5)]
    each = np.stack([Encoder().mean([text]) for text in texts])
    np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[1], each.mean(axis=0), atol=1e-6)
    monkeypatch.setattr(Encoder, "__init__", lambda self: pytest.fail("the model was loaded again"))
    again = signal("embedding", small_model(), sources, resources, embedding_examples=5).observe(0)
    assert again.tobytes() == found.tobytes()


def test_sentences_of_one_meaning_lie_nearer_than_those_of_another():
    encoder = Encoder()
    sum_one, sum_two, cat = (
        encoder.mean([text])
        for text in ("What is 3 plus 4? 3 + 4 = 7.", "Compute the sum of 12 and 30: 42.", "The cat sleeps on the sofa.")
    )
    assert sum_one @ sum_two > sum_one @ cat + 0.2


@pytest.mark.parametrize("architecture", ["mixtral", "llama_moe", "moduleformer", "olmoe", "granitemoe"])
def test_router_probabilities_are_those_of_the_tokens_of_each_source(tmp_path, architecture):
    model, sources = small_model(architecture, **ARCHITECTURES.get(architecture, {})), small_sources(tmp_path)
    signals = make_signals(["router_probability", "router_entropy"], context(model, sources, probe_batches=2))
    probability, entropy = (signals[field].observe(1) for field in ("router_probability", "router_entropy"))
    assert probability.shape == (3, 2, 4)
    assert entropy.shape == (3, 2)
    np.testing.assert_allclose(probability.sum(axis=2), 1, rtol=1e-5)
    assert (entropy > 0).all()
    assert (entropy <= -(probability * np.log(probability)).sum(axis=2) + 1e-9).all(), "entropy is concave"
    if architecture != "mixtral":
        return
    probe = context(model, sources, probe_batches=2).probe("x")
    expected = []
    for k in range(3):
        rows = []
        for batch in probe.forwards(1, torch.device("cpu"), only=k):
            with torch.no_grad():
                place = {"position_ids": batch.position_RT, "use_cache": False}
                logits = model(input_ids=batch.input_RT, output_router_logits=True, **place)
            real = (batch.source_RT >= 0).reshape(-1)
            rows.append(torch.stack([each.softmax(-1)[real] for each in logits.router_logits]).numpy())
        expected.append(np.concatenate(rows, axis=1).mean(axis=1))
    np.testing.assert_allclose(probability, expected, rtol=1e-3)


def test_learning_progress_is_the_slope_of_the_same_held_out_loss(tmp_path):
    model, sources = small_model(), small_sources(tmp_path)
    signal = make_signals(["learning_progress"], context(model, sources))["learning_progress"]
    assert np.isnan(signal.observe(10)).all()
    assert (signal.observe(20) == 0).all()
    kept = signal.arrays()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.0)
    moved = signal.observe(30)
    signal.restore(kept)
    np.testing.assert_array_equal(signal.observe(30), moved)
    np.testing.assert_allclose(moved, (kept["last"] - np.log(96)) / 10, rtol=1e-5)
