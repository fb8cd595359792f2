"""The simulated world says what is true in it, and what a strategy loses against the best it could have done."""

from __future__ import annotations

import dataclasses
import json
import re
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
from harness.grid import Number
from tests.bench.simulation import DOCS, MARK
from trainers.commands.simulate import simulate
from trainers.mixing import MixingStrategy, MixtureState, load_strategy, strategy_cards
from trainers.mixing.distances import dissimilarity
from trainers.plugins import SIGNALS
from trainers.simulation.comparison import Simulation, best_fixed, compare, regrets
from trainers.simulation.rankings import difference
from trainers.simulation.training import Observer, Snapshot, simulate_run
from trainers.simulation.worlds import WORLDS, DrawnWorld, load_world


@dataclasses.dataclass(frozen=True)
class Fixed(MixingStrategy):
    """The given weights."""

    name = "fixed"
    updates = False
    weights: tuple[float, ...] = ()

    def init(self, sources):
        return MixtureState(np.array(self.weights))


def drawn(seed: int = 0, **changes) -> DrawnWorld:
    return DrawnWorld.draw(load_world("redundant", changes), np.random.default_rng(seed))


def observer(drawn_world: DrawnWorld, seed: int = 0) -> Observer:
    return Observer(drawn_world, drawn_world.exposure().mean(axis=0), (seed,))


def moment(drawn_world: DrawnWorld, examples: int, at: float = 0.5) -> Snapshot:
    learned = at * drawn_world.exposure().mean(axis=0)
    return Snapshot(at, learned, np.full(len(drawn_world.names), examples))


# --- the best fixed mix -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_the_best_fixed_mix_is_best_to_within_a_gap_that_is_next_to_nothing(name: str):
    for seed in range(3):
        drawn_world = DrawnWorld.draw(WORLDS[name], np.random.default_rng(seed))
        best = best_fixed(drawn_world)
        assert 0 <= best.gap < 1e-6
        assert min(best.weights) >= 0
        assert sum(best.weights) == pytest.approx(1)


def test_the_best_fixed_mix_is_that_of_a_fine_grid():
    drawn_world = drawn(3, groups=[2, 1], skills=5)
    exposure = drawn_world.exposure()
    best = best_fixed(drawn_world)
    steps = np.arange(201) / 200
    grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1]
    losses = [drawn_world.objective(weights @ exposure) for weights in grid]
    assert best.loss <= min(losses) + 1e-9
    assert best.loss > min(losses) - 1e-3
    assert np.abs(np.array(best.weights) - grid[int(np.argmin(losses))]).max() < 0.02


def test_what_four_sources_repeat_is_worth_as_much_as_what_one_says():
    drawn_world = drawn(groups=[4, 1], redundancy=1.0, skills=2)
    teaches_one_each = dataclasses.replace(
        drawn_world,
        first=np.array([[1.0, 0]] * 4 + [[0, 1.0]]),
        last=np.array([[1.0, 0]] * 4 + [[0, 1.0]]),
        floor=np.full(2, 0.5),
        gain=np.full(2, 2.0),
        scale=np.full(2, 5000.0),
        power=np.full(2, 0.5),
    )
    best = best_fixed(teaches_one_each)
    assert best.weights[4] == pytest.approx(0.5, abs=1e-4)


@given(
    seed=st.integers(0, 10**6),
    groups=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    redundancy=st.floats(0, 1),
    logits=st.lists(st.floats(-30, 30), min_size=16, max_size=16),
)
@settings(max_examples=25, deadline=None)
def test_without_drift_nothing_beats_the_best_fixed_mix(seed, groups, redundancy, logits):
    drawn_world = drawn(seed, groups=groups, redundancy=redundancy, steps=50, interval=10)
    weights = np.exp(logits[: sum(groups)])
    course = simulate_run(Fixed(tuple(weights / weights.sum())), drawn_world, (seed,))
    best = best_fixed(drawn_world)
    assert regrets(drawn_world, best, course)[-1] >= -best.gap - 1e-9


