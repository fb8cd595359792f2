"""A world that is fitted to trained models gives back what made their losses and gate loads."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from harness.errors import MoemixError
from trainers.commands.simulate import simulate
from trainers.simulation import fitting
from trainers.simulation.fitting import Curves, fit_curves, fit_routing
from trainers.simulation.worlds import DRAWN, WORLDS, DrawnWorld, load_world

TRUE = Curves(
    teaching=np.array([[0.8, 0.15, 0.05], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]]),
    floor=np.array([0.5, 0.02, 0.1]),
    gain=np.array([6.0, 4.0, 8.0]),
    scale=np.array([300.0, 60.0, 100.0]),
    power=np.array([0.9, 1.1, 1.4]),
)
EXAMPLES = 10_000.0


def test_curves_and_transfer_are_found_from_losses_on_some_mixes_and_hold_on_others(monkeypatch):
    monkeypatch.setattr(fitting, "STARTS", 2)
    rng = np.random.default_rng(0)
    mixes, others = (0.04 + 0.88 * rng.dirichlet(np.ones(3), count) for count in (25, 50))
    before = TRUE.teaching @ (TRUE.floor + TRUE.gain)
    noise = rng.normal(0.0, 0.003, (25, 3))
    found = fit_curves(mixes, TRUE.losses(mixes, EXAMPLES) + noise, before, np.full(3, 0.003), EXAMPLES)
    assert np.abs(found.losses(others, EXAMPLES) - TRUE.losses(others, EXAMPLES)).max() < 0.02
    assert np.abs(found.teaching - TRUE.teaching).max() < 0.1
    assert found.teaching.sum(axis=1) == pytest.approx(1)


def test_routing_and_what_training_leaves_of_it_are_found_from_gate_loads():
    rng = np.random.default_rng(1)
    routing = rng.dirichlet(np.full(8, 2.0), (2, 3))  # [L, M, E]
    times = np.linspace(0.1, 0.9, 6)
    mean = np.einsum("km,lme->kle", TRUE.teaching, routing).mean(axis=0)
    loads = np.stack([
        1000 * (mean + 0.3**time * (np.einsum("km,lme->kle", TRUE.teaching, routing) - mean)) for time in times
    ])  # fmt: skip
    found, kept = fit_routing(TRUE.teaching, loads, times)
    assert kept == pytest.approx(0.3)
    assert np.abs(found - routing).max() < 1e-6


def test_in_a_measured_world_nothing_is_drawn_and_the_objective_is_the_mean_of_the_sources_losses():
    world = WORLDS["quickstart"]
    first, second = (DrawnWorld.draw(world, np.random.default_rng(seed)) for seed in (0, 1))
    for name in ("teaching", "routing", "floor", "gain", "scale", "power", "sizes"):
        one, other = (getattr(each, "first" if name == "teaching" else name) for each in (first, second))
        assert np.array_equal(one, other)
    learned = np.full(world.skills, 500.0)
    assert first.objective(learned) == pytest.approx((first.teaching(0.3) @ first.skill_loss(learned)).mean())
    assert first.routing.sum(axis=2) == pytest.approx(1)


@pytest.mark.parametrize("key", DRAWN)
def test_what_was_measured_cannot_be_changed(key: str):
    with pytest.raises(MoemixError, match=f"`{key}` is measured in this world"):
        load_world("quickstart", {key: 0.5})


def test_changes_that_a_measured_world_does_not_take_leave_it_out_of_all_worlds(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.simulation.worlds.WORLDS", {name: WORLDS[name] for name in ("alike", "quickstart")})
    arguments = ["uniform", "--world", "all", "--repeats", "2", "--steps", "200", "--out", str(tmp_path)]
    whole = CliRunner().invoke(simulate, arguments, catch_exceptions=False)
    assert "mean rank" in whole.stdout
    changed = CliRunner().invoke(simulate, [*arguments, "--routing", "3"], catch_exceptions=False)
    assert "left out: quickstart, where `routing` is measured and cannot be changed" in changed.stderr
    assert "World alike" in changed.stdout
