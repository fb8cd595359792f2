"""The plot of weights over time: right numbers, the same bytes, nothing drawn from a damaged trace."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import MoemixError
from leaderboards.comparison import compare
from leaderboards.figures import _spread, draw_weights, trajectories
from leaderboards.mixture import read_trajectory


def test_a_trajectory_holds_the_weights_in_force_and_what_was_drawn_under_them(bench):
    found = read_trajectory(bench.run("dynamic"))
    assert found.names == ("chat", "code", "math")
    assert found.steps.tolist() == [0, 50, 100]
    assert found.weights == pytest.approx(np.array([[1 / 3] * 3, [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]))
    assert found.realised[0] == pytest.approx(np.array([130, 140, 130]) / 400)
    assert found.realised[1] == pytest.approx(np.array([70, 100, 230]) / 400)


def test_a_static_run_has_a_flat_trajectory_and_an_untrained_one_none(bench):
    static = bench.run("uniform", weights=(0.2, 0.3, 0.5))
    static.mixture.unlink()
    assert read_trajectory(static).weights.tolist() == [[0.2, 0.3, 0.5]] * 2
    assert read_trajectory(bench.run("none", trained=False)) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"names": ["a", "b", "c"]}, "the sources are a, b, c"),
        ({"step": 50}, "step 50 comes after step 50"),
        ({"after": "x"}, "not a mixture update: `after"),
    ],
)
def test_a_damaged_trace_is_named_with_its_line(bench, change, told):
    run = bench.run("dynamic")
    line = json.loads(run.mixture.read_text())
    run.mixture.write_text(json.dumps(line) + "\n" + json.dumps({**line, "step": 60, **change}) + "\n")
    with pytest.raises(MoemixError, match=told) as error:
        read_trajectory(run)
    assert error.value.where == f"{run.mixture}:2"


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_same_records_give_the_same_file(bench, tmp_path, ending):
    bench.run("uniform")
    bench.run("dyn$amic_{")
    runs = trajectories(compare(bench.runs, bench.folders, "uniform"))
    assert list(runs) == ["uniform", "dyn$amic_{"]
    first, second = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    draw_weights(runs, first)
    draw_weights(runs, second)
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes()) > 5000


def test_every_source_is_labelled_and_the_file_holds_text(bench, tmp_path):
    bench.run("dynamic")
    path = tmp_path / "weights.svg"
    draw_weights(trajectories(compare(bench.runs, bench.folders, "uniform")), path)
    for label in ("chat 0.20", "code 0.30", "math 0.50"):
        assert f"<!-- {label} -->" in path.read_text()


def test_nothing_to_draw_and_unknown_kinds_are_told(bench, tmp_path):
    bench.run("none", trained=False)
    runs = trajectories(compare(bench.runs, bench.folders, "uniform"))
    with pytest.raises(MoemixError, match="no run has been trained"):
        draw_weights(runs, tmp_path / "weights.png")
    with pytest.raises(MoemixError, match=r"cannot draw a \.gif"):
        draw_weights(runs, tmp_path / "weights.gif")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_keep_apart_and_in_order_and_stay_where_there_is_room(heights):
    placed = np.array(_spread(heights, gap=0.05))
    order = np.argsort(heights, kind="stable")
    assert np.all(np.diff(placed[order]) >= 0.05 - 1e-9)
    if np.all(np.diff(np.sort(heights)) >= 0.05):
        assert placed == pytest.approx(np.array(heights))
    assert placed.min() >= 0
    assert placed.max() <= max(heights) + 0.05 * (len(heights) - 1) + 1e-9
