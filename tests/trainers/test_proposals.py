"""Proposers find a known optimum, say how far they can be trusted, and go on from runs that are there."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from forked import start
from scipy.optimize import minimize

from harness.errors import MoemixError
from harness.plan import build
from harness.recipe_file import load_recipe
from harness.store import Store
from trainers.commands.propose import propose
from trainers.proposals.laws import ProxyLosses, folds, proxy_mixes, sample_mixes
from trainers.proposals.propose import cross_validated, quality, shares
from trainers.proposals.records import Proposal
from trainers.proposals.registry import law

EVEN = np.full(3, 1 / 3)

# --- the design ----------------------------------------------------------------------------------------


def test_the_first_proxy_runs_the_prior_and_more_proxies_begin_with_the_same():
    prior = np.array([0.5, 0.3, 0.2])
    few, many = proxy_mixes(prior, 4, seed=1), proxy_mixes(prior, 9, seed=1)
    assert few[0].tolist() == prior.tolist()
    assert np.array_equal(few, many[:4])
    assert len({tuple(mix) for mix in many}) == 9
    assert np.abs(many.sum(axis=1) - 1).max() < 1e-5
    assert not np.array_equal(few[1:], proxy_mixes(prior, 4, seed=2)[1:])


def test_mixes_scatter_around_the_prior_from_few_sources_to_the_prior():
    prior = np.array([0.5, 0.3, 0.2])
    mixes = sample_mixes(prior, 20_000, np.random.default_rng(0))
    assert mixes.mean(axis=0) == pytest.approx(prior, abs=0.01)
    assert (mixes.max(axis=1) > 0.9).mean() > 0.03
    assert (np.abs(mixes - prior).max(axis=1) < 0.1).mean() > 0.05


# --- the laws --------------------------------------------------------------------------------------------

CONSTANT = np.log([0.5, 0.4, 0.6])
SLOPE = np.array([[-3.0, -0.5, 0.2], [-0.3, -2.0, 0.1], [0.1, 0.2, -2.5]])


def truth(mixes: np.ndarray) -> np.ndarray:
    """Losses of three sources under the mixing law, each source helped mostly by its own data."""
    return np.exp(CONSTANT) + np.exp(mixes @ SLOPE.T)


def best_of_a_grid(target: np.ndarray) -> tuple[np.ndarray, float]:
    steps = np.arange(401) / 400
    grid = np.array([[a, b, 1 - a - b] for a in steps for b in steps if a + b <= 1])
    losses = truth(grid) @ target
    return grid[losses.argmin()], float(losses.min())


@pytest.mark.parametrize("target", [EVEN, np.array([0.7, 0.2, 0.1]), np.array([1.0, 0.0, 0.0])])
def test_the_mixing_law_is_recovered_from_exact_losses_with_its_optimum(target: np.ndarray):
    mixes = proxy_mixes(EVEN, 12, seed=0)
    fitted = law("mixing_law").fit(ProxyLosses(mixes, truth(mixes)), target, seed=0)
    expected, lowest = best_of_a_grid(target)
    proposed = fitted.best(EVEN, seed=0)
    assert proposed == pytest.approx(expected, abs=0.01)
    assert (truth(proposed[None]) @ target)[0] <= lowest + 1e-6
    unseen = sample_mixes(EVEN, 50, np.random.default_rng(9))
    assert fitted.predict(ProxyLosses(unseen, truth(unseen))) == pytest.approx(truth(unseen) @ target, rel=1e-3)


def test_the_mixing_law_finds_its_way_through_noise():
    mixes = proxy_mixes(EVEN, 24, seed=0)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(24, 3))
    fitted = law("mixing_law").fit(ProxyLosses(mixes, truth(mixes) * noise), EVEN, seed=0)
    proposed = fitted.best(EVEN, seed=0)
    loss, lowest = float((truth(proposed[None]) @ EVEN)[0]), best_of_a_grid(EVEN)[1]
    assert loss - lowest < 0.1 * ((truth(mixes) @ EVEN).mean() - lowest)


def test_regmix_finds_a_known_optimum():
    optimum = np.array([0.6, 0.3, 0.1])
    mixes = proxy_mixes(EVEN, 64, seed=0)
    losses = np.repeat(((mixes - optimum) ** 2).sum(axis=1)[:, None], 3, axis=1) + 1.0
    regmix = law("regmix")
    runs = ProxyLosses(mixes, losses)
    fitted = regmix.fit(runs, EVEN, seed=0)
    assert np.abs(fitted.best(EVEN, seed=0) - optimum).max() < 0.1
    assert np.array_equal(regmix.fit(runs, EVEN, seed=0).predict(runs), fitted.predict(runs))
    fit = quality(cross_validated(regmix, runs, EVEN, 0)[0], losses @ EVEN, 10)
    assert fit.rank_correlation > 0.9
    assert fit.r2 > 0.8


def predictions(rng: np.random.Generator) -> ProxyLosses:
    """Proxies of three sources: the prior, each alone, two mixes; random predictions of two sets of 30 examples."""
    mixes = np.array([proxy.weights for proxy in law("mixmin").design(EVEN, 6, 0)])
    targets = tuple(rng.integers(1, 40, 30).astype(float) for _ in range(2))
    nats = tuple(count * rng.uniform(0.5, 3.0, (len(mixes), 30)) for count in targets)
    losses = np.stack([each.sum(axis=1) / count.sum() for each, count in zip(nats, targets, strict=True)], axis=1)
    return ProxyLosses(mixes, losses, nats=nats, targets=targets)


def test_mixmin_is_the_descent_of_its_authors():
    """Anvith-Thudi/MixMin, LLM_DataMixing/mixmin_gen.py (2c9515a): exponentiated gradient of the mixture's loss."""
    runs = predictions(np.random.default_rng(3))
    assert runs.mixes[:4].tolist() == [EVEN.round(6).tolist(), *np.eye(3).tolist()]
    logits, lengths = -runs.nats[1][1:4], runs.targets[1]
    params = np.ones(3) / 3
    for _ in range(100):
        mixture = np.array([sum(p * math.exp(x) for p, x in zip(params, column, strict=True)) for column in logits.T])
        grad = np.array([-np.mean(np.exp(row) / mixture / lengths) for row in logits])
        params = params * np.exp(-grad)
        params = params / params.sum()
        if np.abs(grad).max() < 1e-4:
            break
    fitted = law("mixmin").fit(runs, np.array([0.0, 1.0]), 0)
    np.testing.assert_allclose(fitted.best(EVEN, 0), params, atol=1e-9)
    predicted, judged = cross_validated(law("mixmin"), runs, np.array([0.5, 0.5]), 0)
    assert judged.tolist() == [True, False, False, False, True, True]
    np.testing.assert_allclose(
        predicted[1:4],
        sum(np.mean(nats[1:4] / count, axis=1) for nats, count in zip(runs.nats, runs.targets, strict=True)) / 2,
    )


