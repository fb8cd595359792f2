"""How often a judge is right where the right verdict is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.judge.records import QuestionId
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights
from harness.statistics.estimates import Floats


def auc(scores: Sequence[float], right: Sequence[bool], questions: Sequence[QuestionId]) -> BootstrapInterval | None:
    """Return the probability that a right answer has a higher score than a wrong one; equal scores count half.

    It is ½ for a judge that does not see the difference. None where all answers are right, or all are wrong.
    """
    if len(set(right)) < 2:
        return None
    clusters = ClusterBootstrap(questions)
    levels = sorted(set(scores))
    counts = np.zeros((2, clusters.count, len(levels)))  # [right, questions, levels]
    for score, good, question in zip(scores, right, clusters.of, strict=True):
        counts[int(good), question, levels.index(score)] += 1

    def share(weights: Floats) -> Floats:
        wrong, good = weights @ counts[0], weights @ counts[1]  # [resamples, levels]
        below = np.cumsum(wrong, axis=1) - wrong
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = (good * (below + wrong / 2)).sum(axis=1) / (good.sum(axis=1) * wrong.sum(axis=1))
        return found

    value = float(share(np.ones((1, clusters.count)))[0])
    return percentile_interval(value, share(resampling_weights(clusters.count)), len(scores))
