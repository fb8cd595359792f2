"""One process or two, whole replicas or shards: the same draws, the same trace, the same weights up to rounding."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import moemix
from launched import launch, run_cases
from safetensors.torch import load_file
from small_runs import create_run, lines, request_of, wait_until
from transformers import AutoModelForCausalLM

from harness.errors import MoemixError
from harness.execution import Launcher, LocalExecutor
from harness.files import hash_tree
from harness.jobs import Job
from harness.launch import WANTED
from harness.local import conduct_locally
from harness.schema import parse
from harness.store import Run
from trainers.parallel import connect, launched_strategy
from trainers.training.run import train
from trainers.training.state import States

LOSS_TOLERANCE = 2e-6  # relative; float32 sums in another order
WEIGHT_TOLERANCE = 5e-6  # absolute, after six steps at a rate of 1e-3

CASES = [
    {"name": "packed"},
    {"name": "accumulated", "rows_per_forward": 2, "batch_examples": 15},
    {"name": "padded", "pack": False, "rows_per_forward": 3},
    {"name": "checkpointed", "gradient_checkpointing": True, "batch_examples": 16},
    {"name": "probed", "mix": {"gate_load": "probe"}},
    {"name": "noisy", "model": {"attention_dropout": 0.1}},
    {"name": "frozen", "freeze": "paper", "balance_loss": "model"},
    {"name": "adapted", "lora": {"r": 4, "keep": True}, "freeze": "router"},
    {
        "name": "as in the paper",
        "model": {"model_type": "llama_moe", "num_experts": 4, "num_selects": 2},
        "freeze": "none",
        "balance_loss": "paper",
        "gate_noise": True,
        "gradient_checkpointing": True,
    },
    {"name": "tied", "model": {"tie_word_embeddings": True}},
]
# Stopped after four of six steps, to be taken up by the other number of processes.
HALVES = [{"name": f"half {i}", "stop_after": 4} for i in (1, 2)]
WHOLES = [{"name": f"half {i}"} for i in (1, 2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run_cases(folder, [*CASES, *HALVES])
    return folder


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    launch(folder, [*CASES, *HALVES], "ddp")
    return folder


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp2")
    launch(folder, [*CASES, *HALVES], "fsdp2")
    return folder


@pytest.fixture(scope="module")
def zero1(tmp_path_factory):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed (the extra `deepspeed`)")
    folder = tmp_path_factory.mktemp("zero1")
    launch(folder, [*CASES, *HALVES], "zero1")
    return folder


def assert_same(one: Path, other: Path) -> None:
    """The same trace exactly, gate loads included; losses and weights within the tolerances."""
    assert lines(one / "mixture.jsonl", without="cost") == lines(other / "mixture.jsonl", without="cost")
    expected, found = (lines(folder / "metrics.jsonl", without="seconds") for folder in (one, other))
    exact = ("step", "examples", "tokens", "target_tokens", "computed_tokens", "learning_rate")
    assert [{key: line[key] for key in exact} for line in expected] == [
        {key: line[key] for key in exact} for line in found
    ]
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose([line[key] for line in found], [line[key] for line in expected], rtol=LOSS_TOLERANCE)
    weights, others = (load_file(folder / "weights.safetensors") for folder in (one, other))
    if one.name == "adapted":
        weights |= load_file(one / "adapter" / "adapter_model.safetensors")
        others |= load_file(other / "adapter" / "adapter_model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=0, atol=WEIGHT_TOLERANCE, msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero1"])
@pytest.mark.parametrize("case", [case["name"] for case in CASES])
def test_two_processes_train_what_one_does(alone, strategy, case, request):
    assert_same(alone / case, request.getfixturevalue(strategy) / case)


def test_shards_are_halves_and_replicas_are_whole(alone, ddp, fsdp2):
    def held(folder, rank):
        return json.loads((folder / "packed" / f"held-{rank}.json").read_text())

    whole = held(alone, 0)
    assert whole["moments"] > 1.9 * whole["weights"]
    for rank in (0, 1):
        assert held(ddp, rank) == whole
        for key, count in held(fsdp2, rank).items():
            assert 0.45 * whole[key] < count < 0.55 * whole[key], (key, rank)


def test_a_run_begun_on_two_processes_goes_on_alone_and_back_with_the_same_draws(alone, ddp, fsdp2, tmp_path):
    shutil.copytree(ddp / "half 1", tmp_path / "alone" / "half 1")
    shutil.copytree(fsdp2 / "half 2", tmp_path / "alone" / "half 2")
    shutil.copytree(alone / "half 1", tmp_path / "together" / "half 1")
    shutil.copytree(ddp / "half 2", tmp_path / "together" / "half 2")
    for folder in (tmp_path / "alone", tmp_path / "together"):
        assert States(folder / "half 1" / "state").steps() == [4]
    run_cases(tmp_path / "alone", WHOLES)
    launch(tmp_path / "together", WHOLES, "fsdp2")
    for folder in (tmp_path / "alone", tmp_path / "together"):
        for case in ("half 1", "half 2"):
            assert_same(alone / "packed", folder / case)


def test_under_zero1_weights_are_whole_and_moments_halves(alone, zero1):
    whole = json.loads((alone / "packed" / "held-0.json").read_text())
    for rank in (0, 1):
        held = json.loads((zero1 / "packed" / f"held-{rank}.json").read_text())
        assert held["weights"] == whole["weights"]
        assert 0.45 * whole["moments"] < held["moments"] < 0.55 * whole["moments"]


def test_a_run_begun_under_zero1_goes_on_in_every_other_way_and_back(alone, ddp, zero1, tmp_path):
    """In its own way to the same bits: what was gathered is dealt out again as it was."""
    for name, begun in (("alone", zero1), ("again", zero1), ("back", ddp)):
        shutil.copytree(begun / "half 1", tmp_path / name / "half 1")
        assert States(tmp_path / name / "half 1" / "state").steps() == [4]
    run_cases(tmp_path / "alone", WHOLES[:1])
    (tmp_path / "together").mkdir()
    for name in ("again", "back"):
        shutil.copytree(tmp_path / name / "half 1", tmp_path / "together" / name)
    launch(tmp_path / "together", [{"name": "again"}, {"name": "back"}], "zero1")
    for folder in (tmp_path / "alone" / "half 1", tmp_path / "together" / "again", tmp_path / "together" / "back"):
        assert_same(alone / "packed", folder)
    undisturbed, again = (load_file(f / "weights.safetensors") for f in (zero1 / "packed", tmp_path / "together/again"))
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)


def test_zero1_without_deepspeed_is_an_error(monkeypatch):
    for name, value in {**WANTED["zero1"], "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MoemixError, match=r"DeepSpeed is not installed[\s\S]*moemix\[deepspeed\]"):
        connect()


# --- by the command line --------------------------------------------------------------------------


LONGER = {"steps": 30, "save_every": 3, "learning_rate": 1e-3}  # long enough to be hit in the middle


def conduct(folder: Path) -> None:
    """What a conductor does with the training of a recipe that has a launcher."""
    request = request_of(Run(folder)).model_copy(update={"launcher": Launcher(processes=2, strategy="fsdp2")})
    job = Job("train", "train", "train", folder, request=request)
    outcome = conduct_locally((job,), LocalExecutor())
    assert outcome.done == ["train"], outcome


@pytest.fixture(scope="module")
def launched_run(tmp_path_factory):
    run = create_run(tmp_path_factory.mktemp("launched") / "store", changes=LONGER)
    conduct(run.folder)
    return run


def processes_of(run) -> list[int]:
    """Those that have the run's folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(run.folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a job may outlive its conductor")