DMO = np.array([[0.2, 0.3, 0.5, 0.15, 0.9], [-0.1, 0.05, 0.3, 0.3, 0.4], [0.4, 0.6, 0.7, 0.1, 0.2]])


def transfer(tokens: np.ndarray) -> np.ndarray:
    """Losses under DMO's law (C, k, α, β, E of three sources), in the words of its authors' `objective`."""
    columns = []
    for i, (log_c, k, alpha, beta, floor) in enumerate(DMO):
        worth = tokens[:, i] + k * (tokens.sum(axis=1) - tokens[:, i]) ** alpha
        columns.append(math.exp(log_c) * worth ** (-beta) + floor)
    return np.stack(columns, axis=1)


def test_the_transfer_law_predicts_trainings_of_other_sizes_and_finds_the_optimum_of_its_authors():
    """BrevityD/Data-Mixing-Optimization, domain_weights/weight_optimizer.py (6e8c66c): SLSQP of the same objective."""
    proxies = law("dmo").design(EVEN, 13, 0)
    assert [round(proxy.size, 3) for proxy in proxies[:5]] == [1.0, 1.667, 1.667, 1.667, 0.75]
    tokens = 30.0 * np.array([proxy.size * proxy.weights for proxy in proxies])
    runs = ProxyLosses(np.array([p.weights for p in proxies]), transfer(tokens), tokens, per_weight=np.full(3, 30.0))
    fitted = law("dmo").fit(runs, EVEN, 0)
    others = 30.0 * sample_mixes(EVEN, 20, np.random.default_rng(4)) * 1.5
    unseen = ProxyLosses(runs.mixes, transfer(others), others)
    np.testing.assert_allclose(fitted.predict(unseen), transfer(others) @ EVEN, rtol=5e-3)
    theirs = minimize(
        lambda w: transfer(30.0 * w[None]).sum(),
        np.full(3, 1 / 3),
        method="SLSQP",
        bounds=[(0.0, 1.0)] * 3,
        constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1.0}],
    ).x
    np.testing.assert_allclose(fitted.best(EVEN, 0), theirs, atol=0.03)


