"""A recipe is strict, and its errors say what to write instead."""

from pathlib import Path

import pytest
import yaml

from harness.errors import MoemixError
from harness.execution import Launcher
from harness.recipe import (
    Data,
    Evaluation,
    LoRA,
    Mixing,
    Part,
    Recipe,
    Source,
    Strategy,
    TinyModel,
    Training,
    UpcycledModel,
)
from harness.recipe_file import load_recipe, override, recipe_names
from harness.schema import parse

MINIMAL = {
    "name": "mine",
    "models": [{"kind": "tiny", "name": "small"}],
    "data": {"sources": [{"name": "chat", "parts": [{"adapter": "sharegpt", "files": ["chat.json"]}]}]},
    "strategies": ["uniform", {"name": "dynamic", "options": {"eta": 5}}],
}


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
        return str(path)

    return write


def test_every_built_in_recipe_is_valid():
    assert {"quickstart", "smol"} <= set(recipe_names())
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_an_unknown_recipe_names_its_neighbour():
    with pytest.raises(MoemixError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainin": {}}, "unknown key `trainin` .*did you mean 'training'"),
        ({"training": {"step": 3}}, r"unknown key `training\.step` .*did you mean 'steps'"),
        ({"models": [{"kind": "tiny", "name": "m", "confg": {}}]}, r"`models\.0\.confg` .*did you mean 'config'"),
        (
            {"data": {"sources": [{"name": "a", "parts": [{"adaptr": "x", "files": ["f"]}]}]}},
            r"`data\.sources\.0\.parts\.0\.adaptr` .*did you mean 'adapter'",
        ),
        ({"strategies": [{"name": "dynamic", "option": {}}]}, r"`strategies\.0\.option` .*did you mean 'options'"),
        ({"training": {"steps": True}}, r"`training\.steps`: expected a whole number, not 'true'"),
        ({"training": {"compile": True}}, "`compile` needs `dtype: bfloat16`"),
        ({"training": {"steps": 0}}, r"mine\.yaml:\d+: `training\.steps`: must be at least 1, not 0"),
        (
            {"training": {"freeze": "router", "lora": {"targets": ["gate"]}}},
            "`lora.targets` names 'gate', which `freeze: router` keeps as it is",
        ),
        (
            {"training": {"freeze": "paper", "lora": {"targets": ["q_proj", "gate_proj"]}}},
            "`lora.targets` names 'gate_proj', which `freeze: paper` keeps as it is",
        ),
        ({"training": {"lora": {"rank": 3}}}, r"unknown key `training\.lora\.rank`"),
        ({"strategies": ["uniform", "uniform"]}, "strategy labels must differ; repeated: uniform"),
        ({"data": {"sources": MINIMAL["data"]["sources"] * 2}}, "source names must differ; repeated: chat"),
        ({"data": {"sources": [{"name": "a", "parts": [{"adapter": "x"}]}]}}, "give either `files` or `hub`"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_the_nearest_valid_one(written, changes, said):
    with pytest.raises(MoemixError, match=said):
        load_recipe(written(**changes))


def test_a_bad_yaml_line_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\nmodels: [\n  oops: }\n")
    with pytest.raises(MoemixError, match=r"broken\.yaml:3: not valid YAML"):
        load_recipe(str(path))


def test_overrides_reach_mappings_list_items_by_name_and_scalars(written):
    recipe = load_recipe(written(), ["training.steps=7", "models.small.seed=3", "strategies.dynamic.options.eta=1.5"])
    assert recipe.training.steps == 7
    assert recipe.models[0].seed == 3
    assert recipe.strategies[1].options == {"eta": 1.5}
    assert override(recipe, {"engine": "vllm"}).engine == "vllm"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.steps", "has no `=`"),
        ("training.stepz=3", "did you mean 'steps'"),
        ("models.smal.seed=3", "did you mean 'small'"),
        ("engine.kind=vllm", "--set engine.kind=vllm: `engine`: expected a text"),
    ],
)
def test_a_wrong_override_is_named(written, text, said):
    with pytest.raises(MoemixError, match=said):
        load_recipe(written(), [text])


def test_a_resolved_recipe_reads_back_as_itself():
    recipe = parse(Recipe, MINIMAL, where="test")
    assert parse(Recipe, recipe.model_dump(mode="json"), where="test") == recipe


def test_keeping_adapters_is_part_of_an_identity_only_if_asked_for():
    assert "keep" not in LoRA().model_dump()
    assert LoRA(keep=True).model_dump()["keep"] is True


def test_every_key_of_a_recipe_is_documented():
    documented = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    models = [
        Recipe,
        Data,
        Source,
        Part,
        Training,
        LoRA,
        Mixing,
        Launcher,
        Strategy,
        Evaluation,
        TinyModel,
        UpcycledModel,
    ]
    missing = [f"{m.__name__}.{name}" for m in models for name in m.model_fields if name not in documented]
    assert not missing
