"""Coverage and false positives where they are hard: clusters, several seeds, macro averages, whole tables, ranks.

Every simulation draws right or wrong answers, as benchmarks score them, from a world whose truth is known.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from harness.statistics.estimates import Estimate, Part, estimate, p_value
from harness.statistics.families import adjust, rank_intervals
from harness.statistics.joint import Block, Contrast, Corrected, _Design, correct


def covers(found: Estimate, truth: float) -> bool:
    return abs(found.value - truth) <= stats.t.ppf(0.975, found.dof) * found.se


def answers(generator, seeds: int, clusters: np.ndarray, *, seed_sd: float, share: float = 0.5) -> np.ndarray:
    """0/1 f64[S, n]: a probit model with effects of seed, of cluster, of question, and a rest; P(right) = ``share``."""
    n, sds = len(clusters), (seed_sd, 0.5, 0.5, 1.0)
    latent = (
        sds[0] * generator.normal(size=(seeds, 1))
        + sds[1] * generator.normal(size=clusters.max() + 1)[clusters]
        + sds[2] * generator.normal(size=n)
        + sds[3] * generator.normal(size=(seeds, n))
    )
    return (latent < stats.norm.ppf(share) * math.sqrt(sum(sd**2 for sd in sds))).astype(float)


PASSAGES = np.repeat(np.arange(60), np.tile([1, 2, 3, 6], 15))  # 60 passages, 180 questions about them
ALONE = np.arange(120)


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "lowest"), [(1, 0.0, 0.925), (3, 0.0, 0.925), (3, 0.2, 0.915), (5, 0.4, 0.92)]
)
def test_intervals_over_clustered_questions_and_seeds_cover_the_truth(seeds, seed_sd, lowest):
    generator = np.random.default_rng(1)
    hits = sum(
        covers(estimate([Part(1.0, answers(generator, seeds, PASSAGES, seed_sd=seed_sd), PASSAGES)]), 0.5)
        for _ in range(1500)
    )
    assert lowest < hits / 1500 < 0.985


def test_clusters_taken_for_single_questions_would_not_cover():
    """The simulation above has teeth: the passages do matter."""
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 10)
    hits = sum(
        covers(estimate([Part(1.0, answers(generator, 1, groups, seed_sd=0.0), np.arange(300))]), 0.5)
        for _ in range(500)
    )
    assert hits / 500 < 0.85


@pytest.mark.parametrize(("seeds", "seed_sd", "lowest"), [(1, 0.0, 0.93), (3, 0.3, 0.915)])
def test_a_macro_average_of_unequal_tasks_covers_the_truth(seeds, seed_sd, lowest):
    """Three tasks of 30, 120 and 180 questions, under one training: what a seed does, it does to all of them."""
    generator = np.random.default_rng(2)
    tasks = (np.arange(30), ALONE, PASSAGES)
    ends = np.cumsum([len(task) for task in tasks])
    joined = np.concatenate([task + 1000 * i for i, task in enumerate(tasks)])
    joined = np.unique(joined, return_inverse=True)[1]
    hits = 0
    for _ in range(1000):
        scores = np.split(answers(generator, seeds, joined, seed_sd=seed_sd, share=0.3), ends[:-1], axis=1)
        hits += covers(estimate([Part(1 / 3, s, task) for s, task in zip(scores, tasks, strict=True)]), 0.3)
    assert lowest < hits / 1000 < 0.985


@pytest.mark.parametrize(("seeds", "highest"), [(1, 0.065), (2, 0.13), (3, 0.095), (5, 0.07)])
@pytest.mark.parametrize("seed_sd", [0.0, 0.3])
def test_one_pair_by_its_own_seeds_alone_errs_no_more_than_stated(seeds, highest, seed_sd):
    """Two and three seeds alone do not hold 5 % (pooling below does); this is how far they go.

    With one seed nothing can tell a seed's effect from the strategy's, which is why a table of single runs says so.
    """
    generator = np.random.default_rng(3)
    spread = seed_sd if seeds > 1 else 0.0
    wrong = 0
    for _ in range(1500):
        pair = answers(generator, 2 * seeds, ALONE, seed_sd=spread)
        wrong += p_value(estimate([Part(1.0, pair[:seeds] - pair[seeds:], ALONE)])) < 0.05
    assert wrong / 1500 < highest


def test_seeds_pooled_as_questions_would_find_differences_that_are_not_there():
    generator = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        pair = answers(generator, 6, ALONE, seed_sd=0.3)
        wrong += stats.ttest_1samp((pair[:3] - pair[3:]).ravel(), 0).pvalue < 0.05
    assert wrong / 400 > 0.25


def simulated(generator, shifts, seed_sds, seeds: int, columns: int) -> np.ndarray:
    """f64[R, C, S, 120]: every row's seeds and questions have effects of their own."""
    rows = len(shifts)
    question = 0.5 * generator.normal(size=(rows, columns, ALONE.size)) / math.sqrt(2)
    seed = np.reshape(seed_sds, (rows, 1, 1)) * generator.normal(size=(rows, columns, seeds))
    rest = generator.normal(size=(rows, columns, seeds, ALONE.size))
    return np.reshape(shifts, (rows, 1, 1, 1)) + seed[..., None] + question[:, :, None] + rest


