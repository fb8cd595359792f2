"""LLaMA-MoE in the style of today's transformers, with the parameters of published checkpoints.

A published checkpoint has its experts one by one. They are stacked when it is loaded and taken apart again when it is
saved (``conversion.py``), so checkpoints saved here have the published form too. Gate and up projections stay two
parameters: the paper's runs freeze the one and train the other.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, initialization
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.utils.output_capturing import OutputRecorder

from trainers.models.causal import MoeDecoder, MoeForCausalLM
from trainers.models.grouped import Groups
from trainers.models.llama_moe.configuration import LlamaMoEConfig
from trainers.models.routers import GateNoise, RouterOutput


class LlamaMoERouter(nn.Module):
    """Selects the top k by the logits of a small network; in training with noise of a learnt size if ``add_noise``."""

    def __init__(self, config: LlamaMoEConfig) -> None:
        super().__init__()
        width, experts = config.hidden_size, config.num_experts
        self.top_k, self.use_softmax, self.epsilon = (
            config.num_selects,
            config.gate_use_softmax,
            config.gate_noise_epsilon,
        )
        self.gate_network: nn.Module = (
            nn.Linear(width, experts, bias=False)
            if config.gate_network == "linear"
            else nn.Sequential(
                nn.Linear(width, experts, bias=False), nn.Tanh(), nn.Linear(experts, experts, bias=False)
            )
        )
        self.add_noise = config.gate_add_noise
        if config.gate_add_noise:
            self.weight_noise = nn.Linear(width, experts, bias=False)

    def forward(self, hidden_NH: Tensor) -> RouterOutput:
        """Route N tokens."""
        logits_NE, noise = self.gate_network(hidden_NH), None
        noisy_NE = logits_NE
        if self.training and self.add_noise:
            std_NE = functional.softplus(self.weight_noise(hidden_NH)) + self.epsilon
            noisy_NE = logits_NE + torch.randn_like(logits_NE) * std_NE
            noise = GateNoise(logits_NE, noisy_NE, std_NE)
        highest_Nk, selected_Nk = noisy_NE.topk(self.top_k, dim=-1)
        scores_Nk = highest_Nk.softmax(dim=-1, dtype=torch.float32) if self.use_softmax else highest_Nk
        return RouterOutput(logits_NE, scores_Nk.to(logits_NE.dtype), selected_Nk, noise)


class LlamaMoEExperts(nn.Module):
    """E SwiGLU blocks of width I, computed together."""

    def __init__(self, config: LlamaMoEConfig, layer_idx: int) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        shape_EIH = (config.num_experts, config.expert_sizes[layer_idx], config.hidden_size)
        self.gate_proj = nn.Parameter(torch.empty(shape_EIH))
        self.up_proj = nn.Parameter(torch.empty(shape_EIH))
        self.down_proj = nn.Parameter(torch.empty(shape_EIH[0], shape_EIH[2], shape_EIH[1]))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return f[N, H], for each token the weighted sum of its k experts' outputs."""
        groups = Groups(top_k_index, self.num_experts)
        sorted_MH = groups.spread(hidden_states)
        gate_MI = self.act_fn(groups.linear(sorted_MH, self.gate_proj.transpose(1, 2)))
        hidden_MI = gate_MI * groups.linear(sorted_MH, self.up_proj.transpose(1, 2))
        outputs_MH = groups.linear(hidden_MI, self.down_proj.transpose(1, 2))
        return groups.combine(outputs_MH, top_k_weights).to(hidden_states.dtype)


class LlamaMoEBlock(nn.Module):
    """Router and experts."""

    def __init__(self, config: LlamaMoEConfig, layer_idx: int) -> None:
        super().__init__()
        self.gate = LlamaMoERouter(config)
        self.experts = LlamaMoEExperts(config, layer_idx)
        self.scale = config.score_scale(layer_idx)
        self.multiply = config.multiply_gate_scores

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Route each token of f[B, T, H] through its experts."""
        hidden_NH = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, scores_Nk, selected_Nk, _ = self.gate(hidden_NH)
        weights_Nk = scores_Nk * self.scale if self.multiply else torch.ones_like(scores_Nk)
        output_NH: Tensor = self.experts(hidden_NH, selected_Nk, weights_Nk)
        return output_NH.reshape(hidden_states.shape)


class LlamaMoEDecoderLayer(GradientCheckpointingLayer):
    """LLaMA's attention and an MoE block."""

    def __init__(self, config: LlamaMoEConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = LlamaMoEBlock(config, layer_idx)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        """Add attention and experts to f[B, T, H]."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        output: Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return output


class LlamaMoEPreTrainedModel(PreTrainedModel):
    """What transformers has to know of the architecture."""

    config: LlamaMoEConfig
    config_class = LlamaMoEConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaMoEDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Published checkpoints of transformers 4.3x carry this buffer, which follows from the configuration.
    _keys_to_ignore_on_load_unexpected = [r"\.self_attn\.rotary_emb\.inv_freq$"]
    _can_record_outputs = {
        "router_logits": OutputRecorder(LlamaMoERouter, index=0),
        "hidden_states": LlamaMoEDecoderLayer,
        "attentions": LlamaAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LlamaMoEExperts):
            for weight in (module.gate_proj, module.up_proj, module.down_proj):
                initialization.normal_(weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, LlamaMoERouter) and module.add_noise:
            initialization.zeros_(module.weight_noise.weight)


class LlamaMoEModel(LlamaMoEPreTrainedModel, MoeDecoder):
    """The decoder."""

    def __init__(self, config: LlamaMoEConfig) -> None:
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList([LlamaMoEDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    def decode(self, hidden_states: Tensor, mask: Tensor, position_ids: Tensor, **kwargs: object) -> Tensor:
        """Run the layers with rotary positions."""
        rotary = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states, attention_mask=mask, position_ids=position_ids, position_embeddings=rotary, **kwargs
            )
        normed: Tensor = self.norm(hidden_states)
        return normed


class LlamaMoEForCausalLM(LlamaMoEPreTrainedModel, MoeForCausalLM):
    """The decoder with an output layer."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]  # as transformers' own models

    def __init__(self, config: LlamaMoEConfig) -> None:
        super().__init__(config)
        self.model = LlamaMoEModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