def test_the_quality_is_of_runs_that_the_law_did_not_see():
    """Losses that have nothing to do with the mix are fitted well, and predicted badly."""
    mixes = proxy_mixes(EVEN, 16, seed=0)
    losses = 1.0 + np.random.default_rng(1).random((16, 3))
    regmix, runs = law("regmix"), ProxyLosses(mixes, losses)
    target = losses @ EVEN
    seen = quality(regmix.fit(runs, EVEN, 0).predict(runs), target, 1)
    unseen = quality(cross_validated(regmix, runs, EVEN, 0)[0], target, 10)
    assert seen.r2 > 0.5
    assert unseen.r2 < 0.1


def test_quality_in_numbers():
    fit = quality(np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]), 4)
    assert (fit.r2, fit.rank_correlation, fit.error) == (
        pytest.approx(0.6),
        pytest.approx(0.8),
        pytest.approx(0.5**0.5),
    )
    flat = quality(np.array([1.0, 2.0]), np.array([1.0, 1.0]), 2)
    assert (flat.r2, flat.rank_correlation) == (None, None)
    assert [out.sum() for out in folds(25)] == [3] * 5 + [2] * 5
    assert np.sum(folds(7), axis=0).tolist() == [1] * 7


def test_what_is_asked_for_must_fit_the_recipe():
    assert shares({"a": 2, "b": 1, "c": 1}, "abc", "prior").tolist() == [0.5, 0.25, 0.25]
    assert shares({"a": 2}, "abc", "target").tolist() == [1, 0, 0]
    for given, what, message in (
        ({"d": 1}, "target", "unknown source 'd'"),
        ({"a": -1}, "target", "must be finite and >= 0, got -1"),
        ({"a": 1}, "prior", "prior weight of source 'b' is 0"),
        ({"a": 0}, "target", "all target weights are zero"),
    ):
        with pytest.raises(MoemixError, match=message):
            shares(given, "abc", what)


