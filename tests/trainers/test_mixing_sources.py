"""Strategies against the code that their authors released: each formula written down again here, over 20 updates.

The names of repository and commit stand with each formula. What of that code we do otherwise on purpose is in the
table of docs/strategies.md, with the size that the last test measures.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from trainers.mixing import MixingStrategy, Observation, Reference, Sources, load_strategy
from trainers.mixing.ado import fit_laws

NAMES = ("chat", "code", "math", "orca", "web")
K, UPDATES = len(NAMES), 20
PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
Weights = np.ndarray  # f64[UPDATES + 1, K]: before the first update and after each


def sources(steps: int = UPDATES) -> Sources:
    sizes = np.array([4000, 1000, 9000, 2500, 16000])
    return Sources(NAMES, sizes, steps, reference=Reference(np.full(K, 1 / K), np.ones(K)))


def losses() -> np.ndarray:
    """Losses of 20 steps that fall by power laws, with noise, f64[20, K]."""
    rng = np.random.default_rng(5)
    step = np.arange(1, UPDATES + 1)[:, None]
    power_law = rng.uniform(0.3, 0.8, K) + rng.uniform(1, 3, K) * step ** -rng.uniform(0.2, 0.6, K)
    return power_law * np.exp(0.01 * rng.normal(size=(UPDATES, K)))


def examples() -> np.ndarray:
    return np.random.default_rng(6).integers(5, 60, (UPDATES, K))


def gradients() -> np.ndarray:
    rng = np.random.default_rng(7)
    shared = rng.normal(size=(UPDATES, 1, 64))
    return ((shared + rng.normal(size=(UPDATES, K, 64))) * rng.uniform(0.02, 1.2, (UPDATES, K, 1))).astype(np.float32)


def targets() -> np.ndarray:
    """Gradients of two target sets at each of 20 steps, f32[20, 2, 64]; the first is like that of the first source."""
    other = np.random.default_rng(8).normal(size=(UPDATES, 64))
    return np.stack([2 * gradients()[:, 0], other], axis=1).astype(np.float32)


def ours(rule: MixingStrategy, every: int = 1, **signals: np.ndarray) -> Weights:
    """Update after every step, or after every so many with the signals of the last."""
    state, drawn = rule.init(sources()), np.cumsum(examples(), axis=0)
    for field, values in signals.items():
        if field in rule.at_start:
            state = rule.start(state, Observation(0, NAMES, drawn[0] * 0, drawn[0] * 0, **{field: values[0]}))
    weights = [state.weights]
    for step in range(every, UPDATES + 1, every):
        seen = {field: values[step - 1] for field, values in signals.items() if field in rule.signals}
        state = rule.update(state, Observation(step, NAMES, drawn[step - 1], drawn[step - 1], **seen))
        weights.append(state.weights)
    return np.array(weights)


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def test_ado_is_that_of_its_authors():
    """yidingjiang/ado, src/data_selectors/ado.py: 731863d, with the credit √h of bc3d8d0 in the place of √(h (1 − h)).

    The parameters of the laws are ours in both (``fit_laws``): how they are fitted is in the table of differences.
    """
    rule, loss, drawn = load_strategy("ado", refit=0.0), losses(), examples()
    prior = sources().sizes / sources().sizes.sum()
    credit, average, expected = prior, prior, [prior]
    for i in range(UPDATES):
        credit = 0.9 * credit + 0.1 * drawn[i] / drawn[i].sum()
        if i + 1 < rule.warmup:
            expected.append(prior)
            continue
        n = np.cumsum(drawn.sum(axis=1))[: i + 1].astype(float)
        irreducible, scale, exponent = fit_laws(n, loss[: i + 1])
        predicted = irreducible + scale / n[-1] ** exponent
        slope = np.maximum(exponent, 0.05) * (predicted - irreducible) / n[-1]
        instant = slope * prior * credit**0.5
        instant = np.maximum(instant / instant.sum(), 0.01)
        instant = instant / instant.sum()
        weights = 0.9 * average + 0.1 * instant
        average = (1 - 1 / (i + 2)) * average + instant / (i + 2)  # their step counts from the first: i + 1
        expected.append(weights / weights.sum())
    np.testing.assert_allclose(ours(rule, train_loss=loss), expected, atol=1e-9)


def epsilon(step: int) -> float:
    return min(1 / K, math.sqrt(math.log(K) / (K * step)))


def test_odm_is_that_of_its_authors():
    """alon-albalak/online-data-mixing, megatron/data/data_sampling_utils.py: smoothed mean, mixed minibatches."""
    reward, expected = [0.0] * K, [[1 / K] * K]
    for step, loss in enumerate(losses(), 1):
        reward = [0.9 * old + 0.1 * math.exp(new) for old, new in zip(reward, loss, strict=True)]
        expected.append([(1 - K * epsilon(step)) * each / sum(reward) + epsilon(step) for each in reward])
    np.testing.assert_allclose(ours(load_strategy("odm"), train_loss=losses()), expected, atol=1e-9)


def test_odm_exp3_is_that_of_its_authors():
    """alon-albalak/online-data-mixing, megatron/data/data_sampling_utils.py (01827f7): Exp3WeightUpdater."""
    reward, weights, last, expected = [0.0] * K, [1 / K] * K, 1 / K, [[1 / K] * K]
    for step, loss in enumerate(losses(), 1):
        reward = [old + new / 10 / weight for old, new, weight in zip(reward, loss, weights, strict=True)]
        power = softmax([last * each for each in reward])
        weights = [(1 - K * epsilon(step)) * each + epsilon(step) for each in power]
        last = epsilon(step)
        expected.append(weights)
    np.testing.assert_allclose(ours(load_strategy("odm_exp3", warmup=0.0), train_loss=losses()), expected, atol=1e-9)


def test_exploration_falls_with_training_steps_and_not_with_updates():
    loss = np.tile([3.0, 1.0, 1.0, 1.0], (9, 1))
    rule, names = load_strategy("odm"), NAMES[:4]
    state, seen = rule.init(Sources(names, np.ones(4, np.int64))), np.ones(4, np.int64)
    for i in range(9):
        state = rule.update(state, Observation(100 * (i + 1), names, seen, seen, train_loss=loss[i]))
    assert state.weights[0] > 0.64, "35 % if it fell with updates"


REFERENCE = np.array([1.1, 0.9, 1.4, 0.7, 1.2])


@pytest.mark.parametrize(
    ("name", "eta", "c"), [("ref_loss", 1.0, 1e-4), ("sheared", 1.0, 1e-4), ("versatune", 1.0, 0.0)]
)
def test_reference_losses_are_used_as_in_three_releases(name, eta, c):
    """Spico197/MoE-SFT, src/callbacks.py (5b67e28); princeton-nlp/LLM-Shearing, llmshearing/callbacks/
    dynamic_loading_callback.py (cbf39a3); 8023looker/VersaTune, SFT_series/src/loss_based_reweight.py (76f8742)."""
    weights, expected = [1 / K] * K, [[1 / K] * K]
    for loss in losses():
        alpha = softmax([math.log(w) + eta * (now - ref) for w, now, ref in zip(weights, loss, REFERENCE, strict=True)])
        weights = [(1 - c) * each + c / K for each in alpha]
        weights = [each / sum(weights) for each in weights]
        expected.append(weights)
    found = ours(load_strategy(name), probe_loss=losses(), reference_loss=REFERENCE[None])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def released_doge(gradient: np.ndarray, rate: float = 5e-4) -> Weights:
    """Olivia-fsm/DoGE, src/trainer.py and config/doge.json (1fb7f7b): μ 0.01, norm 5, clip at 5; own gradient included,
    because sets of tensors are never equal there."""
    weights, expected = np.full(K, 1 / K), [np.full(K, 1 / K)]
    for each in gradient.astype(np.float64):
        flat = np.array([g * min(1.0, 5.0 / (math.sqrt((g * g).sum()) + 1e-6)) for g in each])
        score = rate * (flat @ flat.T).sum(axis=1) / (np.mean([math.sqrt(g @ g) for g in flat]) + 1e-6)
        score = np.clip(score, 0.0, rate * 5.0)
        weights = np.array(softmax(list(np.log(weights) + score / 0.01)))
        expected.append(weights)
    return np.array(expected)


def test_doge_is_that_of_its_authors():
    rule = load_strategy("doge")
    np.testing.assert_allclose(ours(rule, gradient=gradients()), released_doge(gradients()), atol=1e-9)


def test_doge_aims_at_target_sets_as_its_authors_do():
    """Olivia-fsm/DoGE, src/trainer.py (1fb7f7b): the sources' gradients against the sum of those of the target ids."""
    weights, expected, rate = np.full(K, 1 / K), [np.full(K, 1 / K)], 5e-4

    def clipped(rows: np.ndarray) -> np.ndarray:
        return np.array([g * min(1.0, 5.0 / (math.sqrt((g * g).sum()) + 1e-6)) for g in rows.astype(np.float64)])

    for each, aims in zip(gradients(), targets(), strict=True):
        train, aim = clipped(each), clipped(aims)
        score = rate * (train @ aim.T).sum(axis=1) / (np.mean([math.sqrt(g @ g) for g in train]) + 1e-6)
        score = np.clip(score, 0.0, rate * 5.0)
        weights = np.array(softmax(list(np.log(weights) + score / 0.01)))
        expected.append(weights)
    found = ours(load_strategy("doge_target"), gradient=gradients(), target_gradient=targets())
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found[-1].argmax() == 0


