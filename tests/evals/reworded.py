"""Questions put in other words, as near-duplicates in training data are."""

from __future__ import annotations

import random
from collections.abc import Sequence

from evals.contamination import words_of


def reworded(text: str, rng: random.Random, vocabulary: Sequence[str], share: float = 0.1) -> str:
    """Of every ten words one, on average, is replaced, left out, or followed by another."""
    words = []
    for word in words_of(text):
        draw = rng.random() / share
        words += [rng.choice(vocabulary)] if draw < 0.5 else [] if draw < 0.75 else [word]
        words += [rng.choice(vocabulary)] if 0.75 <= draw < 1 else []
    return " ".join(words)
