"""Every strategy trains a real small MoE, and goes on after a breakdown to the same bits."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_runs import byte_tokenizer, create_run, fit_request, lines, mixing, small_model, small_sources, training

from harness.errors import MoemixError, StageError
from trainers.mixing import Reference, Sources, load_strategy, strategy_cards
from trainers.signals import Resources
from trainers.training.loop import _Loop, fit
from trainers.training.run import train

CARDS = [card for card in strategy_cards() if card.trains]
REFERENCE = Reference(np.array([0.2, 0.3, 0.5]), np.array([3.0, 2.5, 4.0]))


def run(folder, sources, strategy, cache, **changes):
    folder.mkdir(exist_ok=True)
    model = small_model(attention_dropout=0.1)
    rule = load_strategy(strategy) if isinstance(strategy, str) else strategy
    resources = Resources(byte_tokenizer(), lambda: small_model(seed=1), cache)
    plan = training(**{"steps": 6, "save_every": 2} | changes)
    targets = [dataclasses.replace(sources[2], name="gold")]
    further = {"reference": REFERENCE if rule.needs else None, "resources": resources, "held_out": targets}
    mix = mixing(probe_batches=2, embedding_examples=8)
    result = fit(
        fit_request(model, sources, rule, folder, tokenizer=resources.tokenizer, training=plan, mixing=mix, **further)
    )
    return model, result


def break_down(monkeypatch, step):
    learn = _Loop._learn

    def breaking(self):
        if self.step == step:
            raise RuntimeError("a cosmic ray")
        return learn(self)

    monkeypatch.setattr(_Loop, "_learn", breaking)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_strategy_trains_says_what_it_saw_and_goes_on_after_a_breakdown_to_the_same_bits(tmp_path, card, monkeypatch):
    sources = small_sources(tmp_path / "sources")
    whole, result = run(tmp_path / "whole", sources, card.name, tmp_path / "cache")
    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        break_down(broken, 5)
        run(tmp_path / "broken", sources, card.name, tmp_path / "cache")
    resumed, again = run(tmp_path / "broken", sources, card.name, tmp_path / "cache")
    for (name, expected), found in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found), name
    trace = lines(tmp_path / "whole" / "mixture.jsonl", without="cost")
    assert lines(tmp_path / "broken" / "mixture.jsonl", without="cost") == trace
    losses = [line["loss"] for line in lines(tmp_path / "whole" / "metrics.jsonl", without="seconds")]
    assert [line["loss"] for line in lines(tmp_path / "broken" / "metrics.jsonl", without="seconds")] == losses
    timing = {"seconds", "mixing_seconds", "peak_memory_bytes"}
    assert again.model_dump(exclude=timing) == result.model_dump(exclude=timing)

    every = load_strategy(card.name).interval(Sources(("a", "b", "c"), np.ones(3, np.int64), steps=6)) or 2
    assert [line["step"] for line in trace] == (list(range(0, 6, every)) if card.updates else [0])
    assert set(trace[0]["observation"]) == set(card.at_start)
    assert all(set(line["observation"]) == set(card.signals) for line in trace[1:])
    assert {line["scales"] for line in trace} == {card.scales} == {result.scales}
    costs = [json.loads(line)["cost"] for line in (tmp_path / "whole" / "mixture.jsonl").read_text().splitlines()]
    for line, cost in zip(trace, costs, strict=True):
        assert set(cost) == ({*line["observation"], "update"} if line["step"] or card.at_start else set())
    if not (card.signals or card.at_start or card.updates):
        assert result.mixing_seconds == 0
    assert sum(result.final_weights.values()) == pytest.approx(1)


def test_a_strategy_that_begins_with_an_observation_draws_with_its_weights_from_the_first_step_on(tmp_path):
    sources = small_sources(tmp_path / "sources")
    rule = load_strategy("gate_load_static", eta=200.0)
    _, result = run(tmp_path / "run", sources, rule, None, steps=20)
    (line,) = lines(tmp_path / "run" / "mixture.jsonl", without="cost")
    assert line["before"] == [1 / 3] * 3
    assert np.shape(line["observation"]["gate_load"]) == (3, 2, 4)
    largest = int(np.argmax(line["after"]))
    assert line["after"][largest] > 0.6
    drawn = np.array(list(result.realised_examples.values()))
    assert drawn.argmax() == largest
    assert drawn[largest] > 0.5 * drawn.sum()


def test_sequential_keeps_its_own_rhythm_whatever_the_recipe_says(tmp_path, caplog):
    sources = small_sources(tmp_path / "sources")
    run(tmp_path / "run", sources, "sequential", None, steps=9)
    trace = lines(tmp_path / "run" / "mixture.jsonl", without="cost")
    assert [(line["step"], int(np.argmax(line["after"]))) for line in trace] == [(0, 0), (3, 1), (6, 2)]
    assert "warning" not in caplog.text, "one source at a time is what it is for"


def test_a_mixture_that_becomes_one_source_is_told_once_in_a_run_also_over_a_resume(tmp_path, caplog, monkeypatch):
    sources = small_sources(tmp_path / "sources")
    rule = load_strategy("dynamic", eta=1000.0)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        break_down(broken, 7)
        run(tmp_path / "run", sources, rule, None, steps=12)
    told = caplog.text
    assert told.count("by their entropy the weights are worth") == 1
    assert "of 3 sources" in told
    caplog.clear()
    run(tmp_path / "run", sources, rule, None, steps=12)
    assert "entropy" not in caplog.text


def test_a_run_takes_model_and_weights_from_the_finished_run_it_needs(tmp_path):
    needed = create_run(tmp_path / "store", "uniform")
    dependent = create_run(tmp_path / "store", "ref_loss", reference=needed)
    with pytest.raises(StageError, match="has not finished"):
        train(dependent)
    train(needed)
    train(dependent)
    start, update = lines(dependent.mixture, without="cost")[:2]
    gain = np.array(update["observation"]["probe_loss"]) - start["observation"]["reference_loss"]
    alpha = np.exp(gain) / np.exp(gain).sum()
    np.testing.assert_allclose(update["after"], (1 - 1e-4) * alpha + 1e-4 / 3, rtol=1e-9)
    static = create_run(tmp_path / "store", "final_static", reference=dependent)
    train(static)
    assert static.manifest.result.final_weights == dependent.manifest.result.final_weights


def test_a_run_that_needs_another_and_names_none_is_refused(tmp_path):
    with pytest.raises(MoemixError, match="names none"):
        train(create_run(tmp_path / "store", "ref_loss"))
