"""What a training run takes of each GPU, from the shape of its model: told before anything is downloaded or rented.

Bytes on each of n processes, for P parameters of which T learn (``training.freeze``):

    weights        4 P       float32, whatever ``training.dtype``; P / n under fsdp2
    gradients      4 T       T / n under fsdp2
    AdamW          8 T       two moments; T / n under fsdp2
    one layer      4 P / L   under fsdp2: gathered while it computes, once more on its way
    activations    for R rows of N tokens, width H, L layers, and I neurons that a token meets in a layer (2 bytes a
                   number under bfloat16, else 4; the residual stream is float32):
                   one layer's own, R N (12 H + 4 I), in all layers; with activation checkpointing in one layer, and
                   the residual stream R N H at the beginning of each
    output layer   three chunks of logits of 32 MB

An estimate: allocators, kernels' workspace and buffers of the communication come on top, some GB.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.recipe import CheckpointModel, Launcher, Model, Training

GIB = 1 << 30
_LOGITS = 3 * 32 * (1 << 20)


@dataclass(frozen=True)
class Shape:
    """A mixture of experts in a Llama-like model.

    Attributes:
        width: H.
        layers: L.
        neurons: of all experts of a layer.
        experts, selected: of a layer, and of a token.
        vocabulary: tokens; the output layer is not tied.
        router: parameters of a layer's router, noise weights included.
    """

    width: int
    layers: int
    neurons: int
    experts: int
    selected: int
    vocabulary: int
    router: int

    @property
    def parameters(self) -> int:
        attention, experts, norms = 4 * self.width**2, 3 * self.width * self.neurons, 2 * self.width
        layer = attention + experts + norms + self.router
        return self.layers * layer + 2 * self.vocabulary * self.width + self.width

    def learning(self, freeze: str) -> int:
        """Parameters that learn: ``paper`` also keeps the experts' gate projections."""
        held = {"none": 0, "router": self.router, "paper": self.router + self.width * self.neurons}[freeze]
        return self.parameters - self.layers * held


SHAPES = {
    # 8 experts of 1,376 neurons; the router is linear (no bias), tanh, linear, and has noise weights
    "llama-moe/LLaMA-MoE-v1-3_5B-2_8": Shape(4096, 32, 11008, 8, 2, 32000, 2 * 4096 * 8 + 64),
}
"""Published checkpoints by hub id."""


def shape_of(model: Model) -> Shape | None:
    """The shape of a model that is known without looking at its files."""
    return SHAPES.get(model.source) if isinstance(model, CheckpointModel) else None


def memory_per_process(shape: Shape, training: Training, launcher: Launcher) -> dict[str, float]:
    """Bytes by what they are for, without what adapters would save."""
    share = launcher.processes if launcher.strategy == "fsdp2" else 1
    whole, learning = shape.parameters, shape.learning(training.freeze)
    tokens = training.rows_per_forward * training.max_length
    number = 2 if training.dtype == "bfloat16" else 4
    met = shape.neurons * shape.selected // shape.experts
    own = tokens * (12 * shape.width + 4 * met) * number
    activations = own * shape.layers
    if training.gradient_checkpointing:
        activations = own + 4 * tokens * shape.width * shape.layers
    parts = {
        "weights": 4 * whole / share,
        "gradients": 4 * learning / share,
        "optimizer": 8 * learning / share,
        "activations": float(activations),
        "output layer": float(_LOGITS),
    }
    if share > 1:
        parts["gathered layers"] = 2 * 4 * whole / shape.layers
    return parts


def describe(model: Model, training: Training, launcher: Launcher) -> str | None:
    """A sentence on a model's training; None where its shape is not known beforehand."""
    shape = shape_of(model)
    if shape is None or training.lora is not None:
        return None
    parts = memory_per_process(shape, training, launcher)
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    return (
        f"{model.name}: {shape.parameters / 1e9:.2f} billion parameters, {shape.learning(training.freeze) / 1e9:.2f}"
        f" billion of them learn; on each of {launcher.processes} processes ({launcher.strategy}) about"
        f" {sum(parts.values()) / GIB:.0f} GiB: {listed}"
    )
