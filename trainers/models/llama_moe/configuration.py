"""The configuration of LLaMA-MoE, under its published keys."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig


@strict
class LlamaMoEConfig(LlamaConfig):
    """LLaMA's configuration, and how its feed-forward neurons are divided and routed.

    Attributes:
        num_experts: experts E of each layer.
        num_selects: experts k to which a token is sent.
        size_experts: neurons of each expert of each layer, ``[layers][E]``, equal within a layer; by default
            ``intermediate_size`` divided by E.
        gate_network: ``mlp`` (linear, tanh, linear) or ``linear``, both without biases.
        gate_use_softmax: whether the selected experts' weights are the softmax of their logits, or the logits.
        gate_add_noise: whether logits get learnt noise in training.
        gate_noise_epsilon: the least standard deviation of that noise.
        gate_use_balance: whether the model was trained with a balance loss (:mod:`trainers.training.balance`).
        multiply_gate_scores: whether the experts' outputs are weighted before they are summed.
        score_scale_factor: the factor on the weights; one for all layers, or a list.
    """

    model_type = "llama_moe"
    attribute_map = {"num_experts_per_tok": "num_selects"}
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
    }

    num_experts: int = 16
    num_selects: int = 4
    size_experts: list[list[int]] | None = None
    gate_type: str = "TopKBalancedNoisyGate"
    gate_network: str = "mlp"
    gate_use_softmax: bool = True
    gate_use_balance: bool = True
    gate_balance_loss_weight: float = 1e-2
    gate_add_noise: bool = True
    gate_noise_epsilon: float = 1e-2
    calculator_type: str = "UniversalCalculator"
    multiply_gate_scores: bool = True
    score_scale_factor: float | int | list[float] = 1.0
    add_weight_norm: bool = False
    output_router_logits: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.size_experts is None:
            if self.intermediate_size % self.num_experts:
                raise ValueError(
                    f"{self.intermediate_size} neurons (intermediate_size) cannot be divided evenly among"
                    f" {self.num_experts} experts (num_experts)"
                )
            width = self.intermediate_size // self.num_experts
            self.size_experts = [[width] * self.num_experts for _ in range(self.num_hidden_layers)]

    def validate_architecture(self) -> None:
        """Check that the experts fit the layers, and that the options are implemented."""
        super().validate_architecture()
        sizes = self.size_experts or []
        if len(sizes) != self.num_hidden_layers or any(len(layer) != self.num_experts for layer in sizes):
            shape = f"{self.num_hidden_layers} lists of {self.num_experts} sizes"
            raise ValueError(f"size_experts should hold {shape}: one for each expert of each layer")
        if uneven := [i for i, layer in enumerate(sizes) if len(set(layer)) > 1]:
            raise ValueError(f"size_experts: the experts of layer {uneven[0]} must have the same size")
        if not 1 <= self.num_selects <= self.num_experts:
            raise ValueError(f"num_selects={self.num_selects} of {self.num_experts} experts")
        for key, value in (
            ("gate_type", "TopKBalancedNoisyGate"),
            ("calculator_type", "UniversalCalculator"),
            ("add_weight_norm", False),
        ):
            if getattr(self, key) != value:
                raise ValueError(f"{key}={getattr(self, key)!r} is not implemented; expected {value!r}")
        if self.gate_network not in ("mlp", "linear"):
            raise ValueError(f"gate_network={self.gate_network!r} is neither 'mlp' nor 'linear'")

    @property
    def expert_sizes(self) -> list[int]:
        """Neurons of an expert, for each layer."""
        return [layer[0] for layer in self.size_experts or []]

    @property
    def moe_intermediate_size(self) -> int | list[int]:
        """Neurons of an expert, as servers read it: one number if all layers agree."""
        sizes = self.expert_sizes
        return sizes[0] if len(set(sizes)) == 1 else sizes

    def score_scale(self, layer: int) -> float:
        """Return the factor on the routing weights of a layer."""
        factor = self.score_scale_factor
        return float(factor[layer] if isinstance(factor, list) else factor)
