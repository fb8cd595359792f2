"""Rows of one batch sampled and ended each by itself. Heavy to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria


class RowSampler(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Temperature sampling by the Gumbel-max trick, each row with a generator of its own.

    ``argmax(logits / T + g)`` with Gumbel noise ``g`` is a draw from ``softmax(logits / T)``, so greedy decoding after
    this processor samples, and a row's draws depend on its seed and not on its neighbours.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        self.temperatures = list(temperatures)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not any(self.temperatures):
            return scores
        rows = scores.float().clone()
        for row, (temperature, generator) in enumerate(zip(self.temperatures, self.generators, strict=True)):
            if temperature > 0:
                uniform = torch.rand(rows.shape[1], generator=generator).clamp_min(1e-20)
                rows[row] = rows[row] / temperature - torch.log(-torch.log(uniform)).to(rows.device)
        return rows


class RowLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends a row at its own number of tokens, or when one of its stop strings has come.

    Attributes:
        stopped_at: answer tokens of a row when its stop string came; None where none did.
    """

    def __init__(self, tokenizer: Any, prompt: int, limits: Sequence[int], stops: Sequence[tuple[str, ...]]) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self.limits, self.stops = torch.tensor(list(limits)), list(stops)
        self.stopped_at: list[int | None] = [None] * len(self.stops)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        length = input_ids.shape[1] - self.prompt
        ended = self.limits <= length
        for row, stops in enumerate(self.stops):
            if stops and self.stopped_at[row] is None and not ended[row]:
                text = self.tokenizer.decode(input_ids[row, self.prompt :], skip_special_tokens=True)
                if any(stop in text for stop in stops):
                    self.stopped_at[row] = length
            ended[row] = ended[row] or self.stopped_at[row] is not None
        return ended.to(input_ids.device)
