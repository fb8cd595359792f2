"""What two processes do in the tests of ranks: train under several strategies, and leave what each of them believes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from small_runs import TOKENIZER, fit_request, mixing, small_model, small_source, training

from harness.errors import StageError
from trainers.mixing import Reference, load_strategy
from trainers.signals import Resources
from trainers.training.loop import _Loop

STRATEGIES = ("dynamic", "balanced", "loss_softmax", "doremi", "doge", "sheared", "pike", "dynamix_sft")
FEW = {"batch_examples": 2, "pack": False, "steps": 4, "rows_per_forward": 1}  # of two examples each rank gets one


def sources(folder: Path) -> tuple:
    return tuple(
        small_source(folder, name, tokens, probe=3)
        for name, tokens in (("a", range(1, 30)), ("b", range(30, 70)), ("c", range(40, 90)))
    )


def loop(name: str, folder: Path, data: tuple) -> _Loop:
    rule = load_strategy(name)
    (folder / name).mkdir(parents=True, exist_ok=True)
    reference = Reference(np.full(3, 1 / 3), np.ones(3)) if rule.needs else None
    resources = Resources(TOKENIZER, lambda: small_model(seed=1))
    plan, mix = training(**FEW), mixing(interval=1)
    further = {"training": plan, "mixing": mix, "reference": reference, "resources": resources}
    return _Loop(fit_request(small_model(), data, rule, folder / name, **further))


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    data = sources(folder / f"sources-{rank}")
    for name in STRATEGIES:
        trained = loop(name, folder, data)
        trained.run()
        history = np.stack([weights for _, weights in trained.mixture.history])
        np.savez(folder / f"{name}-{rank}.npz", history=history, weights=trained.mixture.weights)
    strayed = loop("dynamic", folder / "strayed", data)
    honest = strayed.ranks.from_first
    if rank == 1:  # one process comes to believe something else, by as little as can be
        strayed.ranks.from_first = lambda array: (
            np.nextafter(honest(array), 1) if array.dtype == float else honest(array)
        )
    try:
        strayed.run()
    except StageError as failure:
        (folder / f"strayed-{rank}.txt").write_text(str(failure))
