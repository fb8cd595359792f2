"""Define which questions of a task are one cluster: those about the same text, and those that the task holds twice."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

SHARED_TEXTS = ("passage", "article", "paragraph", "story", "context")  # fields that several questions may be about


def cluster_label(doc: object, digest: str) -> str:
    """Return what identifies the cluster of a question of lm-eval: the text that it is about, or else its own hash."""
    texts = (doc.get(name) for name in SHARED_TEXTS) if isinstance(doc, Mapping) else ()
    return next((text for text in texts if isinstance(text, str) and text.strip()), digest)


def number_clusters(labels: Iterable[Hashable]) -> NDArray[np.int64]:
    """Return i64[n]: the number of each label's cluster, counted from 0 in the order of first appearance.

    >>> number_clusters(["a text", "another", "a text"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
