"""The recipe `olmoe` fits one GPU of 80 GB as planned, and its settings train a tiny random OLMoE."""

from __future__ import annotations

import json
from pathlib import Path

from harness.execution import Launcher
from harness.memory import GIB, SHAPES, memory_per_process
from harness.recipe_file import load_recipe


def test_the_shape_is_olmoes_and_the_recipe_fits_one_gpu():
    recipe = load_recipe("olmoe")
    shape = SHAPES[recipe.models[0].source]
    assert 6.90e9 < shape.parameters < 6.94e9
    used = sum(memory_per_process(shape, recipe.training, recipe.launcher).values()) / GIB
    assert 12.9 < used < 20  # the base, in bfloat16, is most of it: its float32 values wait on the host
    whole = recipe.training.model_copy(update={"lora": None, "freeze": "none"})
    assert sum(memory_per_process(shape, whole, Launcher()).values()) / GIB > 80


def test_its_settings_train_a_tiny_random_olmoe(tmp_path: Path):
    import moemix

    tree = load_recipe("olmoe").model_dump(mode="json")
    for source in tree["data"]["sources"]:
        file = tmp_path / f"{source['name']}.jsonl"
        part = source["parts"][0]
        rows = [
            {"instruction": f"{source['name']} {i}?", "response": "Yes."}
            if part["adapter"] == "alpaca"
            else {
                "messages": [
                    {"role": "user", "content": f"{source['name']} {i}?"},
                    {"role": "assistant", "content": "Yes."},
                ]
            }
            for i in range(30)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source |= {"train_examples": 20, "probe_examples": 5}
        source["parts"] = [{"adapter": part["adapter"], "files": [str(file)], "options": part["options"]}]
    config = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2}  # fmt: skip
    tree["models"] = [
        {"kind": "tiny", "name": "m", "architecture": "olmoe", "config": config, "tokenizer": {"vocab_size": 300}}
    ]
    tree["training"] |= {"steps": 2, "batch_examples": 4, "max_length": 128}
    tree["training"]["lora"]["r"] = 2
    tree |= {"engine": "transformers", "seeds": [0], "strategies": ["dynamic"], "mixing": {"interval": 1}}
    run = moemix.train(tree, store=tmp_path / "store")
    assert run.trained
    assert len(run.mixture.read_text().splitlines()) == 2  # before the first step, and after it
