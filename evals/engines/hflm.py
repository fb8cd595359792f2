"""lm-eval's transformers model, with sampling that a seed decides. Heavy to import."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM


class SeededHFLM(HFLM):  # type: ignore[misc]  # lm-eval is untyped
    """Sampled generations draw from the seed their request carries, not from whatever ran before them."""

    def _model_generate(self, *arguments: Any, seed: int | None = None, **options: Any) -> torch.Tensor:
        if seed is not None:
            torch.manual_seed(seed)
        return super()._model_generate(*arguments, **options)