def test_rnb_is_the_balance_of_its_paper():
    """arXiv:2505.00358, Algorithm 1, line 14, with even evaluation weights and λ = 3."""
    expected = [[1 / K] * K]
    for each in gradients().astype(np.float64):
        gram = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in each] for one in each]
        agreement = [sum(row) / K for row in gram]
        length = math.sqrt(sum(value**2 for value in agreement))
        expected.append(softmax([3 * value / length for value in agreement]))
    np.testing.assert_allclose(ours(load_strategy("rnb"), gradient=gradients()), expected, atol=1e-9)


def test_pike_is_the_algorithm_of_its_paper():
    """arXiv:2502.06244, Algorithm 1, lines 5 to 7, with ζ₁ 0.3, ζ₂ 5 and b 32."""
    noise = np.random.default_rng(9).gamma(2.0, 1.0, (UPDATES, K, 2))
    weights, expected = [1 / K] * K, [[1 / K] * K]
    for each in noise:
        weights = [w * math.exp(0.3 * g - 5 / (2 * 32) * s) for w, (g, s) in zip(weights, each, strict=True)]
        weights = [w / sum(weights) for w in weights]
        expected.append(weights)
    rule = load_strategy("pike", gradient=0.3, noise=5.0, batch=32)
    np.testing.assert_allclose(ours(rule, gradient_noise=noise), expected, atol=1e-9)


