"""Error bars are what they claim: by hand on small cases, by simulation for coverage and false positives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.statistics.estimates import Estimate, Part, detectable, estimate, p_value
from harness.statistics.families import adjust


def part(scores, weight=1.0, clusters=None) -> Part:
    scores = np.atleast_2d(np.asarray(scores, dtype=float))
    return Part(weight, scores, np.arange(scores.shape[1]) if clusters is None else np.asarray(clusters))


def test_a_single_task_has_the_textbook_standard_error():
    scores = np.array([1.0, 0, 0, 1, 1, 1, 0, 1])
    found = estimate([part(scores)])
    assert found.value == pytest.approx(scores.mean())
    assert found.se == pytest.approx(scores.std(ddof=1) / math.sqrt(8))
    assert found.dof == pytest.approx(7)


def test_a_paired_difference_gives_the_p_value_of_the_paired_t_test():
    generator = np.random.default_rng(3)
    a, b = generator.integers(0, 2, (2, 60)).astype(float)
    assert p_value(estimate([part(a - b)])) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_a_macro_average_has_the_error_of_the_macro_average_not_a_pooled_one():
    small, large = np.array([1.0, 0, 1, 0]), np.tile([1.0, 1, 1, 0], 250)
    found = estimate([part(small, 0.5), part(large, 0.5)])
    assert found.value == pytest.approx((small.mean() + large.mean()) / 2)
    assert found.se == pytest.approx(math.hypot(0.5 * stats.sem(small), 0.5 * stats.sem(large)))
    assert found.se > 3 * stats.sem(np.concatenate([small, large]))
    assert found.dof < 4  # as sure as four questions can make it


def test_a_question_asked_twice_counts_as_one():
    scores = np.array([1.0, 0, 0, 1, 1])
    twice = estimate([part(np.repeat(scores, 2), clusters=np.repeat(np.arange(5), 2))])
    once = estimate([part(scores)])
    assert (twice.value, twice.se, twice.dof) == pytest.approx((once.value, once.se, once.dof))


def test_copying_a_run_under_another_seed_does_not_make_its_result_surer():
    scores = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    once, copied = estimate([part(scores)]), estimate([part(np.stack([scores] * 3))])
    assert copied.se == pytest.approx(once.se)


def test_what_seeds_add_to_the_error_is_their_own_variance_beyond_what_questions_explain():
    generator = np.random.default_rng(7)
    noise = generator.normal(size=(3, 40))
    scores = np.array([[-1.0], [0.0], [1.0]]) + noise
    found = estimate([part(scores)])
    # Two-way analysis of variance: Var(mean) = (MS_seed + MS_question - MS_rest) / (S n)
    grand, by_seed, by_question = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    ms_seed = 40 * ((by_seed - grand) ** 2).sum() / 2
    ms_question = 3 * ((by_question - grand) ** 2).sum() / 39
    ms_rest = ((scores - by_seed[:, None] - by_question + grand) ** 2).sum() / (2 * 39)
    assert found.se == pytest.approx(math.sqrt((ms_seed + ms_question - ms_rest) / 120))
    assert found.dof < 2.5  # three seeds that differ by this much leave little more than two


def test_one_question_has_no_error_bar_and_no_p_value():
    found = estimate([part([1.0])])
    assert found.value == 1.0
    assert math.isnan(found.se)
    assert math.isnan(p_value(found))
    assert math.isnan(detectable(found))


def test_equal_scores_have_no_spread_and_equal_rows_no_difference():
    assert estimate([part([0.1] * 7)]).se == 0.0
    assert p_value(estimate([part([0.0] * 7)])) == 1.0


def test_a_constant_difference_is_judged_by_how_many_questions_show_it():
    assert p_value(estimate([part([1.0] * 2)])) == pytest.approx(0.5)
    assert p_value(estimate([part([1.0] * 10)])) == pytest.approx(2**-9)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_intervals_over_questions_cover_the_truth(share):
    generator = np.random.default_rng(1)
    hits = 0
    for scores in generator.random((4000, 200)) < share:
        found = estimate([part(scores)])
        hits += abs(found.value - share) <= stats.t.ppf(0.975, found.dof) * found.se if found.se else 0
    assert 0.92 < hits / 4000 < 0.97


@pytest.mark.parametrize(("seeds", "lowest"), [(2, 0.89), (3, 0.925), (5, 0.93)])
@pytest.mark.parametrize("between", [0.0, 0.05, 0.3])
def test_intervals_over_seeds_cover_the_truth(seeds, lowest, between):
    """Normal scores: seeds vary by ``between``, questions by 0.3, the rest by 1."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(2000):
        seed, question = generator.normal(size=(seeds, 1)), generator.normal(size=(1, 100))
        scores = between * seed + 0.3 * question + generator.normal(size=(seeds, 100))
        found = estimate([part(scores)])
        hits += abs(found.value) <= stats.t.ppf(0.975, found.dof) * found.se
    assert lowest < hits / 2000 <= 0.99


def test_seeds_taken_for_questions_would_not_cover():
    """The simulation above has teeth: pooling seeds × questions as if independent fails it."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(500):
        scores = 0.3 * generator.normal(size=(3, 1)) + generator.normal(size=(3, 100))
        hits += abs(scores.mean()) <= 1.96 * stats.sem(scores.ravel())
    assert hits / 500 < 0.6


@pytest.mark.parametrize("discordant", [0.05, 0.3])
def test_two_equal_models_rarely_differ(discordant):
    generator = np.random.default_rng(4)
    chances = [discordant / 2, 1 - discordant, discordant / 2]
    tries = generator.choice([-1.0, 0.0, 1.0], p=chances, size=(4000, 100))
    assert np.mean([p_value(estimate([part(scores)])) < 0.05 for scores in tries]) < 0.065


def test_a_table_of_equal_models_shows_a_difference_in_one_of_twenty_at_most():
    generator = np.random.default_rng(5)
    wrong = 0
    for _ in range(400):
        columns = [p_value(estimate([part(generator.normal(size=60))])) for _ in range(12)]
        wrong += min(adjust(columns)) < 0.05
    assert wrong / 400 < 0.075


def test_the_detectable_difference_is_detected_four_times_in_five():
    generator = np.random.default_rng(6)
    effect = detectable(Estimate(0.0, 1 / math.sqrt(80), 79, 80))
    tries = generator.normal(loc=effect, size=(2000, 80))
    assert np.mean([p_value(estimate([part(scores)])) < 0.05 for scores in tries]) == pytest.approx(0.8, abs=0.03)


def test_holm_by_hand():
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([]) == []
    adjusted = adjust([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == pytest.approx(0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_keeps_the_order_never_lowers_and_does_not_care_how_the_tests_come(p_values, random):
    adjusted = adjust(p_values)
    assert all(after >= min(before, 1.0) and after <= 1.0 for before, after in zip(p_values, adjusted, strict=True))
    ranked = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert adjust([p_values[i] for i in order]) == pytest.approx([adjusted[i] for i in order])
    larger = adjust([*p_values, 1.0, 1.0, 1.0])  # more comparisons can only raise the corrected values
    assert all(more >= less for more, less in zip(larger, adjusted, strict=False))
