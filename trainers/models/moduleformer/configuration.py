"""The configuration of ModuleFormer (MoLM), under its published keys."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class ModuleFormerConfig(PreTrainedConfig):
    """A decoder without positions whose attention heads and feed-forward blocks are experts.

    Attributes:
        block_size: tokens that pretraining read at a time.
        history_length: tokens that pretraining kept from before.
        n_positions: tokens in a context; by default the sum of those two.
        att_hidden: width of an attention expert, divided among ``n_head`` heads.
        ffd_hidden: width of a feed-forward expert.
        n_att_experts: attention experts of a layer; a token is sent to ``k_att`` of them.
        n_mlp_experts: feed-forward experts of a layer; a token is sent to ``k_mlp`` of them.
        gate_type: a router is an ``mlp`` of width ``gating_size``, or ``linear``.
        aux_loss_weight: the factor on the auxiliary loss (mutual information) with which routers can be trained.
    """

    model_type = "moduleformer"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "num_experts": "n_mlp_experts",
        "num_experts_per_tok": "k_mlp",
        "router_aux_loss_coef": "aux_loss_weight",
    }

    vocab_size: int = 50295
    block_size: int = 512
    history_length: int = 512
    n_positions: int | None = None
    n_embd: int = 1024
    n_layer: int = 24
    n_head: int = 8
    att_hidden: int = 512
    ffd_hidden: int = 2048
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attn_pdrop: float = 0.0
    moe_pdrop: float = 0.0
    sample_topk: int = 0
    gating_size: int = 256
    n_att_experts: int = 32
    k_att: int = 2
    n_mlp_experts: int = 32
    k_mlp: int = 2
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    tie_word_embeddings: bool = False
    aux_loss_type: str = "mi"
    aux_loss_weight: float | int = 0
    gate_type: str = "mlp"
    output_router_logits: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        if self.n_positions is None:
            self.n_positions = self.block_size + self.history_length
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check sizes, and that the options are implemented."""
        if self.att_hidden % self.n_head:
            raise ValueError(f"att_hidden={self.att_hidden} is not a multiple of n_head={self.n_head}")
        for top_k, experts in (("k_att", "n_att_experts"), ("k_mlp", "n_mlp_experts")):
            if not 1 <= getattr(self, top_k) <= getattr(self, experts):
                raise ValueError(f"{top_k}={getattr(self, top_k)} of {experts}={getattr(self, experts)}")
        if self.gate_type not in ("mlp", "linear"):
            raise ValueError(f"gate_type={self.gate_type!r} is not implemented; expected 'mlp' or 'linear'")
        if self.sample_topk:
            raise ValueError(f"sample_topk={self.sample_topk} is not implemented; expected 0")
