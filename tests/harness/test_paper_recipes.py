"""`paper/mini` and `paper/full` are one experiment at two scales: they agree in all but a list of settings."""

from __future__ import annotations

from harness.recipe import Recipe, Strategy
from harness.recipe_file import load_recipe

FULL, MINI = load_recipe("paper/full"), load_recipe("paper/mini")
SCALE = MINI.training.steps / FULL.training.steps

TRAINING = {
    "steps", "batch_examples", "max_length", "rows_per_forward", "tokens_per_forward", "log_every",  # the scale
    "save_every",
    "learning_rate", "warmup", "weight_decay", "betas",  # of a small model that learns in 240 steps
    "dtype", "gradient_checkpointing",  # of GPUs
    "gate_noise",  # in mini it is in the model's configuration
    "freeze",  # full: also what the release calls a gate by its name
}  # fmt: skip
MIXING = {"interval", "probe_batches", "probe_batch_size"}  # the scale; intervals are compared below
OPTIONS = {"eta"}  # gate loads lie further apart in a small world
ROWS = {"public_sft"}  # full: a published checkpoint; mini: a run on chat alone


def differing(one: object, other: object) -> set[str]:
    return {field for field in type(one).model_fields if getattr(one, field) != getattr(other, field)}


def test_training_and_mixing_differ_only_where_scale_forces_them_to():
    assert differing(FULL.training, MINI.training) <= TRAINING
    assert differing(FULL.mixing, MINI.mixing) <= MIXING
    assert MINI.mixing.interval == FULL.mixing.interval * SCALE


def rows(recipe: Recipe, model: int) -> dict[str, Strategy]:
    own = recipe.models[model].overrides.get("strategies")
    found = (
        [Strategy.model_validate({"name": row} if isinstance(row, str) else row) for row in own]
        if own
        else recipe.strategies
    )
    return {row.label: row for row in found if row.label not in ROWS}


def compared(row: Strategy) -> tuple[str, dict[str, object]]:
    return row.name, {option: value for option, value in row.options.items() if option not in OPTIONS}


def test_every_row_of_both_models_is_the_same_strategy_with_the_same_changes():
    for full_model, mini_model in ((0, 0), (2, 1)):
        full, mini = rows(FULL, full_model), rows(MINI, mini_model)
        assert full.keys() == mini.keys()
        for label, row in full.items():
            assert compared(row) == compared(mini[label]), label
            assert row.overrides.keys() == mini[label].overrides.keys() - {"seeds"}, label
            for key in row.overrides.keys() & {"training.steps", "mixing.interval"}:
                assert mini[label].overrides[key] == int(row.overrides[key] * SCALE), label


def test_the_stand_in_for_molm_updates_as_rarely_and_as_evenly_as_molm():
    full, mini = FULL.models[2].overrides, MINI.models[1].overrides
    updates = FULL.training.steps / full["mixing.interval"]
    assert mini["training.steps"] / mini["mixing.interval"] == updates == 10
    assert rows(MINI, 1)["dynamic"].options["c"] == rows(MINI, 1)["ref_loss"].options["c"] == 0.8