def test_a_strategy_that_follows_the_best_mix_has_next_to_no_regret():
    drawn_world = drawn(5, noise=0.0, batch=2048)
    best = best_fixed(drawn_world)
    course = simulate_run(Fixed(tuple(best.weights)), drawn_world, (5,))
    assert regrets(drawn_world, best, course)[-1] < 1e-4
    uniform = simulate_run(load_strategy("uniform"), drawn_world, (5,))
    assert regrets(drawn_world, best, uniform)[-1] > 0.01


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

    drawn_world = dataclasses.replace(
        drawn(groups=[1, 1], drift=1.0, skills=2),
        first=np.eye(2),
        last=np.eye(2)[::-1],
        gain=np.array([3.0, 0.01]),
        scale=np.full(2, 5e4),
    )
    best = best_fixed(drawn_world)
    assert regrets(drawn_world, best, simulate_run(Switch(), drawn_world, (0,)))[-1] < -0.1
    assert regrets(drawn_world, best, simulate_run(Fixed((0.3, 0.7)), drawn_world, (0,)))[-1] == pytest.approx(
        0, abs=1e-3
    )


# --- what is observed --------------------------------------------------------------------------------


def test_the_simulation_has_every_signal_that_a_strategy_may_ask_for():
    drawn_world = drawn()
    seen = observer(drawn_world).observe(SIGNALS.names(), moment(drawn_world, 100))
    assert seen.keys() == SIGNALS.builtin.keys()
    for name, array in seen.items():
        for axis in SIGNALS.find(name).axes:
            assert array.shape[axis] == len(drawn_world.names), name
        assert np.isfinite(array).all(), name
    with pytest.raises(MoemixError, match="did you mean 'gate_load'"):
        observer(drawn_world).observe(["gate_loads"], moment(drawn_world, 1))


def test_without_noise_signals_are_what_is_true():
    drawn_world = drawn(noise=0.0)
    now = moment(drawn_world, 10**6)
    seen = observer(drawn_world).observe(SIGNALS.names(), now)
    teaching = drawn_world.teaching(now.time)
    share = seen["gate_load"] / seen["gate_load"].sum(axis=2, keepdims=True)
    for layer in range(drawn_world.world.layers):
        assert np.abs(share[:, layer] - teaching @ drawn_world.routing_at(now.time)[layer]).max() < 1e-3
    loss = teaching @ drawn_world.skill_loss(now.learned)
    assert seen["train_loss"] == pytest.approx(loss)
    assert seen["probe_loss"] == pytest.approx(loss)
    assert (seen["reference_loss"] < loss).all(), "the reference has been trained to the end"
    assert seen["excess_loss"] == pytest.approx(loss - seen["reference_loss"])


def test_redundant_sources_look_alike_in_load_embedding_and_gradient():
    drawn_world = drawn(redundancy=0.95)
    seen = observer(drawn_world).observe(["gate_load", "embedding", "gradient"], moment(drawn_world, 1000))
    for name, array in seen.items():
        rows = array.reshape(len(array), -1).astype(float)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        alike = rows @ rows.T
        within, between = alike[:4, :4].min(), alike[:4, 4:].max()
        assert within > between, name


def test_noise_shrinks_with_the_root_of_the_examples_and_an_unseen_source_has_no_loss():
    drawn_world = drawn(noise=1.0, groups=[300], redundancy=1.0)
    spread = [
        np.log(observer(drawn_world).observe(["train_loss"], moment(drawn_world, n))["train_loss"]).std()
        for n in (100, 10_000)
    ]
    assert spread[0] == pytest.approx(0.1, rel=0.2)
    assert spread[1] == pytest.approx(0.01, rel=0.2)
    nothing = observer(drawn_world).observe(["train_loss", "gate_load"], moment(drawn_world, 0))
    assert np.isnan(nothing["train_loss"]).all()
    assert nothing["gate_load"].sum() == 0


