"""Packed examples are what they are alone, for every MoE architecture of transformers and for one of tomorrow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import fit_request, small_model, small_sources, training
from torch import nn

from harness.errors import MoemixError
from trainers.mixing import load_strategy
from trainers.models import architectures, packed, packing
from trainers.models.packing import check_rows, prepare_packing
from trainers.training.loop import fit

LENGTHS = (9, 24, 1, 17)


def apart(model: nn.Module, lengths: tuple[int, ...] = LENGTHS) -> float:
    """The largest relative change of a token's hidden state, packed against alone, by the model as it now is."""
    ids = torch.randint(3, 96, (1, sum(lengths)), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        packed = model.base_model(input_ids=ids, position_ids=positions, use_cache=False)[0][0]
        alone = torch.cat([model.base_model(input_ids=part, use_cache=False)[0][0] for part in ids.split(lengths, 1)])
    return float(((packed - alone).norm(dim=-1) / alone.norm(dim=-1)).max())


# One of each kind: recurrent states, convolutions, linear attention, chunks, masks without positions, sparse attention
# over chosen positions, over blocks, over compressed ones.
@pytest.mark.parametrize(
    "kind",
    (
        "jamba lfm2_moe inkling_text qwen3_next minimax llama4_text gpt_oss afmoe hy_v4 deepseek_v32 minimax_m3_vl_text"
        " deepseek_v4 zaya"
    ).split(),
)
@pytest.mark.parametrize("scale", [0.3, None], ids=["large weights", "transformers' weights"])
def test_models_with_a_state_give_packed_examples_what_they_give_them_alone(kind, scale):
    model = architectures.small_model(kind, scale=scale)
    parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
    prepare_packing(model, 64)
    assert apart(model) < 2e-5
    assert all(torch.equal(parameter, parameters[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("kind", ["jamba", "lfm2_moe", "llama4_text", "gpt_oss"])
def test_gradients_of_isolated_modules_are_those_of_single_examples(kind):
    model = architectures.small_model(kind)
    ids = torch.randint(3, 96, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]

    def gradients(hidden: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        sum((states * torch.linspace(-1, 1, states.shape[-1])).sum() for states in hidden).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    alone = gradients([model.base_model(input_ids=part, use_cache=False)[0] for part in ids.split(LENGTHS, 1)])
    prepare_packing(model, 64)
    if kind != "gpt_oss":
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    packed = gradients([model.base_model(input_ids=ids, position_ids=positions, use_cache=False)[0]])
    for name, gradient in alone.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


class Average(nn.Module):
    """A made-up token mixer: a running mean over the row, switched off at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        counts = torch.arange(1, hidden_states.shape[1] + 1)[:, None]
        return hidden_states + self.scale * hidden_states.cumsum(1) / counts


def test_a_made_up_layer_with_a_state_is_packed_right_even_if_it_is_switched_off_at_first():
    model = small_model()
    for layer in model.model.layers:
        layer.input_layernorm = nn.Sequential(layer.input_layernorm, Average(32))
    prepare_packing(model, 64)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm[1].scale.fill_(1.0)
    assert apart(model) < 2e-5


def test_a_made_up_state_that_is_in_no_module_of_a_layer_is_refused_by_name(monkeypatch):
    class Decoder(type(small_model().model)):
        def forward(self, input_ids=None, **kwargs):
            embedded = self.embed_tokens(input_ids)
            return super().forward(inputs_embeds=embedded + 0.01 * embedded.cumsum(1), **kwargs)

    model = small_model()
    model.model.__class__ = Decoder
    with pytest.raises(MoemixError, match=r"MixtralForCausalLM does not keep packed[\s\S]*training.pack=false"):
        prepare_packing(model, 64)


def test_a_leak_in_long_rows_only_is_found_before_the_first_step(tmp_path, monkeypatch):
    """The trial before training is made blind here; the first real rows show the leak."""
    model, sources = small_model(), small_sources(tmp_path)
    monkeypatch.setattr("trainers.training.loop.prepare_packing", lambda model, max_length: None)
    monkeypatch.setattr(type(model.model), "_supports_flash_attn", False)
    for layer in model.model.layers:
        norm = layer.input_layernorm
        layer.input_layernorm = nn.Sequential(norm, Average(32))
        nn.init.constant_(layer.input_layernorm[1].scale, 0.01)
    with pytest.raises(MoemixError, match="the first rows of the training data"):
        fit(fit_request(model, sources, load_strategy("uniform"), tmp_path, training=training()))


def test_a_chance_flip_of_one_draw_does_not_refuse_a_model_that_keeps_examples_apart(monkeypatch):
    model, real = small_model(), packing._Trial._apart
    answers = iter([1.0])
    monkeypatch.setattr(packing._Trial, "_apart", lambda self, *states: next(answers, 0.0) or real(*states))
    check_rows(model, ((5, 7), (12,)), [torch.arange(n) for n in (5, 7, 12)])


def test_rows_are_read_from_positions_where_nobody_announced_them():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]])
    assert packed.rows_of(positions) == ((3, 2, 1), (4, 1, 1))


@pytest.mark.parametrize("max_length", [1, 8, 11, 512, 2048])
def test_the_trial_fills_the_largest_row(max_length):
    (row,) = packing._trial_rows(max_length)
    assert sum(row) == max_length
    assert min(row) > 0


def test_a_state_model_trains_the_same_packed_and_padded(tmp_path):
    results = []
    for pack in (True, False):
        model = architectures.small_model("jamba", scale=None)
        folder = tmp_path / str(pack)
        folder.mkdir()
        changes = training(steps=2, pack=pack, max_length=64, learning_rate=1e-3)
        fit(fit_request(model, small_sources(folder), load_strategy("uniform"), folder, training=changes))
        results.append(np.concatenate([p.detach().flatten() for p in model.parameters()]))
    np.testing.assert_allclose(*results, atol=1e-4)
