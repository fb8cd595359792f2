"""Many rows ranked at once get the numbers of testing every pair one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.statistics import estimates, ranking
from harness.statistics.families import adjust, verdict
from harness.statistics.ranking import TaskMatrix, rank

TURNED = {"better": "worse", "worse": "better", "undecided": "undecided"}
COLUMNS = {"first": {0: 1.0}, "second": {1: 1.0}, "average": {0: 0.5, 1: 0.5}}


def made(seed: int, count: int, sizes=(60, 40), spread: float = 1.0) -> dict[int, TaskMatrix]:
    """Two tasks of ``count`` submissions; the first asks three questions about each passage, the second one twice."""
    rng = np.random.default_rng(seed)
    ability = rng.normal(0, spread, count)
    tasks = {}
    for task, size in enumerate(sizes):
        hard = rng.normal(0, 1, size)
        scores = (rng.random((count, size)) < 1 / (1 + np.exp(hard - ability[:, None]))).astype(float)
        clusters = np.arange(size) // 3
        if task:
            scores[:, 1], clusters = scores[:, 0], np.unique(np.r_[0, 0, np.arange(2, size)], return_inverse=True)[1]
        tasks[task] = TaskMatrix(scores, clusters)
    return tasks


def one_by_one(tasks, columns):
    """Scores, differences, adjusted p-values and ranks through ``estimates.estimate`` of every pair, one family."""

    def estimate(shares, scores):
        return estimates.estimate([estimates.Part(w, scores(t)[None], tasks[t].clusters) for t, w in shares.items()])

    count = len(tasks[0].scores)
    pairs = list(itertools.combinations(range(count), 2))
    singles, differences = {}, {}
    for name, shares in columns.items():
        singles[name] = [estimate(shares, lambda t, i=i: tasks[t].scores[i]) for i in range(count)]
        for i, j in pairs:
            differences[name, i, j] = estimate(shares, lambda t, i=i, j=j: tasks[t].scores[i] - tasks[t].scores[j])
    adjusted = adjust([estimates.p_value(found) for found in differences.values()])
    best, worst = ({name: [start] * count for name in columns} for start in (1, count))
    for (name, i, j), found, p in zip(differences, differences.values(), adjusted, strict=True):
        if p < estimates.ALPHA:
            higher, lower = (i, j) if found.value > 0 else (j, i)
            best[name][lower] += 1
            worst[name][higher] -= 1
    return singles, differences, dict(zip(differences, adjusted, strict=True)), best, worst


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_scores_intervals_ranks_and_verdicts_are_those_of_every_pair_alone(seed, exact, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 7)  # several blocks, one of them cut short
    monkeypatch.setattr(ranking, "EXACT_ROWS", 500 if exact else 0)
    tasks = made(seed, 24)
    ranked = rank(tasks, COLUMNS)
    singles, differences, adjusted, best, worst = one_by_one(tasks, COLUMNS)
    assert ranked.comparisons == len(differences)
    for name, column in ranked.columns.items():
        assert column.values == pytest.approx([single.value for single in singles[name]])
        assert column.se == pytest.approx([single.se for single in singles[name]])
        ends = np.array([single.interval(estimates.FRACTION) for single in singles[name]]).T
        assert np.array([column.lower, column.upper]) == pytest.approx(ends)
        assert column.best.tolist() == best[name]
        assert column.worst.tolist() == worst[name]
        for i in range(24):
            against = ranked.against(name, i)
            for j in range(i + 1, 24):
                alone = differences[name, i, j]
                found = [against.values[j], against.se[j], against.dof[j], against.lower[j], against.upper[j]]
                assert found == pytest.approx(
                    [alone.value, alone.se, alone.dof, *alone.interval(estimates.FRACTION_DIFFERENCE)]
                )
                assert against.verdicts[j] == verdict(alone.value, adjusted[name, i, j])
                if exact:
                    assert against.p_adjusted[j] == pytest.approx(adjusted[name, i, j])
            assert np.unpackbits(column.beats[i], count=24).tolist() == [v == "better" for v in against.verdicts]
            assert against.verdicts == [TURNED[ranked.against(name, j).verdicts[i]] for j in range(24)]
    assert max(best["average"]) > 5  # some are told apart


def test_the_scan_of_many_rows_and_the_exact_test_of_every_pair_agree(monkeypatch):
    """Small tasks, whose degrees of freedom matter most; and copies of rows, which 32 bits cannot tell apart."""
    tasks = made(11, 200, sizes=(45, 21))
    for task in tasks.values():
        task.scores[150:] = task.scores[:50]
        task.scores[150:170, 0] = 1 - task.scores[150:170, 0]
    exact = rank(tasks, COLUMNS)
    monkeypatch.setattr(ranking, "EXACT_ROWS", 0)
    scanned = rank(tasks, COLUMNS)
    for name, column in exact.columns.items():
        assert (column.beats == scanned.columns[name].beats).all()
        assert column.beats.any()


def test_every_column_of_a_board_is_in_one_family():
    """A pair that is significant in a column of its own may not be among all pairs of all columns."""
    tasks = made(5, 20)
    alone = rank(tasks, {"average": COLUMNS["average"]})
    together = rank(tasks, COLUMNS)
    assert together.comparisons == 3 * alone.comparisons
    assert np.unpackbits(together.columns["average"].beats).sum() < np.unpackbits(alone.columns["average"].beats).sum()


def test_lower_is_better_turns_the_ranks_round():
    tasks = made(3, 12)
    up, down = rank(tasks, COLUMNS), rank(tasks, COLUMNS, higher_is_better=False)
    for name in COLUMNS:
        assert (down.columns[name].best == 13 - up.columns[name].worst).all()
        assert (down.columns[name].worst == 13 - up.columns[name].best).all()
        assert up.against(name, 2).verdicts == [TURNED[found] for found in down.against(name, 2).verdicts]


@pytest.mark.parametrize("count", [60, 600])
def test_equal_submissions_are_tied_however_many_there_are(count):
    ranked = rank({0: TaskMatrix(np.tile(np.arange(50) % 2.0, (count, 1)), np.arange(50))}, {"a": {0: 1.0}})
    assert (ranked.columns["a"].best == 1).all()
    assert (ranked.columns["a"].worst == count).all()


@pytest.mark.parametrize("exact", [True, False])
def test_a_constant_difference_is_judged_by_the_number_of_questions(exact, monkeypatch):
    """No variance to go by: the sign test over the questions, as for tables of runs."""
    monkeypatch.setattr(ranking, "EXACT_ROWS", 500 if exact else 0)
    for questions, significant in ((5, False), (30, True)):
        scores = np.array([np.ones(questions), np.zeros(questions)])
        found = rank({0: TaskMatrix(scores, np.arange(questions))}, {"a": {0: 1.0}}).columns["a"]
        assert (found.best.tolist() == [1, 2]) is significant


def test_a_single_question_ranks_nobody_and_counts_in_no_family():
    alone = TaskMatrix(np.array([[1.0], [0.0]]), np.array([0]))
    many = TaskMatrix(np.array([np.ones(30), np.zeros(30)]), np.arange(30))
    ranked = rank({0: alone, 1: many}, {"alone": {0: 1.0}, "many": {1: 1.0}})
    assert ranked.columns["alone"].best.tolist() == [1, 1]
    assert np.isnan(ranked.columns["alone"].se).all()
    assert np.isnan(ranked.against("alone", 0).p_adjusted).all()
    assert ranked.comparisons == 1
    assert ranked.columns["many"].best.tolist() == [1, 2]


def test_ranks_are_wrong_anywhere_in_at_most_five_boards_of_a_hundred():
    """Submissions that are all equally good: any rank other than 1 to N is an error, and Holm bounds how often."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        scores = (rng.random((12, 80)) < rng.random(80)).astype(float)
        wrong += bool((rank({0: TaskMatrix(scores, np.arange(80))}, {"a": {0: 1.0}}).columns["a"].best > 1).any())
    assert wrong <= 20  # 5 % of 200 is 10; three standard deviations above