def whole_table(
    generator, shifts, seed_sds, seeds: int, columns: int, pairs=None, draws: int = 400, margin: float = 1e-9
) -> tuple[list[Contrast], Corrected]:
    """Test every pair of strategies (or ``pairs``) in every column as a comparison table does."""
    answered = simulated(generator, shifts, seed_sds, seeds, columns)
    centred = answered.mean(axis=2) - answered.mean(axis=(2, 3), keepdims=True)[..., 0]
    spread = math.sqrt(ALONE.size / (ALONE.size - 1)) / ALONE.size * centred  # [R, C, n]
    questions = np.zeros((*spread.shape[:2], columns * ALONE.size))
    for column in range(columns):
        questions[:, column, column * ALONE.size : (column + 1) * ALONE.size] = spread[:, column]
    block = Block(answered.mean(axis=3), np.full(len(shifts), True), questions)
    contrasts = [
        Contrast(0, column, i, j, estimate([Part(1.0, answered[i, column] - answered[j, column], ALONE)]))
        for column in range(columns)
        for i, j in pairs or itertools.combinations(range(len(shifts)), 2)
    ]
    return contrasts, correct([block], contrasts, [margin] * len(contrasts), draws)


@pytest.mark.parametrize(("rows", "seeds", "columns"), [(2, 3, 4), (3, 5, 2), (5, 3, 3), (6, 3, 2)])
def test_a_table_of_equal_strategies_over_seeds_has_a_star_in_one_of_twenty_at_most(rows, seeds, columns):
    generator = np.random.default_rng(4)
    tables = (whole_table(generator, np.zeros(rows), np.full(rows, 0.2), seeds, columns)[1] for _ in range(150))
    assert sum(table.adjusted.min() < 0.05 for table in tables) <= 14  # 7.5 expected at most; more than 14 has 1 %


def test_one_strategy_whose_seeds_vary_three_times_as_much_does_not_fill_the_table_with_stars():
    generator = np.random.default_rng(7)
    tables = (whole_table(generator, np.zeros(5), [0.2] * 4 + [0.6], 3, 3)[1] for _ in range(150))
    assert sum(table.adjusted.min() < 0.05 for table in tables) <= 20


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_one_wild_row_neither_fills_the_table_with_stars_nor_hides_the_differences_of_the_others(seeds):
    """The seeds of the last row vary ten times as much; in the second half of the tables, the first two rows differ."""
    generator = np.random.default_rng(11)
    wild = [0.2] * 4 + [2.0]
    tables = (whole_table(generator, np.zeros(5), wild, seeds, 2)[1] for _ in range(100))
    assert sum(table.adjusted.min() < 0.05 for table in tables) <= (18 if seeds == 3 else 12)
    tables = (whole_table(generator, [0.0, 0.8, 0.0, 0.0, 0.0], wild, seeds, 2, [(0, 1)])[1] for _ in range(60))
    assert sum(table.adjusted.min() < 0.05 for table in tables) >= 50


def test_with_the_wild_row_in_the_mean_no_difference_would_be_found(monkeypatch):
    """The simulation above has teeth."""
    monkeypatch.setattr("harness.statistics.joint._FEWEST_ROWS", 100)
    generator = np.random.default_rng(11)
    shifts, wild = [0.0, 0.8, 0.0, 0.0, 0.0], [0.2] * 4 + [2.0]
    tables = (whole_table(generator, shifts, wild, 5, 2, [(0, 1)])[1] for _ in range(60))
    assert sum(table.adjusted.min() < 0.05 for table in tables) <= 20


