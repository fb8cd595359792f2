"""What this project's architectures share: the decoder around its layers, and the output layer over the decoder."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


class MoeDecoder(PreTrainedModel):
    """A decoder whose subclasses only run their layers; arguments and outputs are those of transformers."""

    def decode(self, hidden_states: Tensor, mask: Tensor, position_ids: Tensor, **kwargs: object) -> Tensor:
        """Run the layers on the embedded tokens f[B, T, H], and return the last hidden states f[B, T, H].

        ``position_ids`` are i64[1 or B, T], the causal mask has the form of the attention implementation, and the cache
        is among ``kwargs``.
        """
        raise NotImplementedError

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
        **kwargs: object,
    ) -> MoeModelOutputWithPast:
        """Embed tokens and run the layers; ``position_ids`` show where packed examples begin."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen)[None]
        mask: Any = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        cache = {"past_key_values": past_key_values, "use_cache": use_cache}
        hidden_states: Any = self.decode(inputs_embeds, mask, position_ids, **cache, **kwargs)
        return MoeModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=past_key_values)


class MoeForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder (``base_model``) and a linear output layer ``lm_head`` over its last hidden state."""

    lm_head: nn.Linear
    vocab_size: int

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: object,
    ) -> MoeCausalLMOutputWithPast:
        """Compute logits, and the loss where there are labels; arguments and output are those of transformers."""
        outputs = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, **kwargs)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )
