"""A plan tells what a run takes before anything is downloaded."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness.commands import plan
from harness.memory import SHAPES, memory_per_process
from harness.recipe import Launcher, Training
from harness.recipe_file import load_recipe


def test_the_plan_of_the_papers_setting_tells_batch_tokens_and_memory_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = CliRunner().invoke(plan, ["paper/llama_moe", "--store", str(tmp_path / "runs")], catch_exceptions=False)
    assert said.exit_code == 0
    assert "train dynamic on llama-moe-3.5b-2of8" in said.output
    assert "Global batch: 128 examples, at most 262,144 tokens" in said.output
    assert "524,288,000 tokens" in said.output
    assert "6.74 billion parameters, 5.30 billion of them learn" in said.output
    assert "on each of 4 processes (fsdp2)" in said.output
    assert not (tmp_path / "runs").exists()


def test_shards_divide_what_replicas_hold_whole():
    shape = SHAPES["llama-moe/LLaMA-MoE-v1-3_5B-2_8"]
    training = load_recipe("paper/llama_moe").training
    whole = memory_per_process(shape, training, Launcher(processes=4))
    parts = memory_per_process(shape, training, Launcher(processes=4, strategy="fsdp2"))
    for name in ("weights", "gradients", "optimizer"):
        assert parts[name] == whole[name] / 4
    assert sum(whole.values()) > 80e9 > sum(parts.values())
    unfrozen = memory_per_process(shape, Training(freeze="none"), Launcher())
    assert unfrozen["weights"] + unfrozen["gradients"] + unfrozen["optimizer"] == pytest.approx(16 * 6.7389e9, rel=1e-3)
