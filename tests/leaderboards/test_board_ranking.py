"""Ranks of many at once are those of testing every pair one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.statistics import estimates
from harness.statistics.families import adjust
from leaderboards.board import ranking
from leaderboards.board.ranking import Part, rank


def made(seed: int, count: int, sizes=(60, 40), spread: float = 1.0):
    """Two tasks of ``count`` submissions; the second holds some questions twice."""
    rng = np.random.default_rng(seed)
    ability = rng.normal(0, spread, count)
    parts = []
    for size in sizes:
        hard = rng.normal(0, 1, size)
        scores = (rng.random((count, size)) < 1 / (1 + np.exp(hard - ability[:, None]))).astype(float)
        clusters = np.arange(size)
        if size == sizes[-1]:
            scores[:, 1], clusters = scores[:, 0], np.unique(np.r_[0, 0, np.arange(2, size)], return_inverse=True)[1]
        parts.append(Part(1 / len(sizes), scores, clusters))
    return parts


def one_by_one(parts, dof: float):
    """Scores, standard errors and ranks through ``statistics.estimate``, pair by pair, and Holm's step-down."""

    def estimate(vectors):
        found = [estimates.Part(p.weight, v[None], p.clusters) for p, v in zip(parts, vectors, strict=True)]
        return estimates.estimate(found)

    count = len(parts[0].scores)
    singles = [estimate([part.scores[i] for part in parts]) for i in range(count)]
    pairs = list(itertools.combinations(range(count), 2))
    differences = [estimate([part.scores[i] - part.scores[j] for part in parts]) for i, j in pairs]
    p = [estimates.p_value(estimates.Estimate(d.value, d.se, dof, d.clusters)) for d in differences]
    best, worst = [1] * count, [count] * count
    for (i, j), d, adjusted in zip(pairs, differences, adjust(p), strict=True):
        if adjusted < estimates.ALPHA:
            higher, lower = (i, j) if d.value > 0 else (j, i)
            best[lower] += 1
            worst[higher] -= 1
    return singles, best, worst


@pytest.mark.parametrize("seed", range(4))
def test_ranks_scores_and_errors_are_those_of_every_pair_alone(seed, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 7)  # several blocks, one of them cut short
    parts = made(seed, 24)
    ranked = rank(parts)
    singles, best, worst = one_by_one(parts, dof=38.0)
    assert ranked.values == pytest.approx([single.value for single in singles])
    assert ranked.se == pytest.approx([single.se for single in singles])
    assert ranked.best.tolist() == best
    assert ranked.worst.tolist() == worst
    assert max(best) > 5  # some are told apart


def test_lower_is_better_turns_the_ranks_round():
    parts = made(3, 12)
    up, down = rank(parts), rank(parts, higher_is_better=False)
    assert (down.best == 13 - up.worst).all()
    assert (down.worst == 13 - up.best).all()


def test_equal_submissions_are_tied_however_many_there_are():
    parts = [Part(1.0, np.tile(np.arange(50) % 2.0, (600, 1)), np.arange(50))]
    ranked = rank(parts)
    assert (ranked.best == 1).all()
    assert (ranked.worst == 600).all()


def test_a_constant_difference_is_judged_by_the_number_of_questions():
    """No variance to go by: the sign test over the questions, as for tables of runs."""
    for questions, significant in ((5, False), (30, True)):
        parts = [Part(1.0, np.array([np.ones(questions), np.zeros(questions)]), np.arange(questions))]
        assert (rank(parts).best.tolist() == [1, 2]) is significant


def test_a_single_question_ranks_nobody():
    ranked = rank([Part(1.0, np.array([[1.0], [0.0]]), np.array([0]))])
    assert ranked.best.tolist() == [1, 1]
    assert np.isnan(ranked.se).all()


def test_ranks_are_wrong_anywhere_in_at_most_five_boards_of_a_hundred():
    """Submissions that are all equally good: any rank other than 1 to N is an error, and Holm bounds how often."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        scores = (rng.random((12, 80)) < rng.random(80)).astype(float)
        wrong += bool((rank([Part(1.0, scores, np.arange(80))]).best > 1).any())
    assert wrong <= 20  # 5 % of 200 is 10; three standard deviations above