def test_a_killed_conductor_leaves_no_process_of_the_launcher_and_the_run_goes_on_to_the_same_bits(
    launched_run, tmp_path
):
    run = create_run(tmp_path / "store", changes=LONGER)
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    code = "import sys; from pathlib import Path; from test_parallel import conduct; conduct(Path(sys.argv[1]))"
    conductor = subprocess.Popen(
        (sys.executable, "-c", code, str(run.folder)),
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: any(run.state.glob("step-*")) or conductor.poll() is not None)
    assert len(processes_of(run)) >= 4, "the conductor, the launcher and two that train"
    conductor.kill()
    conductor.wait()
    wait_until(lambda: not processes_of(run))
    assert not run.trained
    assert States(run.state).steps()
    conduct(run.folder)
    assert hash_tree(run.checkpoint, "*.safetensors") == hash_tree(launched_run.checkpoint, "*.safetensors")
    assert lines(run.mixture, without="cost") == lines(launched_run.mixture, without="cost")
    assert lines(run.metrics, without="seconds") == lines(launched_run.metrics, without="seconds")


def test_the_launcher_of_a_recipe_starts_the_processes_and_the_checkpoint_is_an_ordinary_one(launched_run, tmp_path):
    run = launched_run
    assert run.trained
    assert run.manifest.result.processes == 2
    assert run.manifest.result.parallel == "fsdp2"
    model = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert model.config.architectures == ["MixtralForCausalLM"]
    assert sorted(path.name for path in run.checkpoint.glob("*.safetensors")) == ["model.safetensors"]
    other = create_run(tmp_path / "other" / "store", changes=LONGER)
    train(other)
    plain = AutoModelForCausalLM.from_pretrained(other.checkpoint)
    for (name, one), two in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4, msg=name)


