"""``moemix train``: from a run's manifest to a checkpoint that plain transformers loads, or to a plain sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from forked import moemix, start
from safetensors.torch import load_file
from small_runs import create_run, lines, small_disk, wait_until
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import MoemixError
from harness.files import hash_tree, read_json
from harness.recipe import CheckpointModel
from harness.records import ModelConfig
from harness.requests import ModelJobRequest
from harness.store import checkpoint_hash, create_model, exclusive
from trainers.commands.train import train as command
from trainers.training.run import train


def base(run):
    return run.store / run.manifest.base_checkpoint


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_run_leaves_a_checkpoint_that_plain_transformers_loads_and_a_manifest_that_says_what_happened(tmp_path):
    run = create_run(tmp_path / "store")
    train(run)
    model, untrained = (AutoModelForCausalLM.from_pretrained(path) for path in (run.checkpoint, base(run)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), untrained.parameters(), strict=True)]
    assert all(moved)
    tokenizer = AutoTokenizer.from_pretrained(run.checkpoint)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "2+2"}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokenizer.decode(prompt) == "<|user|>2+2<|end|><|assistant|>"
    assert len(model.generate(torch.tensor([prompt]), max_new_tokens=3)[0]) > len(prompt)
    manifest = run.manifest
    assert manifest.stages["train"].status == "done"
    assert manifest.checkpoint_hash == checkpoint_hash(run.checkpoint) != checkpoint_hash(base(run))
    assert manifest.result.steps == len(lines(run.metrics, without="seconds")) == 6
    assert not run.state.exists()


def test_a_finished_run_is_left_as_it_is(tmp_path):
    run = create_run(tmp_path / "store")
    train(run)
    before = tree(run.folder)
    train(run)
    assert tree(run.folder) == before


def test_a_run_whose_checkpoint_was_lost_is_trained_again_to_the_same_checkpoint(tmp_path):
    run = create_run(tmp_path / "store")
    train(run)
    before = run.manifest.checkpoint_hash
    shutil.rmtree(run.checkpoint)
    train(run)
    assert run.manifest.checkpoint_hash == before


def test_kept_adapters_name_the_base_model_as_the_recipe_does(tmp_path):
    run = create_run(tmp_path / "store", changes={"steps": 1, "lora": {"r": 2, "keep": True}})
    train(run)
    config = read_json(run.folder / "adapter" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("_models/small/checkpoint", None)
    assert str(tmp_path) not in (run.folder / "adapter" / "adapter_config.json").read_text()
    weights = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in weights
    model = CheckpointModel(kind="checkpoint", name="moe", source="organisation/moe", revision="v1")
    request = ModelJobRequest(config=ModelConfig(model=model), out=base(run).parent)
    create_model(request)
    shutil.rmtree(run.checkpoint)
    before = hash_tree(run.folder / "adapter", "*.safetensors")
    train(run)
    config = read_json(run.folder / "adapter" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("organisation/moe", "v1")
    assert hash_tree(run.folder / "adapter", "*.safetensors") == before


def test_the_strategy_none_leaves_the_base_checkpoint_as_it_is_and_takes_no_room(tmp_path):
    run = create_run(tmp_path / "store", "none")
    train(run)
    assert run.manifest.checkpoint_hash == checkpoint_hash(base(run))
    assert (run.checkpoint / "model.safetensors").samefile(base(run) / "model.safetensors")
    assert run.manifest.result.steps == 0
    assert not run.metrics.exists()


def test_two_processes_on_one_run_is_one_too_many(tmp_path):
    run = create_run(tmp_path / "store")
    with exclusive(run.folder):
        process = moemix("train", "--run", str(run.folder))
    assert process.returncode == 1
    assert "another process is working on this" in process.stderr
    assert "Traceback" not in process.stderr
    assert run.manifest.stages["train"].status == "planned"


def test_a_run_that_fails_says_why_in_its_manifest_and_exits_with_1(tmp_path):
    run = create_run(tmp_path / "store", changes={"learning_rate": 1e15, "max_grad_norm": None, "steps": 30})
    process = moemix("train", "--run", str(run.folder))
    assert process.returncode == 1
    assert "is not a finite number; worst source: " in process.stderr
    assert "Traceback" not in process.stderr
    assert run.manifest.stages["train"].status == "failed"
    assert "is not a finite number" in run.manifest.stages["train"].error


def test_ctrl_c_leaves_a_run_that_the_same_command_finishes(tmp_path):
    run = create_run(tmp_path / "store", changes={"steps": 60})
    process = start("train", "--run", run.folder)
    wait_until(lambda: run.metrics.exists() and len(run.metrics.read_bytes().splitlines()) > 5)
    process.send_signal(signal.SIGINT)
    ended = process.wait()
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert run.manifest.stages["train"].status == "planned"
    assert [path.name for path in run.state.iterdir()]
    train(run)
    assert run.trained
    assert [line["step"] for line in lines(run.metrics, without="seconds")] == list(range(1, 61))


def test_a_missing_or_damaged_base_checkpoint_is_named(tmp_path):
    run = create_run(tmp_path / "store")
    weights = base(run) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MoemixError, match="cannot be loaded"):
        train(run)
    shutil.rmtree(base(run))
    with pytest.raises(MoemixError, match="the base checkpoint is missing"):
        train(run)
    assert run.manifest.stages["train"].status == "failed"


def test_a_disk_that_fills_up_keeps_the_last_good_state_and_the_run_goes_on_once_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk", "100m") as resize:
        run = create_run(tmp_path / "disk" / "store", changes={"steps": 12, "save_every": 2})
        used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "disk").rglob("*"))
        resize(str(used + 4 * (base(run) / "model.safetensors").stat().st_size))  # a state is three times the model
        process = moemix("train", "--run", str(run.folder))
        assert process.returncode == 1
        assert "No space left on device" in process.stderr
        assert "make room" in process.stderr
        assert "Traceback" not in process.stderr
        assert run.manifest.stages["train"].status == "failed"
        assert [path.name for path in run.state.iterdir()] == ["step-00000002"]
        resize("100m")
        train(run)
        assert run.trained


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a RECIPE"),
        (["quickstart", "--run", "somewhere"], "defines the whole run"),
        (["--run", "somewhere", "--set", "a.b=c"], "defines the whole run"),
    ],
)
def test_arguments_that_do_not_go_together_are_told(arguments, said):
    outcome = CliRunner().invoke(command, arguments)
    assert outcome.exit_code == 2
    assert said in outcome.output


def test_a_folder_without_a_manifest_is_told(tmp_path):
    process = moemix("train", "--run", str(tmp_path))
    assert process.returncode == 2
    assert "there is no run.json" in process.stderr


def test_help_needs_no_libraries():
    code = (
        "import sys; from harness.cli import cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: print({'torch', 'transformers', 'accelerate'} & set(sys.modules))"
    )
    process = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert process.stdout.endswith("set()\n")
    assert "default: dynamic" in process.stdout


def test_two_processes_train_the_same_mixture_as_one(tmp_path):
    changes = {"steps": 4, "batch_examples": 7}
    runs = [create_run(tmp_path / name, changes=changes) for name in ("one", "two")]
    train(runs[0])
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "harness.cli")
    process = subprocess.run(
        (sys.executable, "-m", *launch, "train", "--run", str(runs[1].folder)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert process.returncode == 0, process.stderr
    one, two = (lines(run.mixture, without="cost") for run in runs)
    assert [line["realised_tokens"] for line in one] == [line["realised_tokens"] for line in two]
    for expected, found in zip(one, two, strict=True):
        assert found["after"] == pytest.approx(expected["after"], abs=0.02)
    losses = [[line["loss"] for line in lines(run.metrics, without="seconds")] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert json.loads((runs[1].folder / "run.json").read_text())["result"]["tokens"] == runs[0].manifest.result.tokens
