"""Compare a GPU with the CPU on small models, and measure a step of LLaMA-MoE-3.5B's shape. Prints JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoConfig, AutoModelForCausalLM

from trainers.data.batches import Forward
from trainers.data.packing import PackedBatch
from trainers.models import architectures, packed
from trainers.models.loss import TargetLosses
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver
from trainers.models.trainable import freeze

KINDS = ("llama_moe", "mixtral", "olmoe", "deepseek_v3", "moduleformer")
PEAK_FLOPS = 989e12  # bf16 of an H100 or H200, dense


def batch(lengths: list[int], vocabulary: int, device: torch.device) -> Forward:
    """One row of random examples, all of whose tokens but the first are targets."""
    ids = torch.randint(3, vocabulary, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    owners = torch.cat([torch.full((length,), i) for i, length in enumerate(lengths)])[None]
    labels = ids.where(positions > 0, -100)
    return Forward.of(PackedBatch(ids, positions, labels, owners, owners % 2), device)


def results(kind: str, device: torch.device) -> dict[str, Any]:
    """Loss, gradients and gate loads of a small model."""
    model = architectures.small_model(kind).to(device)
    prepare_packing(model, 128)
    losses, observer, forward = TargetLosses(model), RouterObserver(model), batch([50, 7, 40, 31], 96, device)
    with observer.count(forward.source_RT, 2):
        found = losses(forward)
    found.total.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": found.total.item(), "gradients": gradients, "gate_load": observer.take()}


def correctness(device: torch.device) -> dict[str, Any]:
    """How far the GPU's results are from the CPU's, and the kernel for packed rows from its definition."""
    report: dict[str, Any] = {}
    for kind in KINDS:
        host, other = results(kind, torch.device("cpu")), results(kind, device)
        apart = [
            float((other["gradients"][name] - g).norm() / g.norm().clamp(min=1e-12))
            for name, g in host["gradients"].items()
        ]
        report[kind] = {
            "loss_relative": abs(other["loss"] - host["loss"]) / abs(host["loss"]),
            "gradient_relative_max": max(apart),
            "gate_load_equal": bool(np.array_equal(host["gate_load"], other["gate_load"])),
        }
    if device.type == "cuda":
        ends = torch.tensor([0, 50, 57, 128], dtype=torch.int32, device=device)
        query, key, value = (torch.randn(128, 8, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
        arguments = (query, key, value, ends, ends, 71, 71)
        for window in (-1, 15):
            options = {"window_size": (window, 0), "enable_gqa": True}
            kernel, plain = (f(*arguments, **options).float() for f in (varlen_attn, packed.varlen_by_example))
            report[f"varlen_window_{window}"] = float((kernel - plain).abs().max())
    return report


def speed(device: torch.device, small: bool) -> dict[str, Any]:
    """Measure forward and backward passes in bf16, gates frozen as in the paper, with and without counting."""
    shape = (
        {"num_hidden_layers": 2, "hidden_size": 64, "size_experts": [[16] * 8] * 2, "intermediate_size": 128}
        | {"vocab_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4, "num_experts": 8, "num_selects": 2}
        if small
        else {"size_experts": [[1376] * 8] * 32, "num_experts": 8, "num_selects": 2}
    )
    config = AutoConfig.for_model("llama_moe", **shape)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    freeze(model, "paper")
    length = 64 if small else 2048
    prepare_packing(model, length)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    losses = TargetLosses(model, bfloat16=True).train()
    observer = RouterObserver(model)
    forward = batch([length // 2, length // 4, length // 8, length // 8], config.vocab_size, device)
    active = 0.0
    for name, parameter in model.named_parameters():
        share = config.num_selects / config.num_experts if ".experts." in name else 1.0
        active += parameter.numel() * share * (parameter.ndim > 1 and "embed_tokens" not in name)

    def seconds(count: bool, passes: int = 8) -> float:
        for number in range(passes + 2):
            if number == 2:
                if device.type == "cuda":
                    torch.cuda.synchronize()
                started = time.perf_counter()
            if count:
                with observer.count(forward.source_RT, 2):
                    found = losses(forward)
            else:
                found = losses(forward)
            found.total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / passes

    plain, counted = seconds(False), seconds(True)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "tokens_per_second": length / plain,
        "mfu": 6 * active * length / plain / PEAK_FLOPS,
        "gate_load_cost": counted / plain - 1,
        "peak_memory_gib": memory / 2**30,
    }


def main() -> None:
    """Print what was measured, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true", help="a dry run on the CPU, with small shapes")
    given = parser.parse_args()
    device = torch.device("cpu" if given.cpu else "cuda")
    name = "CPU" if given.cpu else torch.cuda.get_device_name()
    report = {"device": name, "torch": torch.__version__, "correctness": correctness(device)}
    print(json.dumps({**report, "speed": speed(device, given.cpu)}, indent=1))


if __name__ == "__main__":
    main()
