"""The plot of weights over time: right numbers, the same bytes, nothing drawn from a damaged trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from harness.drawing import spread
from harness.errors import MoemixError
from leaderboards.comparison import compare
from leaderboards.drawing import Panel, Point, draw_panels
from leaderboards.figures import draw_weights, trajectories
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
        ({"after": "x"}, "`after"),
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


def painted(monkeypatch, panels: list[Panel]):
    """Return the figure that is drawn of panels."""
    drawn = []

    def keep(path, inches, paint):
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure)
        figure.draw_without_rendering()
        drawn.append((figure, inches))
        return [path]

    monkeypatch.setattr("leaderboards.drawing.save", keep)
    draw_panels(panels, "title", Path("x.svg"))
    return drawn[0]


def steps(title: str, top: float) -> Panel:
    return Panel(title, "steps", "step", "weight", (Point("a", 0, 0.1), Point("a", 9, top), Point("b", 9, 0.2)))


def test_panels_of_one_quantity_have_the_same_axes_and_name_their_lines(monkeypatch):
    other = Panel("loss", "lines", "step", "nats", (Point("a", 0, 3.0), Point("a", 9, 2.0)))
    figure, (width, _) = painted(monkeypatch, [steps("one", 0.3), steps("two", 0.9), other])
    one, two, loss = figure.axes[:3]
    assert one.get_ylim() == two.get_ylim() != loss.get_ylim()
    assert [text.get_text() for text in one.texts] == ["a", "b"]
    assert one.get_legend() is None
    assert width < 7  # legible on a phone


def test_matrices_share_their_colours_and_a_bar_says_what_they_mean(monkeypatch):
    panels = [
        Panel(str(top), "matrix", "", "distance", tuple(Point(r, c, top) for r in "ab" for c in "xy"))
        for top in (0.1, 0.4)
    ]
    figure, _ = painted(monkeypatch, panels)
    first, second, bar = figure.axes
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 0.4)
    assert bar.get_ylabel() == "distance"


def test_a_figure_without_an_ending_is_a_png_and_an_svg(bench, tmp_path):
    bench.run("uniform")
    written = draw_weights(trajectories(compare(bench.runs, bench.folders, "uniform")), tmp_path / "weights")
    assert [path.name for path in written] == ["weights.png", "weights.svg"]
    assert all(path.is_file() for path in written)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_keep_apart_and_in_order_and_stay_where_there_is_room(heights):
    placed = np.array(spread(heights, gap=0.05))
    order = np.argsort(heights, kind="stable")
    assert np.all(np.diff(placed[order]) >= 0.05 - 1e-9)
    if np.all(np.diff(np.sort(heights)) >= 0.05):
        assert placed == pytest.approx(np.array(heights))
    assert placed.min() >= 0
    assert placed.max() <= max(heights) + 0.05 * (len(heights) - 1) + 1e-9
