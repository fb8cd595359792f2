"""A tiny Mixtral with random weights and a byte-level tokenizer: a real checkpoint that answers in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

VOCABULARY = 128
CONTEXT = 1024


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=["Ġ", "Ċ", *map(chr, range(33, 127))],  # ASCII alone, so whatever it generates is text
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the question and the answer are in the text"] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,  # large enough that greedy choices are not ties
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory):
    """Nothing is read from or left in the caches of whoever runs the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


SUITE = """
name: mini
columns:
  - {name: choice, tasks: [mini_choice], shots: 0, metric: acc}
  - {name: text, tasks: [mini_text], metric: exact_match}
averages:
  - {name: average, of: [choice, text]}
include: [tasks]
"""

CHOICE = """
task: mini_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
doc_to_choice: [" red", " green", " blue"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""

TEXT = """
task: mini_text
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


@pytest.fixture(scope="session")
def mini_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file of a multiple-choice and a generation task with 24 questions each."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "tasks").mkdir()
    rows = [{"question": f"what is the colour of thing {i} in the text", "answer": i % 3} for i in range(24)]
    data = folder / "tasks" / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks" / "choice.yaml").write_text(CHOICE.replace("DATA", str(data)))
    (folder / "tasks" / "text.yaml").write_text(TEXT.replace("DATA", str(data)))
    (folder / "mini.yaml").write_text(SUITE)
    return folder / "mini.yaml"
