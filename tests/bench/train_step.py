"""A training step of a small LLaMA-MoE on the real four-type mix: packed against padded, and where its time goes."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

import trainers.models.loss
from harness.recipe import Mixing, Training
from tests.bench.report import Report, options, real_data, spread
from tests.bench.workload import in_turn, real_mix, small_moe
from trainers.mixing import load_strategy
from trainers.models import grouped
from trainers.training.loop import FitRequest, _Loop
from trainers.training.runtime import Interrupts, deterministic

MAX_LENGTH, BATCH = 1024, 8
ROWS = 4  # in one forward pass: the gradients of the two vocabulary matrices are summed once for all of them
RELEASED = 20.0, 25.0  # seconds a step of the released trainer, for the same model and eight examples
EXPERTS, SELECTED, TOKENS, WIDTH, INNER = 128, 8, 512, 512, 256  # of the layer that is timed alone in bfloat16
PARTS = ("data", "embeddings and norms", "attention", "routers", "experts", "output layer", "optimizer", "the rest")


class Stopwatch:
    """Seconds by part of a step: forward and backward passes of modules by hooks, plain calls by wrapping them.

    Autograd runs a chain of modules one after another, so the time between the arrival of a module's gradient and the
    departure of its input's is the module's own.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._began: dict[tuple[str, str, Any], float] = {}

    def watch(self, part: str, module: torch.nn.Module) -> None:
        def begin(way: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, *_: Any) -> None:
                self._began[part, way, module] = time.perf_counter()

            return hook

        def end(way: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, *_: Any) -> None:
                self.seconds[part] += time.perf_counter() - self._began.pop((part, way, module))

            return hook

        module.register_forward_pre_hook(begin("forward"))
        module.register_forward_hook(end("forward"))
        module.register_full_backward_pre_hook(begin("backward"))
        module.register_full_backward_hook(end("backward"))

    def wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started

        return timed


class Positional(torch.nn.Module):
    """Hands hidden states on by position: hooks on the backward pass see no others."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        return self.inner(hidden_states, **kwargs)


def watched(loop: _Loop) -> Stopwatch:
    """A stopwatch in a training: everything that is not watched is the rest."""
    watch = Stopwatch()
    for layer in loop.model.model.layers:
        watch.watch("attention", layer.self_attn)
        layer.self_attn = Positional(layer.self_attn)
        watch.watch("routers", layer.mlp.gate)
        watch.watch("experts", layer.mlp.experts)
        watch.watch("embeddings and norms", layer.input_layernorm)
        watch.watch("embeddings and norms", layer.post_attention_layernorm)
    loop._draw = watch.wrap("data", loop._draw)  # type: ignore[method-assign]
    loop.layout.__dict__["collate"] = watch.wrap("data", loop.layout.collate)
    loop._learn = watch.wrap("optimizer", loop._learn)  # type: ignore[method-assign]
    return watch


def operations(model: Any, tokens: float, targets: float) -> float:
    """Of the matrix products of a step, without attention's: two for a weight forward, four backward."""
    share, flop = model.config.num_selects / model.config.num_experts, 0.0
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed_tokens" not in name:
            met = share if ".experts." in name else 1.0
            flop += 6 * met * parameter.numel() * (targets if "lm_head" in name else tokens)
    return flop


def product_speed(repeats: int) -> float:
    """The most floating-point operations a second of square float32 matrix products."""
    size = 1536
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def experts_seconds(repeats: int) -> dict[str, np.ndarray]:
    """Forward and backward of a layer of transformers' experts in bfloat16, and of our grouped products alone."""
    fields = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_local_experts": EXPERTS}
    config = AutoConfig.for_model("mixtral", num_experts_per_tok=SELECTED, num_hidden_layers=1, **fields)
    config._experts_implementation = grouped.NAME
    experts = MixtralExperts(config).bfloat16()
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    scores, selected = torch.randn(TOKENS, EXPERTS).softmax(-1).topk(SELECTED)
    scores = scores.bfloat16()

    def products() -> torch.Tensor:
        groups = grouped.Groups(selected, EXPERTS)
        inner = groups.linear(groups.spread(hidden), experts.gate_up_proj.transpose(1, 2))
        gate, up = inner.chunk(2, dim=-1)
        outputs = groups.linear(functional.silu(gate) * up, experts.down_proj.transpose(1, 2))
        return groups.combine(outputs, scores)

    ways = {"layer": lambda: experts(hidden, selected, scores), "products": products}
    torch.testing.assert_close(ways["layer"](), products(), rtol=2e-2, atol=2e-2)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way().float().sum().backward()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(each[1:]) for name, each in seconds.items()}