def test_a_missing_lightgbm_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MoemixError, match=r"pip install 'moemix\[propose\]'"):
        law("regmix")
    assert law("mixing_law").name == "mixing_law"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regmax", "quickstart"], "did you mean 'regmix'"),
        (["mixing_law", "quickstart", "--proxies", "5"], "5 proxies are too few for mixing_law over 4 sources"),
        (["regmix", "quickstart", "--target", "math"], "'math' is not of the form name=weight"),
        (["regmix", "quickstart", "--target", "maths=1"], "did you mean 'math'"),
        (["regmix", "quickstart", "--model", "tony"], "did you mean 'tiny'"),
        (
            ["regmix", "quickstart", "--set", "data.sources.math.probe_examples=0"],
            "source math: the source has no held-out examples",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(arguments: list[str], message: str, tmp_path: Path):
    with pytest.raises(MoemixError, match=message):
        CliRunner().invoke(propose, [*arguments, "--store", str(tmp_path)], catch_exceptions=False)
    assert not list(tmp_path.rglob("run.json"))


# --- the whole, on real training -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of simple sums and of simple words, and a model of two layers that has seen neither."""
    folder = tmp_path_factory.mktemp("recipe")
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[str, str]]] = {"sums": [], "words": []}
    for _ in range(120):
        a, b = rng.integers(0, 50, 2).tolist()
        rows["sums"].append((f"{a} + {b}", str(a + b)))
        word = "".join(rng.choice(list("abcdef"), 5))
        rows["words"].append((f"say {word}", word))
    for name, pairs in rows.items():
        lines = (json.dumps({"prompt": question, "completion": answer}) for question, answer in pairs)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    tree = {
        "name": "small",
        "models": [
            {
                "kind": "tiny",
                "name": "tiny",
                "config": {
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "num_local_experts": 4,
                    "num_experts_per_tok": 2,
                    "max_position_embeddings": 128,
                },
                "tokenizer": {"vocab_size": 280},
            }
        ],
        "data": {
            "sources": [
                {
                    "name": name,
                    "parts": [{"adapter": "prompt_completion", "files": [str(folder / f"{name}.jsonl")]}],
                    "probe_examples": 20,
                }
                for name in rows
            ]
        },
        "strategies": ["uniform"],
        "training": {"steps": 40, "batch_examples": 16, "max_length": 64, "learning_rate": 0.01, "rows_per_forward": 4},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(tree))
    return folder / "small.yaml"


def finished(store: Path) -> list[Path]:
    return [p for p in sorted(store.rglob("run.json")) if json.loads(p.read_text())["checkpoint_hash"]]


