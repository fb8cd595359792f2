"""Our grouped product computes the experts of every architecture as transformers' loop does, in any dtype."""

from __future__ import annotations

import pytest
import torch
from small_runs import fit_request, small_sources, training

from trainers.mixing import load_strategy
from trainers.models import architectures, grouped
from trainers.training.loop import fit

KINDS = (
    "mixtral qwen3_moe deepseek_v3 gpt_oss nemotron_h granitemoe phimoe ernie4_5_moe minimax_m3_vl_text zaya".split()
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_experts_give_the_outputs_and_gradients_of_the_loop(kind, dtype):
    model = architectures.small_model(kind, scale=0.1)
    experts = next(m for m in model.modules() if hasattr(m, "_apply_gate") and hasattr(m, "num_experts")).to(dtype)
    width = (experts.up_proj if hasattr(experts, "up_proj") else experts.gate_up_proj).shape
    hidden = torch.randn(40, width[1] if experts.is_transposed else width[2], dtype=dtype, requires_grad=True)
    selected = torch.stack([torch.randperm(experts.num_experts)[:2] for _ in range(40)])
    scores = torch.rand(40, 2, dtype=dtype, requires_grad=True)
    found = []
    for name in ("eager", grouped.NAME):
        experts.config._experts_implementation = name
        output = experts(hidden, selected, scores)
        leaves = [hidden, scores, *experts.parameters()]
        projected = (output.float() * torch.linspace(-1, 1, output.shape[-1])).sum()
        found.append([output, *torch.autograd.grad(projected, leaves)])
    rough = {torch.float32: 1e-4, torch.bfloat16: 4e-2}[dtype]
    for ours, theirs in zip(*reversed(found), strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).detach().float().norm() <= rough * theirs.detach().float().norm()


def test_a_number_that_is_no_expert_computes_nothing():
    experts = next(m for m in architectures.small_model("mixtral").modules() if hasattr(m, "_apply_gate"))
    hidden, scores = torch.randn(4, 32), torch.ones(4, 2)
    selected = torch.tensor([[0, 6], [1, 6], [2, 6], [3, 6]])
    found = grouped.experts_forward(experts, hidden, selected, scores)
    torch.testing.assert_close(found, grouped.experts_forward(experts, hidden, selected[:, :1], scores[:, :1]))


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "dbrx", "jetmoe"])
def test_training_in_bfloat16_runs_and_says_where_a_cpu_is_slow_at_it(tmp_path, kind, caplog, monkeypatch):
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False, raising=False)
    model = architectures.small_model(kind, scale=None)
    changes = training(steps=2, dtype="bfloat16")
    result = fit(
        fit_request(model, small_sources(tmp_path / "data"), load_strategy("uniform"), tmp_path, training=changes)
    )
    assert result.steps == 2
    assert "this CPU has no bfloat16 arithmetic" in caplog.text