def main() -> None:
    given = options()
    root = real_data(given)
    report = Report(
        "train_step",
        "A training step of a small LLaMA-MoE",
        f"{BATCH} examples a step from the four real sources of the recipe `smol`, drawn uniformly under SmolLM2's"
        f" tokenizer; a random LLaMA-MoE of eight layers, width 256, eight experts of width 128 of which two are"
        f" selected, 49,152 tokens, fp32, AdamW, at most {MAX_LENGTH} tokens in a row, {ROWS} rows in a"
        " forward pass. The whole loop of `moemix train`"
        " is timed: drawing, packing, forward and backward passes, clipping, optimizer, the gate load counted online"
        " and the strategy `dynamic` every ten steps. Packed and padded steps over the same examples take turns in one"
        f" process. The released trainer of the paper needs {RELEASED[0]:.0f} to {RELEASED[1]:.0f} s for such a step"
        " on a machine of this kind, because it pads every example; the target is a tenth of that.",
        quick=given.quick,
    )
    steps = 2 if given.quick else 24
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, sources = real_mix(root, MAX_LENGTH, Path(scratch))

        def begun(name: str, *, packed: bool) -> _Loop:
            folder = Path(scratch) / name
            folder.mkdir()
            model = small_moe(
                "llama_moe",
                49_152,
                intermediate_size=1024,
                num_experts=8,
                num_selects=2,
                score_scale_factor=4.0,
                tie_word_embeddings=False,
            )
            training = Training(
                steps=1000,
                batch_examples=BATCH,
                max_length=MAX_LENGTH,
                pack=packed,
                rows_per_forward=ROWS,
                log_every=1000,
                save_every=1000,
            )
            strategy = load_strategy("dynamic")
            request = FitRequest(
                model=model,
                tokenizer=tokenizer,
                sources=sources,
                strategy=strategy,
                training=training,
                mixing=Mixing(interval=10),
                seed=0,
                folder=folder,
                title=name,
            )
            return _Loop(request)

        loops = {"packed": begun("packed", packed=True), "padded": begun("padded", packed=False)}
        millions = sum(parameter.numel() for parameter in loops["packed"].model.parameters()) / 1e6
        report.say(f"The model has {millions:.1f} million parameters.")
        taken = {name: seconds[1:] for name, seconds in in_turn(loops, steps + 1).items()}  # the first only warms up
        tokens = loops["packed"].seen.tokens.sum() / (steps + 1)
        targets = loops["packed"].seen.targets.sum() / (steps + 1)
        rows = [
            (
                name,
                spread(seconds),
                spread(BATCH / seconds),
                f"{steps * tokens / seconds.sum():.0f}",
                f"{RELEASED[0] / np.median(seconds):.0f} to {RELEASED[1] / np.median(seconds):.0f}",
            )
            for name, seconds in taken.items()
        ]
        headers = ("layout", "seconds a step", "examples a second", "real tokens a second", "× the released trainer")
        report.table(rows, headers)
        report.say(f"A step has {tokens:.0f} real tokens in the mean, of which {targets:.0f} carry a loss.")
        report.say(f"A padded step takes {spread(taken['padded'] / taken['packed'], 1)} times as long as a packed one.")
        flop, limit = operations(loops["packed"].model, tokens, targets), product_speed(3 if given.quick else 30)
        rate = flop / np.median(taken["packed"])
        report.say(
            f"The matrix products of a packed step, attention's left out, are {flop / 1e9:.0f} GFLOP: {rate / 1e9:.0f}"
            f" GFLOP/s, {100 * rate / limit:.0f} % of the {limit / 1e9:.0f} GFLOP/s of large square products on the"
            " same threads."
        )

        split = begun("split", packed=True)
        head, watch = trainers.models.loss._head_losses, watched(split)
        trainers.models.loss._head_losses = watch.wrap("output layer", head)
        whole = 0.0
        with deterministic():
            split._resume()
            split.losses.train()
            for step in range(steps + 1):
                if step == 1:
                    watch.seconds.clear()
                    whole = time.perf_counter()
                split._advance(Interrupts(), None)
        whole = time.perf_counter() - whole
        trainers.models.loss._head_losses = head
    watch.seconds["the rest"] = whole - sum(watch.seconds.values())
    report.say("Where the time of a packed step goes, in another training over the same steps:")
    report.table(
        [(part, f"{watch.seconds[part] / steps:.3f}", f"{100 * watch.seconds[part] / whole:.0f} %") for part in PARTS],
        ("part", "seconds a step", "share"),
    )
    report.say(
        "The output layer's gradient is made with its loss, chunk by chunk and at targets only. The rest is the"
        " embedding's gradient, residual sums, the backward pass of the router's weights and Python itself."
    )
    timed = experts_seconds(2 if given.quick else 15)
    ratio = float(np.median(timed["layer"] / timed["products"]))
    report.say(
        f"A layer of {EXPERTS} experts of transformers, {SELECTED} for each of {TOKENS} tokens, takes"
        f" {1e3 * np.median(timed['layer']):.0f} ms in bfloat16, forward and backward: {ratio:.2f} times our grouped"
        " products alone (in turns; target 1.1)."
    )
    report.save()
    if np.median(taken["packed"]) > RELEASED[0] / 10 and not given.quick:
        sys.exit(f"a packed step takes {np.median(taken['packed']):.2f} s, more than a tenth of {RELEASED[0]:.0f} s")


if __name__ == "__main__":
    main()
