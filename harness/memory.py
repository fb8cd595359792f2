"""Estimate the memory that training takes on each GPU, from the shape of the model, before anything is downloaded.

Bytes on each of n processes, for P parameters of which T are trained (``training.freeze``):

    weights        4 P       float32; P / n under fsdp2. Under bfloat16 with replicas, the float32 values of what is
                             trained (4 T), and a copy of all weights to compute with (2 P)
    gradients      4 T       T / n under fsdp2
    AdamW          8 T       two moments; T / n under fsdp2 and zero1
    its copy       4 T / n   of the weights, under zero1
    one layer      4 P / L   under fsdp2: gathered while it computes, once more on its way
    activations    for R rows of N tokens, width H, L layers, Q numbers in a token's queries, and I neurons that it
                   meets in a layer (2 bytes a number under bfloat16, else 4; under fsdp2 and zero1 the residual stream
                   is float32): one layer's own, R N (8 H + 4 Q + 4 I), in all layers; with activation checkpointing in
                   one layer, and the residual stream R N H at the beginning of each
    squares        stick-breaking attention (MoLM) keeps N × N numbers for each of a token's q query heads: 32 R q N²
                   while a layer is computed (eight float32 at the peak, as measured), in as many layers as above
    output layer   three chunks of logits of 512 MB

An estimate: allocators, kernels' workspace and buffers of the communication come on top, some GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.execution import Launcher
from harness.files import read_json
from harness.recipe import CheckpointModel, Model, Training

GIB = 1 << 30
_LOGITS = 3 * 512 * (1 << 20)


@dataclass(frozen=True)
class Shape:
    """A mixture of experts.

    Attributes:
        width: H.
        layers: L.
        vocabulary: tokens; the output layer is not tied.
        attention: parameters of a layer's projections, biases included.
        queries: Q, of all the heads that compute a token's attention.
        neurons: of all experts of a layer.
        experts, selected: of a layer, and of a token.
        router: parameters of a layer's routers, noise weights included.
        gated: whether an expert has a gate projection beside those up and down.
        norm: parameters of a norm; a layer has two, and the model one more.
        squares: q, query heads of a token whose attention is kept as N × N numbers.
    """

    width: int
    layers: int
    vocabulary: int
    attention: int
    queries: int
    neurons: int
    experts: int
    selected: int
    router: int
    gated: bool
    norm: int
    squares: int = 0

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        experts = (3 if self.gated else 2) * self.width * self.neurons
        layer = self.attention + experts + self.router + 2 * self.norm
        return self.layers * layer + 2 * self.vocabulary * self.width + self.norm

    @property
    def active(self) -> int:
        """Number of parameters that one token is multiplied with: its experts', and not the embedding's."""
        experts = (3 if self.gated else 2) * self.width * self.neurons * self.selected // self.experts
        return self.layers * (self.attention + experts + self.router) + self.vocabulary * self.width

    def trained(self, freeze: str) -> int:
        """Return the number of trained parameters; ``paper`` also freezes the experts' gate projections."""
        gates = self.width * self.neurons if self.gated else 0
        frozen = {"none": 0, "router": self.router, "paper": self.router + gates}[freeze]
        return self.parameters - self.layers * frozen


def _llama_moe(experts: int, selected: int) -> Shape:
    """LLaMA-2 7B with its 11,008 neurons divided; the router is linear, tanh, linear (no bias), with noise weights."""
    router = 2 * 4096 * experts + experts**2
    return Shape(4096, 32, 32000, 4 * 4096**2, 4096, 11008, experts, selected, router, gated=True, norm=4096)


def _molm(layers: int, selected: int) -> Shape:
    """MoLM: 16 attention modules and 32 feed-forward ones a layer, each kind with a router (linear, GELU, linear).

    Blocks and modules are the model card's; the widths are those at which the parameters, in all and at work on a
    token, are the card's (4 and 8 billion; 350 and 700 million), and 64 is taken for the width of a head.
    """
    width, inner, heads = 1024, 1024, 16
    modules = 2 * width * inner * 16 + 2 * (width + 1) * inner  # queries in and out, and shared keys and values
    router = 2 * (width + 1) * 256 + 256 * (16 + 32)
    return Shape(width, layers, 50295, modules, selected * inner, 32 * 2048, 32, selected, router, gated=False,
                 norm=2 * width, squares=selected * heads)  # fmt: skip


SHAPES = {
    # 64 experts of 1,024 neurons, 8 for a token; attention norms its queries and keys
    "allenai/OLMoE-1B-7B-0924": Shape(
        2048, 16, 50304, 4 * 2048**2 + 2 * 2048, 2048, 64 * 1024, 64, 8, 2048 * 64, gated=True, norm=2048
    ),
    "llama-moe/LLaMA-MoE-v1-3_5B-2_8": _llama_moe(8, 2),
    "llama-moe/LLaMA-MoE-v1-3_5B-4_16": _llama_moe(16, 4),
    "llama-moe/LLaMA-MoE-v1-3_0B-2_16": _llama_moe(16, 2),
    "ibm/MoLM-350M-4B": _molm(24, 2),
    "ibm/MoLM-700M-4B": _molm(24, 4),
    "ibm/MoLM-700M-8B": _molm(48, 2),
}
"""Published checkpoints by hub id."""


