"""Examples of the sources, run through a model: the hidden states that enter its routers, and what the routers select.

Routers and partitions are made from one sample and measured on another.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.progress import progress
from trainers.data import Example, PackedBatch, TokenSource, block_mask, collate, pack

_MAX_TOKENS = 256  # of an example: its beginning shows what kind it is
_ROW_TOKENS = 1024


Separation = dict[str, list[float]]
Report = dict[str, object]


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
    def states(self, model: PreTrainedModel, modules: Sequence[nn.Module]) -> list[Tensor]:
        """Return f32[N, H] for each module: the hidden states of the kept tokens that enter it."""
        entering: list[Tensor] = [torch.empty(0)] * len(modules)
        found: list[list[Tensor]] = [[] for _ in modules]

        def catch(position: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _, args: entering.__setitem__(position, args[0])

        with ExitStack() as hooks, progress("hidden states for the routers", len(self.batches)) as bar:
            for position, module in enumerate(modules):
                hooks.callback(module.register_forward_pre_hook(catch(position)).remove)
            for batch, kept_1T in zip(self.batches, self.kept, strict=True):
                _run_packed(model.base_model, batch)
                for states, states_1TH in zip(found, entering, strict=True):
                    states.append(states_1TH[kept_1T].float())
                bar.advance()
        return [torch.cat(states) for states in found]


def token_samples(
    sources: Sequence[TokenSource], examples: int, *, pad_id: int, seed: int
) -> tuple[TokenSample, TokenSample]:
    """Draw tokens to make routers from, and tokens of other examples to measure them on.

    They come from the first ``examples`` training examples of each source, and from a quarter as many that follow.
    """
    making, measuring = [], []
    for k, source in enumerate(sources):
        count = min(len(source.train), examples + max(1, examples // 4))
        measured = max(1, count // 5)
        chosen = [(k, _shortened(source.train[i])) for i in range(count)]
        making += chosen[: max(1, count - measured)]
        measuring += chosen[-measured:]
    return _sample(making, 8192, pad_id, seed), _sample(measuring, 4096, pad_id, seed)


@torch.no_grad()
def report(dense: PreTrainedModel, moe: PreTrainedModel, sample: TokenSample) -> Report:
    """Compare a new model with its dense one on the tokens of a sample that it was not made from.

    Returns:
        ``routers``: see :func:`separation`; ``largest_logit`` and ``largest_logit_difference`` in absolute value;
        ``kl_divergence``: of the dense model's next-token distribution from the new one, mean over tokens, in nats;
        ``same_first_choice``: the share of tokens for which both models rank the same next token first.
    """
    largest, difference, divergence, same, count = 0.0, 0.0, 0.0, 0, 0
    for batch, kept_1T in zip(sample.batches, sample.kept, strict=True):
        expected_NV, found_NV = (_run_packed(model, batch)[kept_1T].float() for model in (dense, moe))
        if not len(expected_NV):
            continue
        largest = max(largest, float(expected_NV.abs().max()))
        difference = max(difference, float((expected_NV - found_NV).abs().max()))
        expected_logp_NV, found_logp_NV = expected_NV.log_softmax(-1), found_NV.log_softmax(-1)
        divergence += float((expected_logp_NV.exp() * (expected_logp_NV - found_logp_NV)).sum())
        same += int((expected_NV.argmax(-1) == found_NV.argmax(-1)).sum())
        count += len(expected_NV)
    return {
        "routers": separation(moe, sample),
        "largest_logit": largest,
        "largest_logit_difference": difference,
        "kl_divergence": divergence / count,
        "same_first_choice": same / count,
    }


@torch.no_grad()
def separation(moe: PreTrainedModel, sample: TokenSample) -> Separation:
    """Measure how the MoE's routers treat the sources, each on the states that enter its own layer.

    Returns:
        values by layer. ``distance``: the mean L2 distance between two sources' gate loads, each normalised over
        experts. ``load_cv``: the coefficient of variation of the experts' loads, with equal weight for all sources.
    """
    blocks = [layer.mlp for layer in moe.model.layers]
    measured: Separation = {"distance": [], "load_cv": []}
    for block, states_NH in zip(blocks, sample.states(moe, blocks), strict=True):
        selected_Nk, experts = block.gate(states_NH)[2].numpy(), block.experts.num_experts
        by_source = (selected_Nk[sample.source_N == k].ravel() for k in np.unique(sample.source_N))
        shares_KE = np.array([np.bincount(selected, minlength=experts) for selected in by_source], float)
        shares_KE /= shares_KE.sum(axis=1, keepdims=True)
        pairs = [float(np.linalg.norm(a - b)) for a, b in combinations(shares_KE, 2)]
        measured["distance"].append(round(float(np.mean(pairs)), 4) if pairs else 0.0)
        mean_E = shares_KE.mean(axis=0)
        measured["load_cv"].append(round(float(mean_E.std() / mean_E.mean()), 4))
    return measured


def _run_packed(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Run a model on a packed batch, its examples kept apart, and return its logits (a decoder's hidden states)."""
    mask = block_mask(batch.example_ids)
    output = model(input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False)
    values: Tensor = output[0]
    return values


def _shortened(example: Example) -> Example:
    return replace(example, input_ids=example.input_ids[:_MAX_TOKENS], is_target=example.is_target[:_MAX_TOKENS])


def _sample(chosen: list[tuple[int, Example]], tokens: int, pad_id: int, seed: int) -> TokenSample:
    """Pack examples into rows, and keep up to ``tokens`` of their tokens, drawn so that each source has its share."""
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
