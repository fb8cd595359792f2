"""Signals are plug-ins: found by name, checked when a run is planned, and harmless if they are broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_runs import fit_request, lines, mixing, small_model, small_sources, training
from test_mixing_registry import installed
from test_strategies_training import break_down

from harness.errors import MoemixError
from harness.recipe import Mixing, Part, Source
from trainers.commands.strategies import strategies
from trainers.mixing import Observation, load_strategy, strategy_code
from trainers.mixing.contract import check_strategy
from trainers.plugins import SIGNALS
from trainers.signals import check_signals
from trainers.training.loop import fit

OWN = """
from dataclasses import dataclass
import numpy as np
from trainers.mixing import MixingStrategy, MixtureState
from trainers.signals import Signal


class Lengths(Signal):
    "f64[K], the mean length of the examples of each source that were trained on since the last update."

    field = "lengths"
    cost = "nothing"
    sees = frozenset({"training batch"})

    @classmethod
    def invent(cls, now):
        return now.measured(now.lengths, now.drawn)

    def __init__(self, context):
        self._sums = np.zeros((2, len(context.sources)))

    def add(self, step):
        self._sums += step.tokens, step.examples

    def observe(self, step):
        tokens, examples = self._sums
        self._sums = np.zeros_like(self._sums)
        return np.divide(tokens, examples, out=np.full(len(tokens), np.nan), where=examples > 0)

    def arrays(self):
        return {"sums": self._sums}

    def restore(self, arrays):
        self._sums = arrays["sums"].copy()


class Shapeless:
    field = "shapeless"


@dataclass(frozen=True)
class Longest(MixingStrategy):
    "Sources of long examples are drawn more."

    name = "longest"
    signals = frozenset({"lengths"})

    def update(self, state, seen):
        length = np.nan_to_num(seen.need("lengths"), nan=1.0).clip(1e-12)
        return MixtureState(0.5 * length / length.sum() + 0.5 / len(length))


@dataclass(frozen=True)
class Blind(Longest):
    "It asks for what nothing measures."

    name = "blind"
    signals = frozenset({"router_moods"})
"""


@pytest.fixture
def plugged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "torn.py").write_text("import nothing_of_this_name")
    signals = "lengths = own:Lengths\na = torn:Torn\nb = own:Shapeless\ntrain_loss = own:Lengths\n"
    with installed(tmp_path, "longest = own:Longest\nblind = own:Blind\n", monkeypatch, signals):
        yield tmp_path


def test_a_signal_of_another_package_is_checked_trained_with_and_resumed(plugged_in, tmp_path, monkeypatch):
    rule = load_strategy("longest")
    check_strategy(rule)
    sources, plan = small_sources(tmp_path / "sources"), training(steps=6, save_every=3)
    requests = []
    for name in ("run", "broken"):
        (tmp_path / name).mkdir()
        requests.append(fit_request(small_model(), sources, rule, tmp_path / name, training=plan, mixing=mixing()))
    fit(requests[0])
    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        break_down(broken, 5)
        fit(requests[1])
    again = fit_request(small_model(), sources, rule, tmp_path / "broken", training=plan, mixing=mixing())
    fit(again)
    for expected, found in zip(requests[0].model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(expected, found)
    trace = lines(tmp_path / "run" / "mixture.jsonl", without="cost")
    length = np.array(trace[1]["observation"]["lengths"])
    drawn = np.array(trace[1]["realised_tokens"]) / trace[1]["realised_examples"]
    np.testing.assert_allclose(length, drawn)
    np.testing.assert_allclose(trace[1]["after"], 0.5 * length / length.sum() + 1 / 6)
    assert lines(tmp_path / "broken" / "mixture.jsonl", without="cost") == trace


def test_broken_signals_are_named_and_everything_else_works(plugged_in):
    for arguments in (["--format", "markdown"], ["--format", "json"], []):
        done = CliRunner().invoke(strategies, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert done.stderr.count("warning: entry point moemix.signals:") == 3
        assert "dynamic" in done.stdout
    assert "router_moods: nothing measures it" in CliRunner().invoke(strategies, ["--format", "markdown"]).stdout
    listed = json.loads(CliRunner().invoke(strategies, ["signals", "--format", "json"]).stdout)
    assert {row["field"]: row["from"] for row in listed}["lengths"] == "plugin"
    assert {"gate_load", "lengths"} <= {row["field"] for row in listed}
    for field, message in {"a": "cannot be imported: ModuleNotFoundError", "b": "is not a Signal"}.items():
        with pytest.raises(MoemixError, match=message):
            SIGNALS.find(field)


def test_an_edited_signal_makes_another_run(plugged_in):
    before = strategy_code("longest")
    assert strategy_code("dynamic") is None
    (plugged_in / "own.py").write_text(OWN + "# edited")
    assert strategy_code("longest") != before


def source(**changes) -> Source:
    return Source(name="chat", parts=(Part(adapter="sharegpt", files=("chat.json",)),), **changes)


def test_a_plan_says_what_no_run_could_see(plugged_in):
    check_signals(load_strategy("longest"), [source()], Mixing())
    with pytest.raises(MoemixError, match=r"needs the signal 'router_moods', which nothing measures\n.*moemix.signals"):
        check_signals(load_strategy("blind"), [source()], Mixing())
    for name in ("ref_loss", "doge", "gate_load_static"):
        with pytest.raises(MoemixError, match="source chat: the source holds out no examples"):
            check_signals(load_strategy(name), [source()], Mixing())
        check_signals(load_strategy(name), [source(probe_examples=10)], Mixing())
    check_signals(load_strategy("dynamic"), [source()], Mixing())
    with pytest.raises(
        MoemixError, match=r"no target set, which the signal `target_gradient` is measured on\n.*held_out"
    ):
        check_signals(load_strategy("doge_target"), [source(probe_examples=10)], Mixing())
    check_signals(load_strategy("doge_target"), [source(probe_examples=10)], Mixing(), [source()])
    with pytest.raises(MoemixError, match=r"or mixing\.gate_load=online"):
        check_signals(load_strategy("dynamic"), [source()], Mixing(gate_load="probe"))


def test_an_observation_has_any_signal_and_says_which_name_is_none():
    seen = Observation(1, ("a",), np.ones(1, int), np.ones(1, int), moods=np.ones(1))
    assert seen.moods == seen.need("moods") == 1
    assert seen.train_loss is None
    with pytest.raises(AttributeError, match="there is no signal 'trian_loss'; measured: moods"):
        seen.trian_loss  # noqa: B018
