"""A plan tells what a run takes before anything is downloaded."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness.commands import plan
from harness.execution import Launcher
from harness.memory import GIB, SHAPES, hours, memory_per_process, training_flop
from harness.recipe import Training
from harness.recipe_file import load_recipe


def test_the_plan_of_the_papers_setting_tells_batch_tokens_and_memory_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = CliRunner().invoke(plan, ["paper/full", "--store", str(tmp_path / "runs")], catch_exceptions=False)
    assert said.exit_code == 0
    assert "train dynamic on llama-moe-3.5b-2of8" in said.output
    assert "2000 steps × 128 examples of at most 2048 tokens (bfloat16)" in said.output
    assert said.output.count("Global batch: at most 262,144 tokens; a run sees at most 524,288,000 tokens") == 2
    assert "llama-moe-3.5b-2of8: 6.74 billion parameters, 5.30 billion of them trained" in said.output
    assert "molm-700m-4b: 4.19 billion parameters, 4.18 billion of them trained" in said.output
    assert said.output.count("on each of 4 processes (fsdp2)") == 2
    assert "train public_sft on llama-moe-3.5b-2of8-sft" in said.output
    assert not (tmp_path / "runs").exists()


def test_shards_divide_what_replicas_hold_whole():
    shape = SHAPES["llama-moe/LLaMA-MoE-v1-3_5B-2_8"]
    training = load_recipe("paper/full").training.model_copy(update={"dtype": "float32"})
    whole = memory_per_process(shape, training, Launcher(processes=4))
    parts = memory_per_process(shape, training, Launcher(processes=4, strategy="fsdp2"))
    for name in ("weights", "gradients", "optimizer"):
        assert parts[name] == whole[name] / 4
    assert sum(whole.values()) > 80e9 > sum(parts.values())
    zero1 = memory_per_process(shape, training, Launcher(processes=4, strategy="zero1"))
    assert (zero1["weights"], zero1["gradients"]) == (whole["weights"], whole["gradients"])
    assert zero1["optimizer"] == 1.5 * whole["optimizer"] / 4  # DeepSpeed's own copy of the weights with it
    unfrozen = memory_per_process(shape, Training(freeze="none"), Launcher())
    assert unfrozen["weights"] + unfrozen["gradients"] + unfrozen["optimizer"] == pytest.approx(16 * 6.7389e9, rel=1e-3)


def test_the_estimate_is_near_what_an_h200_allocated():
    """docs/benchmarks/gpu.md: 119 GiB with compiled parts, 129 GiB without."""
    training = Training(dtype="bfloat16", freeze="paper", tokens_per_forward=8192, max_length=2048)
    parts = memory_per_process(SHAPES["llama-moe/LLaMA-MoE-v1-3_5B-2_8"], training, Launcher())
    assert 119 < sum(parts.values()) / GIB < 129


def test_attention_over_squares_is_counted_and_checkpointing_keeps_one_layer_of_it():
    training = load_recipe("paper/full").training
    molm, llama_moe = SHAPES["ibm/MoLM-700M-4B"], SHAPES["llama-moe/LLaMA-MoE-v1-3_5B-2_8"]
    one = memory_per_process(molm, training, Launcher())["squares"]
    assert one == 4 * (4 * 16) * 2048**2 * 4 * 8  # rows, query heads, a square of float32, eight of them
    whole = memory_per_process(molm, training.model_copy(update={"gradient_checkpointing": False}), Launcher())
    assert whole["squares"] == 24 * one
    assert "squares" not in memory_per_process(llama_moe, training, Launcher())


def test_the_arithmetic_of_a_token_is_that_of_the_published_shape():
    shape = SHAPES["llama-moe/LLaMA-MoE-v1-3_5B-2_8"]
    assert shape.active == pytest.approx(3.36e9, rel=2e-3)
    whole = Training(freeze="none", max_length=2048)
    assert training_flop(shape, whole) == pytest.approx(20.2e9 + 1.6e9, rel=0.01)
    assert training_flop(shape, Training(freeze="paper", max_length=2048)) < training_flop(shape, whole)
    assert hours(shape, whole, 400.0) == hours(shape, whole, 200.0) / 2


def test_the_plan_tells_hours_cost_and_what_slurm_would_get(tmp_path):
    said = CliRunner().invoke(
        plan,
        ["olmoe", "--store", str(tmp_path), "--executor", "slurm", "--price", "2.5", "--tflops", "100",
         "--set", "executor.resources={train: {gpus: 1, minutes: 600}}", "--set", "executor.partition=big"],
        catch_exceptions=False,
    )  # fmt: skip
    assert "GPU hours a run" in said.output
    assert "at 2.5 an hour" in said.output
    lines = [line for line in said.output.splitlines() if ": sbatch " in line]
    trains = [line for line in lines if "--job-name=moemix-train" in line]
    assert any("--gpus-per-node=1" in line and "--time=600" in line and "--partition=big" in line for line in trains)
    assert any("--array=0-9%64" in line and "--dependency=afterok:1 " in line for line in trains)
    assert any("--dependency=aftercorr:" in line for line in lines if "moemix-eval" in line)