def test_dynamix_sft_is_the_bandit_of_its_paper():
    """arXiv:2508.12116v2, equations 2 to 5 and appendix A: γ 0.3, α 0.95, β 4."""
    fall = np.random.default_rng(10).normal(0.05, 0.02, (UPDATES, K))
    prior = sources().sizes / sources().sizes.sum()
    reward, expected = [0.0] * K, []

    def weights() -> list[float]:
        power = [p * math.exp(4 * q) for p, q in zip(prior, reward, strict=True)]
        return [0.7 * each / sum(power) + 0.3 / K for each in power]

    expected.append(weights())
    for each in fall:
        scaled = [(r - min(each)) / (max(each) - min(each)) for r in each]
        reward = [0.95 * old + 0.05 * new for old, new in zip(reward, scaled, strict=True)]
        expected.append(weights())
    np.testing.assert_allclose(ours(load_strategy("dynamix_sft"), look_ahead=fall), expected, atol=1e-9)


def test_one_update_of_doge_stands_for_all_steps_since_the_last():
    same = np.tile(gradients()[:1], (UPDATES, 1, 1))
    every_step, every_fifth = ours(load_strategy("doge"), gradient=same), ours(load_strategy("doge"), 5, gradient=same)
    np.testing.assert_allclose(every_fifth, every_step[::5], atol=1e-12)


