"""DROP's exact match and F1, of an answer that may name several spans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.tasks.drop.utils import get_metrics, process_docs

__all__ = ["process_docs", "score"]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return the best match with any annotator's answer, of the text as one span and as spans between commas."""
    text = results[0]
    spans = [span for span in re.split(r",\s+(?:and\s+)?|\s+and\s+", text) if span.strip()]
    pairs = [
        get_metrics(given, gold) for gold in doc["answers"] if gold[0].strip() for given in ([text], spans or [text])
    ]
    return {"em": max((em for em, _ in pairs), default=0.0), "f1": max((float(f1) for _, f1 in pairs), default=0.0)}