def test_what_was_asked_of_the_launcher_and_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    run = create_run(tmp_path / "store")
    process = moemix("train", "--run", str(run.folder), **WANTED["fsdp2"])
    assert process.returncode == 2
    assert "fsdp2 was launched with one process" in process.stderr
    for environment, said in (
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "first version"),
        ({**WANTED["fsdp2"], "FSDP_OFFLOAD_PARAMS": "true"}, "offloading"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ZeRO stage 2 of DeepSpeed is not supported"),
        ({**WANTED["zero1"], "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "configuration files are not supported"),
        ({**WANTED["zero1"], "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offloading"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON"),
    ):
        with monkeypatch.context() as patch, pytest.raises(MoemixError, match=said):
            for name, value in environment.items():
                patch.setenv(name, value)
            launched_strategy()
    for environment, said in (
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed precision fp16, but the recipe trains in bfloat16"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "follows from batch_examples"),
        ({"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}, "`--cpu` started one process"),
        ({"WORLD_SIZE": "3"}, "3 processes were launched, but accelerate connects 1"),
    ):
        with monkeypatch.context() as patch, pytest.raises(MoemixError, match=said):
            for name, value in environment.items():
                patch.setenv(name, value)
            connect("bfloat16")


def test_a_strategy_that_shares_nothing_is_refused_by_the_recipe():
    with pytest.raises(MoemixError, match="strategy fsdp2 divides its work among processes, and `processes` is 1"):
        parse(Launcher, {"strategy": "fsdp2"}, where="test")


def test_accelerate_launch_trains_a_recipe_in_its_own_processes(tmp_path):
    recipe = tmp_path / "mini.yaml"
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "c"):
        rows = [{"instruction": f"{name} {i}", "input": "", "output": f"{name * (i % 7 + 1)}"} for i in range(30)]
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "num_local_experts": 4, "max_position_embeddings": 64}
    tree = {
        "name": "mini",
        "models": [{"kind": "tiny", "name": "tiny", "config": config, "tokenizer": {"vocab_size": 300}}],
        "data": {
            "sources": [{"name": n, "parts": [{"adapter": "alpaca", "files": [f"{n}.jsonl"]}]} for n in ("a", "b", "c")]
        },
        "strategies": ["dynamic"],
        "training": {"steps": 4, "batch_examples": 6, "max_length": 64, "log_every": 1},
        "mixing": {"interval": 2, "min_tokens": 1},
    }
    recipe.write_text(json.dumps(tree))
    arguments = ("train", str(recipe), "--store", str(tmp_path / "runs"), "--data-root", str(tmp_path / "data"))
    launcher = ("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2")
    process = subprocess.run(
        (sys.executable, "-m", *launcher, "--main_process_port", "0", "-m", "harness.cli", *arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    checkpoint = Path(process.stdout.strip().splitlines()[-1])
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.model_type == "mixtral"
    result = json.loads((checkpoint.parent / "run.json").read_text())["result"]
    assert (result["processes"], result["parallel"], result["steps"]) == (2, "fsdp2", 4)
