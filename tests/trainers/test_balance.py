"""The paper's balance loss (eq. 3) and gate noise: by hand, against the published code, and in training only."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from published_models import Published
from small_runs import small_model

import trainers.models  # noqa: F401  (registers LLaMA-MoE)
from harness.errors import MoemixError
from trainers.models.balance import balance_loss, cv_squared, importance, load, selection_probability
from trainers.models.routers import GateNoise, RouterObserver, Routing
from trainers.models.trainable import set_gate_noise

LLAMA_MOE = {"num_experts": 4, "num_selects": 2, "intermediate_size": 64, "num_local_experts": None}


def test_by_hand():
    routing = Routing(
        num_experts=3,
        selected_Nk=torch.tensor([[0, 1], [0, 2], [1, 0], [2, 1]]),
        scores_Nk=torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.625, 0.375], [0.9, 0.1]]),
    )
    real = torch.tensor([True, True, True, False])  # the last token is padding
    torch.testing.assert_close(importance(routing, real), torch.tensor([1.625, 0.875, 0.5]))
    torch.testing.assert_close(load(routing, real), torch.tensor([3.0, 2.0, 1.0]))
    # mean 1, deviations 0.625, -0.125, -0.5: variance (0.390625 + 0.015625 + 0.25) / 2; counts: mean 2, variance 1
    expected = 0.01 * (0.328125 / 1.0 + 1.0 / 4.0)
    assert balance_loss([routing], real).item() == pytest.approx(expected, rel=1e-6)
    assert balance_loss([routing, routing], real, weight=1.0).item() == pytest.approx(200 * expected, rel=1e-6)
    assert cv_squared(torch.tensor([5.0])) == 0


def test_the_probability_of_selection_by_hand():
    noise = GateNoise(
        clean_NE=torch.tensor([[1.0, 0.0, -1.0]]),
        noisy_NE=torch.tensor([[1.5, 0.2, -1.3]]),
        std_NE=torch.tensor([[1.0, 2.0, 0.5]]),
    )
    phi = NormalDist().cdf
    # The selected expert must stay above the second largest; the others must get above the largest.
    expected = [phi((1.0 - 0.2) / 1.0), phi((0.0 - 1.5) / 2.0), phi((-1.0 - 1.5) / 0.5)]
    torch.testing.assert_close(selection_probability(noise, 1), torch.tensor([expected]))
    # Of the top two: against the third largest, the third largest, and the second largest.
    expected = [phi((1.0 + 1.3) / 1.0), phi((0.0 + 1.3) / 2.0), phi((-1.0 - 0.2) / 0.5)]
    torch.testing.assert_close(selection_probability(noise, 2), torch.tensor([expected]))


def test_the_probability_of_selection_is_how_often_a_new_draw_selects():
    torch.manual_seed(0)
    clean, std, top_k, draws = torch.randn(1, 6), torch.rand(1, 6) + 0.3, 2, 20_000
    noisy = clean + std * torch.randn(1, 6)
    often = []
    for expert in range(6):
        again = noisy.repeat(draws, 1)
        again[:, expert] = clean[0, expert] + std[0, expert] * torch.randn(draws)
        often.append((again.topk(top_k).indices == expert).any(dim=1).float().mean())
    told = selection_probability(GateNoise(clean, noisy, std), top_k)[0]
    torch.testing.assert_close(told, torch.stack(often), atol=4 * math.sqrt(0.25 / draws), rtol=0)


def test_the_published_code_computes_the_same_in_evaluation(llama_moe_fixture: Published, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_moe_fixture.write(tmp_path), attn_implementation="eager").eval()
    with torch.no_grad(), RouterObserver(model).record() as routings:
        model(input_ids=llama_moe_fixture.ids, attention_mask=llama_moe_fixture.mask)
    everything = torch.ones_like(llama_moe_fixture.ids, dtype=torch.bool)
    torch.testing.assert_close(
        balance_loss(routings, everything)[None], llama_moe_fixture.balance, atol=1e-6, rtol=1e-4
    )


def routers_of(model) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if ".gate." in name}


@pytest.mark.parametrize("model_type", ["llama_moe", "mixtral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_pulls_on_the_routers_alone_and_recomputation_changes_nothing(model_type: str, checkpointing: bool):
    def gradients(recomputing: bool) -> dict[str, torch.Tensor]:
        model = small_model(model_type, **(LLAMA_MOE if model_type == "llama_moe" else {})).train()
        if recomputing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        input_ids = torch.randint(0, 96, (2, 16))
        with RouterObserver(model).record() as routings:
            model(input_ids=input_ids, use_cache=False)
        balance_loss(routings, torch.ones_like(input_ids, dtype=torch.bool)).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    found = gradients(checkpointing)
    assert any(".gate." in name and grad.abs().sum() > 0 for name, grad in found.items())
    assert not any("lm_head" in name for name in found)
    if model_type == "llama_moe":
        assert any("weight_noise" in name and grad.abs().sum() > 0 for name, grad in found.items())
    for name, grad in gradients(False).items():
        assert torch.equal(found[name], grad), name


def test_padding_has_no_part_in_it():
    model = small_model("llama_moe", **LLAMA_MOE).eval()
    observer, input_ids = RouterObserver(model), torch.randint(0, 96, (1, 12))
    with observer.record() as short:
        model(input_ids=input_ids)
    padded = torch.cat([input_ids, torch.zeros(1, 20, dtype=torch.long)], dim=1)
    with observer.record() as long:
        model(input_ids=padded)
    real = torch.arange(32)[None] < 12
    torch.testing.assert_close(balance_loss(long, real), balance_loss(short, real[:, :12]))


def test_noise_is_drawn_in_training_alone_and_can_be_switched_off():
    model = small_model("llama_moe", **LLAMA_MOE)
    input_ids = torch.randint(0, 96, (2, 16))

    def logits() -> torch.Tensor:
        return model(input_ids=input_ids).logits.detach()

    assert torch.equal(model.eval() and logits(), logits())
    quiet = logits()
    with RouterObserver(model).record() as routings:
        logits()
    assert all(routing.noise is None for routing in routings)
    assert not torch.equal(model.train() and logits(), logits())
    with RouterObserver(model).record() as routings:
        logits()
    assert all(routing.noise is not None for routing in routings)
    set_gate_noise(model, False)
    torch.testing.assert_close(logits(), quiet)
    set_gate_noise(model, True)
    assert not torch.equal(logits(), logits())


def test_noise_asked_of_a_model_that_has_none_is_refused():
    with pytest.raises(MoemixError, match="MixtralForCausalLM has no gate noise"):
        set_gate_noise(small_model("mixtral"), True)
    set_gate_noise(small_model("mixtral"), False)
    jittered = small_model("mixtral", router_jitter_noise=0.1)
    set_gate_noise(jittered, True)
    set_gate_noise(jittered, False)
    assert {module.jitter_noise for module in jittered.modules() if hasattr(module, "jitter_noise")} == {0.0}