@pytest.mark.parametrize(("rows", "seeds", "columns"), [(4, 3, 6), (8, 5, 3)])
def test_among_rows_that_vary_alike_hardly_one_is_set_apart(rows, seeds, columns):
    generator = np.random.default_rng(12)
    apart = 0
    for _ in range(300):
        scores = generator.normal(size=(rows, columns, seeds))
        block = Block(scores, np.full(rows, True), np.zeros((rows, columns, 0)))
        apart += bool(_Design(block).apart.any())
    assert apart <= 9  # 3 expected; more than 9 has 1 in 1,000


def test_two_rows_at_the_margin_are_called_equal_in_one_of_twenty_cases_at_most_and_equal_ones_often():
    generator = np.random.default_rng(8)
    named = {}
    for shift in (0.0, 0.5):
        tables = [whole_table(generator, [0.0, shift], [0.2] * 2, 5, 1, margin=0.5)[1] for _ in range(200)]
        named[shift] = sum(bool(table.equal[0] < 0.05) for table in tables)
    assert named[0.5] <= 18
    assert named[0.0] > 100


def test_the_joint_distribution_finds_more_than_holm_in_the_same_tables():
    """Against a baseline, in five columns: the tests share the baseline, so Holm's correction is too strict."""
    generator = np.random.default_rng(9)
    joint = holm = 0
    for _ in range(150):
        pairs = [(i, 0) for i in range(1, 5)]
        _, table = whole_table(generator, [0.0, 0.6, 0.0, 0.0, 0.0], np.full(5, 0.2), 4, 2, pairs)
        joint += table.adjusted[[0, 4]].min() < 0.05
        own = adjust([p_value(found) for found in table.estimates])
        holm += min(own[0], own[4]) < 0.05
    assert joint >= holm


def test_without_pooling_equal_strategies_would_be_told_apart():
    """The simulation above has teeth: the pairs' own seed variances alone fail it."""
    generator = np.random.default_rng(4)
    wrong = 0
    for _ in range(100):
        p_values = []
        for _ in range(3):
            seeds = 0.2 * generator.normal(size=(5, 3, 1))
            scores = seeds + 0.5 * generator.normal(size=ALONE.size) + generator.normal(size=(5, 3, ALONE.size))
            for i, j in itertools.combinations(range(5), 2):
                p_values.append(p_value(estimate([Part(1.0, scores[i] - scores[j], ALONE)])))
        wrong += min(adjust(p_values)) < 0.05
    assert wrong > 15


def test_rank_intervals_hold_the_true_ranks_all_at_once():
    generator = np.random.default_rng(5)
    shifts = np.array([0.0, 0.1, 1.0, 1.2])  # the true ranks are 4, 3, 2, 1
    right = sharp = 0
    for _ in range(150):
        contrasts, table = whole_table(generator, shifts, np.full(4, 0.1), 5, 1)
        p = {(c.row, c.other): found for c, found in zip(contrasts, table.adjusted, strict=True)}
        intervals = rank_intervals(dict(enumerate(shifts)), lambda i, j, p=p: p[min(i, j), max(i, j)] < 0.05)
        right += all(low <= 4 - i <= high for i, (low, high) in intervals.items())
        sharp += intervals[3][1] <= 2 and intervals[0][0] >= 3
    assert right >= 136  # 142.5 expected at least
    assert sharp > 100  # and they say something


@pytest.mark.parametrize(("seeds", "lowest"), [(3, 0.62), (5, 0.7)])
def test_the_detectable_difference_is_detected_four_times_in_five_and_over_three_seeds_less(seeds, lowest):
    generator = np.random.default_rng(6)
    pairs = [(i, 0) for i in range(1, 5)]

    def table(shift: float) -> Corrected:
        return whole_table(generator, [0.0, shift, 0.0, 0.0, 0.0], np.full(5, 0.14), seeds, 1, pairs)[1]

    effect = float(np.median([table(0.0).detectable(0) for _ in range(100)]))
    assert lowest < np.mean([table(effect).adjusted[0] < 0.05 for _ in range(200)]) < 0.92