def proposed(*arguments: str) -> str:
    done = CliRunner().invoke(propose, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_proxies_are_trained_measured_and_fitted_and_a_killed_proposal_goes_on(recipe: Path, tmp_path: Path):
    store = tmp_path / "store"
    arguments = (str(recipe), "--proxies", "4", "--set", "training.steps=8", "--store", str(store))
    started = start("propose", "mixing_law", *arguments)
    while not finished(store):
        assert started.poll() is None, started.wait().stderr
        time.sleep(0.1)
    started.send_signal(signal.SIGKILL)
    started.wait()
    kept = {path.with_name("checkpoint"): path.stat().st_mtime_ns for path in finished(store)}
    assert 1 <= len(kept) < 4, "it was to be killed halfway"

    said = proposed("mixing_law", *arguments)
    checkpoints = [path.with_name("checkpoint") for path in finished(store)]
    assert len(checkpoints) == 4
    written = {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in checkpoints}
    assert all(written[folder] <= at for folder, at in kept.items()), "a finished proxy was trained again"
    (folder,) = (store / "proxies" / "small").glob("mixing_law-4-*")
    proposal = Proposal.read(folder / "proposal.json")
    assert sum(proposal.weights.values()) == pytest.approx(1, abs=1e-5)
    assert [proxy.weights["sums"] for proxy in proposal.proxies] == proxy_mixes(np.full(2, 0.5), 4, 0)[:, 0].tolist()
    for proxy in proposal.proxies:
        assert proxy.measured == pytest.approx(np.mean(list(proxy.losses.values())))
        assert (store / proxy.run / "held_out.jsonl").is_file()
    assert proposal.at_prior == proposal.proxies[0].measured
    assert (proposal.cost.examples, proposal.cost.steps) == (4 * 8 * 16, 4 * 8)
    assert proposal.cost.of_a_run == pytest.approx(4 * 8 / 40)
    assert f"{proposal.predicted:.4f} predicted" in said
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    losses, mixes = (
        np.array([[each[name] for name in ("sums", "words")] for each in rows])
        for rows in ([p.losses for p in proposal.proxies], [p.weights for p in proposal.proxies])
    )
    for k in range(2):
        order = np.argsort(mixes[:, k])
        assert losses[order[-1], k] < losses[order[0], k], "more of a source teaches it better"

    proposed("regmix", *arguments, "--target", "words=1", "--out", str(tmp_path / "regmix"))
    assert {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in checkpoints} == written
    regmix = Proposal.read(tmp_path / "regmix" / "proposal.json")
    assert regmix.target == {"sums": 0.0, "words": 1.0}
    assert [proxy.measured for proxy in regmix.proxies] == [proxy.losses["words"] for proxy in regmix.proxies]

    row = tmp_path / "regmix" / "strategy.yaml"
    plan = build(load_recipe(str(recipe), [f"strategies=[uniform, {row}]"]), Store(store), None)
    strategy = plan.select("regmix", None, None).config.strategy
    assert (strategy.name, strategy.options["weights"]) == ("static", regmix.weights)
    assert (strategy.spent.runs, strategy.spent.steps, strategy.spent.tokens) == (4, 32, regmix.cost.tokens)


def test_proposers_that_design_their_own_proxies_run_them_and_aim_at_a_target_set(recipe: Path, tmp_path: Path):
    gold = [{**source, "name": "gold"} for source in yaml.safe_load(recipe.read_text())["data"]["sources"][1:]]
    aiming = tmp_path / "aiming.yaml"
    aiming.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "held_out": gold}))
    arguments = (str(aiming), "--set", "training.steps=8", "--store", str(tmp_path / "store"))
    proposed("mixmin", *arguments, "--proxies", "5", "--target", "gold=1", "--out", str(tmp_path / "mixmin"))
    found = Proposal.read(tmp_path / "mixmin" / "proposal.json")
    assert [proxy.weights["sums"] for proxy in found.proxies[:3]] == [0.5, 1.0, 0.0]
    assert found.target == {"sums": 0.0, "words": 0.0, "gold": 1.0}
    assert found.weights["words"] > found.weights["sums"], "the model of words predicts words"
    assert (found.fit.runs, found.fit.folds) == (3, 1)

    proposed("dmo", *arguments, "--proxies", "6", "--out", str(tmp_path / "dmo"))
    found = Proposal.read(tmp_path / "dmo" / "proposal.json")
    steps = [
        json.loads((tmp_path / "store" / p.run / "run.json").read_text())["result"]["steps"] for p in found.proxies
    ]
    assert steps == [8, 16, 16, 5, 5, 12]
    assert sum(found.weights.values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(MoemixError, match="cannot aim at a target set"):
        CliRunner().invoke(propose, ["dmo", *arguments, "--target", "gold=1"], catch_exceptions=False)


def test_a_strategy_file_that_is_none_is_told(recipe: Path, tmp_path: Path):
    for text, message in (("- a\n- b\n", "a mapping with a `name`"), ("name: [", "not valid YAML")):
        (tmp_path / "row.yaml").write_text(text)
        with pytest.raises(MoemixError, match=message):
            load_recipe(str(recipe), [f"strategies=[{tmp_path / 'row.yaml'}]"])
    with pytest.raises(MoemixError, match=r"nowhere\.yaml: the file does not exist"):
        load_recipe(str(recipe), ["strategies=[nowhere.yaml]"])


def test_asking_for_help_needs_no_libraries():
    code = (
        "import sys; from harness.cli import cli\n"
        "try: cli.main(['propose', '--help'])\n"
        "except SystemExit: print({'torch', 'transformers', 'lightgbm', 'scipy'} & set(sys.modules))"
    )
    process = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert process.stdout.endswith("set()\n")
