"""Make docs/benchmarks/gpu.md of what measure.py printed: ``python -m tests.gpu.page LATEST.json EARLIER.json…``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "gpu.md"
TRAININGS = {
    "training, compiled": "moemix, `compile: true`, `deterministic: false`",
    "training, compiled, deterministic": "moemix, `compile: true`",
    "training": "moemix, `deterministic: false`",
    "Trainer, packed, flex_attention": "Trainer, packed, `flex_attention`",
    "Trainer, packed, sdpa": "Trainer, packed, `sdpa`",
    "Trainer, padded": "Trainer, padded, `sdpa`",
}


def page(found: dict[str, Any]) -> str:
    """The page as Markdown."""
    best = found["training, compiled"]["tokens_per_second"]
    flop = found["training, compiled"]["mfu"] / best
    speed = tabulate(
        [
            (
                name,
                f"{found[key]['tokens_per_second']:,.0f}",
                f"{100 * found[key]['tokens_per_second'] * flop:.1f} %",
                f"{best / found[key]['tokens_per_second']:.2f}",
                f"{found[key]['peak_memory_gib']:.0f}",
            )
            for key, name in TRAININGS.items()
        ],
        ("training", "tokens a second", "MFU", "first ÷ this", "peak GiB"),
        tablefmt="github",
        disable_numparse=True,
    )
    right = tabulate(
        [
            (kind, f"{r['loss']:.0e}", f"{r['gradients']:.0e}", "equal" if r["gate_load_equal"] else "NOT EQUAL",
             f"{r['bfloat16_loss']:.0e}")
            for kind, r in found["correctness"].items() if isinstance(r, dict)
        ],
        ("architecture", "loss", "gradients", "gate load", "loss in bfloat16"),
        tablefmt="github",
        disable_numparse=True,
    )  # fmt: skip
    kernel = max(max(distances) for name, distances in found["kernel"].items() if name != "took")
    waits, turns = found["training, compiled"]["waits"], found["counting"]["of_each_turn"]
    seconds = found["training, compiled"]["step_seconds"]
    resumed = all(value for key, value in found["resume"].items() if key != "took")
    run = found["200 steps"]
    weights = "; ".join(" ".join(f"{w:.2f}" for w in row) for row in run["weights"])
    return f"""# On a GPU

One {found["device"]}, torch {found["torch"]}, measured by `tests/gpu/run.sh`, which takes at most eight minutes
and prints JSON. `python -m tests.gpu.page REPORT.json` makes this page of it.

## Speed

A LLaMA-MoE of 3.5B's shape (2 of 8 experts) with random weights is trained in bfloat16 with float32 master weights and
moments, all on the GPU. Whatever has `gate` in its name is frozen, as in the paper. A step of ours has 128 examples
from four sources and the strategy `dynamic`; lengths are log-normal with a median of 300 and at most 2,048 tokens;
`tokens_per_forward` is 8,192. Only real tokens count, and a token is six operations for each of the 3.36 billion matrix
parameters that it meets, frozen ones too; the peak is 989 TFLOP/s. Our figure is the median of whole steps, AdamW
included. transformers' Trainer trains the same model, with our experts, on 64 such examples a step in the largest
passes that fit (two examples padded, eight packed), the last of three steps. FlashAttention's own package was not
there, so `flex_attention` stands for it.

{speed}

- Waits of the host for the GPU in a step, by the profiler: {waits.get("cudaStreamSynchronize", 0)}, for the losses and
  the gradient's norm together.
- Counting the gate load costs {100 * found["counting"]["cost"]:.2f} % of a forward and backward pass over 8,192 tokens
  (not compiled; median of {len(turns)} turns, {100 * min(turns):.1f} to {100 * max(turns):.1f} %).
- The first step compiles: it takes {seconds[0]:.0f} s. One of the next two meets another number of tokens and compiles
  for any number: {max(seconds[1:3]):.0f} s.
- Frozen weights need no gradients of their own, 3.6 % of the operations counted here, for moemix and Trainer alike.

## Correctness

Small models on the GPU against the same on the CPU (relative differences; float32, and the loss in bfloat16 against
float32):

{right}

- The kernel for packed rows differs from its definition by at most {kernel:.0e}, forward and backward, with fewer
  heads of keys than of queries, with and without a window.
- A run in float32 or bfloat16 that broke off and went on {"ends" if resumed else "DOES NOT END"} with the same bits as
  one that did not, and as one that ran again (`deterministic`, the default).
- 200 steps of `dynamic` (eight layers of width 1,024, random tokens, compiled) take {run["seconds"]:.0f} s in all; the
  loss falls from {run["loss"][0]:.2f} to {run["loss"][1]:.2f}. The weights at the updates: {weights}.
"""


def main() -> None:
    """Write the page."""
    found: dict[str, Any] = {}
    for path in sys.argv[1:]:
        for section, report in json.loads(Path(path).read_text()).items():
            if not (isinstance(report, dict) and "error" in report):
                found.setdefault(section, report)
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
