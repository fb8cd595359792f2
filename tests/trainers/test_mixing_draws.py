"""What a strategy asks for is what is drawn: across updates, across a breakdown, and each draw exactly once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from small_runs import fit_request, mixing, small_model, small_sources, training

from trainers.data import Draws
from trainers.data.batches import GlobalBatch
from trainers.mixing import MixingStrategy, MixtureState, Observation, Sources, load_strategy
from trainers.training.loop import _Loop, fit

LEVEL = 1e-3  # of every chi-square test below; seeds are fixed, so a test either fails always or never


def chi_square(counts_UK: np.ndarray, weights_UK: np.ndarray) -> float:
    """The p-value that draws in U stretches came from the weights in force there."""
    expected_UK = counts_UK.sum(axis=1, keepdims=True) * weights_UK
    statistic = ((counts_UK - expected_UK) ** 2 / expected_UK).sum()
    return float(chi2.sf(statistic, counts_UK.shape[0] * (counts_UK.shape[1] - 1)))


@pytest.mark.parametrize("name", ["random", "odm", "loss_softmax", "dynamic"])
def test_realised_draws_match_the_requested_weights_across_a_hundred_updates(name):
    from trainers.mixing.contract import observation

    sources = Sources(tuple("abcdefgh"), np.full(8, 1000), seed=5)
    rule, draws = load_strategy(name), Draws(sources.sizes, seed=1)
    state, drawn, at = rule.init(sources), np.zeros(8, np.int64), 0
    counts, weights = [], []
    for update in range(100):
        ids, _ = draws.take(at, 400, state.weights, drawn)
        counts.append(np.bincount(ids, minlength=8))
        weights.append(state.weights)
        drawn, at = drawn + counts[-1], at + 400
        state = rule.update(state, observation(sources, rule.signals, seed=update, step=update + 1))
    counts_UK, weights_UK = np.array(counts), np.array(weights)
    likely = weights_UK.min(axis=1) * 400 >= 5  # where the chi-square distribution holds
    assert likely.sum() >= 10
    assert chi_square(counts_UK[likely], weights_UK[likely]) > LEVEL
    assert chi_square(counts_UK[likely], np.roll(weights_UK[likely], 1, axis=1)) < LEVEL, "and would tell others apart"


@dataclass(frozen=True)
class Turning(MixingStrategy):
    """Weights that change at every update, as a function of the step."""

    name = "turning"

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(np.full(len(sources.names), 1 / len(sources.names)))

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        weights = 1.2 + np.sin(seen.step + np.arange(len(seen.names)))
        return MixtureState(weights / weights.sum())


def record_draws(monkeypatch) -> dict[int, list[tuple[int, int]]]:
    """Step → the (source, example) pairs that training fetched for it; a step that is done again must be the same."""
    fetched: dict[int, list[tuple[int, int]]] = {}
    draw = _Loop._draw

    def drawing(self: _Loop) -> GlobalBatch:
        of = GlobalBatch.of

        def kept(sources, ids, indices, layout):
            pairs = list(zip(ids.tolist(), indices.tolist(), strict=True))
            assert fetched.setdefault(self.step, pairs) == pairs
            return of(sources, ids, indices, layout)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GlobalBatch, "of", kept)
            return draw(self)

    monkeypatch.setattr(_Loop, "_draw", drawing)
    return fetched


def test_no_draw_is_lost_or_repeated_at_an_update_or_a_resume(tmp_path, monkeypatch):
    """Every source's n-th draw is the n-th place of its own permutation, whatever happened in between."""
    sources, steps = small_sources(tmp_path / "sources"), 40
    fetched = record_draws(monkeypatch)
    learn, breaks = _Loop._learn, iter((7, 8, 23, 39, None))

    def attempt() -> None:
        (tmp_path / "run").mkdir(exist_ok=True)
        fall = next(breaks)

        def learning(self):
            if self.step == fall:
                raise RuntimeError("a cosmic ray")
            return torch.ones(())  # nothing is learnt: only the draws matter here

        monkeypatch.setattr(_Loop, "_learn", learning)
        plan = {"training": training(steps=steps, save_every=3), "mixing": mixing(interval=2)}
        fit(fit_request(small_model(), sources, Turning(), tmp_path / "run", **plan))

    for _ in range(4):
        with pytest.raises(RuntimeError):
            attempt()
    attempt()
    monkeypatch.setattr(_Loop, "_learn", learn)
    assert sorted(fetched) == list(range(steps))
    stream = [pair for step in range(steps) for pair in fetched[step]]
    assert len(stream) == steps * 8
    for k, source in enumerate(sources):
        examples = [index for drawn, index in stream if drawn == k]
        size = len(source.train)
        for epoch in range(len(examples) // size):
            assert sorted(examples[epoch * size : (epoch + 1) * size]) == list(range(size)), "each once an epoch"
        rest = examples[len(examples) // size * size :]
        assert len(set(rest)) == len(rest)
    weights = [np.full(3, 1 / 3)] + [1.2 + np.sin(step + np.arange(3)) for step in range(2, steps, 2)]
    weights_UK = np.array([w / w.sum() for w in weights])
    counts_UK = np.array(
        [np.bincount([k for s in (2 * u, 2 * u + 1) for k, _ in fetched[s]], minlength=3) for u in range(steps // 2)]
    )
    assert chi_square(counts_UK, weights_UK) > LEVEL
