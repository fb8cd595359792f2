"""Peak memory of a training step against weights, gradients and optimizer state, and what the output layer adds."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from tests.bench.report import Report, options

MAX_LENGTH, VOCABULARY, MIB = 1024, 49_152, 1 << 20
WAYS = {
    "chunked": "at targets, chunk by chunk (moemix)",
    "whole": "all logits of a row at once (the model's own loss)",
}


def resident(key: str) -> int:
    """Bytes of this process in memory: now (``VmRSS``) or at most since :func:`forget_peak` (``VmHWM``)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(way: str, targets: float, steps: int) -> tuple[int, int]:
    """Parameters, and the peak of bytes in memory during steps, without what was there before there was a model.

    Args:
        way: how the output layer is computed, of WAYS.
        targets: share of the tokens that carry a loss.
    """
    import torch

    from harness.recipe import Training
    from tests.bench.workload import small_moe
    from trainers.data.batches import Forward
    from trainers.models.loss import TargetLosses
    from trainers.parallel.base import make_optimizer

    torch.set_num_threads(1)
    torch.randn(512, 512) @ torch.randn(512, 512)  # the libraries' own buffers
    before = resident("VmRSS")
    model = small_moe(
        "llama_moe", VOCABULARY, intermediate_size=1024, num_experts=8, num_selects=2, tie_word_embeddings=False
    ).train()
    optimizer = make_optimizer(model.parameters(), Training())
    losses = TargetLosses(model).train()
    row = torch.randint(0, VOCABULARY, (1, MAX_LENGTH), generator=torch.Generator().manual_seed(0))
    at = torch.arange(int(targets * (MAX_LENGTH - 1)))
    position, source = torch.arange(MAX_LENGTH)[None], torch.zeros(1, MAX_LENGTH, dtype=torch.long)
    forward = Forward(row, position, source, at, row[0, at + 1], source[0, at].numpy(), MAX_LENGTH)  # type: ignore[arg-type]
    labels = row.masked_fill(torch.arange(MAX_LENGTH)[None] > len(at), -100)
    for step in range(steps + 1):
        if step == 1:  # gradients and optimizer state are there after the first
            forget_peak()
        loss = losses(forward).total if way == "chunked" else model(input_ids=row, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return sum(parameter.numel() for parameter in model.parameters()), resident("VmHWM") - before


def main() -> None:
    given = options()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("peaks are read from /proc, which only Linux has")
    report = Report(
        "train_memory",
        "Peak memory of a training step",
        "A random LLaMA-MoE of eight layers, width 256, eight experts of which two are selected, and 49,152 tokens"
        f" (fp32, AdamW), on rows of {MAX_LENGTH} tokens, one row in a forward pass. The peak is the process's resident"
        " memory in steps after the first, without what was resident before there was a model; each line is a process"
        " of its own. Weights, gradients and the two moments of AdamW take 16 bytes a parameter.",
        quick=given.quick,
    )
    rows, excess = [], {}
    shares = (0.5,) if given.quick else (0.5, 1.0)
    for way, name in WAYS.items():
        for share in shares:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                parameters, peak = pool.apply(measure, (way, share, 1 if given.quick else 4))
            states = 16 * parameters
            excess[way, share] = peak - states
            rows.append(
                (
                    name,
                    f"{share:.0%}",
                    f"{states / MIB:.0f}",
                    f"{peak / MIB:.0f}",
                    f"{(peak - states) / MIB:.0f}",
                    f"{peak / states:.2f}",
                )
            )
    headers = ("output layer", "tokens with a loss", "states, MiB", "peak, MiB", "above states, MiB", "peak / states")
    report.table(rows, headers)
    logits = MAX_LENGTH * VOCABULARY * 4
    report.say(
        f"The logits of one row are {logits / MIB:.0f} MiB, and a loss over them needs several times that: logits,"
        " probabilities and their gradient. The chunked layer holds 32 MiB of logits at a time."
    )
    report.save()
    if excess["chunked", shares[-1]] > excess["whole", shares[-1]] and not given.quick:
        sys.exit("the chunked output layer needs more memory than the whole one")


if __name__ == "__main__":
    main()