def test_doremi_is_that_of_its_authors():
    """sangmichaelxie/doremi, doremi/trainer.py (64470fe): doremiv1, with the scores of a domain given."""
    weights, expected = np.full(K, 1 / K), [np.full(K, 1 / K)]
    for score in losses():
        weights = (1 - 1e-4) * np.array(softmax(list(np.log(weights) + score))) + 1e-4 / K
        expected.append(weights)
    np.testing.assert_allclose(ours(load_strategy("doremi"), excess_loss=losses()), expected, atol=1e-9)


GRAPH = [[0.5, 0.2, 0, 0, 0.1], [0, 0.4, 0.3, 0, 0], [0.1, 0, 0.6, 0, 0], [0, 0, 0, 0.2, 0.9], [0, 0.3, 0, 0, 0.7]]


@pytest.mark.parametrize("graph", [GRAPH, []], ids=["graph", "none"])
def test_skill_it_is_that_of_its_authors(graph):
    """HazyResearch/skill-it, trainer/mw_trainer.py (cfabec0), and aioli's copy: η 0.2, a window of 3."""
    matrix, kept = np.array(graph) if graph else np.eye(K), []
    first = np.exp(0.2 * matrix.dot(np.ones(K)))
    expected = [first / first.sum()]
    for loss in losses():
        kept.append(loss)
        weights = np.exp(0.2 * matrix.dot(np.sum(kept[-3:], axis=0)))
        expected.append(weights / weights.sum())
    np.testing.assert_allclose(ours(load_strategy("skill_it", graph=graph), probe_loss=losses()), expected, atol=1e-9)


def test_aioli_is_that_of_its_authors():
    """HazyResearch/aioli, trainer/aioli_trainer.py and scripts (910d524): one sweep, η 1, ema 0.1, normalised."""
    factor, hold = 0.75, 1
    rule = load_strategy("aioli", hold=hold, rounds=4)
    mixtures = [[factor if i == j else (1 - factor) / (K - 1) for i in range(K)] for j in range(K)]
    loss = np.vstack([losses()[:1] + 0.3, losses()])  # before training, then after each of 20 intervals
    expected, average = [], None
    for begin in (0, 2 * K):
        falls = [[loss[begin + j][i] - loss[begin + j + 1][i] for j in range(K)] for i in range(K)]
        graph = np.array([np.linalg.solve(mixtures, row) for row in falls])
        graph = graph - min(graph.min(), 0.0)
        graph = graph / graph.sum()
        average = graph if average is None else 0.9 * graph + 0.1 * average
        weights = np.exp(1.0 * average.sum(axis=0))
        expected += [*mixtures, *[weights / weights.sum()] * K]
    state = rule.start(rule.init(sources()), Observation(0, NAMES, *np.zeros((2, K), int), probe_loss=loss[0]))
    found = []
    for step in range(1, UPDATES + 1):
        found.append(state.weights)
        state = rule.update(state, Observation(step, NAMES, *np.zeros((2, K), int), probe_loss=loss[step]))
    np.testing.assert_allclose(found, expected, atol=1e-9)


# --- what we do otherwise -----------------------------------------------------------------------------------------


def apart(one: Weights, other: Weights) -> float:
    return float(np.abs(one[-1] - other[-1]).max())


def doge_at_the_end() -> float:
    """A rate that falls over the run, as released, against the same rate throughout."""
    weights = np.full((1, K), 1 / K)
    for i, each in enumerate(gradients()):
        step = released_doge(each[None], rate=5e-4 * (1 + math.cos(math.pi * i / UPDATES)) / 2)[-1]
        weights = np.vstack([weights, weights[-1] * step / (weights[-1] * step).sum()])
    return apart(ours(load_strategy("doge"), gradient=gradients()), weights)


