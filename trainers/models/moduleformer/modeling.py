"""ModuleFormer (MoLM) in the style of today's transformers, with the parameters of published checkpoints.

Each layer routes twice: a token's queries come from k attention experts, which share keys and values and each have an
output projection of their own; its feed-forward experts are two matrices. Both kinds are stored as [E, in, out].
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import Cache, PreTrainedModel, initialization
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import OutputRecorder

from trainers.models.causal import MoeDecoder, MoeForCausalLM
from trainers.models.grouped import Groups
from trainers.models.moduleformer.configuration import ModuleFormerConfig
from trainers.models.routers import RouterOutput


class ModuleFormerRouter(nn.Module):
    """Selects the top k by a softmax over all experts, whose values at the selected ones are the scores."""

    def __init__(self, config: ModuleFormerConfig, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k
        last = nn.Linear(config.gating_size if config.gate_type == "mlp" else config.n_embd, num_experts, bias=False)
        before = (nn.Linear(config.n_embd, config.gating_size), nn.GELU(), nn.Dropout(config.moe_pdrop))
        self.w_gate = nn.Sequential(*(before if config.gate_type == "mlp" else ()), last)

    def forward(self, hidden_NH: Tensor) -> RouterOutput:
        """Route N tokens."""
        logits_NE = self.w_gate(hidden_NH)
        scores_Nk, selected_Nk = logits_NE.softmax(dim=-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        return RouterOutput(logits_NE, scores_Nk.to(logits_NE.dtype), selected_Nk)


class ModuleFormerLinears(nn.Module):
    """One matrix for each expert."""

    def __init__(self, num_experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, inputs, outputs))

    def forward(self, sorted_MI: Tensor, groups: Groups) -> Tensor:
        """Multiply each (token, choice) pair, sorted by expert, with the matrix of its expert."""
        return groups.linear(sorted_MI, self.weight)


class ModuleFormerMoE(nn.Module):
    """The feed-forward experts of a layer."""

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__()
        self.gate = ModuleFormerRouter(config, config.n_mlp_experts, config.k_mlp)
        self.experts = ModuleFormerLinears(config.n_mlp_experts, config.n_embd, config.ffd_hidden)
        self.output_experts = ModuleFormerLinears(config.n_mlp_experts, config.ffd_hidden, config.n_embd)
        self.act_fn = ACT2FN[config.activation_function]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Route each token of f[B, T, H] through its experts."""
        hidden_NH = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, scores_Nk, selected_Nk, _ = self.gate(hidden_NH)
        groups = Groups(selected_Nk, self.gate.num_experts)
        inner_MI = self.act_fn(self.experts(groups.spread(hidden_NH), groups))
        outputs_NH = groups.combine(self.output_experts(inner_MI, groups), scores_Nk)
        return outputs_NH.reshape(hidden_states.shape)


class ModuleFormerQueries(nn.Module):
    """The attention experts of a layer: projections to queries, and back from what the queries attended to."""

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__()
        self.gate = ModuleFormerRouter(config, config.n_att_experts, config.k_att)
        self.experts = ModuleFormerLinears(config.n_att_experts, config.n_embd, config.att_hidden)
        self.output_experts = ModuleFormerLinears(config.n_att_experts, config.att_hidden, config.n_embd)

    def forward(self, hidden_NH: Tensor) -> tuple[Tensor, Tensor, Groups]:
        """Return queries f[N · k, A], a token's side by side, and what :meth:`gather` needs."""
        _, scores_Nk, selected_Nk, _ = self.gate(hidden_NH)
        groups = Groups(selected_Nk, self.gate.num_experts)
        return groups.unsort(self.experts(groups.spread(hidden_NH), groups)), scores_Nk, groups

    def gather(self, attended_MA: Tensor, scores_Nk: Tensor, groups: Groups) -> Tensor:
        """Project back to f[N, H]."""
        return groups.combine(self.output_experts(groups.sort(attended_MA), groups), scores_Nk)