def shape_of(model: Model) -> Shape | None:
    """Return the shape of a model that is known without its files."""
    return SHAPES.get(model.source) if isinstance(model, CheckpointModel) else None


def trained_parameters(shape: Shape, training: Training) -> int:
    """Return the number of trained parameters; of low-rank adapters, those on the attention's square projections."""
    if training.lora is None:
        return shape.trained(training.freeze)
    return shape.layers * (len(training.lora.targets) or 4) * 2 * training.lora.r * shape.width


def training_flop(shape: Shape, training: Training) -> float:
    """Return the floating-point operations of one token: 2 a parameter forward, 2 for each of the gradients.

    A frozen weight has no gradient of its own, but passes on that of its input. Attention over a row of
    ``max_length`` tokens adds 12 for each pair that a query looks at (half of the square), and checkpointed
    activations are computed once more.
    """
    frozen = 1 - trained_parameters(shape, training) / shape.parameters
    passes = 6 - 2 * frozen + (2 if training.gradient_checkpointing else 0)
    attention = 12 * shape.layers * shape.queries * training.max_length / 2
    return passes * shape.active + attention


def hours(shape: Shape, training: Training, tflops: float) -> float:
    """Return the GPU hours of a run that sustains so many TFLOP/s on each GPU, its rows being full."""
    tokens = training.steps * training.batch_examples * training.max_length
    return training_flop(shape, training) * tokens / (tflops * 1e12) / 3600


def memory_per_process(shape: Shape, training: Training, launcher: Launcher) -> dict[str, float]:
    """Return bytes by purpose."""
    share = launcher.processes if launcher.strategy == "fsdp2" else 1
    states = launcher.processes if launcher.strategy in ("fsdp2", "zero1") else 1
    whole, trained = shape.parameters, trained_parameters(shape, training)
    tokens = training.tokens_per_forward or training.rows_per_forward * training.max_length
    number = 2 if training.dtype == "bfloat16" else 4
    copied = number == 2 and launcher.strategy == "ddp"  # weights to compute with beside those that are trained
    met = shape.neurons * shape.selected // shape.experts
    own = tokens * (8 * shape.width + 4 * shape.queries + 4 * met) * number
    squares = 32 * shape.squares * tokens * training.max_length
    activations, kept = own * shape.layers, squares * shape.layers
    if training.gradient_checkpointing:
        activations, kept = own + (2 if copied else 4) * tokens * shape.width * shape.layers, squares
    parts = {
        "weights": 4 * (trained if copied else whole) / share,
        "gradients": 4 * trained / share,
        "optimizer": (12 if launcher.strategy == "zero1" else 8) * trained / states,
        "activations": float(activations),
        "output layer": float(_LOGITS),
    }
    if training.dtype == "bfloat16":
        parts["bf16 copies"] = 2 * whole  # of all weights, for the matrix products of a pass
    if kept:
        parts["squares"] = float(kept)
    if share > 1:
        parts["gathered layers"] = 2 * 4 * whole / shape.layers
    return parts


def parameters(model: Model) -> int | None:
    """Return the number of parameters of a model, from its shape or its files; None if neither is at hand."""
    if (shape := shape_of(model)) is not None:
        return shape.parameters
    folder = Path(getattr(model, "source", ""))
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")] if folder.parts and folder.is_dir() else []
    if not sizes:
        return None
    number = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return sum(sizes) // (4 if "32" in str(number.get("torch_dtype", number.get("dtype"))) else 2)


def disk_bytes(parameters: int, training: Training, runs: int) -> float:
    """Return the bytes that runs take on disk: a checkpoint each, and the states of the one that is being trained."""
    checkpoint = parameters * 4
    states = training.keep_states * 3 * checkpoint  # weights and AdamW's two moments
    return float(runs * checkpoint + states)


def describe(model: Model, training: Training, launcher: Launcher) -> str | None:
    """Return a sentence on the memory of training a model; None if its shape is not known."""
    shape = shape_of(model)
    if shape is None:
        return None
    parts = memory_per_process(shape, training, launcher)
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    kind, trained = ("in adapters", "of them")[training.lora is None], trained_parameters(shape, training)
    return (
        f"{model.name}: {shape.parameters / 1e9:.2f} billion parameters, {trained / 1e9:.2f} billion {kind} trained;"
        f" on each of {launcher.processes} processes ({launcher.strategy}) about"
        f" {sum(parts.values()) / GIB:.0f} GiB: {listed}"
    )
