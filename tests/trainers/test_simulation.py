"""The simulated world says what is true in it, and what a strategy loses against the best it could have done."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MoemixError
from trainers.commands.simulate import simulate
from trainers.mixing import MixingStrategy, MixtureState, load_strategy, strategy_cards
from trainers.mixing.contract import SIGNALS
from trainers.simulation import WORLDS, follow, load_world
from trainers.simulation.best import best_fixed
from trainers.simulation.comparison import compare, regrets
from trainers.simulation.course import fixed_exposure
from trainers.simulation.ground import Ground
from trainers.simulation.observing import Moment, Observer
from trainers.simulation.records import Simulation


@dataclasses.dataclass(frozen=True)
class Fixed(MixingStrategy):
    """The given weights."""

    name = "fixed"
    updates = False
    weights: tuple[float, ...] = ()

    def init(self, sources):
        return MixtureState(np.array(self.weights))


def drawn(seed: int = 0, **changes) -> Ground:
    return Ground.draw(load_world("redundant", changes), np.random.default_rng(seed))


def observer(ground: Ground, seed: int = 0) -> Observer:
    return Observer(ground, fixed_exposure(ground).mean(axis=0), (seed,))


def moment(ground: Ground, examples: int, at: float = 0.5) -> Moment:
    learnt_M = at * fixed_exposure(ground).mean(axis=0)
    return Moment(at, learnt_M, np.full(len(ground.names), examples))


# --- the best fixed mix -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_the_best_fixed_mix_is_best_to_within_a_gap_that_is_next_to_nothing(name: str):
    for seed in range(3):
        ground = Ground.draw(WORLDS[name], np.random.default_rng(seed))
        best = best_fixed(ground, fixed_exposure(ground))
        assert 0 <= best.gap < 1e-6
        assert best.weights.min() >= 0
        assert best.weights.sum() == pytest.approx(1)


def test_the_best_fixed_mix_is_that_of_a_fine_grid():
    ground = drawn(3, groups=[2, 1], skills=5)
    exposure = fixed_exposure(ground)
    best = best_fixed(ground, exposure)
    steps = np.arange(201) / 200
    grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1]
    losses = [ground.objective(weights @ exposure) for weights in grid]
    assert best.loss <= min(losses) + 1e-9
    assert best.loss > min(losses) - 1e-3
    assert np.abs(best.weights - grid[int(np.argmin(losses))]).max() < 0.02


def test_what_four_sources_repeat_is_worth_as_much_as_what_one_says():
    ground = drawn(groups=[4, 1], redundancy=1.0, skills=2)
    teaches_one_each = dataclasses.replace(
        ground,
        first_KM=np.array([[1.0, 0]] * 4 + [[0, 1.0]]),
        last_KM=np.array([[1.0, 0]] * 4 + [[0, 1.0]]),
        floor_M=np.full(2, 0.5),
        gain_M=np.full(2, 2.0),
        scale_M=np.full(2, 5000.0),
        power_M=np.full(2, 0.5),
    )
    best = best_fixed(teaches_one_each, fixed_exposure(teaches_one_each))
    assert best.weights[4] == pytest.approx(0.5, abs=1e-4)


@given(
    seed=st.integers(0, 10**6),
    groups=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    redundancy=st.floats(0, 1),
    logits=st.lists(st.floats(-30, 30), min_size=16, max_size=16),
)
@settings(max_examples=25, deadline=None)
def test_without_drift_nothing_beats_the_best_fixed_mix(seed, groups, redundancy, logits):
    ground = drawn(seed, groups=groups, redundancy=redundancy, steps=50, interval=10)
    weights = np.exp(logits[: sum(groups)])
    course = follow(Fixed(tuple(weights / weights.sum())), ground, (seed,))
    best = best_fixed(ground, fixed_exposure(ground))
    assert regrets(ground, best, course)[-1] >= -best.gap - 1e-9


def test_a_strategy_that_follows_the_best_mix_has_next_to_no_regret():
    ground = drawn(5, noise=0.0, batch=2048)
    best = best_fixed(ground, fixed_exposure(ground))
    course = follow(Fixed(tuple(best.weights)), ground, (5,))
    assert regrets(ground, best, course)[-1] < 1e-4
    uniform = follow(load_strategy("uniform"), ground, (5,))
    assert regrets(ground, best, uniform)[-1] > 0.01


def test_with_drift_a_change_of_mix_can_beat_every_fixed_one():
    """Each of two sources ends by teaching what the other began with, and one of the two skills is worth little."""

    @dataclasses.dataclass(frozen=True)
    class Switch(MixingStrategy):
        """The source that teaches the first skill."""

        name = "switch"

        def init(self, sources):
            return MixtureState(np.array([1.0, 0.0]))

        def update(self, state, seen):
            return MixtureState(np.array([1.0, 0.0]) if seen.step < 1000 else np.array([0.0, 1.0]))

    ground = dataclasses.replace(
        drawn(groups=[1, 1], drift=1.0, skills=2),
        first_KM=np.eye(2),
        last_KM=np.eye(2)[::-1],
        gain_M=np.array([3.0, 0.01]),
        scale_M=np.full(2, 5e4),
    )
    best = best_fixed(ground, fixed_exposure(ground))
    assert regrets(ground, best, follow(Switch(), ground, (0,)))[-1] < -0.1
    assert regrets(ground, best, follow(Fixed((0.3, 0.7)), ground, (0,)))[-1] == pytest.approx(0, abs=1e-3)


# --- what is observed --------------------------------------------------------------------------------


def test_the_simulation_has_every_signal_that_a_strategy_may_ask_for():
    ground = drawn()
    seen = observer(ground).see(sorted(SIGNALS), moment(ground, 100))
    assert seen.keys() == SIGNALS
    for name, array in seen.items():
        assert len(array) == len(ground.names), name
        assert np.isfinite(array).all(), name
    with pytest.raises(MoemixError, match="did you mean 'gate_load'"):
        observer(ground).see(["gate_loads"], moment(ground, 1))


def test_without_noise_signals_are_what_is_true():
    ground = drawn(noise=0.0)
    now = moment(ground, 10**6)
    seen = observer(ground).see(sorted(SIGNALS), now)
    teaching = ground.teaching_KM(now.time)
    share = seen["gate_load"] / seen["gate_load"].sum(axis=2, keepdims=True)
    for layer in range(ground.world.layers):
        assert np.abs(share[:, layer] - teaching @ ground.routing_LME[layer]).max() < 1e-3
    loss = teaching @ ground.skill_loss(now.learnt_M)
    assert seen["train_loss"] == pytest.approx(loss)
    assert seen["probe_loss"] == pytest.approx(loss)
    assert (seen["reference_loss"] < loss).all(), "the reference has been trained to the end"
    assert seen["excess_loss"] == pytest.approx(loss - seen["reference_loss"])


def test_redundant_sources_look_alike_in_load_embedding_and_gradient():
    ground = drawn(redundancy=0.95)
    seen = observer(ground).see(["gate_load", "embedding", "gradient"], moment(ground, 1000))
    for name, array in seen.items():
        rows = array.reshape(len(array), -1).astype(float)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        alike = rows @ rows.T
        within, between = alike[:4, :4].min(), alike[:4, 4:].max()
        assert within > between, name


def test_noise_shrinks_with_the_root_of_the_examples_and_an_unseen_source_has_no_loss():
    ground = drawn(noise=1.0, groups=[300], redundancy=1.0)
    spread = [
        np.log(observer(ground).see(["train_loss"], moment(ground, n))["train_loss"]).std() for n in (100, 10_000)
    ]
    assert spread[0] == pytest.approx(0.1, rel=0.2)
    assert spread[1] == pytest.approx(0.01, rel=0.2)
    nothing = observer(ground).see(["train_loss", "gate_load"], moment(ground, 0))
    assert np.isnan(nothing["train_loss"]).all()
    assert nothing["gate_load"].sum() == 0


def test_the_slope_of_a_learning_curve_is_its_derivative():
    ground = drawn()
    learnt = np.linspace(0, 1e5, ground.world.skills)
    rise = ground.skill_loss(learnt + 1.0) - ground.skill_loss(learnt)
    assert ground.slope(learnt + 0.5) == pytest.approx(rise, rel=1e-4)


# --- comparing ---------------------------------------------------------------------------------------


def told(simulation: Simulation) -> dict:
    record = simulation.model_dump(mode="json", exclude={"provenance"})
    for strategy in record["strategies"]:
        strategy.pop("seconds")
    return record


def test_the_same_seed_is_the_same_simulation_and_another_seed_is_not():
    rules = {name: load_strategy(name) for name in ("uniform", "dynamic")}
    world = load_world("noisy", {"steps": 300})
    one, again, other = (told(compare(rules, world, seed, 2)) for seed in (1, 1, 2))
    assert one == again
    assert one["strategies"][0]["loss"] != other["strategies"][0]["loss"]


def test_every_strategy_that_can_be_listed_can_be_simulated():
    rules = {card.name: load_strategy(card.name) for card in strategy_cards() if card.trains and not card.required}
    found = compare(rules, load_world("redundant", {"steps": 400}), 0, 2)
    assert {each.label for each in found.strategies} == rules.keys()
    assert [each.regret.mean for each in found.strategies] == sorted(each.regret.mean for each in found.strategies)
    for each in found.strategies:
        assert each.regret.mean >= -1e-3, each.label  # loss weights and uneven draws leave a hair's breadth
        assert np.abs(np.sum(each.weights, axis=1) - 1).max() < 1e-6
        assert each.steps[-1] == 400
    uniform = next(each for each in found.strategies if each.label == "uniform")
    assert uniform.over_uniform.mean == uniform.variation.mean == 0
    assert uniform.effective_sources.mean == pytest.approx(6)


def test_thousands_of_steps_take_seconds():
    started = time.process_time()
    world = load_world("many", {"steps": 5000, "interval": 50})
    compare({"uniform": load_strategy("uniform"), "dynamic": load_strategy("dynamic")}, world, 0, 1)
    assert time.process_time() - started < 10


# --- the command -------------------------------------------------------------------------------------


def run(*arguments: str, out: Path):
    return CliRunner().invoke(simulate, [*arguments, "--repeats", "2", "--out", str(out)], catch_exceptions=False)


def test_the_command_leaves_a_record_a_picture_and_a_table(tmp_path: Path):
    done = run("uniform", "dynamic", "--world", "drifting", "--steps", "400", "--set", "dynamic.eta=3", out=tmp_path)
    assert done.exit_code == 0
    record = Simulation.read(tmp_path / "simulation.json")
    assert (record.world.name, record.world.steps, record.repeats) == ("drifting", 400, 2)
    options = {each.label: each.options for each in record.strategies}
    assert options["dynamic"]["eta"] == 3
    for each in record.strategies:
        row = next(line for line in done.stdout.splitlines() if line.startswith(each.label))
        assert f"{1000 * each.regret.mean:+.1f} ± {1000 * each.regret.stderr:.1f}" in row
    picture = (tmp_path / "simulation.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    run("uniform", "dynamic", "--world", "drifting", "--steps", "400", "--set", "dynamic.eta=3", out=tmp_path / "again")
    assert (tmp_path / "again" / "simulation.png").read_bytes() == picture


def test_a_strategy_of_ones_own_is_simulated_from_its_file(tmp_path: Path):
    from trainers.commands.strategy_template import write_strategy

    file, _ = write_strategy("my_own", tmp_path, set())
    done = run(f"{file}:MyOwn", "--steps", "200", "--set", "MyOwn.eta=2", out=tmp_path)
    assert done.exit_code == 0
    (strategy,) = json.loads((tmp_path / "simulation.json").read_text())["strategies"]
    assert (strategy["label"], strategy["name"], strategy["options"]["eta"]) == ("MyOwn", "my_own", 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dynamik"], "did you mean 'dynamic'"),
        (["dynamic", "--world", "redundent"], "did you mean 'redundant'"),
        (["dynamic", "--set", "redundency=1"], "did you mean 'redundancy'"),
        (["dynamic", "--set", "redundancy=2"], "less than or equal to 1"),
        (["dynamic", "--set", "dynamic.etta=2"], "did you mean 'eta'"),
        (["dynamic", "--set", "uniform.eta=2"], "no strategy 'uniform' is simulated"),
        (["dynamic", "--set", "redundancy"], "has no `=`"),
        (["dynamic", "dynamic"], "must differ"),
        (["none"], "trains nothing"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(arguments: list[str], message: str, tmp_path: Path):
    with pytest.raises(MoemixError, match=message):
        run(*arguments, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_naming_no_strategy_is_an_error_in_words(tmp_path: Path):
    assert "name strategies, or give --all" in run(out=tmp_path).output
    assert "name strategies, or give --all" in run("dynamic", "--all", out=tmp_path).output


def test_simulating_never_imports_torch():
    code = (
        "import sys, trainers.simulation.comparison, trainers.simulation.figures;"
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