class ModuleFormerAttention(nn.Module):
    """Stick-breaking attention with queries from k experts a token."""

    def __init__(self, config: ModuleFormerConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.top_k, self.num_heads, self.head_dim = config.k_att, config.n_head, config.att_hidden // config.n_head
        self.q_proj = ModuleFormerQueries(config)
        plain = config.att_hidden == config.n_embd and config.n_head == 1
        self.k_proj: nn.Module = nn.Identity() if plain else nn.Linear(config.n_embd, config.att_hidden)
        self.v_proj: nn.Module = nn.Identity() if plain else nn.Linear(config.n_embd, config.att_hidden)

    def forward(
        self, hidden_states: Tensor, allowed_BTS: Tensor, past_key_values: Cache | None = None, **kwargs: object
    ) -> Tensor:
        """Attend within f[B, T, H]; ``allowed_BTS`` says which tokens a token may see."""
        rows, tokens, width = hidden_states.shape
        queries_MA, scores_Nk, groups = self.q_proj(hidden_states.reshape(-1, width))
        query = queries_MA.view(rows, tokens, self.top_k, self.num_heads, self.head_dim).permute(0, 2, 3, 1, 4)
        heads = (rows, tokens, self.num_heads, self.head_dim)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        found = stick_breaking(query, key, value, allowed_BTS).permute(0, 3, 1, 2, 4).reshape(queries_MA.shape)
        return self.q_proj.gather(found, scores_Nk, groups).view(rows, tokens, width)


class ModuleFormerBlock(GradientCheckpointingLayer):
    """Attention and feed-forward experts."""

    def __init__(self, config: ModuleFormerConfig, layer_idx: int) -> None:
        super().__init__()
        # The published code leaves the norms' epsilon at PyTorch's default, whatever the configuration says.
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn = ModuleFormerAttention(config, layer_idx)
        self.mlpf = ModuleFormerMoE(config)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        """Add attention and experts to f[B, T, H]."""
        hidden_states = hidden_states + self.resid_dropout(self.attn(self.ln_1(hidden_states), **kwargs))
        output: Tensor = hidden_states + self.resid_dropout(self.mlpf(self.ln_2(hidden_states)))
        return output


class ModuleFormerPreTrainedModel(PreTrainedModel):
    """What transformers has to know of the architecture."""

    config: ModuleFormerConfig
    config_class = ModuleFormerConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ModuleFormerBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    # Triangles that published checkpoints store, one pair for each layer.
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.(mask|cum_weight)$"]
    _can_record_outputs = {
        "router_logits": OutputRecorder(ModuleFormerRouter, index=0),
        "hidden_states": ModuleFormerBlock,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ModuleFormerLinears):
            bound = 1.0 / module.weight.shape[1]
            initialization.uniform_(module.weight, -bound, bound)


def stick_breaking(query_BKHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, allowed_BTS: Tensor) -> Tensor:
    """Attend with K queries a token over shared keys and values, f[B, K, H, T, D]; the weights are in float32.

    Each query breaks its unit of attention off from the nearest token backwards. Token j gets the share σ(l_ij) of what
    the tokens between it and the query i have left, Π σ(−l_ik) for j < k ≤ i. So nearer tokens come first and no
    positions are needed (Tan et al. 2024, arXiv:2410.17980). Weights sum to at most one. ``allowed_BTS`` says which of
    the S tokens each query may see; it takes nothing from the others.
    """
    logits_BKHTS = (query_BKHTD @ key_BHSD[:, None].mT).float() * query_BKHTD.shape[-1] ** -0.5
    weight_BKHTS: Tensor = _Shares.apply(logits_BKHTS, allowed_BTS[:, None, None])
    attended_BKHTD: Tensor = weight_BKHTS.to(value_BHSD.dtype) @ value_BHSD[:, None]
    return attended_BKHTD


class _Shares(torch.autograd.Function):
    """The share of attention that each token gets, from logits f32[…, T, S] and what queries may see, bool[…, T, S].

    The gradient is written out: it needs only two of the many large tensors that autograd would keep.
    """

    @staticmethod
    def forward(ctx: Any, logits_TS: Tensor, allowed_TS: Tensor) -> Tensor:
        taken_TS = functional.logsigmoid(logits_TS)
        left_TS = (taken_TS - logits_TS).masked_fill_(~allowed_TS, 0.0)  # log σ(−l) = log σ(l) − l
        after_TS = left_TS.flip(-1).cumsum(-1).flip(-1).sub_(left_TS)
        weight_TS = after_TS.add_(taken_TS).exp_().masked_fill_(~allowed_TS, 0.0)
        ctx.save_for_backward(logits_TS, allowed_TS, weight_TS)
        return weight_TS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TS: Tensor) -> tuple[Tensor, None]:
        logits_TS, allowed_TS, weight_TS = ctx.saved_tensors
        moved_TS = grad_TS * weight_TS  # by the log of each weight; l_ij moves that of j by 1 − σ(l_ij), of k < j by −σ
        share_TS = moved_TS.cumsum(-1).mul_(logits_TS.sigmoid())
        return moved_TS.sub_(share_TS).masked_fill_(~allowed_TS, 0.0), None


class ModuleFormerModel(ModuleFormerPreTrainedModel, MoeDecoder):
    """The decoder, without positions."""

    _input_embed_layer = "wte"

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([ModuleFormerBlock(config, i) for i in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.gradient_checkpointing = False
        self.post_init()

    def decode(self, hidden_states: Tensor, mask: Tensor, position_ids: Tensor, **kwargs: object) -> Tensor:
        """Run the layers; the model itself knows no positions."""
        hidden_states, allowed_BTS = self.drop(hidden_states), mask[:, 0] == 0
        for block in self.h:
            hidden_states = block(hidden_states, allowed_BTS=allowed_BTS, **kwargs)
        normed: Tensor = self.ln_f(hidden_states)
        return normed


def load_balancing_loss_func(
    gate_logits: tuple[Tensor, ...], num_experts: int, top_k: int, attention_mask: Tensor | None = None
) -> Tensor:
    """Return minus the mutual information of tokens and experts, summed over all routers (attention included).

    It is least where each token is sure of its experts and all experts are used alike. Name and arguments are the ones
    that other architectures of transformers have.
    """
    total = gate_logits[0].new_zeros((), dtype=torch.float32)
    for logits_NE in gate_logits:
        if attention_mask is not None:
            logits_NE = logits_NE[attention_mask.reshape(-1).bool()]
        logp_NE = logits_NE.float().log_softmax(dim=-1)
        mean_E = logp_NE.exp().mean(dim=0)
        sure = (logp_NE.exp() * logp_NE).sum(dim=-1).mean()
        total = total - sure + (mean_E * (mean_E + 1e-8).log()).sum()
    return total


class ModuleFormerForCausalLM(ModuleFormerPreTrainedModel, MoeForCausalLM):
    """The decoder with an output layer."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: ModuleFormerConfig) -> None:
        super().__init__(config)
        self.transformer = ModuleFormerModel(config)
        self.vocab_size = config.vocab_size
        self.num_experts, self.num_experts_per_tok = config.n_mlp_experts, config.k_mlp
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()
