"""Examples of the sources, run through a model: the states its routers see, and where routers send each source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.progress import progress
from trainers.data import Example, PackedBatch, TokenSource, block_mask, collate, pack
from trainers.routers import RouterObserver

_MAX_TOKENS = 256  # of an example: its beginning says what kind it is
_ROW_TOKENS = 1024
_STATES = 8192  # hidden states that a layer's router is made from, over all sources


@dataclass(frozen=True)
class RouterData:
    """Packed batches to make routers from, and others to judge them by.

    Attributes:
        num_sources: K.
        making, judging: batches of one row each, of different examples.
        kept: bool[1, T] for each batch of ``making``: tokens whose states are used, about equally many per source.
    """

    num_sources: int
    making: list[PackedBatch]
    judging: list[PackedBatch]
    kept: list[Tensor]

    @classmethod
    def of(cls, sources: Sequence[TokenSource], examples: int, *, pad_id: int, seed: int) -> RouterData:
        """From the first ``examples`` training examples of each source, and a quarter as many that follow."""
        making, judging = [], []
        for k, source in enumerate(sources):
            count = min(len(source.train), examples + max(1, examples // 4))
            judged = max(1, count // 5)
            chosen = [(k, _shortened(source.train[i])) for i in range(count)]
            making += chosen[: max(1, count - judged)]
            judging += chosen[-judged:]
        batches = _batches(making, pad_id)
        kept = _balanced([batch.source_ids for batch in batches], len(sources), seed)
        return cls(len(sources), batches, _batches(judging, pad_id), kept)

    @torch.no_grad()
    def states(self, model: Any, modules: Sequence[nn.Module]) -> list[Tensor]:
        """f32[N, H] for each module: the hidden states that enter it, of the kept tokens of ``making``."""
        entering: list[Tensor] = [torch.empty(0)] * len(modules)
        found: list[list[Tensor]] = [[] for _ in modules]

        def catch(position: int) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                entering[position] = args[0]

            return hook

        with ExitStack() as hooks, progress("hidden states for the routers", len(self.making)) as bar:
            for position, module in enumerate(modules):
                hooks.callback(module.register_forward_pre_hook(catch(position)).remove)
            for batch, kept_RT in zip(self.making, self.kept, strict=True):
                _run(model.base_model, batch)
                for states, states_RTH in zip(found, entering, strict=True):
                    states.append(states_RTH[kept_RT].float())
                bar.advance()
        return [torch.cat(states) for states in found]

    @torch.no_grad()
    def separation(self, model: Any) -> dict[str, list[float]]:
        """How the routers treat the sources, by MoE layer.

        ``distance``: mean L2 distance between two sources' gate loads, each normalised over experts.
        ``load_cv``: coefficient of variation of the experts' loads, all sources weighing the same; 0 is even.
        """
        observer = RouterObserver(model)
        with progress("gate loads of the sources", len(self.judging)) as bar:
            for batch in self.judging:
                with observer.count(batch.source_ids, self.num_sources):
                    _run(model.base_model, batch)
                bar.advance()
        load_KLE = observer.take().astype(np.float64)
        shares_KLE = load_KLE / load_KLE.sum(axis=2, keepdims=True)
        pairs = [np.linalg.norm(a - b, axis=-1) for a, b in combinations(shares_KLE, 2)]
        mean_LE = shares_KLE.mean(axis=0)
        return {
            "distance": np.mean(pairs, axis=0).round(4).tolist() if pairs else [],
            "load_cv": (mean_LE.std(axis=1) / mean_LE.mean(axis=1)).round(4).tolist(),
        }

    @torch.no_grad()
    def difference(self, one: Any, other: Any) -> dict[str, float]:
        """Largest difference between two models' logits on a judging row, and the largest logit, for scale."""
        a, b = (_run(model, self.judging[0]).logits for model in (one, other))
        return {"largest_difference": float((a - b).abs().max()), "largest": float(a.abs().max())}


def _shortened(example: Example) -> Example:
    return replace(example, input_ids=example.input_ids[:_MAX_TOKENS], is_target=example.is_target[:_MAX_TOKENS])


def _batches(chosen: list[tuple[int, Example]], pad_id: int) -> list[PackedBatch]:
    source_ids, examples = [k for k, _ in chosen], [example for _, example in chosen]
    rows = pack([len(example.input_ids) for example in examples], _ROW_TOKENS)
    return [collate([row], examples, source_ids, pad_id) for row in rows]


def _balanced(source_ids: list[Tensor], num_sources: int, seed: int) -> list[Tensor]:
    """Which tokens to keep: for each source the same number, at random, or all where it has fewer."""
    flat_N = torch.cat([ids.flatten() for ids in source_ids])
    kept_N = torch.zeros(len(flat_N), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for k in range(num_sources):
        members = (flat_N == k).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        kept_N[members[order[: _STATES // num_sources]]] = True
    parts = kept_N.split([ids.numel() for ids in source_ids])
    return [part.view(ids.shape) for part, ids in zip(parts, source_ids, strict=True)]


def _run(model: Any, batch: PackedBatch) -> Any:
    return model(
        input_ids=batch.input_ids,
        attention_mask=block_mask(batch.example_ids),
        position_ids=batch.position_ids,
        use_cache=False,
    )