def skill_it_with_halved_edges() -> float:
    ones = (np.array(GRAPH) > 0).astype(float)
    halved = np.where((ones == 1) & ~np.eye(K, dtype=bool), 0.5, ones)
    graphs = [tuple(map(tuple, graph.tolist())) for graph in (ones, halved)]
    return apart(*(ours(load_strategy("skill_it", graph=graph), probe_loss=losses()) for graph in graphs))


def ado_with_a_fit_at_every_update() -> float:
    rules = [load_strategy("ado"), load_strategy("ado", refit=0.0)]
    return apart(*(ours(rule, train_loss=losses()) for rule in rules))


def ado_with_the_released_fit() -> float:
    """Their fit of the last update: L-BFGS on a Huber loss of log L, from a grid of starts, with their penalties."""
    n, loss = np.cumsum(examples().sum(axis=1)).astype(float), losses()

    def objective(parameters: np.ndarray, target: np.ndarray) -> float:
        a, e, alpha = parameters
        error = np.abs(target - np.logaddexp(a - alpha * np.log(n), e))
        huber = np.where(error > 1e-3, 1e-3 * (error - 0.5e-3), 0.5 * error**2).sum()
        penalty = max(alpha - 0.8, 0) - min(alpha, 0.001) + max(a - 6.5, 0) - min(e - 0.5, 0)
        return float(huber + penalty)

    def preference(irreducible: np.ndarray, scale: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        slope = np.maximum(exponent, 0.05) * scale * n[-1] ** -exponent * sources().sizes
        return slope / slope.sum()

    starts = itertools.product((-1.0, 1.0, 3.0), (-1.0, 0.5), (0.1, 0.4, 0.7))
    found = []
    for curve, start in itertools.product(range(K), [list(starts)]):
        fits = [minimize(objective, each, np.log(loss[:, curve]), method="L-BFGS-B") for each in start]
        found.append(min(fits, key=lambda fit: fit.fun).x)
    a, e, alpha = np.array(found).T
    theirs = preference(np.exp(e), np.exp(a), alpha)
    return float(0.1 * np.abs(theirs - preference(*fit_laws(n, loss))).max())


def skill_it_with_losses_one_update_old() -> float:
    late = np.vstack([losses()[:1], losses()[:-1]])
    return apart(*(ours(load_strategy("skill_it"), probe_loss=loss) for loss in (losses(), late)))


def reweighing_every_fifth_step() -> float:
    rule = load_strategy("ref_loss")
    signals = {"probe_loss": losses(), "reference_loss": REFERENCE[None]}
    return apart(ours(rule, **signals), ours(rule, 5, **signals))


MEASURED: dict[str, Callable[[], float]] = {
    "`ado`: fitted again": ado_with_a_fit_at_every_update,
    "`doge`: one rate": doge_at_the_end,
    "`ado`: a law": ado_with_the_released_fit,
    "`skill_it`: edges": skill_it_with_halved_edges,
    "`skill_it`: the newest": skill_it_with_losses_one_update_old,
    "`ref_loss`, `doremi`: an update": reweighing_every_fifth_step,
}


@pytest.mark.parametrize("difference", MEASURED)
def test_the_page_lists_each_difference_with_its_size(difference: str):
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {difference}")]
    assert line.rstrip("| ").rpartition("| ")[2] == f"{MEASURED[difference]():.3f}"


def test_presets_are_one_rule_under_other_names():
    assert load_strategy("versatune") == load_strategy("ref_loss", c=0.0)
    assert load_strategy("versatune", c=0.1) == load_strategy("ref_loss", c=0.1)
    assert load_strategy("sheared") == load_strategy("ref_loss")
    assert dataclasses.asdict(load_strategy("sheared", eta=2.0))["eta"] == 2.0
