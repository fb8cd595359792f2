"""LLaMA-MoE in the style of today's transformers, with the parameters of published checkpoints.

A checkpoint holds its experts one by one. They are stacked when it is loaded and taken apart again when it is saved
(``conversion.py``), so what is saved here is in the published form too. Gate and up projections stay two parameters:
the paper's runs freeze the one and train the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, DynamicCache, PreTrainedModel, initialization
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from trainers.models.causal import MoeForCausalLM
from trainers.models.grouped import Groups
from trainers.models.llama_moe.configuration import LlamaMoEConfig
from trainers.models.routers import GateNoise, RouterOutput


class LlamaMoERouter(nn.Module):
    """Top-k over logits from a small network; in training with noise of a learnt size if ``add_noise``."""

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
        hidden_NH = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, scores_Nk, selected_Nk, _ = self.gate(hidden_NH)
        weights_Nk = scores_Nk * self.scale if self.multiply else torch.ones_like(scores_Nk)
        output_NH = self.experts(hidden_NH, selected_Nk, weights_Nk)
        return output_NH.reshape(hidden_states.shape)


class LlamaMoEDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: LlamaMoEConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = LlamaMoEBlock(config, layer_idx)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        output: Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return output


class LlamaMoEPreTrainedModel(PreTrainedModel):
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


class LlamaMoEModel(LlamaMoEPreTrainedModel):
    def __init__(self, config: LlamaMoEConfig) -> None:
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList([LlamaMoEDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states, rotary = inputs_embeds, self.rotary_emb(inputs_embeds, position_ids=position_ids)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=rotary,
                **kwargs,
            )
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class LlamaMoEForCausalLM(LlamaMoEPreTrainedModel, MoeForCausalLM):
    """The decoder with an output layer."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: LlamaMoEConfig) -> None:
        super().__init__(config)
        self.model = LlamaMoEModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