def test_the_slope_of_a_learning_curve_is_its_derivative():
    drawn_world = drawn()
    learnt = np.linspace(0, 1e5, drawn_world.world.skills)
    rise = drawn_world.skill_loss(learnt + 1.0) - drawn_world.skill_loss(learnt)
    assert drawn_world.slope(learnt + 0.5) == pytest.approx(rise, rel=1e-4)


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
        assert str(Number(1000 * each.regret.mean, 1000 * each.regret.stderr, decimals=1, signed=True)) in row
    picture = (tmp_path / "simulation.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    run("uniform", "dynamic", "--world", "drifting", "--steps", "400", "--set", "dynamic.eta=3", out=tmp_path / "again")
    assert (tmp_path / "again" / "simulation.png").read_bytes() == picture
    assert all(
        (tmp_path / f"{name}.{kind}").is_file() for name in ("simulation", "appendix") for kind in ("png", "svg")
    )


def test_several_worlds_give_rankings_in_a_table_and_one_picture(tmp_path: Path):
    done = run("uniform", "dynamic", "--world", "paper", "--world", "noisy", "--steps", "300", out=tmp_path)
    assert done.exit_code == 0
    simulations = [Simulation.read(tmp_path / name / "simulation.json") for name in ("paper", "noisy")]
    rows = {
        line.split("|")[1].strip(): line for line in (tmp_path / "rankings.md").read_text().splitlines() if "|" in line
    }
    for found in simulations:
        (dynamic,) = (each for each in found.strategies if each.label == "dynamic")
        half = 12.706 * dynamic.over_uniform.stderr  # Student's t of two repeats
        cell = difference(found, "dynamic")
        assert cell.error == pytest.approx(1000 * half, rel=1e-3)
        assert str(cell) in rows["dynamic"]
        assert found.world.name in rows["strategy"]
    assert (tmp_path / "rankings.png").read_bytes().startswith(b"\x89PNG")


def test_every_claim_of_a_page_about_simulations_is_in_the_rankings():
    """To renew them: `make bench BENCH=simulation`."""
    table = (DOCS / "results" / "simulation" / "rankings.md").read_text()
    worlds, *lines = ([cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("|"))
    ranked = {
        (world, cells[1].replace("\\", "")): cell for cells in lines for world, cell in zip(worlds, cells, strict=True)
    }
    claimed = 0
    for page in DOCS.glob("*.md"):
        for _, names, labels, rows in MARK.findall(page.read_text()):
            found = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()[2:]]
            assert [row[0] for row in found] == [name.strip() for name in names.split(",")], page.name
            for world, *cells in found:
                for label, cell in zip(labels.split(","), cells, strict=True):
                    assert cell == ranked[world, label.strip()], (page.name, world, label)
                    claimed += 1
    assert claimed > 20


def test_a_strategy_of_ones_own_is_simulated_from_its_file(tmp_path: Path):
    from trainers.commands.strategies import write_strategy

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
        (["dynamic", "--set", "redundancy=2"], "must be at most 1"),
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


BROKEN = """
from dataclasses import dataclass
from trainers.mixing.static import Uniform

@dataclass(frozen=True)
class Broken(Uniform):
    "It breaks."
    name = "broken"
    updates = True

    def update(self, state, seen):
        return 1 / 0

@dataclass(frozen=True)
class Blind(Uniform):
    "It asks for a signal that nothing measures."
    name = "blind"
    updates = True
    signals = frozenset({"router_moods"})

    def update(self, state, seen):
        return state.weights
"""


def test_a_strategy_that_fails_is_named_and_harms_no_other(tmp_path: Path):
    (tmp_path / "broken.py").write_text(BROKEN)
    names = [f"{tmp_path / 'broken.py'}:{name}" for name in ("Broken", "Blind")]
    done = run("uniform", *names, "--steps", "200", out=tmp_path)
    assert done.exit_code == 0
    assert re.search("`Broken` could not be simulated in redundant: .*ZeroDivisionError", done.stderr)
    assert "`Blind` could not be simulated in redundant: unknown signal 'router_moods'" in done.stderr
    record = Simulation.read(tmp_path / "simulation.json")
    assert [each.label for each in record.strategies] == ["uniform"]
    assert set(record.failed) == {"Broken", "Blind"}
    with pytest.raises(MoemixError, match="no strategy could be simulated"):
        run(*names, "--steps", "200", out=tmp_path / "none")


def test_routing_decides_and_is_printed(tmp_path: Path):
    sharp, even = (run("dynamic", "--steps", "2000", "--routing", x, out=tmp_path / x) for x in ("0.3", "300"))
    assert "routing 0.3, routing_kept 1, profile 0.3" in sharp.stdout
    assert "routing 300" in even.stdout
    variations = [
        Simulation.read(tmp_path / x / "simulation.json").strategies[0].variation.mean for x in ("0.3", "300")
    ]
    assert variations[0] > 5 * variations[1]


def test_the_world_of_the_paper_has_the_published_spread_and_shrinkage():
    """Of Δ: 0.044 for the released untrained model, 0.005 for the published final weights (docs/paper.md)."""
    spreads = []
    for seed in range(2000):
        drawn_world = DrawnWorld.draw(WORLDS["paper"], np.random.default_rng((0, seed)))
        share = [(drawn_world.teaching(at) @ drawn_world.routing_at(at))[-1] for at in (0.0, 1.0)]
        spreads.append([np.ptp(dissimilarity(each[None], "l2", "mean")) for each in share])
    assert np.median(spreads, axis=0) == pytest.approx([0.044, 0.005], rel=0.05)


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
