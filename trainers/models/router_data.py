"""Examples of the sources, run through a model: the states its routers see, and where routers send each source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.progress import progress
from trainers.data import Example, PackedBatch, TokenSource, block_mask, collate, pack

_MAX_TOKENS = 256  # of an example: its beginning says what kind it is
_ROW_TOKENS = 1024

Router = Callable[[Tensor], Tensor]
"""Hidden states f32[N, H] → selected experts i64[N, k]."""


@dataclass(frozen=True)
class TokenSample:
    """Tokens in their examples, about equally many of each source.

    Attributes:
        batches: packed rows of whole examples, one row each.
        kept: bool[1, T] for each batch: the tokens of the sample.
        source_N: i64[N], the source of each kept token.
    """

    batches: list[PackedBatch]
    kept: list[Tensor]
    source_N: NDArray[np.int64]

    @torch.no_grad()
    def states(self, model: Any, modules: Sequence[nn.Module]) -> list[Tensor]:
        """f32[N, H] for each module: the hidden states that enter it, of the kept tokens."""
        entering: list[Tensor] = [torch.empty(0)] * len(modules)
        found: list[list[Tensor]] = [[] for _ in modules]

        def catch(position: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                entering[position] = args[0]

            return hook

        with ExitStack() as hooks, progress("hidden states for the routers", len(self.batches)) as bar:
            for position, module in enumerate(modules):
                hooks.callback(module.register_forward_pre_hook(catch(position)).remove)
            for batch, kept_1T in zip(self.batches, self.kept, strict=True):
                run_packed(model.base_model, batch)
                for states, states_1TH in zip(found, entering, strict=True):
                    states.append(states_1TH[kept_1T].float())
                bar.advance()
        return [torch.cat(states) for states in found]


def making_and_judging(
    sources: Sequence[TokenSource], examples: int, *, pad_id: int, seed: int
) -> tuple[TokenSample, TokenSample]:
    """Tokens to make routers from, and tokens of other examples to judge them by.

    They come from the first ``examples`` training examples of each source, and from a quarter as many that follow.
    """
    making, judging = [], []
    for k, source in enumerate(sources):
        count = min(len(source.train), examples + max(1, examples // 4))
        judged = max(1, count // 5)
        chosen = [(k, _shortened(source.train[i])) for i in range(count)]
        making += chosen[: max(1, count - judged)]
        judging += chosen[-judged:]
    return _sample(making, 8192, pad_id, seed), _sample(judging, 4096, pad_id, seed)


def separation(
    routers: Sequence[Router], states: Sequence[Tensor], source_N: NDArray[np.int64], experts: int
) -> dict[str, list[float]]:
    """How routers treat the sources, by layer.

    Args:
        states: f32[N, H] for each router.
        source_N: the source of each state.
        experts: E.

    Returns:
        ``distance``: mean L2 distance between two sources' gate loads, each normalised over experts; ``load_cv``:
        coefficient of variation of the experts' loads, all sources weighing the same (0 is even).
    """
    distances, variations = [], []
    for router, states_NH in zip(routers, states, strict=True):
        selected_Nk = router(states_NH).numpy()
        shares_KE = np.array(
            [np.bincount(selected_Nk[source_N == k].ravel(), minlength=experts) for k in np.unique(source_N)], float
        )
        shares_KE /= shares_KE.sum(axis=1, keepdims=True)
        pairs = [float(np.linalg.norm(a - b)) for a, b in combinations(shares_KE, 2)]
        distances.append(round(float(np.mean(pairs)), 4) if pairs else 0.0)
        mean_E = shares_KE.mean(axis=0)
        variations.append(round(float(mean_E.std() / mean_E.mean()), 4))
    return {"distance": distances, "load_cv": variations}


def run_packed(model: Any, batch: PackedBatch) -> Any:
    """The model's output for a packed batch, its examples kept apart."""
    return model(
        input_ids=batch.input_ids,
        attention_mask=block_mask(batch.example_ids),
        position_ids=batch.position_ids,
        use_cache=False,
    )


def _shortened(example: Example) -> Example:
    return replace(example, input_ids=example.input_ids[:_MAX_TOKENS], is_target=example.is_target[:_MAX_TOKENS])


def _sample(chosen: list[tuple[int, Example]], tokens: int, pad_id: int, seed: int) -> TokenSample:
    """Examples packed into rows, and up to ``tokens`` of their tokens, drawn so that each source has its share."""
    source_ids, examples = [k for k, _ in chosen], [example for _, example in chosen]
    rows = pack([len(example.input_ids) for example in examples], _ROW_TOKENS)
    batches = [collate([row], examples, source_ids, pad_id) for row in rows]
    flat_N = np.concatenate([batch.source_ids.flatten().numpy() for batch in batches])
    kept_N = np.zeros(len(flat_N), dtype=bool)
    random, wanted = np.random.default_rng(seed), tokens // (max(source_ids) + 1)
    for k in set(source_ids):
        kept_N[random.permutation(np.flatnonzero(flat_N == k))[:wanted]] = True
    parts = torch.from_numpy(kept_N).split([batch.source_ids.numel() for batch in batches])
    return TokenSample(batches, [part[None] for part in parts], flat_N[kept_N])
